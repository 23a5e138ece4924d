//! The advice as JSON.

use super::Found;
use super::advice::{Advice, CacheFigures, Checked, ClusterAdvice, Point};
use super::trial::Trial;
use crate::base_image::BaseImage;
use crate::leave_one_out::LeftOut;
use crate::stats::Summary;
use serde::Serialize;

/// The advice for programs to read; sizes in bytes.
#[derive(Serialize)]
pub struct Json<'a> {
    traces: &'a [String],
    disk_size: u64,
    /// As a share of the smallest quota.
    margin: f64,
    /// Null without a base.
    base: Option<JsonBase>,
    recommended: Option<Recommended>,
    cluster_sizes: Vec<JsonCluster<'a>>,
    check: Option<JsonCheck>,
}

#[derive(Serialize)]
struct JsonBase {
    file: String,
    format: String,
    allocated_bytes: u64,
    /// What the boots together need of the disk.
    needed_bytes: u64,
    /// Of this, holes.
    needed_hole_bytes: u64,
}

#[derive(Serialize)]
struct Recommended {
    cluster_size: u64,
    extended_l2: bool,
    quota: u64,
}

#[derive(Serialize)]
struct JsonCluster<'a> {
    cluster_size: u64,
    extended_l2: bool,
    smallest_quota: u64,
    recommended_quota: u64,
    empty_cache_bytes: u64,
    /// Null if no smaller quota can be given.
    base_bytes_read_one_cluster_less: Option<u64>,
    cache_bytes_in_use: u64,
    cache_data_bytes: u64,
    cache_file_bytes: u64,
    smallest_quota_alone: &'a [u64],
    /// Null for a single boot.
    another_boot_base_bytes_read: Option<JsonSummary>,
    curve: Vec<JsonPoint>,
    proof_base_bytes_read: &'a [u64],
    /// Null for fewer than three boots.
    leave_one_out: Option<JsonCoverage<'a>>,
    /// A real cache at the recommended quota; null without a base.
    real_proof: Option<JsonTrial>,
}

#[derive(Serialize)]
struct JsonCoverage<'a> {
    covered: usize,
    boots: usize,
    /// The exact 95 % interval of the share that is covered.
    interval: [f64; 2],
    left_out: Vec<JsonLeftOut<'a>>,
}

#[derive(Serialize)]
struct JsonLeftOut<'a> {
    trace: &'a str,
    /// Recommended by the other boots.
    quota: u64,
    covered: bool,
    /// What the others had not brought.
    base_bytes_read_first: u64,
    /// What there was no room for.
    base_bytes_read_again: u64,
}

#[derive(Serialize)]
struct JsonTrial {
    quota: u64,
    predicted: CacheFigures,
    found: CacheFigures,
    largest_difference: f64,
    agrees: bool,
}

#[derive(Serialize)]
struct JsonPoint {
    quota: u64,
    base_bytes_read: JsonSummary,
}

#[derive(Serialize)]
struct JsonSummary {
    mean: f64,
    min: f64,
    max: f64,
    count: usize,
}

#[derive(Serialize)]
struct JsonCheck {
    quota: u64,
    sufficient: bool,
    cluster_sizes: Vec<JsonChecked>,
}

#[derive(Serialize)]
struct JsonChecked {
    cluster_size: u64,
    extended_l2: bool,
    sufficient: bool,
    /// Null if not even an empty cache fits.
    base_bytes_read: Option<u64>,
}

