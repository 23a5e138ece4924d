//! Verdicts on what single boots read: traffic, working sets and quotas. The claims are about clusters without
//! subclusters: there were no others.

use super::{Judgement, Verdict};
use crate::reproduce::f4;
use crate::reproduce::t2::{self, NeedRow};
use crate::reproduce::{GuestResults, t1};
use crate::stats::Summary;
use crate::units::{cluster, counted, mb, mb_summary, megabytes, percent};
use vmicache_format::qcow2::ClusterLayout;
use vmicache_sim::replay::Layout;

pub fn quota_suffices(results: &GuestResults, quota: u64) -> Option<Judgement> {
    let needs = results.needs.as_deref()?;
    let largest = |alone: bool| {
        let rows = needs.iter().filter(|row| !row.clusters.extended_l2);
        rows.filter(|row| (row.boots.len() == 1) == alone).max_by_key(|row| row.need.quota)
    };
    let one = largest(true)?;
    // With a single boot on record, all boots are that one.
    let all = largest(false).unwrap_or(one);
    let verdict = if all.need.quota <= quota && one.need.quota <= quota {
        Verdict::Reproduced
    } else if one.need.quota <= quota {
        Verdict::Partly
    } else {
        Verdict::NotReproduced
    };
    let needed = |what: &str, row: &NeedRow| {
        format!(
            "{what} needs a quota of at most {} (at clusters of {}), of {}.",
            mb(row.need.quota as f64),
            row.clusters,
            mb(quota as f64)
        )
    };
    let boots = results.guest.boots.len();
    let measured = vec![
        needed("Any one boot", one),
        needed(&format!("What all {boots} boots read, one after the other,"), all),
    ];
    Some(Judgement { verdict, measured })
}

pub fn warm_reads_nothing(results: &GuestResults, most_share: f64) -> Option<Judgement> {
    let rows = results.f4.as_deref()?;
    let plain = f4::plain(rows)?.mean;
    let most = most_share * plain;
    let mut warm = f4::curves(rows, Layout::Warm);
    warm.retain(|curve| !curve.clusters.extended_l2);
    let repeated =
        warm.iter().filter_map(|curve| curve.points.last()).map(|(_, left)| left.max).fold(0.0, f64::max);
    let mut measured = vec![format!(
        "With a sufficient quota, a boot that is repeated reads {} from the base image ({}, {} cluster sizes, the \
         worst).",
        mb(repeated),
        counted(results.guest.boots.len(), "boot"),
        warm.len()
    )];
    let pairs = || results.pairs.iter().flatten().filter(|pair| !pair.clusters.extended_l2);
    results.pairs.as_ref()?;
    let residuals = t2::residuals(pairs());
    let worst = residuals.iter().max_by(|a, b| a.1.max.total_cmp(&b.1.max));
    let Some((clusters, left)) = worst else {
        measured.push("There is no other boot to try it with.".to_owned());
        let verdict = if repeated == 0.0 { Verdict::Partly } else { Verdict::NotReproduced };
        return Some(Judgement { verdict, measured });
    };
    let worst_mean = residuals.iter().map(|(_, left)| left.mean).fold(0.0, f64::max);
    let nothing = pairs().filter(|pair| pair.outcome.base_bytes_read == 0).count();
    measured.push(format!(
        "A boot after another reads at most {} (clusters of {clusters}), {} of the plain overlay's {}; over the pairs, the \
         largest mean of a cluster size is {}. In {nothing} of {} cases it reads nothing at all.",
        mb(left.max),
        percent(left.max / plain),
        mb(plain),
        mb(worst_mean),
        pairs().count()
    ));
    let verdict = if repeated == 0.0 && left.max <= most {
        Verdict::Reproduced
    } else if worst_mean <= most {
        Verdict::Partly
    } else {
        Verdict::NotReproduced
    };
    Some(Judgement { verdict, measured })
}

pub fn small_working_set(results: &GuestResults, most_share: f64) -> Option<Judgement> {
    let rows = results.t1.as_deref()?;
    let mut measured = Vec::new();
    for (granularity, working_set) in t1::summaries(rows) {
        measured.push(format!(
            "At {}: {}; that is {} of the {} MB that the image has allocated and {} of its disk of {}.",
            cluster(granularity),
            mb_summary(&working_set),
            percent(working_set.mean / results.guest.allocated_bytes as f64),
            megabytes(results.guest.allocated_bytes as f64, 0),
            percent(working_set.mean / results.guest.disk_bytes as f64),
            cluster(results.guest.disk_bytes)
        ));
    }
    let verdict = if rows.iter().all(|row| row.share_of_allocated() <= most_share) {
        Verdict::Reproduced
    } else if rows.iter().all(|row| row.share_of_disk() <= most_share) {
        Verdict::Partly
    } else {
        Verdict::NotReproduced
    };
    Some(Judgement { verdict, measured })
}

pub fn small_clusters_save(results: &GuestResults, larger: u64, smaller: u64) -> Option<Judgement> {
    let rows = results.f4.as_deref()?;
    let plain = f4::plain(rows)?;
    let cost_larger = f4::cost_of_filling(rows, ClusterLayout::standard(larger))?;
    let cost_smaller = f4::cost_of_filling(rows, ClusterLayout::standard(smaller))?;
    let larger_draws_more = cost_larger.low() > 0.0;
    let smaller_does_not = cost_smaller.high() <= 0.0;
    let verdict = match (larger_draws_more, smaller_does_not) {
        // The rule asks for an interval, and one boot has none.
        _ if plain.count < 2 => Verdict::NotTestableHere,
        (true, true) => Verdict::Reproduced,
        (false, false) => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let cost = |cluster_size: u64, cost: &Summary| {
        format!("Cold minus plain at clusters of {}: {}.", cluster(cluster_size), mb_summary(cost))
    };
    let plain = format!("A plain overlay reads {}.", mb_summary(&plain));
    Some(Judgement {
        verdict,
        measured: vec![plain, cost(larger, &cost_larger), cost(smaller, &cost_smaller)],
    })
}
