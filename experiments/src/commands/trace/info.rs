//! `vmicache trace info`: recorded boots in numbers.

use crate::figures::boot_trace::BootTrace;
use crate::figures::render;
use crate::terminal::{Table, print, print_json};
use crate::units::{cluster, mb, percent};
use crate::{output, recording, size};
use anyhow::{Context, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use vmicache_format::trace::{Counts, Op, Summary, Trace, overlap, working_set};
use vmicache_sim::replay::disk_size_for;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache trace info data/traces/debian-12-minimal-1.csv.gz
  vmicache trace info data/traces/debian-12-minimal-?.csv.gz --granularity 512,64K --json
  vmicache trace info data/traces/debian-12-minimal-1.csv.gz --plot boot.svg";

/// Arguments of `vmicache trace info`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", size::HELP))]
pub struct Args {
    /// Traces, as CSV or compressed with gzip
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Block sizes at which working sets are counted
    ///
    /// The working set is what the boot reads and has not written, zeroed or trimmed before, in whole blocks of
    /// this size, each once.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "512,4K,64K", value_parser = size::parse_positive, allow_hyphen_values = true)]
    granularity: Vec<u64>,
    /// Print JSON: bytes, and microseconds (keys that end in _us)
    #[arg(long)]
    json: bool,
    /// Draw disk offset over time and the think times to a file, .png or .svg
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If a file is not a trace, or the plot cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let format = args.plot.as_deref().map(PlotFormat::of).transpose()?;
    let opened = args.files.iter().map(|path| Trace::open_with_metadata(path));
    let (metadata, boots): (Vec<_>, Vec<_>) = opened.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let recordings = metadata.iter().zip(&boots);
    let infos = args.files.iter().zip(recordings).map(|(path, (metadata, boot))| Info {
        metadata: metadata.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        ..Info::of(path, boot, &args.granularity)
    });
    let report = Report { traces: infos.collect(), overlap: overlaps(&boots, &args.granularity) };
    if let (Some(path), Some(format)) = (&args.plot, format) {
        output::write_file(path, &format.draw(&args.files, &boots)?)?;
    }
    if args.json {
        print_json(&report)?
    } else {
        print(&report.text()?)?
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy)]
enum PlotFormat {
    Png,
    Svg,
}

impl PlotFormat {
    fn of(path: &Path) -> anyhow::Result<PlotFormat> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("png") => Ok(PlotFormat::Png),
            Some("svg") => Ok(PlotFormat::Svg),
            _ => bail!("--plot {}: the name must end in .png or .svg", path.display()),
        }
    }

    fn draw(self, files: &[PathBuf], boots: &[Trace]) -> anyhow::Result<Vec<u8>> {
        let names = files.iter().map(|path| recording::name(path));
        let picture = render(&BootTrace::new(names.zip(boots))).context("cannot draw the traces")?;
        Ok(match self {
            PlotFormat::Png => picture.png,
            PlotFormat::Svg => picture.svg.into_bytes(),
        })
    }
}

#[derive(Serialize)]
struct Report {
    traces: Vec<Info>,
    /// Empty for a single trace.
    overlap: Vec<Common>,
}

#[derive(Serialize)]
struct Info {
    file: String,
    /// Empty if nothing is known of the recording.
    metadata: BTreeMap<String, String>,
    requests: u64,
    operations: Vec<Operation>,
    working_set: Vec<WorkingSet>,
    sequential_reads: u64,
    sequential_share: f64,
    /// Requests that found so many in flight when issued, themselves included.
    in_flight: Vec<InFlight>,
    alone_share: f64,
    most_in_flight: usize,
    span_us: u64,
    busy_us: u64,
    think_us: u64,
    smallest_disk: u64,
}

