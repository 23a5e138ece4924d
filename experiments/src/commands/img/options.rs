//! The options of `-o`: `name=value`, separated by commas; a comma within a value is doubled.

use super::preallocation::Preallocation;
use crate::size;
use anyhow::{Context, anyhow, bail, ensure};
use std::fmt::Write;
use vmicache_format::files::Format;
use vmicache_format::qcow2::Compression;

/// What `-o` says of a new image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// Bytes of the disk.
    pub size: Option<u64>,
    /// Bytes of a cluster.
    pub cluster_size: Option<u64>,
    /// The version of the format.
    pub compat: Option<Compat>,
    /// Name of the backing file.
    pub backing_file: Option<String>,
    /// Format of the backing file.
    pub backing_fmt: Option<Format>,
    /// What is allocated at once.
    pub preallocation: Option<Preallocation>,
    /// The method of compressed clusters.
    pub compression: Option<Compression>,
    /// Name of the file that is to hold the data.
    pub data_file: Option<String>,
    /// That file is to be a raw image of its own.
    pub data_file_raw: Option<bool>,
    /// L2 entries with subclusters.
    pub extended_l2: Option<bool>,
    /// Refcounts may be written late.
    pub lazy_refcounts: Option<bool>,
    /// Width of a refcount.
    pub refcount_bits: Option<u32>,
    /// Makes it a cache image; in bytes.
    pub cache_img_quota: Option<u64>,
    /// What the operator calls the content of the base.
    pub base_version: Option<String>,
}

/// A version of qcow2, by the name that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compat {
    /// As it was given.
    pub name: String,
    /// As it stands in the header.
    pub version: u32,
}

/// An option: its name, its value, what it is for.
type Known = (&'static str, &'static str, &'static str);

const RAW: &[Known] = &[
    ("preallocation", "MODE", "what is allocated at once: off, falloc or full [default: off]"),
    ("size", "SIZE", "bytes of the disk"),
];

const QCOW2: &[Known] = &[
    ("backing_file", "FILE", "the image below; relative to the folder of the new image"),
    ("backing_fmt", "FMT", "its format: raw or qcow2"),
    ("base_version", "TEXT", "for a cache: recognise the base by this name instead of by samples of it"),
    ("cache_img_quota", "SIZE", "make a cache image whose file never becomes longer than this"),
    ("cluster_size", "SIZE", "bytes of a cluster: a power of two from 512 to 2M [default: 64K]"),
    ("compat", "VERSION", "1.1 (or v3), or 0.10 (or v2) for very old programs [default: 1.1]"),
    ("compression_type", "METHOD", "of compressed clusters: zlib or zstd [default: zlib]"),
    ("data_file", "FILE", "another file for the data; relative to the folder of the new image"),
    ("data_file_raw", "on|off", "that file is to be a raw image of its own [default: off]"),
    ("extended_l2", "on|off", "map clusters in 32 subclusters each [default: off]"),
    ("lazy_refcounts", "on|off", "let refcounts be written late [default: off]"),
    ("preallocation", "MODE", "what is allocated at once: off, metadata, falloc or full [default: off]"),
    ("refcount_bits", "BITS", "width of a refcount: a power of two from 1 to 64 [default: 16]"),
    ("size", "SIZE", "bytes of the disk [default: as the backing file]"),
];

/// Options of qemu-img whose features are not here, each with the value that asks for none of it.
const NOT_SUPPORTED: &[(&str, &str)] = &[("encryption", "off"), ("extent_size_hint", "0"), ("nocow", "off")];

fn known(format: Format) -> &'static [Known] {
    match format {
        Format::Raw => RAW,
        Format::Qcow2 => QCOW2,
    }
}

/// Whether one of the lists asks for [`help`].
pub fn ask_for_help(lists: &[String]) -> bool {
    let asks = |item: &String| item == "help" || item == "?";
    lists.iter().any(|list| split(list).iter().any(asks))
}

/// The options that images of `format` have.
pub fn help(format: Format) -> String {
    let mut text = format!("Options of {format} images:\n");
    for (name, value, purpose) in known(format) {
        let option = format!("{name}={value}");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {option:<22} {purpose}");
    }
    text
}

