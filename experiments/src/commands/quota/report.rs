//! The advice as text for an operator, and as JSON.

use super::advice::{Advice, Checked, ClusterAdvice, Point};
use crate::stats::Summary;
use crate::terminal::Table;
use crate::units::{cluster, mb, megabytes};
use serde::Serialize;
use std::fmt::Write;

/// The whole advice for people to read; the recommendation first.
pub fn text(traces: &[String], advice: &Advice) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(text, "{}\n", headline(traces, advice))?;
    writeln!(text, "Smallest quota in MB of 1000000 bytes, for a disk of {}", mb(advice.disk_size as f64))?;
    writeln!(text, "{}", quotas(advice).text(2))?;
    writeln!(text, "Read from the base by a boot, in MB, under a cache that the boots have filled")?;
    writeln!(text, "{}", curves(advice))?;
    writeln!(text, "Proof: a cache made at the smallest quota, filled by the boots, then each boot again")?;
    text.push_str(&proof(traces, advice).text(2));
    Ok(text)
}

fn headline(traces: &[String], advice: &Advice) -> String {
    let boots = match traces.len() {
        1 => "the boot".to_owned(),
        several => format!("the {several} boots"),
    };
    if let Some((quota, checked)) = &advice.check {
        return verdict(&boots, *quota, checked, advice);
    }
    advice.best().map_or_else(String::new, |best| {
        format!(
            "Recommended: a quota of {} bytes ({}) and clusters of {}; {boots} then read{} nothing from the base.",
            best.need.quota,
            mb(best.need.quota as f64),
            cluster(best.cluster_size),
            if traces.len() == 1 { "s" } else { "" }
        )
    })
}

fn verdict(boots: &str, quota: u64, checked: &[Checked], advice: &Advice) -> String {
    let failures = advice.clusters.iter().zip(checked).filter_map(|(at, found)| {
        let why = match found {
            Checked::Reads(0) => return None,
            Checked::Reads(bytes) => format!("{} still come from the base", mb(*bytes as f64)),
            Checked::BelowEmpty(empty) => format!("an empty cache alone takes {empty} bytes"),
        };
        Some(format!(
            "with clusters of {} {why} ({} bytes are needed)",
            cluster(at.cluster_size),
            at.need.quota
        ))
    });
    let failures: Vec<String> = failures.collect();
    let quota = format!("a quota of {quota} bytes ({})", mb(quota as f64));
    if failures.is_empty() {
        let most = advice.clusters.iter().max_by_key(|at| at.need.quota);
        let most = most.map_or_else(String::new, |at| {
            format!(
                "; the most needed is {} bytes, with clusters of {}",
                at.need.quota,
                cluster(at.cluster_size)
            )
        });
        format!("Enough: {quota} serves {boots} without the base{most}.")
    } else {
        format!("Not enough: {quota} does not serve {boots} without the base: {}.", failures.join("; "))
    }
}

fn quotas(advice: &Advice) -> Table {
    let mut table = Table::default();
    table.row([
        "clusters",
        "smallest quota",
        "in bytes",
        "empty cache",
        "each boot alone",
        "another boot then reads",
        "one cluster less leaves",
    ]);
    for at in &advice.clusters {
        table.row([
            cluster(at.cluster_size),
            number(at.need.quota as f64),
            at.need.quota.to_string(),
            number(at.need.empty_bytes as f64),
            alone(at).map_or_else(String::new, |s| format!("{} to {}", number(s.min), number(s.max))),
            at.another.as_ref().map_or_else(
                || "-".to_owned(),
                |s| format!("{} ({} to {})", number(s.mean), number(s.min), number(s.max)),
            ),
            at.need.base_bytes_below.map_or_else(|| "-".to_owned(), |bytes| format!("{bytes} bytes")),
        ]);
    }
    table
}

/// Megabytes to two places, for tables whose heading names the unit.
fn number(bytes: f64) -> String {
    megabytes(bytes, 2)
}

fn alone(at: &ClusterAdvice) -> Option<Summary> {
    Summary::of(at.alone.iter().map(|quota| *quota as f64))
}

fn curves(advice: &Advice) -> String {
    let mut text = String::new();
    for at in &advice.clusters {
        let mut table = Table::default();
        table.row([
            format!("quota, {}", cluster(at.cluster_size)),
            "mean".to_owned(),
            "from".to_owned(),
            "to".to_owned(),
        ]);
        for Point { quota, base_bytes } in &at.curve {
            let numbers = [*quota as f64, base_bytes.mean, base_bytes.min, base_bytes.max];
            table.row(numbers.map(number));
        }
        text.push_str(&table.text(2));
        text.push('\n');
    }
    text.truncate(text.trim_end().len() + 1);
    text
}

fn proof(traces: &[String], advice: &Advice) -> Table {
    let mut table = Table::default();
    let sizes = advice.clusters.iter().map(|at| cluster(at.cluster_size));
    table.row(std::iter::once("bytes read from the base, clusters of".to_owned()).chain(sizes));
    for (i, trace) in traces.iter().enumerate() {
        let read = advice.clusters.iter().filter_map(|at| at.proof.get(i)).map(u64::to_string);
        table.row(std::iter::once(trace.clone()).chain(read));
    }
    table
}

/// The advice for programs to read; sizes in bytes.
#[derive(Serialize)]
pub struct Json<'a> {
    traces: &'a [String],
    disk_size: u64,
    recommended: Option<Recommended>,
    cluster_sizes: Vec<JsonCluster<'a>>,
    check: Option<JsonCheck>,
}

#[derive(Serialize)]
struct Recommended {
    cluster_size: u64,
    quota: u64,
}

#[derive(Serialize)]
struct JsonCluster<'a> {
    cluster_size: u64,
    smallest_quota: u64,
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
    sufficient: bool,
    /// Null if not even an empty cache fits.
    base_bytes_read: Option<u64>,
}

impl<'a> Json<'a> {
    /// The advice for the boots recorded in the files `traces`.
    pub fn new(traces: &'a [String], advice: &'a Advice) -> Json<'a> {
        let best = advice.best();
        Json {
            traces,
            disk_size: advice.disk_size,
            recommended: best.map(|at| Recommended { cluster_size: at.cluster_size, quota: at.need.quota }),
            cluster_sizes: advice.clusters.iter().map(JsonCluster::new).collect(),
            check: advice.check.as_ref().map(|(quota, checked)| JsonCheck::new(*quota, checked, advice)),
        }
    }
}

impl<'a> JsonCluster<'a> {
    fn new(at: &'a ClusterAdvice) -> JsonCluster<'a> {
        let point =
            |point: &Point| JsonPoint { quota: point.quota, base_bytes_read: (&point.base_bytes).into() };
        JsonCluster {
            cluster_size: at.cluster_size,
            smallest_quota: at.need.quota,
            empty_cache_bytes: at.need.empty_bytes,
            base_bytes_read_one_cluster_less: at.need.base_bytes_below,
            cache_bytes_in_use: at.need.cache.cache_bytes_in_use,
            cache_data_bytes: at.need.cache.cache_data_bytes,
            cache_file_bytes: at.need.cache.cache_file_bytes,
            smallest_quota_alone: &at.alone,
            another_boot_base_bytes_read: at.another.as_ref().map(JsonSummary::from),
            curve: at.curve.iter().map(point).collect(),
            proof_base_bytes_read: &at.proof,
        }
    }
}

impl JsonCheck {
    fn new(quota: u64, checked: &[Checked], advice: &Advice) -> JsonCheck {
        let each = advice.clusters.iter().zip(checked).map(|(at, found)| JsonChecked {
            cluster_size: at.cluster_size,
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
