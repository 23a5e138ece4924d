//! The advice as text for an operator.

use super::Found;
use super::advice::{Advice, Checked, ClusterAdvice, Point};
use super::trial::{Trial, difference};
use crate::base_image::BaseImage;
use crate::margin::Margin;
use crate::stats::Summary;
use crate::terminal::Table;
use crate::units::{mb, megabytes, percent, proportion, set_percent};
use std::fmt::Write;

/// The whole advice for people to read; the recommendation first.
pub fn text(found: &Found) -> anyhow::Result<String> {
    let Found { traces, advice, base, trials } = *found;
    let mut text = String::new();
    writeln!(text, "{}\n", headline(traces, advice))?;
    if let Some(base) = base {
        writeln!(text, "{}\n", allocation(base))?;
    }
    writeln!(text, "Smallest quota in MB of 1000000 bytes, for a disk of {}", mb(advice.disk_size as f64))?;
    writeln!(text, "{}", quotas(advice).text(2))?;
    text.push_str(&left_out(advice)?);
    writeln!(text, "Read from the base by a boot, in MB, under a cache that the boots have filled")?;
    writeln!(text, "{}", curves(advice))?;
    writeln!(text, "Proof: a cache made at the smallest quota, filled by the boots, then each boot again")?;
    text.push_str(&proof(traces, advice).text(2));
    text.push_str(&real_proof(base, trials)?);
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
            "Recommended: a quota of {} bytes ({}) and clusters of {}; {boots} then read{} nothing from the base. That \
             is {}.",
            best.recommended,
            mb(best.recommended as f64),
            best.layout,
            if traces.len() == 1 { "s" } else { "" },
            above(advice.margin, best)
        )
    })
}

/// How the quota that is recommended comes about.
fn above(margin: Margin, at: &ClusterAdvice) -> String {
    match at.recommended == at.need.quota {
        true => "the smallest quota that suffices, without a margin".to_owned(),
        false => format!(
            "the smallest quota that suffices, {} bytes, and {margin} for what other boots may read, in whole clusters",
            at.need.quota
        ),
    }
}

fn allocation(base: &BaseImage) -> String {
    let size = base.replayed.disk_size();
    let share = |part: u64, whole: u64| percent(if whole == 0 { 0.0 } else { part as f64 / whole as f64 });
    format!(
        "Base {} ({}): of the disk of {} {} are allocated ({}). The boots need {} of it, and of this {} are holes ({}), \
         which cost no traffic.",
        base.image.path.display(),
        base.image.format,
        mb(size as f64),
        mb(base.allocated_bytes as f64),
        share(base.allocated_bytes, size),
        mb(base.needed_bytes as f64),
        mb(base.needed_hole_bytes as f64),
        share(base.needed_hole_bytes, base.needed_bytes)
    )
}

