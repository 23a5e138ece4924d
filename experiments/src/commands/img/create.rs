//! `vmicache img create`: new images, with qemu-img's arguments.

use super::file::{FileFacts, begins_as_qcow2, chain};
use super::new_image::{NewFile, NewImage};
use super::options::{self, ImageOptions};
use super::preallocation::Preallocation;
use super::source::{parse_format, refuse_objects};
use crate::output::folder_of;
use crate::size;
use crate::terminal::print;
use anyhow::{Context, anyhow, bail, ensure};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vmicache_format::cache::BaseIdentity;
use vmicache_format::files::{Format, NamedFiles, describe_base, resolve};
use vmicache_format::qcow2::{CacheOptions, Compression, CreateOptions, DataFileOptions};
use vmicache_format::runtime::LocalRuntime;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache img create -f qcow2 disk.qcow2 20G
  vmicache img create -f qcow2 -b base.raw overlay.qcow2
  vmicache img create -f qcow2 -o cache_img_quota=100M -b base.qcow2 -F qcow2 cache.qcow2
  vmicache img create -f qcow2 -o help

A comma within an option's value is written twice. A file of that name is replaced, unless something
goes wrong: then it stays as it was.";

/// Arguments of `vmicache img create`.
#[derive(clap::Args)]
#[command(
    override_usage = "vmicache img create [OPTIONS] FILE [SIZE]",
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{}", size::HELP)
)]
pub struct Args {
    /// Format of the new image: raw or qcow2
    #[arg(short, long, value_name = "FMT", default_value = "raw")]
    format: Format,
    /// Options of the format, as name=value,name=value; `-o help` lists them
    #[arg(short, long, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Image that serves what the new one does not hold
    ///
    /// It is recorded as given here; relative to the folder of the new image.
    #[arg(short, long, value_name = "FILE")]
    backing: Option<String>,
    /// Format of the backing file: raw or qcow2
    ///
    /// Needed if the backing file begins as qcow2 images do, for a guest can write that into a raw image.
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<Format>,
    /// Do not look at the backing file: it may be missing
    ///
    /// SIZE is needed then, and base_version for a cache image.
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    /// Objects of QEMU; refused
    #[arg(long, value_name = "OBJECT", hide = true)]
    object: Vec<String>,
    /// The new image
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Bytes of the disk [default: as the backing file]
    #[arg(value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    size: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// If the arguments do not describe an image that can be made, or it cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if options::ask_for_help(&args.options) {
        print(&options::help(args.format))?;
        return Ok(ExitCode::SUCCESS);
    }
    let file = args
        .file
        .as_deref()
        .context("no image file is named; `vmicache img create FILE SIZE` would be right")?;
    refuse_objects(&args.object)?;
    let report = create(file, &args).map_err(|error| about(file, error))?;
    if !args.quiet {
        print(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `error`, with the name of the image that it is about in front, once.
fn about(file: &Path, error: anyhow::Error) -> anyhow::Error {
    let name = file.display().to_string();
    let named =
        error.to_string().strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with(": "));
    if named { error } else { error.context(name) }
}

/// Makes the image; what it says of it is one line, as qemu-img's.
fn create(file: &Path, args: &Args) -> anyhow::Result<String> {
    let mut options = options::parse(&args.options, args.format)?;
    let folder = folder_of(file);
    ensure!(folder.is_dir(), "there is no folder {}", folder.display());
    options.size = once("size", options.size, args.size)?;
    options.backing_file = once("backing file", options.backing_file, args.backing.clone())?;
    options.backing_fmt = once("format of the backing file", options.backing_fmt, args.backing_format)?;
    match args.format {
        Format::Raw => create_raw(file, &options),
        Format::Qcow2 => create_qcow2(file, &options, args.backing_unsafe),
    }
}

/// What is said with `-o`, or as an argument of its own.
fn once<T: PartialEq>(what: &str, option: Option<T>, argument: Option<T>) -> anyhow::Result<Option<T>> {
    let both = option.is_some() && argument.is_some() && option != argument;
    ensure!(!both, "the {what} is given twice, with -o and without, and differs");
    Ok(argument.or(option))
}

fn create_raw(file: &Path, options: &ImageOptions) -> anyhow::Result<String> {
    let backed = options.backing_file.is_some() || options.backing_fmt.is_some();
    ensure!(!backed, "raw images have no backing file; qcow2 images, made with -f qcow2, have");
    let size = options.size.context("the size of the disk is missing")?;
    let preallocation = options.preallocation.unwrap_or_default();
    ensure!(preallocation != Preallocation::Metadata, "Unsupported preallocation mode 'metadata'");
    let bytes = size.next_multiple_of(512);
    let new = NewFile::at(file)?;
    let host = new.host()?;
    host.set_len(bytes)?;
    preallocation.allocate(&host, 0..bytes)?;
    host.sync_all()?;
    new.publish()?;
    let mut text = format!("Formatting '{}', fmt=raw size={size}", file.display());
    if options.preallocation.is_some() {
        text += &format!(" preallocation={}", preallocation.name());
    }
    Ok(text + "\n")
}

fn create_qcow2(file: &Path, options: &ImageOptions, backing_unsafe: bool) -> anyhow::Result<String> {
    let backing = Backing::of(file, options)?;
    let below = match &backing {
        Some(backing) if !backing_unsafe => Some(backing.inspect(file)?),
        _ => None,
    };
    let size = options.size.or(below).context(
        "the size of the disk is missing; it is taken from a backing file only if there is one, and without -u",
    )?;
    let cache = match options.cache_img_quota {
        Some(quota) => Some(CacheOptions { quota, base: base(options, backing.as_ref(), backing_unsafe)? }),
        None => {
            ensure!(
                options.base_version.is_none(),
                "base_version is for cache images: cache_img_quota is missing"
            );
            None
        }
    };
    let image = CreateOptions { cache, ..describe(options, size, backing.as_ref())? };
    let preallocation = preallocation(options, &image)?;
    let name = file.display().to_string();
    NewImage::make(file, &name, &image, preallocation, &LocalRuntime::new())?.publish()?;
    Ok(report(file, size, options, &image))
}

/// What a new qcow2 image is to be that is no cache image.
fn describe(options: &ImageOptions, size: u64, backing: Option<&Backing>) -> anyhow::Result<CreateOptions> {
    let raw = options.data_file_raw.unwrap_or(false);
    ensure!(!raw || options.data_file.is_some(), "data_file_raw requires data_file");
    ensure!(!raw || backing.is_none(), "Backing file and data_file_raw cannot be used at the same time");
    let defaults = CreateOptions::new(size.next_multiple_of(512));
    Ok(CreateOptions {
        cluster_size: options.cluster_size.unwrap_or(defaults.cluster_size),
        version: options.compat.as_ref().map_or(defaults.version, |compat| compat.version),
        backing: backing.map(|backing| (backing.name.clone(), backing.format.to_string())),
        refcount_bits: options.refcount_bits.unwrap_or(defaults.refcount_bits),
        extended_l2: options.extended_l2.unwrap_or(defaults.extended_l2),
        lazy_refcounts: options.lazy_refcounts.unwrap_or(defaults.lazy_refcounts),
        compression: options.compression.unwrap_or(defaults.compression),
        data_file: options.data_file.clone().map(|name| DataFileOptions { name, raw }),
        ..defaults
    })
}

/// What of a new qcow2 image is allocated at once.
fn preallocation(options: &ImageOptions, image: &CreateOptions) -> anyhow::Result<Preallocation> {
    let preallocation = options.preallocation.unwrap_or_default();
    if preallocation == Preallocation::Off {
        // What the raw file holds must be what the guest sees, from the first byte on.
        let is_raw = image.data_file.as_ref().is_some_and(|file| file.raw);
        return Ok(if is_raw { Preallocation::Metadata } else { Preallocation::Off });
    }
    ensure!(
        image.cache.is_none(),
        "a cache image holds copies of its base alone: there is nothing to preallocate"
    );
    ensure!(
        image.backing.is_none() || image.extended_l2,
        "Backing file and preallocation can only be used at the same time if extended_l2 is enabled"
    );
    ensure!(image.backing.is_none(), "not supported: preallocation with a backing file");
    Ok(preallocation)
}

/// What the target of a conversion is to be.
pub struct Conversion {
    /// The image.
    pub image: CreateOptions,
    /// What of it is allocated at once.
    pub preallocation: Preallocation,
}

impl Conversion {
    /// A qcow2 image of `size` bytes at `file`, with this backing file and its format, if there are any.
    ///
    /// # Errors
    /// If the options contradict the arguments, the backing file cannot be used, or it would be a cache image.
    pub fn of(
        file: &Path,
        mut options: ImageOptions,
        size: u64,
        backing: Option<String>,
        backing_format: Option<&str>,
    ) -> anyhow::Result<Conversion> {
        ensure!(
            options.cache_img_quota.is_none() && options.base_version.is_none(),
            "a cache image takes copies of its base, and nothing is converted into one"
        );
        let backing_format = parse_format(backing_format)?;
        options.backing_file = once("backing file", options.backing_file, backing)?;
        options.backing_fmt = once("format of the backing file", options.backing_fmt, backing_format)?;
        ensure!(
            options.backing_file.is_none() || options.backing_fmt.is_some(),
            "Use of backing file requires explicit backing format"
        );
        let backing = Backing::of(file, &options)?;
        if let Some(backing) = &backing {
            backing.inspect(file)?;
        }
        let image = describe(&options, size, backing.as_ref())?;
        let preallocation = preallocation(&options, &image)?;
        Ok(Conversion { image, preallocation })
    }
}

/// The backing file of a new image.
struct Backing {
    /// As it is recorded.
    name: String,
    path: PathBuf,
    format: Format,
}

impl Backing {
    fn of(file: &Path, options: &ImageOptions) -> anyhow::Result<Option<Backing>> {
        let Some(name) = options.backing_file.clone() else {
            ensure!(
                options.backing_fmt.is_none(),
                "the format of a backing file is given, but no backing file"
            );
            return Ok(None);
        };
        ensure!(!name.is_empty(), "the name of the backing file is empty");
        let path = resolve(file, &name).map_err(|problem| anyhow!(problem))?;
        ensure_other(file, &path)?;
        if options.backing_fmt.is_none() {
            ensure_opens(&path)?;
        }
        let format = match options.backing_fmt {
            Some(format) => format,
            None => find_format(&path, &name)?,
        };
        Ok(Some(Backing { name, path, format }))
    }

    /// Looks at the backing file and what it is backed by; the size of its disk.
    fn inspect(&self, file: &Path) -> anyhow::Result<u64> {
        ensure_opens(&self.path)?;
        let files = chain(&self.path, self.format).context("backing file")?;
        files.iter().try_for_each(|below| ensure_other(file, &below.path))?;
        match files.first().and_then(|top| top.header.as_ref()) {
            Some(header) => Ok(header.size),
            None => Ok(FileFacts::of(&self.path)?.sectors()),
        }
    }
}

/// Says in qemu-img's words that a backing file is missing.
fn ensure_opens(path: &Path) -> anyhow::Result<()> {
    let failed =
        |error| anyhow!("Could not open '{}': {error}\nCould not open backing image.", path.display());
    fs::File::open(path).map(drop).map_err(failed)
}

/// Refuses a new image that would take the place of one that it is backed by.
fn ensure_other(file: &Path, below: &Path) -> anyhow::Result<()> {
    let identity = |path| FileFacts::of(path).ok().map(|facts| facts.identity);
    let is_own = identity(file).is_some_and(|own| identity(below) == Some(own));
    ensure!(!is_own, "the image would back itself, and making it would destroy {}", below.display());
    Ok(())
}

/// The format of a backing file that nobody states. Only one that cannot be anything but raw is certain:
/// the first bytes of a raw image are its guest's.
fn find_format(path: &Path, name: &str) -> anyhow::Result<Format> {
    let looks_as_qcow2 = begins_as_qcow2(path).context("backing file, whose format is not given")?;
    ensure!(
        !looks_as_qcow2,
        "the backing file {name:?} is a qcow2 image, or a raw one whose guest made it look so: \
         say which, with -F qcow2 or -F raw (or with -o backing_fmt=)"
    );
    Ok(Format::Raw)
}

/// By what a new cache recognises its base.
fn base(
    options: &ImageOptions,
    backing: Option<&Backing>,
    backing_unsafe: bool,
) -> anyhow::Result<Option<BaseIdentity>> {
    match (&options.base_version, backing) {
        (Some(version), _) => Ok(Some(BaseIdentity::Version(version.clone()))),
        (None, None) => Ok(None),
        (None, Some(_)) if backing_unsafe => bail!(
            "a cache records which base it is made for: with -u, which does not look at the base, \
             -o base_version=TEXT has to tell"
        ),
        (None, Some(backing)) => {
            let runtime = LocalRuntime::new();
            let described = runtime.block_on(describe_base(
                &backing.path,
                backing.format,
                NamedFiles::Allow,
                runtime.clone(),
            ));
            Ok(Some(described.context("backing file")?.1))
        }
    }
}

/// What was made, in the order in which qemu-img tells it. `size` is the one that was asked for.
fn report(file: &Path, size: u64, options: &ImageOptions, image: &CreateOptions) -> String {
    let mut text = format!("Formatting '{}', fmt=qcow2", file.display());
    let mut add = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = write!(text, " {name}={}", value.to_string().replace(',', ",,"));
    };
    add("cluster_size", &image.cluster_size);
    add("extended_l2", &switch(image.extended_l2));
    if let Some(preallocation) = options.preallocation {
        add("preallocation", &preallocation.name());
    }
    let zstd = image.compression == Compression::Zstd;
    add("compression_type", &if zstd { "zstd" } else { "zlib" });
    add("size", &size);
    if let Some(compat) = &options.compat {
        add("compat", &compat.name);
    }
    if let Some((name, format)) = &image.backing {
        add("backing_file", name);
        add("backing_fmt", format);
    }
    if let Some(data_file) = &image.data_file {
        add("data_file", &data_file.name);
    }
    if let Some(raw) = options.data_file_raw {
        add("data_file_raw", &switch(raw));
    }
    add("lazy_refcounts", &switch(image.lazy_refcounts));
    add("refcount_bits", &image.refcount_bits);
    if let Some(cache) = &image.cache {
        add("cache_img_quota", &cache.quota);
    }
    if let Some(version) = &options.base_version {
        add("base_version", version);
    }
    text.push('\n');
    text
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
