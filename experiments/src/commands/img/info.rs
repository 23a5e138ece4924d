//! `vmicache img info`: what images are, in qemu-img's words.

use super::describe::{Base, CacheInfo, FormatSpecific, ImageInfo, Qcow2Info};
use super::source::{format_of, named_file, refuse_objects};
use super::{file, json, program};
use crate::terminal::print;
use anyhow::bail;
use clap::ValueEnum;
use std::process::ExitCode;
use vmicache_format::files::{Format, ImageFile};
use vmicache_format::qcow2::header::{Header, incompatible};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache img info cache.qcow2
  vmicache img info --backing-chain --output=json overlay.qcow2

Of a cache image, `in use` is counted by reading its tables. Nothing is locked: the image may be in use.";

/// Arguments of `vmicache img info`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Format of the image: raw or qcow2 [default: as its first bytes say]
    #[arg(short, long, value_name = "FMT")]
    format: Option<Format>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Describe the images below as well
    #[arg(short, long)]
    backing_chain: bool,
    /// Also if others write the image; this is always so
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The name is a description such as driver=qcow2,file.filename=NAME
    #[arg(long)]
    image_opts: bool,
    /// Objects of QEMU; refused
    #[arg(long, value_name = "OBJECT", hide = true)]
    object: Vec<String>,
    /// The image
    #[arg(value_name = "FILE")]
    file: String,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Output {
    /// Text
    #[default]
    Human,
    /// JSON
    Json,
}

