//! `vmicache img convert`: the disk of one image, or of several in a row, in a new image.

mod copy;
mod input;
mod stretches;
mod target;

use super::options::{self, ask_for_help};
use super::source::{Source, SourceOptions};
use super::{cache_mode, program};
use crate::size;
use crate::terminal::print;
use anyhow::{Context, anyhow, bail, ensure};
use copy::Copy;
use std::process::ExitCode;
use target::Target;
use vmicache_format::files::Format;
use vmicache_format::runtime::LocalRuntime;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache img convert -O qcow2 disk.raw disk.qcow2
  vmicache img convert -p -c -O qcow2 -o compression_type=zstd disk.qcow2 smaller.qcow2
  vmicache img convert -O raw overlay.qcow2 flat.raw
  vmicache img convert -n -O raw disk.qcow2 existing.raw
  vmicache img convert -O qcow2 -o help

What reads as zeroes is not written. A file of the target's name is replaced once the new image is whole; if anything
goes wrong it stays as it was (not so with -n, which writes into it). A cache image is never a target.";

/// `-S` without a number: qemu-img's.
const SPARSE: u64 = 4096;
const MOST_SPARSE: u64 = 16 << 20;

/// Arguments of `vmicache img convert`.
#[derive(clap::Args)]
#[command(override_usage = "vmicache img convert [OPTIONS] FILE [FILE...] TARGET", after_help = EXAMPLES)]
pub struct Args {
    /// Format of the images that are read: raw or qcow2 [default: as their first bytes say]
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Format of the target: raw or qcow2
    #[arg(short = 'O', value_name = "FMT", default_value = "raw")]
    target_format: String,
    /// Options of the target, as for `img create`; `-o help` lists them
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Backing file of the target: what the source leaves to its own backing file is left to this one
    #[arg(short = 'B', long = "backing", value_name = "FILE")]
    backing: Option<String>,
    /// Format of that backing file
    #[arg(short = 'F', value_name = "FMT")]
    backing_format: Option<String>,
    /// Compress what is written; qcow2 only
    #[arg(short, long)]
    compress: bool,
    /// Write into an existing target
    #[arg(short = 'n')]
    no_create: bool,
    /// With -n: the target reads as zeroes already
    #[arg(long)]
    target_is_zero: bool,
    /// Runs of zeroes shorter than this are written as data; 0: all of them, so that the target is fully allocated
    #[arg(short = 'S', value_name = "SIZE")]
    sparse: Option<String>,
    /// Write zeroes for what cannot be read
    #[arg(long)]
    salvage: bool,
    /// Show how far it has come
    #[arg(short = 'p')]
    progress: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Threads that compress, from 1 to 16 [default: 8, but no more than there are processors]
    #[arg(short = 'm', value_name = "NUMBER")]
    threads: Option<String>,
    /// How the host caches the target; only checked
    #[arg(short = 't', value_name = "CACHE")]
    cache: Option<String>,
    /// How the host caches what is read; only checked
    #[arg(short = 'T', value_name = "CACHE")]
    source_cache: Option<String>,
    /// Leave the order of writes open; they are in order all the same
    #[arg(short = 'W')]
    out_of_order: bool,
    /// Let the host copy, where it can; it never does
    #[arg(short = 'C')]
    copy_offloading: bool,
    /// Internal snapshot to read; refused
    #[arg(short = 'l', value_name = "SNAPSHOT", hide = true)]
    snapshot: Option<String>,
    /// Copy dirty bitmaps; refused
    #[arg(long, hide = true)]
    bitmaps: bool,
    /// Goes with --bitmaps
    #[arg(long, hide = true)]
    skip_broken_bitmaps: bool,
    /// Bytes a second; refused
    #[arg(short = 'r', value_name = "RATE", hide = true)]
    rate_limit: Option<String>,
    /// The target's name is a description; refused
    #[arg(long, hide = true)]
    target_image_opts: bool,
    #[command(flatten)]
    source: SourceOptions,
    /// The images, and the target behind them
    #[arg(value_name = "FILE")]
    files: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// If the arguments do not fit each other, an image cannot be read, or the target not be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let format = parse_target_format(&args.target_format)?;
    if ask_for_help(&args.options) {
        print(&options::help(format))?;
        return Ok(ExitCode::SUCCESS);
    }
    refuse_unsupported(args)?;
    check(args, format)?;
    let sparse = sparse(args.sparse.as_deref())?;
    let threads = threads(args.threads.as_deref())?;
    let Some((target, sources)) = args.files.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        bail!("Must specify image file name");
    };
    let runtime = LocalRuntime::new();
    let open = |name: &String| Source::open(name, args.format.as_deref(), &args.source, &runtime);
    let sources = sources.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let plan = Plan { sources: &sources, format, sparse, threads, args };
    let target = Target::of(target, input::size(&sources), &plan, &runtime)?;
    runtime.block_on(Copy::new(&plan, &target)?.run())?;
    target.publish(&runtime)?;
    Ok(ExitCode::SUCCESS)
}