/// Reads the lists in turn; of an option that stands there twice, the last one counts.
///
/// # Errors
/// If a list is malformed, an option is unknown or not supported, or its value is not one it takes.
pub fn parse(lists: &[String], format: Format) -> anyhow::Result<ImageOptions> {
    let mut options = ImageOptions::default();
    for list in lists {
        for item in split(list) {
            ensure!(!item.is_empty(), "-o {list:?}: an option is missing between commas or at an end");
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (item.as_str(), None),
            };
            options.set(format, name, value).with_context(|| format!("-o {item}"))?;
        }
    }
    Ok(options)
}

/// The items between single commas, in which doubled commas are single ones.
pub fn split(list: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        match items.last_mut() {
            Some(item) if character != ',' || characters.next_if_eq(&',').is_some() => item.push(character),
            _ => items.push(String::new()),
        }
    }
    items
}

impl ImageOptions {
    fn set(&mut self, format: Format, name: &str, value: Option<&str>) -> anyhow::Result<()> {
        let needed = || {
            value.filter(|value| !value.is_empty()).context("a value is missing: NAME=VALUE would be right")
        };
        match (format, name) {
            (_, "size") => self.size = Some(size::parse(needed()?)?),
            (_, "preallocation") => self.preallocation = Some(Preallocation::parse(needed()?)?),
            (Format::Qcow2, "compression_type") => self.compression = Some(parse_compression(needed()?)?),
            (Format::Qcow2, "data_file") => self.data_file = Some(needed()?.to_owned()),
            // Without a value, qemu-img takes an option for switched on.
            (Format::Qcow2, "data_file_raw") => self.data_file_raw = Some(parse_switch(value)?),
            (Format::Qcow2, "extended_l2") => self.extended_l2 = Some(parse_switch(value)?),
            (Format::Qcow2, "lazy_refcounts") => self.lazy_refcounts = Some(parse_switch(value)?),
            (Format::Qcow2, "refcount_bits") => self.refcount_bits = Some(parse_bits(needed()?)?),
            (Format::Qcow2, "cluster_size") => self.cluster_size = Some(size::parse_cluster_size(needed()?)?),
            (Format::Qcow2, "compat") => self.compat = Some(Compat::parse(needed()?)?),
            (Format::Qcow2, "backing_file") => self.backing_file = Some(needed()?.to_owned()),
            (Format::Qcow2, "backing_fmt") => self.backing_fmt = Some(parse_format(needed()?)?),
            (Format::Qcow2, "cache_img_quota") => self.cache_img_quota = Some(parse_quota(needed()?)?),
            (Format::Qcow2, "base_version") => self.base_version = Some(needed()?.to_owned()),
            _ => return refuse(format, name, value.unwrap_or("on")),
        }
        Ok(())
    }
}

impl Compat {
    fn parse(value: &str) -> anyhow::Result<Compat> {
        let version = match value {
            "0.10" | "v2" => 2,
            "1.1" | "v3" => 3,
            _ => bail!("no version of qcow2; 1.1 (or v3) and 0.10 (or v2) are"),
        };
        Ok(Compat { name: value.to_owned(), version })
    }
}

fn parse_format(value: &str) -> anyhow::Result<Format> {
    value.parse().map_err(|problem: String| anyhow!(problem))
}

fn parse_compression(value: &str) -> anyhow::Result<Compression> {
    match value {
        "zlib" => Ok(Compression::Deflate),
        "zstd" => Ok(Compression::Zstd),
        _ => bail!("no method of compression; zlib and zstd are"),
    }
}

fn parse_switch(value: Option<&str>) -> anyhow::Result<bool> {
    match value.unwrap_or("on") {
        "on" | "yes" | "y" | "true" => Ok(true),
        "off" | "no" | "n" | "false" => Ok(false),
        _ => bail!("neither on nor off"),
    }
}

fn parse_bits(value: &str) -> anyhow::Result<u32> {
    let bits = value.parse().ok().filter(|bits: &u32| bits.is_power_of_two() && *bits <= 64);
    bits.context("Refcount width must be a power of two and may not exceed 64 bits")
}

fn parse_quota(value: &str) -> anyhow::Result<u64> {
    let quota = size::parse(value)?;
    ensure!(
        quota > 0,
        "a quota of 0 leaves no room for the image itself; without the option it is no cache image"
    );
    Ok(quota)
}

