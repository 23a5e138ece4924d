//! F4: traffic at the storage node against quota, by layout of clusters, cold and warm.

use super::plan::Plan;
use crate::cells::Cells;
use crate::inputs::{Boot, Guest};
use crate::need::empty_cache_bytes;
use crate::stats::Summary;
use anyhow::Context;
use std::collections::BTreeMap;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_sim::replay::{self, Chain, Layout, Outcome, replay};

/// The cache of one cell; a plain overlay has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// How its clusters are laid out.
    pub clusters: ClusterLayout,
    /// Quota in bytes.
    pub quota: u64,
}

/// One boot through one chain.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Whose boot it is.
    pub guest: &'a Guest,
    /// The boot; it also is what warms a warm cache.
    pub boot: &'a Boot,
    /// Which images stand between guest and base.
    pub layout: Layout,
    /// The cache image, if there is one.
    pub cache: Option<Cache>,
    /// What the boot did.
    pub outcome: Outcome,
}

/// What boots drew from the storage node with one layout of clusters, against the quota.
#[derive(Clone, Debug)]
pub struct Curve {
    /// How the clusters of the cache image are laid out.
    pub clusters: ClusterLayout,
    /// Quota in bytes, and over the boots the bytes read from the base image; by rising quota.
    pub points: Vec<(u64, Summary)>,
}

/// One row a layout of images, layout of clusters, quota and boot, in this order: plain, cold, warm.
///
/// # Errors
/// If a boot cannot be replayed.
pub fn run<'a>(guest: &'a Guest, plan: &Plan, cells: &Cells) -> anyhow::Result<Vec<Row<'a>>> {
    let mut wanted: Vec<(&Boot, Option<Cache>)> = guest.boots.iter().map(|boot| (boot, None)).collect();
    for cache in caches(guest, plan, cells)? {
        wanted.extend(guest.boots.iter().map(|boot| (boot, Some(cache))));
    }
    let rows = cells.each("F4: traffic against quota", &wanted, |&(boot, cache)| {
        let outcomes = match cache {
            None => plain_boot(guest, boot),
            Some(cache) => cold_and_warm_boot(guest, boot, cache),
        };
        let outcomes = outcomes.with_context(|| format!("F4: {}, {cache:?}", boot.name))?;
        let row = |(layout, outcome)| Row { guest, boot, layout, cache, outcome };
        Ok(outcomes.into_iter().map(row).collect::<Vec<_>>())
    })?;
    let mut rows: Vec<Row> = rows.into_iter().flatten().collect();
    // Stable: within a layout the order of the cells stays.
    rows.sort_by_key(|row| match row.layout {
        Layout::Plain => 0,
        Layout::Cold => 1,
        Layout::Warm => 2,
    });
    Ok(rows)
}

fn plain_boot(guest: &Guest, boot: &Boot) -> anyhow::Result<Vec<(Layout, Outcome)>> {
    // Without a cache there are no clusters whose size could matter; any valid one will do.
    let clusters = ClusterLayout::standard(65_536);
    let chain = Chain { layout: Layout::Plain, clusters, quota: None, disk_size: guest.disk_bytes };
    Ok(vec![(Layout::Plain, replay(&boot.trace, &[], &chain)?)])
}

/// The boot that fills the cache is the cold one.
fn cold_and_warm_boot(guest: &Guest, boot: &Boot, cache: Cache) -> anyhow::Result<Vec<(Layout, Outcome)>> {
    let Cache { clusters, quota } = cache;
    let chain = Chain { layout: Layout::Warm, clusters, quota: Some(quota), disk_size: guest.disk_bytes };
    let mut image = replay::Cache::new(&chain)?;
    Ok(vec![(Layout::Cold, image.boot(&boot.trace)?), (Layout::Warm, image.boot(&boot.trace)?)])
}

/// What plain boots read from the base image, in bytes.
pub fn plain(rows: &[Row]) -> Option<Summary> {
    Summary::of(of_layout(rows, Layout::Plain).map(|row| row.outcome.base_bytes_read as f64))
}

/// The curves of `layout`, by layout of clusters, the smallest first.
pub fn curves(rows: &[Row], layout: Layout) -> Vec<Curve> {
    let mut traffic: BTreeMap<ClusterLayout, BTreeMap<u64, Vec<f64>>> = BTreeMap::new();
    for row in of_layout(rows, layout) {
        if let Some(Cache { clusters, quota }) = row.cache {
            let curve = traffic.entry(clusters).or_default();
            curve.entry(quota).or_default().push(row.outcome.base_bytes_read as f64);
        }
    }
    let summarise = |(quota, values)| Summary::of(values).map(|summary| (quota, summary));
    traffic
        .into_iter()
        .map(|(clusters, points)| {
            let points = points.into_iter().filter_map(summarise).collect();
            Curve { clusters, points }
        })
        .collect()
}