impl<'a> Json<'a> {
    /// All that was found.
    pub fn new(found: &Found<'a>) -> Json<'a> {
        let Found { traces, advice, base, trials } = *found;
        let trial = |at: &ClusterAdvice| trials.iter().find(|trial| trial.layout == at.layout);
        Json {
            traces,
            disk_size: advice.disk_size,
            margin: advice.margin.share(),
            base: base.map(JsonBase::new),
            recommended: advice.best().map(|at| Recommended {
                cluster_size: at.layout.size,
                extended_l2: at.layout.extended_l2,
                quota: at.recommended,
            }),
            cluster_sizes: advice.clusters.iter().map(|at| JsonCluster::new(traces, at, trial(at))).collect(),
            check: advice.check.as_ref().map(|(quota, checked)| JsonCheck::new(*quota, checked, advice)),
        }
    }
}

impl JsonBase {
    fn new(base: &BaseImage) -> JsonBase {
        JsonBase {
            file: base.image.path.display().to_string(),
            format: base.image.format.to_string(),
            allocated_bytes: base.allocated_bytes,
            needed_bytes: base.needed_bytes,
            needed_hole_bytes: base.needed_hole_bytes,
        }
    }
}

impl<'a> JsonCluster<'a> {
    fn new(traces: &'a [String], at: &'a ClusterAdvice, trial: Option<&Trial>) -> JsonCluster<'a> {
        let point =
            |point: &Point| JsonPoint { quota: point.quota, base_bytes_read: (&point.base_bytes).into() };
        JsonCluster {
            cluster_size: at.layout.size,
            extended_l2: at.layout.extended_l2,
            smallest_quota: at.need.quota,
            recommended_quota: at.recommended,
            empty_cache_bytes: at.need.empty_bytes,
            base_bytes_read_one_cluster_less: at.need.base_bytes_below,
            cache_bytes_in_use: at.need.cache.cache_bytes_in_use,
            cache_data_bytes: at.need.cache.cache_data_bytes,
            cache_file_bytes: at.need.cache.cache_file_bytes,
            smallest_quota_alone: &at.alone,
            another_boot_base_bytes_read: at.another.as_ref().map(JsonSummary::from),
            curve: at.curve.iter().map(point).collect(),
            proof_base_bytes_read: &at.proof,
            leave_one_out: JsonCoverage::new(traces, at),
            real_proof: trial.map(JsonTrial::new),
        }
    }
}

impl<'a> JsonCoverage<'a> {
    fn new(traces: &'a [String], at: &ClusterAdvice) -> Option<JsonCoverage<'a>> {
        let covered = at.covered()?;
        let left_out = |(trace, found): (&'a String, &LeftOut)| JsonLeftOut {
            trace,
            quota: found.quota,
            covered: found.is_covered(),
            base_bytes_read_first: found.first.base_bytes_read,
            base_bytes_read_again: found.again.base_bytes_read,
        };
        Some(JsonCoverage {
            covered: covered.hits,
            boots: covered.count,
            interval: [covered.low, covered.high],
            left_out: traces.iter().zip(&at.left_out).map(left_out).collect(),
        })
    }
}

impl JsonTrial {
    fn new(trial: &Trial) -> JsonTrial {
        JsonTrial {
            quota: trial.quota,
            predicted: trial.predicted,
            found: trial.found,
            largest_difference: trial.largest_difference(),
            agrees: trial.agrees(),
        }
    }
}

impl JsonCheck {
    fn new(quota: u64, checked: &[Checked], advice: &Advice) -> JsonCheck {
        let each = advice.clusters.iter().zip(checked).map(|(at, found)| JsonChecked {
            cluster_size: at.layout.size,
            extended_l2: at.layout.extended_l2,
            sufficient: *found == Checked::Reads(0),
            base_bytes_read: match found {
                Checked::Reads(bytes) => Some(*bytes),
                Checked::BelowEmpty(_) => None,
            },
        });
        let cluster_sizes: Vec<_> = each.collect();
        JsonCheck { quota, sufficient: cluster_sizes.iter().all(|at| at.sufficient), cluster_sizes }
    }
}

impl From<&Summary> for JsonSummary {
    fn from(summary: &Summary) -> JsonSummary {
        JsonSummary { mean: summary.mean, min: summary.min, max: summary.max, count: summary.count }
    }
}