/// What is to be done.
struct Plan<'a> {
    sources: &'a [Source],
    /// Of the target.
    format: Format,
    /// Shorter runs of zeroes are data.
    sparse: u64,
    /// That compress.
    threads: usize,
    args: &'a Args,
}

fn parse_target_format(name: &str) -> anyhow::Result<Format> {
    name.parse().map_err(|_| anyhow!("Unknown file format '{name}' (not supported; raw and qcow2 are)"))
}

/// Says of options that qemu-img has, and that there are not, that they are not.
fn refuse_unsupported(args: &Args) -> anyhow::Result<()> {
    let asked = [
        (args.snapshot.is_some(), "-l: internal snapshots"),
        (args.bitmaps || args.skip_broken_bitmaps, "--bitmaps: dirty bitmaps"),
        (args.rate_limit.is_some(), "-r: a limit on the rate"),
        (args.target_image_opts, "--target-image-opts"),
    ];
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => bail!("not supported: {what}"),
        None => Ok(()),
    }
}

fn check(args: &Args, format: Format) -> anyhow::Result<()> {
    cache_mode::check(args.cache.as_deref())?;
    cache_mode::check_source(args.source_cache.as_deref())?;
    ensure!(!args.target_is_zero || args.no_create, "--target-is-zero requires use of -n flag");
    ensure!(!args.no_create || args.options.is_empty(), "-o has no effect when skipping image creation");
    ensure!(!args.compress || format == Format::Qcow2, "Compression not supported for this file format");
    ensure!(
        args.backing.is_some() || args.backing_format.is_none(),
        "the format of a backing file is given with -F, but no backing file with -B"
    );
    ensure!(
        args.backing.is_none() || format == Format::Qcow2,
        "Backing file not supported for file format '{format}'"
    );
    ensure!(
        args.backing.is_none() || args.files.len() == 2,
        "Having a backing file for the target makes no sense when concatenating multiple input images"
    );
    ensure!(args.backing.is_none() || !args.no_create, "not supported: -B together with -n");
    Ok(())
}

fn sparse(text: Option<&str>) -> anyhow::Result<u64> {
    let Some(text) = text else { return Ok(SPARSE) };
    let bytes = size::parse(text)
        .map_err(|_| anyhow!("Invalid buffer size for sparse output specified: '{text}'."))?;
    ensure!(
        bytes.is_multiple_of(512) && bytes <= MOST_SPARSE,
        "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to {MOST_SPARSE}. \
         Select 0 to disable sparse detection (fully allocates output)."
    );
    Ok(bytes)
}

fn threads(text: Option<&str>) -> anyhow::Result<usize> {
    let Some(text) = text else {
        return Ok(std::thread::available_parallelism().map_or(1, |number| number.get().min(8)));
    };
    let number = text.parse().ok().filter(|number| (1..=16).contains(number));
    number.context("Invalid number of coroutines specified. Must be between 1 and 16.")
}

/// Says on standard error what could not be read and is taken for zeroes.
fn warn_of_loss(error: &anyhow::Error) {
    program::warn(&format!("{error:#}"));
}
