//! `vmicache warm`: a cache image filled with what recorded boots read.

mod boot;
mod filling;
mod report;
mod store;
mod target;

pub use filling::{Recorded, Warmed};
pub use target::{Base, Target};

use crate::recording::open;
use crate::size;
use crate::terminal::{print, print_json};
use report::Report;
use std::io::{Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use vmicache_format::files::Format;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache warm cache.qcow2 --base base.raw --quota 100M --trace boot.csv.gz
  vmicache warm cache.qcow2 --base base.qcow2 --base-format qcow2 --quota 100M --cluster-size 4K \\
      --trace boot-1.csv.gz boot-2.csv.gz
  vmicache warm cache.qcow2 --base base.raw --quota 100M --cluster-size 128K --extended-l2 --trace boot.csv.gz
  vmicache warm cache.qcow2 --base base.raw --trace third-boot.csv.gz --json

The boots are replayed on a real chain, base <- cache <- overlay in memory, one after the other, so that the cache gets \
what they read from it up to its quota: not what the guest had written itself. Then they are replayed again, to \
tell what they still read from the base. Stock QEMU boots from the result as a backing file.";

/// Arguments of `vmicache warm`.
#[derive(clap::Args)]
#[command(
    override_usage = "vmicache warm [OPTIONS] CACHE --base FILE --quota SIZE --trace FILE...",
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{}", size::HELP)
)]
pub struct Args {
    /// The base image
    #[arg(long, value_name = "FILE")]
    base: PathBuf,
    /// Format of the base image: raw or qcow2 [default: raw]
    ///
    /// Needed if the base begins as qcow2 images do, for a guest can write that into a raw image.
    #[arg(long, value_name = "FMT")]
    base_format: Option<Format>,
    /// Version of the base, to recognise it by instead of by a sample of what it holds
    #[arg(long, value_name = "TEXT")]
    base_version: Option<String>,
    /// Quota of the cache image; needed to make one, and must be right if there is one
    ///
    /// The length that the cache's file never exceeds, data and metadata together.
    #[arg(long, value_name = "SIZE", value_parser = size::parse_positive, allow_hyphen_values = true)]
    quota: Option<u64>,
    /// Recorded boots, as CSV or compressed with gzip; what the first reads comes first
    #[arg(long = "trace", required = true, num_args = 1.., value_name = "FILE")]
    traces: Vec<PathBuf>,
    /// Cluster size of the cache image, from 512 to 2M [default: that of the image, or 512; with --extended-l2 64K]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_cluster_size, allow_hyphen_values = true)]
    cluster_size: Option<u64>,
    /// Make the cache image with extended L2 entries: of each cluster, from 16K on, it copies subclusters, a 32nd each
    #[arg(long)]
    extended_l2: bool,
    /// Print JSON, sizes in bytes
    #[arg(long)]
    json: bool,
    /// The cache image, which is made if it is missing
    #[arg(value_name = "CACHE")]
    cache: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If the base or a trace cannot be read, the cache cannot be made or belongs to another base, or an image
/// fails. A cache that was made stays; it holds nothing wrong.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let base = Base::open(&args.base, args.base_format)?;
    let boots =
        args.traces.iter().map(|path| open(path, Some(base.size))).collect::<anyhow::Result<Vec<_>>>()?;
    let target = Target {
        path: &args.cache,
        quota: args.quota,
        cluster_size: args.cluster_size,
        extended_l2: args.extended_l2,
        base_version: args.base_version.as_deref(),
    };
    let made = target.prepare(&base)?;
    let boots: Vec<Recorded> =
        args.traces.iter().zip(&boots).map(|(path, trace)| Recorded { path, trace }).collect();
    let warmed = Warmed::of(&args.cache, args.base_version.as_deref(), &boots)?;
    let report = Report::new(args, made, &warmed);
    if args.json {
        print_json(&report)?
    } else {
        print(&report.text())?
    }
    if let Some(warning) = report.warning() {
        // Where standard error is closed, what was printed has to tell.
        let _ = writeln!(stderr(), "vmicache: warning: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}
