//! `vmicache cache verify`: whether a cache image holds what its base holds.

use super::{header_of, identity_check};
use crate::terminal::{Progress, Table, print, print_json};
use crate::units::mb;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use vmicache_format::Error;
use vmicache_format::disk::Verification;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, open_chain};
use vmicache_format::runtime::LocalRuntime;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache cache verify cache.qcow2
  vmicache cache verify --json cache.qcow2
  vmicache cache verify --base-version 2026-03 cache.qcow2

The tables are checked, the base is recognised, and every cached cluster is compared with what lies below it. Exit \
code: 0 if all is right; 1 if anything differs, the tables are damaged, or the cache was made for another base; \
2 after an error. Nobody may write the cache or its base meanwhile.";

/// Arguments of `vmicache cache verify`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Version of the base, for a cache that was made with one
    #[arg(long, value_name = "TEXT")]
    base_version: Option<String>,
    /// Print JSON: offsets and sizes in bytes
    #[arg(long)]
    json: bool,
    /// The cache image
    #[arg(value_name = "CACHE")]
    cache: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If the file is no cache image, or it or its base cannot be read.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let disk_size = header_of(&args.cache)?.size;
    let name = args.cache.display().to_string();
    let report = match verify(args, disk_size) {
        Ok(verification) => Report::new(name, disk_size, None, &verification),
        // What is wrong with the cache itself is the answer, and no error.
        Err(error @ (Error::OtherBase { .. } | Error::Invalid { .. })) if is_about(&error, &name) => {
            Report::new(name, disk_size, Some(error.to_string()), &Verification::default())
        }
        Err(error) => return Err(error.into()),
    };
    if args.json {
        print_json(&report)?
    } else {
        print(&report.text())?
    }
    Ok(ExitCode::from(u8::from(!report.right)))
}

fn verify(args: &Args, disk_size: u64) -> Result<Verification, Error> {
    let identity = identity_check(args.base_version.as_deref());
    let options = ChainOptions { identity, named_files: NamedFiles::Allow, ..ChainOptions::default() };
    let progress = Progress::of_bytes("comparing", disk_size);
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let disk = open_chain(&args.cache, Format::Qcow2, &options, runtime.clone()).await?;
        disk.verify(|position| progress.set(position)).await
    })
}

/// Whether an error is about the image of that name, and not about one below it.
fn is_about(error: &Error, name: &str) -> bool {
    match error {
        Error::OtherBase { image, .. } | Error::Invalid { image, .. } => **image == *name,
        _ => false,
    }
}

#[derive(Serialize)]
struct Report {
    cache: String,
    right: bool,
    /// What kept the cache from being compared; null if nothing did.
    problem: Option<String>,
    disk_size: u64,
    compared_bytes: u64,
    /// Of the compared bytes, those that the cache holds as zeroes.
    zero_bytes: u64,
    /// Bytes of the clusters that differ.
    wrong_bytes: u64,
    wrong_ranges: u64,
    /// The first of these ranges.
    wrong: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    offset: u64,
    length: u64,
}

impl Report {
    fn new(cache: String, disk_size: u64, problem: Option<String>, found: &Verification) -> Report {
        Report {
            cache,
            right: problem.is_none() && found.is_right(),
            problem,
            disk_size,
            compared_bytes: found.compared_bytes,
            zero_bytes: found.zero_bytes,
            wrong_bytes: found.wrong_bytes,
            wrong_ranges: found.wrong_ranges,
            wrong: found
                .wrong
                .iter()
                .map(|range| Range { offset: range.start, length: range.end - range.start })
                .collect(),
        }
    }

    fn text(&self) -> String {
        if let Some(problem) = &self.problem {
            return format!("{problem}\n");
        }
        let Report { cache, compared_bytes, wrong_bytes, wrong_ranges, .. } = self;
        let compared =
            format!("{compared_bytes} bytes ({}) compared with the base", mb(*compared_bytes as f64));
        if self.right {
            return format!("{cache}: right: {compared}, nothing differs\n");
        }
        let mut table = Table::default();
        table.row(["offset on the disk", "bytes"]);
        for range in &self.wrong {
            table.row([range.offset.to_string(), range.length.to_string()]);
        }
        let further = wrong_ranges.saturating_sub(self.wrong.len() as u64);
        let further = if further > 0 { format!("  and {further} more\n") } else { String::new() };
        format!(
            "{cache}: wrong: {compared}, {wrong_bytes} bytes of clusters that differ, in {wrong_ranges} ranges\n\n\
             {}{further}\nDo not boot from this cache: `vmicache cache drop` empties it.\n",
            table.text(2)
        )
    }
}
