//! `vmicache trace convert`: a trace from another recorder's log.

use crate::terminal::{Table, print, print_json};
use crate::units::mb;
use anyhow::ensure;
use clap::ValueEnum;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use vmicache_format::trace::Summary;
use vmicache_format::trace::convert::{Converted, Source};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache trace convert nbdkit.log boot.csv.gz
  vmicache trace convert --from qemu-events qemu.stderr boot.csv.gz
  blkparse -i sda > sda.txt && vmicache trace convert --from blktrace sda.txt boot.csv.gz --json";

/// Arguments of `vmicache trace convert`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What wrote the log [default: told from its lines]
    #[arg(long, value_enum, value_name = "SOURCE")]
    from: Option<SourceName>,
    /// The log, plain or compressed with gzip
    #[arg(value_name = "INPUT")]
    input: PathBuf,
    /// The trace to write, compressed with gzip if its name ends in .gz
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,
    /// Print JSON: sizes in bytes
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum SourceName {
    /// The log file of nbdkit's log filter
    NbdkitLog,
    /// QEMU's standard error with -trace 'blk_co_p*' -msg timestamp=on
    QemuEvents,
    /// What blkparse prints
    Blktrace,
}

impl SourceName {
    fn source(self) -> Source {
        match self {
            SourceName::NbdkitLog => Source::NbdkitLog,
            SourceName::QemuEvents => Source::QemuEvents,
            SourceName::Blktrace => Source::Blktrace,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the log cannot be read or told, or the trace cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    ensure!(
        args.input != args.output,
        "{} is the log itself; give the trace another name",
        args.output.display()
    );
    let source = args.from.map_or_else(|| Source::detect(&args.input), |name| Ok(name.source()))?;
    let converted = source.convert(&args.input)?;
    converted.trace.save_with_metadata(&args.output, &converted.metadata)?;
    let report = Report::new(&args, source, converted);
    if args.json {
        print_json(&report)?
    } else {
        print(&report.text())?
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Report {
    input: String,
    output: String,
    from: &'static str,
    requests: u64,
    bytes: u64,
    metadata: BTreeMap<String, String>,
    /// What the source does not tell.
    lacks: Vec<String>,
}

impl Report {
    fn new(args: &Args, source: Source, converted: Converted) -> Report {
        let summary = Summary::of(&converted.trace);
        let pairs = converted.metadata.iter();
        Report {
            input: args.input.display().to_string(),
            output: args.output.display().to_string(),
            from: source.name(),
            requests: summary.requests(),
            bytes: summary.by_op.iter().map(|(_, counts)| counts.bytes).sum(),
            metadata: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            lacks: converted.lacks,
        }
    }

    fn text(&self) -> String {
        let mut table = Table::default();
        table.row(["requests".to_owned(), self.requests.to_string()]);
        table.row(["bytes".to_owned(), self.bytes.to_string(), mb(self.bytes as f64)]);
        let lacks: String = self.lacks.iter().map(|lack| format!("  - {lack}\n")).collect();
        let Report { input, output, from, .. } = self;
        format!("{input} ({from}) -> {output}\n{}\n{from} does not tell\n{lacks}", table.text(2))
    }
}
