//! How large the quota must be, and the proof that it suffices.

use crate::leave_one_out::{FEWEST_BOOTS, LeftOut};
use crate::margin::Margin;
use crate::need::{Filled, Need};
use crate::stats::{Proportion, Summary};
use anyhow::Context;
use rayon::prelude::*;
use serde::Serialize;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{Base, Chain, Layout};

/// Points of the curve, the empty cache and the smallest quota included.
const POINTS: u64 = 12;

/// What is asked.
pub struct Question<'a> {
    /// The boots of one guest.
    pub boots: &'a [&'a Trace],
    /// Layouts of the clusters of the cache, ascending.
    pub clusters: &'a [ClusterLayout],
    /// A quota in bytes to check.
    pub check: Option<u64>,
    /// What is recommended beyond the smallest quota.
    pub margin: Margin,
    /// The base image.
    pub base: &'a Base,
}

/// What was found for one set of boots.
pub struct Advice {
    /// Virtual size of the disk in bytes.
    pub disk_size: u64,
    /// What is recommended beyond the smallest quota.
    pub margin: Margin,
    /// One for each layout of clusters, in ascending order.
    pub clusters: Vec<ClusterAdvice>,
    /// The quota to check in bytes, and what the boots read from the base image under it with each layout of clusters.
    pub check: Option<(u64, Vec<Checked>)>,
}

/// What was found with one layout of clusters.
pub struct ClusterAdvice {
    /// How the clusters of the cache are laid out.
    pub layout: ClusterLayout,
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
    /// The quota to recommend in bytes: the smallest and the margin.
    pub recommended: u64,
    /// The cache at the recommended quota.
    pub prediction: CacheFigures,
    /// Each boot under what the others recommend; empty where they are too few.
    pub left_out: Vec<LeftOut>,
}

impl ClusterAdvice {
    /// How many of the boots left out were covered.
    pub fn covered(&self) -> Option<Proportion> {
        Proportion::of(self.left_out.iter().map(LeftOut::is_covered))
    }
}

/// What a cache that boots have filled came to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CacheFigures {
    /// Read from the base by all boots while they filled the cache.
    pub base_bytes_read: u64,
    /// Read from the base by all boots when they booted again.
    pub base_bytes_read_again: u64,
    /// What the cache's tables reach, metadata included.
    pub cache_bytes_in_use: u64,
    /// Of this, guest data.
    pub cache_data_bytes: u64,
    /// Length of the cache's file.
    pub cache_file_bytes: u64,
}

impl CacheFigures {
    /// All of them, each with what people call it.
    pub fn all(&self) -> [(&'static str, u64); 5] {
        [
            ("read from the base", self.base_bytes_read),
            ("read again", self.base_bytes_read_again),
            ("in use in the cache", self.cache_bytes_in_use),
            ("of it guest data", self.cache_data_bytes),
            ("length of the cache file", self.cache_file_bytes),
        ]
    }
}

/// A point of the curve.
pub struct Point {
    /// Quota in bytes.
    pub quota: u64,
    /// Bytes read from the base: over the boots.
    pub base_bytes: Summary,
}

/// A quota to check, with one layout of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Not even an empty cache of that many bytes fits.
    BelowEmpty(u64),
    /// The boots together read so many bytes from the base.
    Reads(u64),
}

impl Advice {
    /// Finds the smallest quota of the boots with each layout of clusters, and tells of the quota to check whether it
    /// suffices.
    ///
    /// # Errors
    /// If the boots cannot be replayed through a cache image of one of the layouts.
    pub fn of(question: &Question) -> anyhow::Result<Advice> {
        let clusters = each(question.clusters, |&layout| question.advice(layout))?;
        let check = match question.check {
            None => None,
            Some(quota) => {
                let checked = clusters.iter().map(|advice| question.check(advice, quota));
                Some((quota, checked.collect::<anyhow::Result<_>>()?))
            }
        };
        Ok(Advice { disk_size: question.base.disk_size(), margin: question.margin, clusters, check })
    }

    /// Whether the quota to check suffices with every layout of clusters; `None` if there is none to check.
    pub fn check_passed(&self) -> Option<bool> {
        self.check.as_ref().map(|(_, checked)| checked.iter().all(|found| *found == Checked::Reads(0)))
    }

    /// The layout with the smallest quota; of equals the largest clusters, which has the least metadata to load.
    pub fn best(&self) -> Option<&ClusterAdvice> {
        self.clusters.iter().rev().min_by_key(|advice| advice.recommended)
    }
}

