//! `vmicache img resize`: larger and smaller disks, with qemu-img's arguments.

use super::preallocation::{Allocating, Preallocation, preallocate};
use super::program;
use super::source::{
    could_not_open, format_of, inspect_writable, named_file, parse_format, refuse_objects, writing,
};
use crate::size;
use anyhow::{Context, anyhow, ensure};
use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{Write, stderr};
use std::path::Path;
use std::process::ExitCode;
use vmicache_format::files::{Format, ImageFile, open_chain_in};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile, Storage};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache img resize disk.qcow2 40G
  vmicache img resize disk.qcow2 +10G
  vmicache img resize -f raw --shrink disk.raw -512M

A disk that becomes smaller loses what lies behind its new end: --shrink says that this is wanted. New room reads
as zeroes, also where a backing file is longer.";

/// What a smaller disk means, in qemu-img's words.
const LOSS: &str = "Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an \
                    operation, make sure there is no important data there.";

/// Arguments of `vmicache img resize`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Format of the image: raw or qcow2 [default: as its first bytes say]
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// What of the new room is allocated at once: off, metadata, falloc or full
    #[arg(long, value_name = "MODE", default_value = "off")]
    preallocation: String,
    /// Allow the disk to become smaller
    #[arg(long)]
    shrink: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The name is a description such as driver=qcow2,file.filename=NAME
    #[arg(long)]
    image_opts: bool,
    /// Objects of QEMU; refused
    #[arg(long, value_name = "OBJECT", hide = true)]
    object: Vec<String>,
    /// The image
    #[arg(value_name = "FILE", required = true)]
    file: String,
    /// Bytes of the disk; with + or - before it, by how many it grows or shrinks
    #[arg(value_name = "[+|-]SIZE", required = true)]
    size: String,
}

/// The size that a disk is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    To(u64),
    By(i64),
}

impl Wish {
    fn parse(text: &str) -> anyhow::Result<Wish> {
        let (sign, number) = match text.split_at_checked(1) {
            Some(("+", number)) => (1, number),
            Some(("-", number)) => (-1, number),
            _ => (0, text),
        };
        let bytes =
            size::parse(number).map_err(|problem| anyhow!("Invalid image size {text:?}: {problem}"))?;
        Ok(match sign {
            0 => Wish::To(bytes),
            // Sizes are less than 2⁶³.
            sign => Wish::By(sign * bytes as i64),
        })
    }

    fn of(self, current: u64) -> anyhow::Result<u64> {
        let size = match self {
            Wish::To(size) => Some(size),
            Wish::By(bytes) => current.checked_add_signed(bytes).filter(|size| i64::try_from(*size).is_ok()),
        };
        size.filter(|size| *size > 0).context("New image size must be positive")
    }
}

/// Runs the command.
///
/// # Errors
/// If the disk cannot have that size, would lose data without leave, or the image cannot be changed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    refuse_objects(&args.object)?;
    let wish = Wish::parse(&args.size)?;
    let preallocation = Preallocation::parse(&args.preallocation)?;
    let (path, named) = named_file(&args.file, args.image_opts)?;
    let stated = parse_format(args.format.as_deref())?.or(named);
    let about = |error| could_not_open(&args.file, error);
    let format = format_of(&path, stated).map_err(about)?;
    let image = inspect_writable(&path, format).map_err(about)?;
    if format == Format::Raw && stated.is_none() {
        warn_of_guess(&args.file);
    }
    let current = match &image.header {
        Some(header) => header.size,
        None => std::fs::metadata(&path)?.len(),
    };
    let size = wish.of(current)?;
    if size < current && !args.shrink {
        program::complain(&anyhow!("Use the --shrink option to perform a shrink operation."));
        program::warn(LOSS);
        return Ok(program::failure());
    }
    check(format, preallocation, current, size)?;
    match format {
        Format::Raw => resize_raw(&path, current, size, preallocation).map_err(about)?,
        Format::Qcow2 => resize_qcow2(&image, size, preallocation).map_err(about)?,
    }
    program::tell(args.quiet, "Image resized.")?;
    Ok(ExitCode::SUCCESS)
}

fn check(format: Format, preallocation: Preallocation, current: u64, size: u64) -> anyhow::Result<()> {
    ensure!(
        size >= current || preallocation == Preallocation::Off,
        "Preallocation can only be used for growing images"
    );
    ensure!(format == Format::Raw || size.is_multiple_of(512), "The new size must be a multiple of 512");
    Ok(())
}

/// What qemu-img says, too: a guest that writes a qcow2 header into its first block must not be trusted later.
fn warn_of_guess(name: &str) {
    let _ = writeln!(
        stderr(),
        "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         \
         A guest can make a raw image look like one of another format.\n         \
         Specify the 'raw' format explicitly to remove this warning."
    );
}

fn resize_raw(path: &Path, current: u64, size: u64, preallocation: Preallocation) -> anyhow::Result<()> {
    ensure!(preallocation != Preallocation::Metadata, "Unsupported preallocation mode 'metadata'");
    let storage = HostFile::open(path, Access::Write)?;
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        if size > current && preallocation != Preallocation::Off {
            let file = OpenOptions::new().write(true).open(path)?;
            preallocation.allocate(&file, current..size)?;
        }
        storage.set_len(size).await?;
        storage.flush().await?;
        Ok(())
    })
}

fn resize_qcow2(image: &ImageFile, size: u64, mode: Preallocation) -> anyhow::Result<()> {
    let runtime = LocalRuntime::new();
    // The image's file, and its external data file if it has one, in this order.
    let files = RefCell::new(Vec::new());
    let wrap = |depth, file| {
        let paths = [Some(&image.path), image.data_file.as_ref()];
        let path = paths.get(files.borrow().len()).copied().flatten().filter(|_| depth == 0);
        let host = path.and_then(|path| OpenOptions::new().write(true).open(path).ok());
        let file = Allocating::new(file, host);
        if depth == 0 {
            files.borrow_mut().push(file.clone());
        }
        file
    };
    runtime.block_on(async {
        let disk = open_chain_in(&image.path, Format::Qcow2, &writing(), runtime.clone(), wrap).await?;
        let current = disk.size();
        disk.resize(size).await?;
        let files = files.borrow();
        if let [_, data] = files.as_slice() {
            data.set_len(size).await?;
        }
        if let (true, Some(header), Some(data)) = (size > current, &image.header, files.last()) {
            // What lies in the last cluster was written when the disk became larger.
            let from = current.next_multiple_of(header.cluster_size()).min(size);
            preallocate(&disk, data, mode, from..size).await?;
        }
        disk.close().await?;
        Ok(())
    })
}
