//! How large the quota must be, and the proof that it suffices.

use crate::need::{Need, base_bytes_again};
use crate::stats::Summary;
use anyhow::Context;
use rayon::prelude::*;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{Cache, Chain, Layout};

/// Points of the curve, the empty cache and the smallest quota included.
const POINTS: u64 = 12;

/// What was found for one set of boots.
pub struct Advice {
    /// Virtual size of the disk in bytes.
    pub disk_size: u64,
    /// One for each cluster size, in ascending order.
    pub clusters: Vec<ClusterAdvice>,
    /// The quota to check in bytes, and what the boots read from the base image under it at each cluster size.
    pub check: Option<(u64, Vec<Checked>)>,
}

/// What was found at one cluster size.
pub struct ClusterAdvice {
    /// Cluster size of the cache in bytes.
    pub cluster_size: u64,
    /// The smallest quota for all boots together.
    pub need: Need,
    /// The smallest quota for each boot alone, in bytes.
    pub alone: Vec<u64>,
    /// Bytes that one boot reads from the base under a cache which another has filled at the smallest quota of
    /// that other, over all ordered pairs; `None` for a single boot.
    pub another: Option<Summary>,
    /// Bytes read from the base by a boot, at quotas up to the smallest that suffices.
    pub curve: Vec<Point>,
    /// Bytes that each boot read from the base through a cache made at the smallest quota and filled by all.
    pub proof: Vec<u64>,
}

/// A point of the curve.
pub struct Point {
    /// Quota in bytes.
    pub quota: u64,
    /// Bytes read from the base: over the boots.
    pub base_bytes: Summary,
}

/// A quota to check, at one cluster size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Not even an empty cache of that many bytes fits.
    BelowEmpty(u64),
    /// The boots together read so many bytes from the base.
    Reads(u64),
}

impl Advice {
    /// Finds the smallest quota of `boots` at each of `cluster_sizes`, and tells of the quota `check` whether
    /// it suffices; sizes in bytes.
    ///
    /// # Errors
    /// If the boots cannot be replayed through a cache image of one of the sizes.
    pub fn of(
        boots: &[&Trace],
        cluster_sizes: &[u64],
        check: Option<u64>,
        disk_size: u64,
    ) -> anyhow::Result<Advice> {
        let guest = Guest { boots, disk_size };
        let clusters = cluster_sizes.par_iter().map(|&cluster_size| guest.advice(cluster_size));
        // Collected before the errors are looked at, so that always the same one is reported.
        let clusters = clusters.collect::<Vec<_>>().into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let check = match check {
            None => None,
            Some(quota) => {
                let checked = clusters.iter().map(|advice| guest.check(advice, quota));
                Some((quota, checked.collect::<anyhow::Result<_>>()?))
            }
        };
        Ok(Advice { disk_size, clusters, check })
    }

    /// Whether the quota to check suffices at every cluster size; `None` if there is none to check.
    pub fn check_passed(&self) -> Option<bool> {
        self.check.as_ref().map(|(_, checked)| checked.iter().all(|found| *found == Checked::Reads(0)))
    }

    /// The cluster size with the smallest quota; of equals the largest, which has the least metadata to load.
    pub fn best(&self) -> Option<&ClusterAdvice> {
        self.clusters.iter().rev().min_by_key(|advice| advice.need.quota)
    }
}

struct Guest<'a> {
    boots: &'a [&'a Trace],
    disk_size: u64,
}

impl Guest<'_> {
    fn advice(&self, cluster_size: u64) -> anyhow::Result<ClusterAdvice> {
        let context = || format!("with clusters of {cluster_size} bytes");
        let need = Need::of(self.boots, cluster_size, self.disk_size).with_context(context)?;
        let alone = each(self.boots, |boot| Ok(Need::of(&[*boot], cluster_size, self.disk_size)?.quota));
        let alone = alone.with_context(context)?;
        Ok(ClusterAdvice {
            cluster_size,
            another: self.another(cluster_size, &alone)?,
            curve: self.curve(cluster_size, &need)?,
            proof: self.base_bytes(cluster_size, need.quota)?,
            alone,
            need,
        })
    }

    /// Bytes that each boot reads from the base under a cache that all have filled.
    fn base_bytes(&self, cluster_size: u64, quota: u64) -> anyhow::Result<Vec<u64>> {
        base_bytes_again(self.boots, &self.chain(cluster_size, quota))
    }

    fn chain(&self, cluster_size: u64, quota: u64) -> Chain {
        Chain { layout: Layout::Warm, cluster_size, quota: Some(quota), disk_size: self.disk_size }
    }

    fn another(&self, cluster_size: u64, alone: &[u64]) -> anyhow::Result<Option<Summary>> {
        let fillers: Vec<(usize, u64)> = alone.iter().copied().enumerate().collect();
        let read = each(&fillers, |&(filler, quota)| {
            let mut cache = Cache::new(&self.chain(cluster_size, quota))?;
            cache.boot(self.boots[filler])?;
            let others = self.boots.iter().enumerate().filter(|(reader, _)| *reader != filler);
            others
                .map(|(_, boot)| Ok(cache.fork().boot(boot)?.base_bytes_read as f64))
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        Ok(Summary::of(read.into_iter().flatten()))
    }

    fn curve(&self, cluster_size: u64, need: &Need) -> anyhow::Result<Vec<Point>> {
        let room = (need.quota - need.empty_bytes) / cluster_size;
        let mut quotas: Vec<u64> =
            (0..POINTS).map(|i| need.empty_bytes + room * i / (POINTS - 1) * cluster_size).collect();
        quotas.dedup();
        each(&quotas, |&quota| {
            let read = self.base_bytes(cluster_size, quota)?.into_iter().map(|bytes| bytes as f64);
            Ok(Point { quota, base_bytes: Summary::of(read).context("no boot is given")? })
        })
    }

    fn check(&self, advice: &ClusterAdvice, quota: u64) -> anyhow::Result<Checked> {
        if quota < advice.need.empty_bytes {
            return Ok(Checked::BelowEmpty(advice.need.empty_bytes));
        }
        Ok(Checked::Reads(self.base_bytes(advice.cluster_size, quota)?.into_iter().sum()))
    }
}

/// Does `work` for each of `items` in parallel; the first error in their order is the one reported.
fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> anyhow::Result<R> + Send + Sync,
) -> anyhow::Result<Vec<R>> {
    items.par_iter().map(work).collect::<Vec<_>>().into_iter().collect()
}