impl Question<'_> {
    fn advice(&self, layout: ClusterLayout) -> anyhow::Result<ClusterAdvice> {
        let context = || format!("with clusters of {layout}");
        let need = Need::of(self.boots, layout, self.base).with_context(context)?;
        let alone = each(self.boots, |boot| Ok(Need::of(&[*boot], layout, self.base)?.quota));
        let alone = alone.with_context(context)?;
        let recommended = self.margin.above(need.quota, layout.size);
        Ok(ClusterAdvice {
            layout,
            another: self.another(layout, &alone)?,
            curve: self.curve(layout, &need)?,
            proof: self.base_bytes(layout, need.quota)?,
            recommended,
            prediction: self.prediction(layout, recommended)?,
            left_out: self.left_out(layout)?,
            alone,
            need,
        })
    }

    /// A cache of that quota that `boots` have filled.
    fn filled(&self, boots: &[&Trace], clusters: ClusterLayout, quota: u64) -> anyhow::Result<Filled> {
        let (quota, disk_size) = (Some(quota), self.base.disk_size());
        Filled::by(boots, &Chain { layout: Layout::Warm, clusters, quota, disk_size }, self.base)
    }

    /// Bytes that each boot reads from the base under a cache that all have filled.
    fn base_bytes(&self, layout: ClusterLayout, quota: u64) -> anyhow::Result<Vec<u64>> {
        self.filled(self.boots, layout, quota)?.again(self.boots)
    }

    fn prediction(&self, layout: ClusterLayout, quota: u64) -> anyhow::Result<CacheFigures> {
        let filled = self.filled(self.boots, layout, quota)?;
        Ok(CacheFigures {
            base_bytes_read: filled.base_bytes.iter().sum(),
            base_bytes_read_again: filled.again(self.boots)?.iter().sum(),
            cache_bytes_in_use: filled.outcome.cache_bytes_in_use,
            cache_data_bytes: filled.outcome.cache_data_bytes,
            cache_file_bytes: filled.outcome.cache_file_bytes,
        })
    }

    fn left_out(&self, layout: ClusterLayout) -> anyhow::Result<Vec<LeftOut>> {
        if self.boots.len() < FEWEST_BOOTS {
            return Ok(vec![]);
        }
        let numbers: Vec<usize> = (0..self.boots.len()).collect();
        let found =
            each(&numbers, |&number| LeftOut::of(self.boots, number, layout, self.base, &[self.margin]))?;
        Ok(found.into_iter().flatten().collect())
    }

    fn another(&self, layout: ClusterLayout, alone: &[u64]) -> anyhow::Result<Option<Summary>> {
        let fillers: Vec<(usize, u64)> = alone.iter().copied().enumerate().collect();
        let read = each(&fillers, |&(filler, quota)| {
            let others = self.boots.iter().enumerate().filter(|(reader, _)| *reader != filler);
            let others: Vec<&Trace> = others.map(|(_, boot)| *boot).collect();
            self.filled(&self.boots[filler..=filler], layout, quota)?.again(&others)
        })?;
        Ok(Summary::of(read.into_iter().flatten().map(|bytes| bytes as f64)))
    }

    fn curve(&self, layout: ClusterLayout, need: &Need) -> anyhow::Result<Vec<Point>> {
        let room = (need.quota - need.empty_bytes) / layout.size;
        let mut quotas: Vec<u64> =
            (0..POINTS).map(|i| need.empty_bytes + room * i / (POINTS - 1) * layout.size).collect();
        quotas.dedup();
        each(&quotas, |&quota| {
            let read = self.base_bytes(layout, quota)?.into_iter().map(|bytes| bytes as f64);
            Ok(Point { quota, base_bytes: Summary::of(read).context("no boot is given")? })
        })
    }

    fn check(&self, advice: &ClusterAdvice, quota: u64) -> anyhow::Result<Checked> {
        if quota < advice.need.empty_bytes {
            return Ok(Checked::BelowEmpty(advice.need.empty_bytes));
        }
        Ok(Checked::Reads(self.base_bytes(advice.layout, quota)?.into_iter().sum()))
    }
}

/// Does `work` for each of `items` in parallel; the first error in their order is the one reported.
fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> anyhow::Result<R> + Send + Sync,
) -> anyhow::Result<Vec<R>> {
    items.par_iter().map(work).collect::<Vec<_>>().into_iter().collect()
}
