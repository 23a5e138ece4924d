//! `vmicache quota`: the smallest quota that serves boots without the base image.

mod advice;
mod report;

use crate::recording::open;
use crate::size;
use crate::terminal::{print, print_json};
use advice::Advice;
use std::path::PathBuf;
use std::process::ExitCode;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::disk_size_for;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache quota --trace data/traces/debian-12-minimal-?.csv.gz
  vmicache quota --trace boot.csv.gz --cluster-size 512,4K --disk-size 40G --json
  vmicache quota --trace boot-1.csv.gz boot-2.csv.gz --check 100M && echo enough

Exit code: 0; with --check 0 if the quota suffices at every cluster size and 1 if not; 2 after an error.";

/// What the answer means, shown after the examples.
const MEANING: &str = "\
A quota is the length that a cache image's file never exceeds, data and metadata together. The one found is the \
smallest, to one cluster of the cache, with which a cache that the boots have filled one after the other lets \
each of them boot again without reading from the base image. The search starts from the length of the file \
that a fill without a limit leaves; since the tables depend a little on the quota itself, every answer is tried, \
and so is one cluster less.";

/// Arguments of `vmicache quota`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{MEANING}\n\n{}", size::HELP))]
pub struct Args {
    /// Recorded boots of one guest, as CSV or compressed with gzip
    #[arg(long = "trace", required = true, num_args = 1.., value_name = "FILE")]
    traces: Vec<PathBuf>,
    /// Cluster sizes of the cache image: powers of two from 512 to 2M
    #[arg(
        long, value_name = "LIST", value_delimiter = ',', default_value = "512,4K,64K",
        value_parser = size::parse_cluster_size, allow_hyphen_values = true
    )]
    cluster_size: Vec<u64>,
    /// Tell by the exit code whether this quota suffices at every cluster size listed
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_hyphen_values = true)]
    check: Option<u64>,
    /// Virtual size of the disk [default: just enough for the traces]
    ///
    /// A multiple of 512. It sets how much metadata even an empty cache has: give the size of the real disk.
    #[arg(long, value_name = "SIZE", value_parser = size::parse_disk_size, allow_hyphen_values = true)]
    disk_size: Option<u64>,
    /// Print JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If a file is not a trace, or the boots cannot be replayed through a cache image.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let boots =
        args.traces.iter().map(|path| open(path, args.disk_size)).collect::<anyhow::Result<Vec<_>>>()?;
    let boots: Vec<&Trace> = boots.iter().collect();
    let disk_size = args.disk_size.unwrap_or_else(|| disk_size_for(boots.iter().copied()));
    let mut cluster_sizes = args.cluster_size;
    cluster_sizes.sort_unstable();
    cluster_sizes.dedup();
    let advice = Advice::of(&boots, &cluster_sizes, args.check, disk_size)?;
    let names: Vec<String> = args.traces.iter().map(|path| path.display().to_string()).collect();
    if args.json {
        print_json(&report::Json::new(&names, &advice))?;
    } else {
        print(&report::text(&names, &advice)?)?;
    }
    Ok(if advice.check_passed().unwrap_or(true) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