/// Cold minus plain in bytes read from the base image, boot by boot, at the largest quota.
pub fn cost_of_filling(rows: &[Row], clusters: ClusterLayout) -> Option<Summary> {
    Summary::of(differences(rows, clusters)?)
}

/// Of so many boots that fill a cache, so many read less than with a plain overlay: the second number, and the first.
pub fn below_plain(rows: &[Row], clusters: ClusterLayout) -> Option<(usize, usize)> {
    let differences = differences(rows, clusters)?;
    Some((differences.iter().filter(|difference| **difference < 0.0).count(), differences.len()))
}

fn differences(rows: &[Row], clusters: ClusterLayout) -> Option<Vec<f64>> {
    let cold =
        || of_layout(rows, Layout::Cold).filter(|row| row.cache.is_some_and(|c| c.clusters == clusters));
    let largest = cold().filter_map(|row| row.cache).map(|cache| cache.quota).max()?;
    let plain = |boot: &Boot| of_layout(rows, Layout::Plain).find(|row| row.boot.name == boot.name);
    let differences = cold().filter(|row| row.cache.is_some_and(|c| c.quota == largest)).filter_map(|row| {
        let plain = plain(row.boot)?.outcome.base_bytes_read as f64;
        Some(row.outcome.base_bytes_read as f64 - plain)
    });
    Some(differences.collect())
}

fn of_layout<'r, 'a>(rows: &'r [Row<'a>], layout: Layout) -> impl Iterator<Item = &'r Row<'a>> {
    rows.iter().filter(move |row| row.layout == layout)
}

/// Every layout of clusters with every quota from the empty image's own length (there can be no less) to beyond what any
/// boot needs. Layouts without subclusters share one axis; one with subclusters goes at least as far.
fn caches(guest: &Guest, plan: &Plan, cells: &Cells) -> anyhow::Result<Vec<Cache>> {
    let mut wanted = Vec::new();
    for &clusters in &plan.clusters {
        wanted.extend(guest.boots.iter().map(|boot| (clusters, boot)));
    }
    let full = cells.each("F4: sizes of full caches", &wanted, |&(clusters, boot)| {
        let chain = Chain { layout: Layout::Cold, clusters, quota: None, disk_size: guest.disk_bytes };
        let outcome = replay(&boot.trace, &[], &chain)
            .with_context(|| format!("F4: {}, clusters of {clusters}", boot.name))?;
        Ok((clusters, outcome.cache_file_bytes))
    })?;
    let most = |of: &dyn Fn(&ClusterLayout) -> bool| {
        full.iter().filter(|(clusters, _)| of(clusters)).map(|(_, bytes)| *bytes).max().unwrap_or(0)
    };
    let most_standard = most(&|clusters| !clusters.extended_l2);
    let mut caches = Vec::new();
    for &clusters in &plan.clusters {
        let axis = quota_axis(most(&|of| *of == clusters).max(most_standard), plan.quota_steps);
        let empty = empty_cache_bytes(clusters, guest.disk_bytes)?;
        let above = axis.into_iter().filter(|quota| *quota > empty);
        caches.extend([empty].into_iter().chain(above).map(|quota| Cache { clusters, quota }));
    }
    Ok(caches)
}

/// Quotas at equal, round distances, at most `steps` of them, to a fifth beyond `most` bytes.
fn quota_axis(most: u64, steps: u64) -> Vec<u64> {
    let end = most + most / 5;
    let rounds = (0..).flat_map(|power| [1, 2, 4, 5].map(|digit| digit * 10u64.pow(power)));
    // The powers of ten end where u64 does, long after the first step that is large enough.
    let step = rounds.take(70).find(|step| end.div_ceil(*step) <= steps).unwrap_or(end.max(1));
    (1..=end.div_ceil(step)).map(|n| n * step).collect()
}

#[cfg(test)]
mod tests {
    use super::quota_axis;

    #[test]
    fn the_axis_is_round_short_and_goes_beyond_the_need() {
        let axis = quota_axis(79_000_000, 25);
        assert_eq!((axis[0], axis.len(), axis[axis.len() - 1]), (4_000_000, 24, 96_000_000));
        assert_eq!(quota_axis(0, 25), Vec::<u64>::new());
        assert!(quota_axis(u64::MAX / 2, 10).len() <= 10);
    }
}