fn verdict(boots: &str, quota: u64, checked: &[Checked], advice: &Advice) -> String {
    let failures = advice.clusters.iter().zip(checked).filter_map(|(at, found)| {
        let why = match found {
            Checked::Reads(0) => return None,
            Checked::Reads(bytes) => format!("{} still come from the base", mb(*bytes as f64)),
            Checked::BelowEmpty(empty) => format!("an empty cache alone takes {empty} bytes"),
        };
        Some(format!("with clusters of {} {why} ({} bytes are needed)", at.layout, at.need.quota))
    });
    let failures: Vec<String> = failures.collect();
    let quota = format!("a quota of {quota} bytes ({})", mb(quota as f64));
    if failures.is_empty() {
        let most = advice.clusters.iter().max_by_key(|at| at.need.quota);
        let most = most.map_or_else(String::new, |at| {
            format!("; the most needed is {} bytes, with clusters of {}", at.need.quota, at.layout)
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
        "recommended, in bytes",
        "empty cache",
        "each boot alone",
        "another boot then reads",
        "one cluster less leaves",
    ]);
    for at in &advice.clusters {
        table.row([
            at.layout.to_string(),
            number(at.need.quota as f64),
            at.need.quota.to_string(),
            at.recommended.to_string(),
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

/// Each boot under what the others recommend; nothing where they are too few.
fn left_out(advice: &Advice) -> anyhow::Result<String> {
    let mut table = Table::default();
    table.row(["clusters", "covered (95 % interval)", "quota, MB", "the boot left out reads first, MB"]);
    let mut is_any = false;
    for at in &advice.clusters {
        let quota = Summary::of(at.left_out.iter().map(|boot| boot.quota as f64));
        let first = Summary::of(at.left_out.iter().map(|boot| boot.first.base_bytes_read as f64));
        let (Some(covered), Some(quota), Some(first)) = (at.covered(), quota, first) else { continue };
        is_any = true;
        table.row([
            at.layout.to_string(),
            proportion(&covered),
            format!("{} to {}", number(quota.min), number(quota.max)),
            format!("{} ({} to {})", kilobyte(first.mean), kilobyte(first.min), kilobyte(first.max)),
        ]);
    }
    if !is_any {
        return Ok(String::new());
    }
    let mut text = String::new();
    writeln!(
        text,
        "Each boot left out in turn, under the quota that the others recommend (margin {})",
        advice.margin
    )?;
    text.push_str(&table.text(2));
    writeln!(
        text,
        "  Covered: after the others and itself have filled the cache, it reads nothing from the base. The"
    )?;
    writeln!(
        text,
        "  interval is exact (Clopper-Pearson); boots of one guest say nothing of another guest.\n"
    )?;
    Ok(text)
}

/// Megabytes to two places, for tables whose heading names the unit.
fn number(bytes: f64) -> String {
    megabytes(bytes, 2)
}

/// Megabytes to three places, where two would often show nothing.
fn kilobyte(bytes: f64) -> String {
    megabytes(bytes, 3)
}

fn alone(at: &ClusterAdvice) -> Option<Summary> {
    Summary::of(at.alone.iter().map(|quota| *quota as f64))
}

fn curves(advice: &Advice) -> String {
    let mut text = String::new();
    for at in &advice.clusters {
        let mut table = Table::default();
        table.row([format!("quota, {}", at.layout), "mean".to_owned(), "from".to_owned(), "to".to_owned()]);
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
    let sizes = advice.clusters.iter().map(|at| at.layout.to_string());
    table.row(std::iter::once("bytes read from the base, clusters of".to_owned()).chain(sizes));
    for (i, trace) in traces.iter().enumerate() {
        let read = advice.clusters.iter().filter_map(|at| at.proof.get(i)).map(u64::to_string);
        table.row(std::iter::once(trace.clone()).chain(read));
    }
    table
}

/// The real caches beside what was predicted of them; nothing without a base.
fn real_proof(base: Option<&BaseImage>, trials: &[Trial]) -> anyhow::Result<String> {
    let Some(base) = base else { return Ok(String::new()) };
    let mut text = String::new();
    writeln!(
        text,
        "\nProof on real images: a cache file over {} at the recommended quota, filled by the boots, then each again",
        base.image.path.display()
    )?;
    for trial in trials {
        let mut table = Table::default();
        table.row([
            format!("bytes, clusters of {}", trial.layout),
            "predicted".to_owned(),
            "found".to_owned(),
            "difference".to_owned(),
        ]);
        for ((what, predicted), (_, found)) in trial.predicted.all().into_iter().zip(trial.found.all()) {
            let difference = percent(difference(predicted, found));
            table.row([what.to_owned(), predicted.to_string(), found.to_string(), difference]);
        }
        text.push_str(&table.text(2));
    }
    let verdict = if trials.iter().all(Trial::agrees) { "agree" } else { "do not agree" };
    writeln!(text, "  They {verdict} to {}.", set_percent(Trial::TOLERANCE))?;
    Ok(text)
}
