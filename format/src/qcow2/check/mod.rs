//! Check and repair.
//!
//! A check works on the bytes of a file, not on an open image, so that it can look at what cannot be opened. It
//! counts how often each host cluster is referenced by anything in the image, and compares that with the refcounts.
//!
//! | module | subject |
//! | --- | --- |
//! | `report` | what a check found |
//! | `layout` | cluster arithmetic for all widths and entries |
//! | `references` | the counts of every cluster |
//! | `examination` | one look at an image: what it collects, in which order |
//! | `refcounts` | the refcounts, and the comparison |
//! | `snapshots`, `bitmaps` | the structures that these have |
//! | `mapping` | from the L1 tables to the L2 tables |
//! | `entries` | the entries of L2 tables |
//! | `repair` | mending in place |
//! | `rebuild` | new refcount structures |

mod bitmaps;
mod entries;
mod examination;
mod layout;
mod mapping;
mod rebuild;
mod refcounts;
mod references;
mod repair;
mod report;
mod snapshots;

pub use report::{Finding, FindingKind, Report};

use crate::error::{Blame, Result};
use crate::storage::Storage;
use examination::Examination;
use std::collections::HashSet;
use std::sync::Arc;

/// What a check may mend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing: the file is only read.
    #[default]
    None,
    /// Leaks: refcounts are lowered to the references.
    Leaks,
    /// Everything that has one right form only.
    All,
}

/// How an image is checked.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// What may be mended.
    pub repair: Repair,
    /// How many findings are kept; more are counted.
    pub max_findings: usize,
    /// Bytes of memory for counting references, beyond which the check gives up. An image of 1 TiB with clusters of
    /// 64 KiB needs about 50 MiB.
    pub memory_limit: u64,
}

impl Default for CheckOptions {
    fn default() -> Self {
        CheckOptions { repair: Repair::None, max_findings: 10_000, memory_limit: 1 << 30 }
    }
}

/// Checks the image in `storage`, and mends what `options` allow. `name` appears in errors.
///
/// Nobody else may write the image meanwhile, nor read it if it is to be mended. Whenever a repair is interrupted,
/// what was right before it is right still.
///
/// # Errors
/// If that is no qcow2 image, its header breaks the format's rules, the storage fails, or the memory limit is
/// reached. What is wrong with the image otherwise is not an error, but in the report.
pub async fn check<S: Storage>(storage: &S, name: &str, options: &CheckOptions) -> Result<Report> {
    let look = || Examination::of(storage, name, options.max_findings, options.memory_limit);
    let first = look().await?;
    if options.repair == Repair::None {
        return Ok(first.report);
    }
    let (found, found_flags) = (first.report.clone(), first.wrong_flags);
    let mut now = first;
    if options.repair == Repair::All && now.wrong_entries > 0 {
        now.repair_entries().await?;
        now = look().await?;
    }
    // New structures may make the file longer, so that what pointed beyond its end is to be counted now.
    for _ in 0..3 {
        if !now.has_wrong_refcounts() {
            break;
        }
        now.repair_refcounts(options.repair).await?;
        now = look().await?;
    }
    let (second, second_flags) = (now.report.clone(), now.wrong_flags);
    let only_flags = second.corruptions == second_flags && second.leaks == 0;
    if second_flags > 0 && (options.repair == Repair::All || only_flags) {
        now.repair_flags().await?;
        now = look().await?;
    }
    if now.shorten_cache().await? {
        now = look().await?;
    }
    now.clear_marks(options.repair).await?;
    let others = |report: &Report, flags| report.corruptions.saturating_sub(flags);
    let fixed = others(&found, found_flags).saturating_sub(others(&now.report, now.wrong_flags));
    let mut report = now.report;
    report.corruptions_fixed = fixed.saturating_add(second_flags.saturating_sub(now.wrong_flags));
    report.leaks_fixed = found.leaks.saturating_sub(report.leaks);
    // Flags that were wrong because a refcount was are mended with it; others are found again.
    let before = found.findings.into_iter().filter(|finding| finding.structure != report::FLAG);
    let flags = second.findings.into_iter().filter(|finding| finding.structure == report::FLAG);
    add_repaired(&mut report, before.chain(flags), options.max_findings);
    Ok(report)
}

/// Puts the findings that are gone before those that are left.
fn add_repaired(report: &mut Report, before: impl Iterator<Item = Finding>, max_findings: usize) {
    if report.findings_left_out > 0 {
        return;
    }
    let left: HashSet<&Finding> = report.findings.iter().collect();
    let room = max_findings.saturating_sub(left.len());
    let gone = before.filter(|finding| finding.kind != FindingKind::Note && !left.contains(finding));
    let mut repaired: Vec<Finding> = gone.map(|finding| Finding { repaired: true, ..finding }).collect();
    report.findings_left_out = repaired.len().saturating_sub(room) as u64;
    repaired.truncate(room);
    repaired.append(&mut report.findings);
    report.findings = repaired;
}

/// Makes an image that was not closed (its dirty bit is set) fit for writing: its refcounts and flags are mended, and
/// the bit is cleared.
///
/// # Errors
/// As [`check`]; if something is wrong with the image that cannot be mended.
pub async fn repair_dirty<S: Storage>(storage: &S, name: &str) -> Result<Report> {
    let options = CheckOptions { repair: Repair::All, max_findings: 100, ..CheckOptions::default() };
    let report = check(storage, name, &options).await?;
    if report.corruptions == 0 {
        return Ok(report);
    }
    let left =
        report.findings.iter().find(|finding| finding.kind == FindingKind::Corruption && !finding.repaired);
    let what = left.map_or(String::new(), |finding| {
        format!(": {} at offset {:#x}: {}", finding.structure, finding.host_offset, finding.text)
    });
    let problem =
        format!("the image was not closed, and {} errors in it cannot be repaired{what}", report.corruptions);
    Err(Blame(Arc::from(name)).refused(problem))
}
