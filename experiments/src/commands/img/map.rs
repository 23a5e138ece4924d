//! `vmicache img map`: where the bytes of a disk lie, in qemu-img's words.

use super::source::{Source, SourceOptions};
use crate::size;
use crate::terminal::print;
use anyhow::{Context, anyhow, ensure};
use clap::ValueEnum;
use std::fmt::Write;
use std::process::ExitCode;
use vmicache_format::disk::MapExtent;
use vmicache_format::runtime::LocalRuntime;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache img map overlay.qcow2
  vmicache img map --output=json overlay.qcow2
  vmicache img map --start-offset=1G --max-length=64M disk.qcow2

The text shows what lies in a file as it is read; the JSON shows everything: the depth of the image in the chain that
decides, whether it holds that itself (present), and whether it reads as zeroes, is data, and is compressed.";

/// So many extents are asked for, and printed, at once.
const EXTENTS: usize = 1024;

/// Arguments of `vmicache img map`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Format of the image: raw or qcow2 [default: as its first bytes say]
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Begin at this byte of the disk
    #[arg(short, long, value_name = "OFFSET")]
    start_offset: Option<String>,
    /// Show no more than so many bytes of the disk
    #[arg(short = 'l', long, value_name = "LENGTH")]
    max_length: Option<String>,
    #[command(flatten)]
    source: SourceOptions,
    /// The image
    #[arg(value_name = "FILE", required = true)]
    file: String,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table
    #[default]
    Human,
    /// JSON
    Json,
}

/// Runs the command.
///
/// # Errors
/// If the image cannot be opened, its tables cannot be read, or a text is asked for that cannot show what there is.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let start = number(args.start_offset.as_deref(), "start offset")?.unwrap_or(0);
    let most = number(args.max_length.as_deref(), "max length")?;
    let runtime = LocalRuntime::new();
    let source = Source::open(&args.file, args.format.as_deref(), &args.source, &runtime)?;
    let size = source.disk.size();
    let end = most.map_or(size, |most| start.saturating_add(most).min(size));
    let mut listing = Listing::new(args.output, &source);
    let mut at = start;
    while at < end {
        let extents = runtime.block_on(source.disk.map(at, end - at, EXTENTS));
        let extents = extents.with_context(|| format!("Failed to read image metadata of '{}'", args.file))?;
        let Some(last) = extents.last() else { break };
        at = last.range.end;
        let added = extents.into_iter().try_for_each(|extent| listing.add(extent));
        listing.print()?;
        added?;
    }
    let ended = listing.end(start);
    listing.print()?;
    ended?;
    Ok(ExitCode::SUCCESS)
}

fn number(text: Option<&str>, what: &str) -> anyhow::Result<Option<u64>> {
    let parse = |text: &str| {
        let most = i64::MAX;
        size::parse(text).map_err(|_| anyhow!("Invalid {what} specified. Must be between 0 and {most}."))
    };
    text.map(parse).transpose()
}

/// What is printed, as far as it has not been.
struct Listing {
    output: Output,
    /// The files of the layers' data, top first.
    files: Vec<String>,
    text: String,
    /// An extent that may go on.
    last: Option<MapExtent>,
    is_first: bool,
}

impl Listing {
    fn new(output: Output, source: &Source) -> Self {
        let files = source.files.iter().map(|file| {
            let path = file.data_file.as_ref().unwrap_or(&file.path);
            path.display().to_string()
        });
        let text = match output {
            Output::Human => format!("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File"),
            Output::Json => "[".to_owned(),
        };
        Listing { output, files: files.collect(), text, last: None, is_first: true }
    }

    fn add(&mut self, extent: MapExtent) -> anyhow::Result<()> {
        match &mut self.last {
            // The same extent, of which more was asked for.
            Some(last) if last.goes_on_in(&extent) => last.range.end = extent.range.end,
            last => {
                if let Some(complete) = last.replace(extent) {
                    self.write(&complete)?;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, extent: &MapExtent) -> anyhow::Result<()> {
        let (start, length) = (extent.range.start, extent.range.end - extent.range.start);
        match self.output {
            Output::Human => {
                ensure!(
                    !extent.is_data || extent.offset.is_some(),
                    "File contains external, encrypted or compressed clusters."
                );
                if let (true, Some(offset)) = (extent.is_data && !extent.is_zero, extent.offset) {
                    let file = self.files.get(extent.depth).map_or("", String::as_str);
                    let [start, length, offset] = [start, length, offset].map(hexadecimal);
                    writeln!(self.text, "{start:<16}{length:<16}{offset:<16}{file}")?;
                }
            }
            Output::Json => {
                if !self.is_first {
                    self.text.push_str(",\n");
                }
                write!(
                    self.text,
                    "{{ \"start\": {start}, \"length\": {length}, \"depth\": {}, \"present\": {}, \"zero\": {}, \
                     \"data\": {}, \"compressed\": {}",
                    extent.depth, extent.is_present, extent.is_zero, extent.is_data, extent.is_compressed
                )?;
                if let Some(offset) = extent.offset {
                    write!(self.text, ", \"offset\": {offset}")?;
                }
                self.text.push('}');
            }
        }
        self.is_first = false;
        Ok(())
    }

    /// Adds what is left. Where nothing was to be shown, qemu-img's JSON has an empty extent at `start`.
    fn end(&mut self, start: u64) -> anyhow::Result<()> {
        if let Some(last) = self.last.take() {
            self.write(&last)?;
        } else if self.output == Output::Json {
            write!(
                self.text,
                "{{ \"start\": {start}, \"length\": 0, \"depth\": 0, \"present\": false, \"zero\": false, \"data\": \
                 false, \"compressed\": false}}"
            )?;
        }
        if self.output == Output::Json {
            self.text.push_str("]\n");
        }
        Ok(())
    }

    /// Prints what there is.
    fn print(&mut self) -> anyhow::Result<()> {
        print(&std::mem::take(&mut self.text))
    }
}

/// As C's `%#x` prints it.
fn hexadecimal(number: u64) -> String {
    if number == 0 { "0".to_owned() } else { format!("{number:#x}") }
}
