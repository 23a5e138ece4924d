//! The figures of a run.

use super::plan::Experiment;
use super::{GuestResults, f4, storms, t2, v1};
use crate::figures::quota_need::{QuotaNeed, abscissa};
use crate::figures::traffic::Traffic;
use crate::figures::{Curve, Picture, render};
use crate::stats::Summary;
use crate::units::MB;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::working_set;
use vmicache_sim::replay::Layout;

/// Layouts of clusters whose curves F4 shows: more could not be told apart.
const SHOWN: [ClusterLayout; 5] = [
    ClusterLayout::standard(512),
    ClusterLayout::standard(4096),
    ClusterLayout::standard(65_536),
    ClusterLayout::extended(65_536),
    ClusterLayout::extended(131_072),
];

/// The largest clusters that T2's figure shows, in bytes: what larger ones need would press all else together.
const LARGEST_SHOWN: u64 = 256 << 10;

/// A figure of the report.
pub struct Figure {
    /// The files' name without ending.
    pub name: String,
    /// The guest's short name.
    pub guest: String,
    /// What it belongs to.
    pub experiment: Experiment,
    /// The figure itself.
    pub picture: Picture,
}

/// All figures that the results are enough for, guest by guest.
///
/// # Errors
/// If one cannot be drawn.
pub fn all(results: &[GuestResults]) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for result in results {
        let mut add = |experiment, picture| {
            let guest = result.guest.name.clone();
            figures.push(Figure { name: format!("{experiment}-{guest}"), guest, experiment, picture });
        };
        if let Some(needs) = &result.needs {
            add(Experiment::T2, render(&quota_need(result, needs))?);
        }
        if let Some(traffic) = result.f4.as_deref().and_then(|rows| traffic(result, rows)) {
            add(Experiment::F4, render(&traffic)?);
        }
        if let Some(figure) = result.v1.as_deref().and_then(|rows| v1::section::figure(result.guest, rows)) {
            add(Experiment::V1, render(&figure)?);
        }
        let Some(storms) = &result.storms else { continue };
        for experiment in Experiment::ALL {
            if let Some(figure) = storms::figure(storms, experiment, &result.guest.title) {
                add(experiment, render(&figure)?);
            }
        }
    }
    Ok(figures)
}

fn traffic(result: &GuestResults, rows: &[f4::Row]) -> Option<Traffic> {
    let curves = |layout| {
        let shown = f4::curves(rows, layout).into_iter().filter(|curve| SHOWN.contains(&curve.clusters));
        shown.map(in_megabytes).collect()
    };
    Some(Traffic {
        guest: result.guest.title.clone(),
        plain: f4::plain(rows)?.scaled(1.0 / MB),
        cold: curves(Layout::Cold),
        warm: curves(Layout::Warm),
    })
}

fn in_megabytes(curve: f4::Curve) -> Curve {
    let points = curve.points.into_iter().map(|(quota, read)| (quota as f64 / MB, read.scaled(1.0 / MB)));
    Curve { label: format!("clusters of {}", curve.clusters), points: points.collect() }
}

fn quota_need(result: &GuestResults, rows: &[t2::NeedRow]) -> QuotaNeed {
    let mut clusters = t2::clusters(rows);
    clusters.retain(|clusters| clusters.size <= LARGEST_SHOWN);
    let curve = |label: &str, of: &[ClusterLayout], value: &dyn Fn(ClusterLayout) -> Vec<u64>| {
        let point = |clusters: &ClusterLayout| {
            let megabytes = value(*clusters).into_iter().map(|bytes| bytes as f64 / MB);
            Some((abscissa(clusters.size), Summary::of(megabytes)?))
        };
        Curve { label: label.to_owned(), points: of.iter().filter_map(point).collect() }
    };
    let quota = |clusters| t2::single_needs(rows, clusters).map(|row| row.need.quota).collect();
    let copied =
        |clusters| t2::single_needs(rows, clusters).map(|row| row.need.cache.base_bytes_read).collect();
    let (extended, standard): (Vec<_>, Vec<_>) = clusters.iter().partition(|clusters| clusters.extended_l2);
    let curves = vec![
        curve("quota for one boot", &standard, &quota),
        curve("copied from the base", &standard, &copied),
        curve("quota, with subclusters", &extended, &quota),
        curve("copied, with subclusters", &extended, &copied),
    ];
    let boots = &result.guest.boots;
    let reference = curve("distinct bytes read, at 512 B", &clusters, &|_| {
        boots.iter().map(|boot| working_set(&boot.trace, 512)).collect()
    });
    QuotaNeed { guest: result.guest.title.clone(), reference, curves }
}
