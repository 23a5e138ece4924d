//! `vmicache img check`: whether an image is sound, in qemu-img's words and exit codes.

use super::source::{format_of, named_file, parse_format};
use super::{cache_mode, json, program};
use crate::terminal::print;
use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use std::io::{Write, stderr};
use std::process::ExitCode;
use std::rc::Rc;
use vmicache_format::files::Format;
use vmicache_format::qcow2::check::{CheckOptions, Finding, FindingKind, Repair, Report, check};
use vmicache_format::qcow2::{Image, ImageOptions, Mode, read_header};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache img check disk.qcow2
  vmicache img check -r all --output=json cache.qcow2

Exit codes: 0 sound, 1 the image could not be checked, 2 errors, 3 leaked clusters but no errors, 63 a format that
has nothing to check. After a repair they tell of what is left. Of a cache image, its quota is checked as well.";

/// Arguments of `vmicache img check`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Format of the image: raw or qcow2 [default: as its first bytes say]
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Repair leaks alone, or all that can be repaired
    #[arg(short, long, value_enum, value_name = "WHAT", conflicts_with = "force_share")]
    repair: Option<What>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Print the findings alone
    #[arg(short, long)]
    quiet: bool,
    /// Also if others write the image; what they are just changing may look wrong
    #[arg(short = 'U', long)]
    force_share: bool,
    /// How the image is cached by the host; only checked
    #[arg(short = 'T', value_name = "CACHE")]
    source_cache: Option<String>,
    /// The name is a description such as driver=qcow2,file.filename=NAME
    #[arg(long)]
    image_opts: bool,
    /// Objects of QEMU; an encrypted image is checked without its key
    #[arg(long, value_name = "OBJECT", hide = true)]
    object: Vec<String>,
    /// The image
    #[arg(value_name = "FILE")]
    file: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Clusters that count as used and are not
    Leaks,
    /// Errors and leaks
    All,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Text
    #[default]
    Human,
    /// JSON
    Json,
}

/// How a check ends.
#[derive(Clone, Copy)]
enum Outcome {
    Sound = 0,
    Failed = 1,
    Errors = 2,
    Leaks = 3,
    NothingToCheck = 63,
}

/// Runs the command. That an image cannot be checked has an exit code of its own.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let outcome = match examine(args) {
        Ok(Some(report)) => {
            show(args, &report)?;
            outcome(&report)
        }
        Ok(None) => {
            program::complain(&anyhow::anyhow!("This image format does not support checks"));
            Outcome::NothingToCheck
        }
        Err(error) => {
            program::complain(&error);
            Outcome::Failed
        }
    };
    Ok(ExitCode::from(outcome as u8))
}

/// Checks the image; `None` if its format has nothing to check.
fn examine(args: &Args) -> anyhow::Result<Option<Report>> {
    cache_mode::check_source(args.source_cache.as_deref())?;
    let stated = parse_format(args.format.as_deref())?;
    let (path, named) = named_file(&args.file, args.image_opts)?;
    let name = path.display().to_string();
    if format_of(&path, stated.or(named))? != Format::Qcow2 {
        HostFile::open(&path, Access::Inspect).with_context(|| name)?;
        return Ok(None);
    }
    let (repair, access) = match args.repair {
        None if args.force_share => (Repair::None, Access::Inspect),
        None => (Repair::None, Access::Read),
        Some(What::Leaks) => (Repair::Leaks, Access::Write),
        Some(What::All) => (Repair::All, Access::Write),
    };
    let storage = HostFile::open(&path, access).with_context(|| name.clone())?;
    let options = CheckOptions { repair, ..CheckOptions::default() };
    let runtime = LocalRuntime::new();
    let report = runtime.block_on(check(&storage, &name, &options))?;
    if repair == Repair::All && report.corruptions == 0 && report.check_errors == 0 {
        runtime.block_on(clear_unknown_features(storage, &name, &runtime))?;
    }
    Ok(Some(report))
}

