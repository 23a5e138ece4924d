//! T2: the smallest quota after which later boots read nothing from the base image.

use super::plan::Plan;
use crate::cells::Cells;
use crate::inputs::{Boot, Guest};
use crate::leave_one_out::{FEWEST_BOOTS, LeftOut};
use crate::margin::Margin;
use crate::need::Need;
use crate::stats::{Proportion, Summary};
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{Base, Cache, Chain, Layout, Outcome};

/// The quota that boots of one guest need with one layout of clusters.
#[derive(Clone, Debug)]
pub struct NeedRow<'a> {
    /// Whose boots they are.
    pub guest: &'a Guest,
    /// The boots that fill the cache and are read again: one, or all of the guest.
    pub boots: &'a [Boot],
    /// How the clusters of the cache image are laid out.
    pub clusters: ClusterLayout,
    /// What they need.
    pub need: Need,
}

/// What one boot still reads from the base image after another has filled a cache without a limit.
#[derive(Clone, Debug)]
pub struct PairRow<'a> {
    /// Whose boots they are.
    pub guest: &'a Guest,
    /// The boot that filled the cache.
    pub filler: &'a Boot,
    /// The boot that came after.
    pub boot: &'a Boot,
    /// How the clusters of the cache image are laid out.
    pub clusters: ClusterLayout,
    /// What the later boot did.
    pub outcome: Outcome,
}

/// What became of one boot under a quota that the other boots of its guest recommend.
#[derive(Clone, Debug)]
pub struct LeftOutRow<'a> {
    /// Whose boots they are.
    pub guest: &'a Guest,
    /// The boot that was left out.
    pub boot: &'a Boot,
    /// How the clusters of the cache image are laid out.
    pub clusters: ClusterLayout,
    /// What became of it.
    pub left_out: LeftOut,
}

/// One row a layout of clusters and set of boots: each boot alone, then all together.
///
/// # Errors
/// If a boot cannot be replayed, or no quota suffices.
pub fn needs<'a>(guest: &'a Guest, plan: &Plan, cells: &Cells) -> anyhow::Result<Vec<NeedRow<'a>>> {
    let mut wanted: Vec<(ClusterLayout, &[Boot])> = Vec::new();
    for &clusters in &plan.clusters {
        wanted.extend(guest.boots.chunks(1).map(|boot| (clusters, boot)));
        if guest.boots.len() > 1 {
            wanted.push((clusters, &guest.boots));
        }
    }
    cells.each("T2: smallest quotas", &wanted, |&(clusters, boots)| {
        let traces: Vec<&Trace> = boots.iter().map(|boot| &boot.trace).collect();
        let need = Need::of(&traces, clusters, &Base::new(guest.disk_bytes))
            .with_context(|| format!("T2: {}, clusters of {clusters}", filled_by(boots)))?;
        Ok(NeedRow { guest, boots, clusters, need })
    })
}

/// One row a layout of clusters and ordered pair of different boots.
///
/// # Errors
/// If a boot cannot be replayed.
pub fn pairs<'a>(guest: &'a Guest, plan: &Plan, cells: &Cells) -> anyhow::Result<Vec<PairRow<'a>>> {
    let mut wanted = Vec::new();
    for &clusters in &plan.clusters {
        wanted.extend((0..guest.boots.len()).map(|filler| (clusters, filler)));
    }
    let rows = cells.each("T2: pairs of boots", &wanted, |&(clusters, number)| {
        let chain = Chain { layout: Layout::Warm, clusters, quota: None, disk_size: guest.disk_bytes };
        let filler = &guest.boots[number];
        let after = |boot: &Boot| format!("T2: {} after {}, clusters of {clusters}", boot.name, filler.name);
        let mut cache = Cache::new(&chain).with_context(|| after(filler))?;
        cache.boot(&filler.trace).with_context(|| after(filler))?;
        let others = guest.boots.iter().enumerate().filter(|(other, _)| *other != number);
        let pair = |(_, boot): (usize, &'a Boot)| {
            // In a copy of its own, so that it cannot add to the cache for the next.
            let outcome = cache.fork().boot(&boot.trace).with_context(|| after(boot))?;
            Ok(PairRow { guest, filler, boot, clusters, outcome })
        };
        others.map(pair).collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(rows.into_iter().flatten().collect())
}

/// One row a layout of clusters, boot left out and margin; none of a guest with too few boots.
///
/// # Errors
/// If a boot cannot be replayed, or no quota suffices.
pub fn left_out<'a>(guest: &'a Guest, plan: &Plan, cells: &Cells) -> anyhow::Result<Vec<LeftOutRow<'a>>> {
    if guest.boots.len() < FEWEST_BOOTS {
        return Ok(vec![]);
    }
    let traces: Vec<&Trace> = guest.boots.iter().map(|boot| &boot.trace).collect();
    let base = Base::new(guest.disk_bytes);
    let mut wanted = Vec::new();
    for &clusters in &plan.clusters {
        wanted.extend(guest.boots.iter().enumerate().map(|(number, boot)| (clusters, number, boot)));
    }
    let rows = cells.each("T2: boots left out", &wanted, |&(clusters, number, boot)| {
        let found = LeftOut::of(&traces, number, clusters, &base, &plan.margins);
        let found = found.with_context(|| format!("T2: without {}, clusters of {clusters}", boot.name))?;
        let row = |left_out| LeftOutRow { guest, boot, clusters, left_out };
        Ok(found.into_iter().map(row).collect::<Vec<_>>())
    })?;
    Ok(rows.into_iter().flatten().collect())
}

