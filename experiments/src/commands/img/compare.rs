//! `vmicache img compare`: whether two disks read alike, in qemu-img's words and exit codes.

use super::source::{Source, SourceOptions};
use super::zeroes::{first_data, first_difference};
use super::{cache_mode, program, progress::Progress};
use anyhow::{Context, ensure};
use std::process::ExitCode;
use vmicache_format::disk::MapExtent;
use vmicache_format::runtime::LocalRuntime;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache img compare disk.raw disk.qcow2
  vmicache img compare -f raw -F qcow2 -p disk.raw disk.qcow2
  vmicache img compare -s overlay-1.qcow2 overlay-2.qcow2

Exit codes: 0 the disks read alike, 1 they differ, 2 an image cannot be opened, 3 its tables cannot be read,
4 its data cannot be read. Without -s, what one disk has beyond the end of the other may be zeroes.";

/// What is read of each disk in one go.
const CHUNK: u64 = 2 << 20;
/// So many extents are asked for at once.
const EXTENTS: usize = 256;

/// Arguments of `vmicache img compare`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Format of the first image: raw or qcow2 [default: as its first bytes say]
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Format of the second image
    #[arg(short = 'F', value_name = "FMT")]
    second_format: Option<String>,
    /// Also fail if the sizes differ, or what is zeroes in one is data in the other
    #[arg(short, long)]
    strict: bool,
    /// Show how far it has come
    #[arg(short = 'p')]
    progress: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// How the images are cached by the host; only checked
    #[arg(short = 'T', value_name = "CACHE")]
    source_cache: Option<String>,
    #[command(flatten)]
    source: SourceOptions,
    /// The images
    #[arg(value_name = "FILE")]
    files: Vec<String>,
}

/// How a comparison ends that finds no fault with the images themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Same,
    Differ,
}

/// Why two disks could not be compared: the exit code of qemu-img, and what has happened.
struct Failure(u8, anyhow::Error);

/// Runs the command. Its failures have exit codes of their own.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    Ok(match compare(args) {
        Ok(Outcome::Same) => ExitCode::SUCCESS,
        Ok(Outcome::Differ) => ExitCode::from(1),
        Err(Failure(code, error)) => {
            program::complain(&error);
            ExitCode::from(code)
        }
    })
}

/// Makes failures of one kind.
fn code(code: u8) -> impl Fn(anyhow::Error) -> Failure {
    move |error| Failure(code, error)
}

fn compare(args: &Args) -> Result<Outcome, Failure> {
    let runtime = LocalRuntime::new();
    let open = || -> anyhow::Result<(Source, Source)> {
        let [left, right] = args.files.as_slice() else { anyhow::bail!("Expecting two image file names") };
        cache_mode::check_source(args.source_cache.as_deref())?;
        ensure!(left != "" && right != "", "the name of an image is empty");
        Ok((
            Source::open(left, args.format.as_deref(), &args.source, &runtime)?,
            Source::open(right, args.second_format.as_deref(), &args.source, &runtime)?,
        ))
    };
    let (left, right) = open().map_err(code(2))?;
    let comparison = Comparison { left: &left, right: &right, args };
    runtime.block_on(comparison.run())
}

struct Comparison<'a> {
    left: &'a Source,
    right: &'a Source,
    args: &'a Args,
}

/// A part of a disk.
struct Part {
    end: u64,
    /// It is known to read as zeroes.
    is_zero: bool,
    status: Status,
}

/// What strictness tells apart: data, present, at a place in a file, compressed, up to the end of the disk.
type Status = [bool; 5];

/// Where one of the two disks has come to.
struct Walk<'a> {
    source: &'a Source,
    extents: std::vec::IntoIter<MapExtent>,
    current: Option<MapExtent>,
}

impl<'a> Walk<'a> {
    fn of(source: &'a Source) -> Self {
        Walk { source, extents: vec![].into_iter(), current: None }
    }