/// Clears the autoclear features that nobody knows here, as opening a sound image for writing does: what they vouch for
/// may not hold any more.
async fn clear_unknown_features(
    storage: HostFile,
    name: &str,
    runtime: &Rc<LocalRuntime>,
) -> anyhow::Result<()> {
    let header = read_header(&storage, name).await?;
    let is_unknown = header.autoclear_features & !autoclear::KNOWN != 0;
    if is_unknown && header.cache().is_none() && header.data_file().is_none() {
        let options = ImageOptions::default();
        let image = Image::open(storage, name, Mode::Write, options, runtime.clone()).await?;
        image.close().await?;
    }
    Ok(())
}

/// Autoclear features.
mod autoclear {
    /// Bitmaps, and an external data file that is a raw image.
    pub const KNOWN: u64 = 0b11;
}

fn outcome(report: &Report) -> Outcome {
    match report {
        Report { check_errors: 1.., .. } => Outcome::Failed,
        Report { corruptions: 1.., .. } => Outcome::Errors,
        Report { leaks: 1.., .. } => Outcome::Leaks,
        _ => Outcome::Sound,
    }
}

fn show(args: &Args, report: &Report) -> anyhow::Result<()> {
    let mut findings = String::new();
    for finding in report.findings.iter().filter(|finding| is_shown(args, finding)) {
        findings.push_str(&format!("{finding}\n"));
    }
    if report.findings_left_out > 0 {
        findings.push_str(&format!("... and {} more\n", report.findings_left_out));
    }
    // Where standard error is closed, the exit code has to tell.
    let _ = stderr().lock().write_all(findings.as_bytes());
    match args.output {
        Output::Json => print(&json::text(&Summary::of(args, report))?),
        Output::Human if args.quiet => Ok(()),
        Output::Human => print(&text(report)),
    }
}

fn is_shown(args: &Args, finding: &Finding) -> bool {
    finding.kind != FindingKind::Note || !args.quiet
}

/// Keys and order are qemu-img's; what is 0 is left out where qemu-img leaves it out.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Summary {
    #[serde(skip_serializing_if = "is_zero")]
    image_end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    compressed_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions: u64,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions_fixed: u64,
    check_errors: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks_fixed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    allocated_clusters: u64,
    filename: String,
    format: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    fragmented_clusters: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Summary {
    fn of(args: &Args, report: &Report) -> Summary {
        Summary {
            image_end_offset: report.image_end_offset,
            compressed_clusters: report.compressed_clusters,
            total_clusters: report.total_clusters,
            corruptions: report.corruptions,
            corruptions_fixed: report.corruptions_fixed,
            check_errors: report.check_errors,
            leaks: report.leaks,
            leaks_fixed: report.leaks_fixed,
            allocated_clusters: report.allocated_clusters,
            filename: args.file.clone(),
            format: "qcow2",
            fragmented_clusters: report.fragmented_clusters,
        }
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    if report.leaks_fixed > 0 || report.corruptions_fixed > 0 {
        text.push_str(&format!(
            "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\n\
             Double checking the fixed image now...\n",
            report.leaks_fixed, report.corruptions_fixed
        ));
    }
    if report.is_clean() {
        text.push_str("No errors were found on the image.\n");
    }
    if report.corruptions > 0 {
        text.push_str(&format!(
            "\n{} errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it.\n",
            report.corruptions
        ));
    }
    if report.leaks > 0 {
        text.push_str(&format!(
            "\n{} leaked clusters were found on the image.\n\
             This means waste of disk space, but no harm to data.\n",
            report.leaks
        ));
    }
    if report.check_errors > 0 {
        text.push_str(&format!(
            "\n{} internal errors have occurred during the check.\n",
            report.check_errors
        ));
    }
    if report.total_clusters > 0 && report.allocated_clusters > 0 {
        let percent = |part, whole| part as f64 * 100.0 / whole as f64;
        text.push_str(&format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            report.allocated_clusters,
            report.total_clusters,
            percent(report.allocated_clusters, report.total_clusters),
            percent(report.fragmented_clusters, report.allocated_clusters),
            percent(report.compressed_clusters, report.allocated_clusters),
        ));
    }
    if report.image_end_offset > 0 {
        text.push_str(&format!("Image end offset: {}\n", report.image_end_offset));
    }
    text
}