/// How many boots left out were covered, with one layout of clusters under one margin.
pub fn covered(rows: &[LeftOutRow], clusters: ClusterLayout, margin: Margin) -> Option<Proportion> {
    Proportion::of(at_margin(rows, clusters, margin).map(|row| row.left_out.is_covered()))
}

/// The margins of `rows`, rising.
pub fn margins(rows: &[LeftOutRow]) -> Vec<Margin> {
    rows.iter().map(|row| row.left_out.margin).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The layouts of clusters of `rows`, the smallest first.
pub fn left_out_clusters(rows: &[LeftOutRow]) -> Vec<ClusterLayout> {
    rows.iter().map(|row| row.clusters).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The rows of one layout of clusters and margin.
pub fn at_margin<'r, 'a>(
    rows: &'r [LeftOutRow<'a>],
    clusters: ClusterLayout,
    margin: Margin,
) -> impl Iterator<Item = &'r LeftOutRow<'a>> {
    rows.iter().filter(move |row| row.clusters == clusters && row.left_out.margin == margin)
}

/// The name of the boot, or `all` of several.
pub fn filled_by(boots: &[Boot]) -> &str {
    match boots {
        [boot] => &boot.name,
        _ => "all",
    }
}

/// What the later boots of the pairs read from the base image in bytes, by layout of clusters, the smallest first.
pub fn residuals<'r, 'a: 'r>(
    rows: impl IntoIterator<Item = &'r PairRow<'a>>,
) -> Vec<(ClusterLayout, Summary)> {
    let mut by_clusters: BTreeMap<ClusterLayout, Vec<f64>> = BTreeMap::new();
    for row in rows {
        by_clusters.entry(row.clusters).or_default().push(row.outcome.base_bytes_read as f64);
    }
    by_clusters.into_iter().filter_map(|(clusters, left)| Some((clusters, Summary::of(left)?))).collect()
}

/// What each boot alone needs, with one layout of clusters.
pub fn single_needs<'r, 'a>(
    rows: &'r [NeedRow<'a>],
    clusters: ClusterLayout,
) -> impl Iterator<Item = &'r NeedRow<'a>> {
    rows.iter().filter(move |row| row.clusters == clusters && row.boots.len() == 1)
}

/// The quota in bytes with which any single boot is served, with one layout of clusters.
pub fn largest_single_need(rows: &[NeedRow], clusters: ClusterLayout) -> Option<u64> {
    single_needs(rows, clusters).map(|row| row.need.quota).max()
}

/// What all boots together need, with one layout of clusters; `None` of a guest with a single boot.
pub fn joint_need<'r, 'a>(rows: &'r [NeedRow<'a>], clusters: ClusterLayout) -> Option<&'r NeedRow<'a>> {
    rows.iter().find(|row| row.clusters == clusters && row.boots.len() > 1)
}

/// The layouts of clusters of `rows`, the smallest first.
pub fn clusters(rows: &[NeedRow]) -> Vec<ClusterLayout> {
    rows.iter().map(|row| row.clusters).collect::<BTreeSet<_>>().into_iter().collect()
}