    /// The part that begins at `offset`, which lies on the disk and never goes back.
    async fn part(&mut self, offset: u64) -> Result<Part, Failure> {
        loop {
            if let Some(extent) = &self.current
                && extent.range.end > offset
            {
                let reaches_end = extent.range.end == self.source.disk.size();
                let is_placed = extent.offset.is_some();
                let status =
                    [extent.is_data, extent.is_present, is_placed, extent.is_compressed, reaches_end];
                return Ok(Part { end: extent.range.end, is_zero: extent.is_zero, status });
            }
            self.current = self.extents.next();
            if self.current.is_none() {
                let disk = &self.source.disk;
                let extents = disk.map(offset, disk.size() - offset, EXTENTS).await;
                let failed = || format!("Sector allocation test failed for {}", self.source.name);
                self.extents = extents.with_context(failed).map_err(code(3))?.into_iter();
            }
        }
    }
}

impl Comparison<'_> {
    async fn run(&self) -> Result<Outcome, Failure> {
        let (left, right) = (self.left.disk.size(), self.right.disk.size());
        let common = left.min(right);
        let mut progress = Progress::new(self.args.progress && !self.args.quiet);
        if self.args.strict && left != right {
            return self.differ("Strict mode: Image size mismatch!");
        }
        let (mut of_left, mut of_right) = (Walk::of(self.left), Walk::of(self.right));
        let mut offset = 0;
        while offset < common {
            let parts = (of_left.part(offset).await?, of_right.part(offset).await?);
            let mut end = parts.0.end.min(parts.1.end).min(common);
            if self.args.strict && (parts.0.is_zero, parts.0.status) != (parts.1.is_zero, parts.1.status) {
                return self.differ(&format!("Strict mode: Offset {offset} block status mismatch!"));
            }
            if !(parts.0.is_zero && parts.1.is_zero) {
                end = end.min(offset + CHUNK);
                if let Some(at) = self.difference(offset, end, &parts).await? {
                    return self.differ(&format!("Content mismatch at offset {at}!"));
                }
            }
            progress.advance(end - offset, left.max(right));
            offset = end;
        }
        if left != right {
            self.tell("Warning: Image size mismatch!")?;
            let over = if left > right { of_left } else { of_right };
            if let Some(at) = Comparison::data_behind(over, offset, &mut progress).await? {
                return self.differ(&format!("Content mismatch at offset {at}!"));
            }
        }
        self.tell("Images are identical.")?;
        Ok(Outcome::Same)
    }

    /// Where the disks begin to differ between `offset` and `end`, if they do.
    async fn difference(&self, offset: u64, end: u64, parts: &(Part, Part)) -> Result<Option<u64>, Failure> {
        let at = match (parts.0.is_zero, parts.1.is_zero) {
            (false, true) => first_data(&read(self.left, offset, end).await?),
            (true, false) => first_data(&read(self.right, offset, end).await?),
            _ => {
                let (left, right) =
                    (read(self.left, offset, end).await?, read(self.right, offset, end).await?);
                first_difference(&left, &right)
            }
        };
        Ok(at.map(|at| offset + at as u64))
    }

    /// Where the longer disk holds data behind the end of the shorter one.
    async fn data_behind(
        mut over: Walk<'_>,
        from: u64,
        progress: &mut Progress,
    ) -> Result<Option<u64>, Failure> {
        let size = over.source.disk.size();
        let mut offset = from;
        while offset < size {
            let part = over.part(offset).await?;
            let mut end = part.end;
            if !part.is_zero {
                end = end.min(offset + CHUNK);
                if let Some(at) = first_data(&read(over.source, offset, end).await?) {
                    return Ok(Some(offset + at as u64));
                }
            }
            progress.advance(end - offset, size);
            offset = end;
        }
        Ok(None)
    }

    fn differ(&self, why: &str) -> Result<Outcome, Failure> {
        self.tell(why)?;
        Ok(Outcome::Differ)
    }

    fn tell(&self, line: &str) -> Result<(), Failure> {
        program::tell(self.args.quiet, line).map_err(code(4))
    }
}

async fn read(source: &Source, offset: u64, end: u64) -> Result<bytes::Bytes, Failure> {
    let failed = || format!("Error while reading offset {offset} of {}", source.name);
    source.disk.read(offset, end - offset).await.with_context(failed).map_err(code(4))
}