/// Runs the command.
///
/// # Errors
/// If the image, or with `--backing-chain` one below it, cannot be described.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    refuse_objects(&args.object)?;
    let (path, named) = named_file(&args.file, args.image_opts)?;
    let format = format_of(&path, args.format.or(named))?;
    let files =
        if args.backing_chain { file::chain(&path, format)? } else { vec![file::inspect(&path, format)?] };
    if program::is_qemu_img() {
        files.iter().try_for_each(refuse_unknown)?;
    }
    let infos = files.iter().map(ImageInfo::of).collect::<anyhow::Result<Vec<_>>>()?;
    print(&match (args.output, infos.as_slice()) {
        (Output::Human, infos) => infos.iter().map(text).collect::<Vec<_>>().join("\n"),
        (Output::Json, [info]) if !args.backing_chain => json::text(info)?,
        (Output::Json, infos) => json::text(&infos)?,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Says what qemu-img says of images that it cannot open; this program describes them.
fn refuse_unknown(image: &ImageFile) -> anyhow::Result<()> {
    let Some(header) = &image.header else { return Ok(()) };
    let problem = match (header.incompatible_features & !incompatible::KNOWN, header.compression_method()) {
        (0, Some(_)) => return Ok(()),
        (0, None) => "the compression type and its incompatible feature bit do not fit each other".to_owned(),
        (unknown, _) => format!("Unsupported qcow2 feature(s): {}", unknown_features(header, unknown)),
    };
    bail!("Could not open '{}': {problem}", image.path.display())
}

/// The names that the image has for features, and the bits of those that it has none for.
fn unknown_features(header: &Header, features: u64) -> String {
    let bits = (0..64).filter(|bit| features >> bit & 1 != 0);
    let (named, nameless): (Vec<u32>, Vec<u32>) =
        bits.partition(|bit| !header.feature_name(*bit).starts_with("incompatible feature bit"));
    let mut names: Vec<String> = named.into_iter().map(|bit| header.feature_name(bit)).collect();
    if !nameless.is_empty() {
        let bits = nameless.iter().fold(0u64, |bits, bit| bits | 1 << bit);
        names.push(format!("Unknown incompatible feature: {bits:x}"));
    }
    names.join(", ")
}

/// Lines of `name: value`, the deeper ones indented.
#[derive(Default)]
struct Lines {
    text: String,
    depth: usize,
}

impl Lines {
    fn heading(&mut self, name: &str) {
        self.text.push_str(&format!("{:1$}{name}:\n", "", 4 * self.depth));
    }

    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        self.text.push_str(&format!("{:1$}{name}: {value}\n", "", 4 * self.depth));
    }

    fn below(&mut self, heading: &str, lines: impl FnOnce(&mut Lines)) {
        self.heading(heading);
        self.depth += 1;
        lines(self);
        self.depth -= 1;
    }
}

fn text(info: &ImageInfo) -> String {
    let mut lines = Lines::default();
    image(&mut lines, info);
    for child in &info.children {
        lines.below(&format!("Child node '/{}'", child.name), |lines| {
            lines.line("filename", &child.info.filename);
            lines.line("protocol type", &child.info.format);
            lines.line("file length", exact_size(child.info.virtual_size));
            lines.line("disk size", size(child.info.actual_size));
        });
    }
    lines.text
}

fn image(lines: &mut Lines, info: &ImageInfo) {
    lines.line("image", &info.filename);
    lines.line("file format", &info.format);
    lines.line("virtual size", exact_size(info.virtual_size));
    lines.line("disk size", size(info.actual_size));
    if info.encrypted == Some(true) {
        lines.line("encrypted", "yes");
    }
    if let Some(cluster_size) = info.cluster_size {
        lines.line("cluster_size", cluster_size);
    }
    if info.dirty_flag {
        lines.line("cleanly shut down", "no");
    }
    if let (Some(name), Some(full)) = (&info.backing_filename, &info.full_backing_filename) {
        let elsewhere = if name == full { String::new() } else { format!(" (actual path: {full})") };
        lines.line("backing file", format_args!("{name}{elsewhere}"));
    }
    if let Some(format) = &info.backing_filename_format {
        lines.line("backing file format", format);
    }
    if let Some(FormatSpecific::Qcow2(qcow2)) = &info.format_specific {
        lines.below("Format specific information", |lines| specific(lines, qcow2));
    }
}

fn specific(lines: &mut Lines, info: &Qcow2Info) {
    lines.line("compat", info.compat);
    lines.line("compression type", &info.compression_type);
    let flag = |lines: &mut Lines, name, flag: Option<bool>| {
        if let Some(flag) = flag {
            lines.line(name, flag);
        }
    };
    flag(lines, "lazy refcounts", info.lazy_refcounts);
    lines.line("refcount bits", info.refcount_bits);
    if let Some(encrypt) = &info.encrypt {
        lines.below("encrypt", |lines| lines.line("format", &encrypt.format));
    }
    if let Some(file) = &info.data_file {
        lines.line("data file", file);
    }
    flag(lines, "data file raw", info.data_file_raw);
    flag(lines, "corrupt", info.corrupt);
    flag(lines, "extended l2", info.extended_l2);
    if let Some(count) = info.snapshot_count {
        lines.line("snapshot count", count);
    }
    for feature in &info.unknown_features {
        lines.line("unknown feature", feature);
    }
    if let Some(info) = &info.cache_image {
        lines.below("cache image", |lines| cache(lines, info));
    }
}

fn cache(lines: &mut Lines, info: &CacheInfo) {
    lines.line("quota", exact_size(info.quota));
    match (info.bytes_in_use, &info.usage_error) {
        (Some(bytes), _) => lines.line("in use", exact_size(bytes)),
        (None, problem) => {
            lines.line("in use", format_args!("unknown ({})", problem.as_deref().unwrap_or_default()));
        }
    }
    if let Some(bytes) = info.data_bytes {
        lines.line("guest data", exact_size(bytes));
    }
    lines.line("file length", exact_size(info.file_bytes));
    if let Some(bytes) = info.room_left {
        lines.line("room left", exact_size(bytes));
    }
    match &info.base {
        Some(Base::Digest { length, sample_sha256 }) => {
            lines.line("base", format_args!("{length} bytes, sampled blocks have SHA-256 {sample_sha256}"));
        }
        Some(Base::Version { version }) => lines.line("base", format_args!("version {version:?}")),
        Some(Base::Unknown { unknown_record }) => {
            lines.line("base", format_args!("unknown ({unknown_record})"))
        }
        None => lines.line("base", "not recorded"),
    }
}

/// `192 KiB (197120 bytes)`.
fn exact_size(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", size(bytes))
}

/// `192 KiB`: three significant digits in the unit that makes the number less than 1000.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 1000.0
        && let Some(larger) = units.next()
    {
        value /= 1024.0;
        unit = larger;
    }
    format!("{} {unit}", three_digits(value))
}

/// A number from 0 to 1000 as C's `%.3g` prints it.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v >= 999.5 => return "1e+03".to_owned(),
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 || v == 0.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What qemu-img 10.0 prints for these sizes.
    #[test]
    fn sizes_are_rounded_as_qemu_img_rounds_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1024, "1 KiB"),
            (70_144, "68.5 KiB"),
            (197_120, "192 KiB"),
            (198_144, "194 KiB"),
            (1_022_976, "999 KiB"),
            (1_023_488, "1e+03 KiB"),
            (1_024_000, "0.977 MiB"),
            (1_047_552, "0.999 MiB"),
            (1_048_064, "1 MiB"),
            (10_240_000, "9.77 MiB"),
            (2_359_296, "2.25 MiB"),
            (1 << 40, "1 TiB"),
            (1 << 62, "4 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }
}