#[derive(Serialize)]
struct Operation {
    op: &'static str,
    requests: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct WorkingSet {
    granularity: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct InFlight {
    in_flight: usize,
    requests: u64,
}

#[derive(Serialize)]
struct Common {
    granularity: u64,
    union_bytes: u64,
    intersection_bytes: u64,
    jaccard: f64,
}

impl Info {
    fn of(path: &Path, boot: &Trace, granularities: &[u64]) -> Info {
        let summary = Summary::of(boot);
        let operation =
            |&(op, Counts { requests, bytes }): &_| Operation { op: Op::name(op), requests, bytes };
        let found = summary.in_flight.iter().copied().enumerate();
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Info {
            file: path.display().to_string(),
            metadata: BTreeMap::new(),
            requests: summary.requests(),
            operations: summary.by_op.iter().map(operation).collect(),
            working_set: granularities
                .iter()
                .map(|&granularity| WorkingSet { granularity, bytes: working_set(boot, granularity) })
                .collect(),
            sequential_reads: summary.sequential_reads,
            sequential_share: summary.sequential_share(),
            in_flight: found.skip(1).map(|(in_flight, requests)| InFlight { in_flight, requests }).collect(),
            alone_share: summary.alone_share(),
            most_in_flight: summary.most_in_flight(),
            span_us: microseconds(summary.span),
            busy_us: microseconds(summary.busy),
            think_us: microseconds(summary.think),
            smallest_disk: disk_size_for([boot]),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::default();
        for Operation { op, requests, bytes } in &self.operations {
            if *requests > 0 {
                let size = if *bytes > 0 { mb(*bytes as f64) } else { String::new() };
                table.row([format!("{op} requests"), requests.to_string(), size]);
            }
        }
        for WorkingSet { granularity, bytes } in &self.working_set {
            table.row([
                format!("working set at {}", cluster(*granularity)),
                bytes.to_string(),
                mb(*bytes as f64),
            ]);
        }
        let reads = (self.sequential_reads.to_string(), percent(self.sequential_share));
        table.row(["sequential reads".to_owned(), reads.0, reads.1]);
        for InFlight { in_flight, requests } in self.in_flight.iter().filter(|found| found.requests > 0) {
            let share = *requests as f64 / self.requests as f64;
            table.row([format!("arrivals with {in_flight} in flight"), requests.to_string(), percent(share)]);
        }
        let share = |part: u64| if self.span_us == 0 { 0.0 } else { part as f64 / self.span_us as f64 };
        table.row(["first issue to last completion".to_owned(), seconds(self.span_us)]);
        table.row(["a request in flight".to_owned(), seconds(self.busy_us), percent(share(self.busy_us))]);
        table.row([
            "no request in flight (think)".to_owned(),
            seconds(self.think_us),
            percent(share(self.think_us)),
        ]);
        table.row([
            "smallest disk".to_owned(),
            self.smallest_disk.to_string(),
            mb(self.smallest_disk as f64),
        ]);
        table
    }
}

fn seconds(microseconds: u64) -> String {
    format!("{:.3} s", microseconds as f64 / 1e6)
}

fn overlaps(boots: &[Trace], granularities: &[u64]) -> Vec<Common> {
    if boots.len() < 2 {
        return Vec::new();
    }
    let common = granularities.iter().filter_map(|&granularity| {
        let common = overlap(boots, granularity)?;
        Some(Common {
            granularity,
            union_bytes: common.union,
            intersection_bytes: common.intersection,
            jaccard: common.jaccard(),
        })
    });
    common.collect()
}

impl Report {
    fn text(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        for info in &self.traces {
            writeln!(text, "{}", info.file)?;
            for (key, value) in &info.metadata {
                writeln!(text, "  {key}: {value}")?;
            }
            writeln!(text, "{}", info.table().text(2))?;
        }
        if !self.overlap.is_empty() {
            let mut table = Table::default();
            table.row(["blocks of", "in any boot", "in every boot", "Jaccard"]);
            for common in &self.overlap {
                table.row([
                    cluster(common.granularity),
                    mb(common.union_bytes as f64),
                    mb(common.intersection_bytes as f64),
                    format!("{:.4}", common.jaccard),
                ]);
            }
            writeln!(text, "Working sets of the {} boots together\n{}", self.traces.len(), table.text(2))?;
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        Ok(text)
    }
}