/// Says why there is no such option, unless it asks for nothing.
fn refuse(format: Format, name: &str, value: &str) -> anyhow::Result<()> {
    let value = if matches!(value, "no" | "n" | "false") { "off" } else { value };
    match NOT_SUPPORTED.iter().find(|(unsupported, _)| *unsupported == name) {
        Some((_, nothing)) if value == *nothing => return Ok(()),
        Some((_, nothing)) => {
            bail!("{name} is not supported (only {name}={nothing}, which is the default)")
        }
        None if name.starts_with("encrypt.") => bail!("{name}: encryption is not supported"),
        None => {}
    }
    let names: Vec<&str> = known(format).iter().map(|(name, ..)| *name).collect();
    let other = if format == Format::Raw && QCOW2.iter().any(|(known, ..)| *known == name) {
        "; qcow2 images, made with -f qcow2, have this one"
    } else {
        ""
    };
    bail!("{format} images have no option {name:?}; known are {}{other}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_one(list: &str) -> anyhow::Result<ImageOptions> {
        parse(&[list.to_owned()], Format::Qcow2)
    }

    #[test]
    fn lists_are_split_at_single_commas() {
        assert_eq!(split("a=1,b=x,,y,c"), ["a=1", "b=x,y", "c"]);
        assert_eq!(split("a=1,,"), ["a=1,"]);
        assert_eq!(split("a=,,,b"), ["a=,", "b"]);
        assert_eq!(split(",a"), ["", "a"]);
    }

    #[test]
    fn every_known_option_is_read() {
        let lists = [
            "size=1M,cluster_size=4k,compat=v2,backing_file=a,,b,preallocation=full".to_owned(),
            "backing_fmt=raw,cache_img_quota=2M,base_version=x=y,size=3M,data_file_raw".to_owned(),
            "compression_type=zstd,data_file=d,extended_l2=on,lazy_refcounts=off,refcount_bits=64".to_owned(),
        ];
        let options = parse(&lists, Format::Qcow2).unwrap();
        let expected = ImageOptions {
            size: Some(3 << 20),
            cluster_size: Some(4096),
            compat: Some(Compat { name: "v2".into(), version: 2 }),
            backing_file: Some("a,b".into()),
            backing_fmt: Some(Format::Raw),
            cache_img_quota: Some(2 << 20),
            base_version: Some("x=y".into()),
            preallocation: Some(Preallocation::Full),
            compression: Some(Compression::Zstd),
            data_file: Some("d".into()),
            data_file_raw: Some(true),
            extended_l2: Some(true),
            lazy_refcounts: Some(false),
            refcount_bits: Some(64),
        };
        assert_eq!(options, expected);
        for (name, _, _) in QCOW2.iter().filter(|(_, value, _)| *value != "on|off") {
            let problem = format!("{:#}", parse_one(name).unwrap_err());
            assert!(problem.contains("a value is missing"), "{problem}");
        }
    }

    #[test]
    fn what_asks_for_nothing_unsupported_is_no_error() {
        let defaults = "encryption=no,extent_size_hint=0,nocow=off";
        assert_eq!(parse_one(defaults).unwrap(), ImageOptions::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (list, problem) in [
            ("lazy_refcounts=perhaps", "neither on nor off"),
            ("preallocation=some", "Invalid preallocation mode 'some'"),
            ("compression_type=lzma", "zlib and zstd are"),
            ("nocow", "nocow is not supported"),
            ("encrypt.format=luks", "encryption is not supported"),
            ("data_file=", "a value is missing"),
            ("refcount_bits=3", "a power of two"),
            ("refcount_bits=128", "may not exceed 64"),
            ("quota=5", "known are backing_file, backing_fmt"),
            ("compat=2", "no version of qcow2"),
            ("backing_fmt=vmdk", "formats are raw and qcow2"),
            ("cache_img_quota=0", "a quota of 0"),
            ("size=1M,", "an option is missing"),
            ("", "an option is missing"),
        ] {
            let found = format!("{:#}", parse_one(list).unwrap_err());
            assert!(found.contains(problem) && found.contains("-o "), "{list}: {found}");
        }
        let found = format!("{:#}", parse(&["cluster_size=512".into()], Format::Raw).unwrap_err());
        assert!(found.contains("-f qcow2"), "{found}");
    }
}
