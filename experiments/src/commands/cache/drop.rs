//! `vmicache cache drop`: an empty cache image in the place of a used one.

use super::header_of;
use crate::terminal::{print, print_json};
use crate::units::mb;
use anyhow::{Context, anyhow};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vmicache_format::cache::BaseIdentity;
use vmicache_format::files::{Format, NamedFiles, create_image, describe_base, resolve};
use vmicache_format::qcow2::header::Header;
use vmicache_format::qcow2::{CacheOptions, CreateOptions};
use vmicache_format::runtime::LocalRuntime;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache cache drop cache.qcow2
  vmicache cache drop --base-version 2026-04 cache.qcow2

The new image has the quota, the clusters and the base of the old one, and records the base as it is now. It takes \
the old one's place whole or not at all; a cache that others use is left alone.";

/// Arguments of `vmicache cache drop`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Version of the base to record [default: the recorded one, or a sample of what the base holds]
    #[arg(long, value_name = "TEXT")]
    base_version: Option<String>,
    /// Print JSON, sizes in bytes
    #[arg(long)]
    json: bool,
    /// The cache image
    #[arg(value_name = "CACHE")]
    cache: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If the file is no cache image or in use, its base cannot be read, or the new image cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let header = header_of(&args.cache)?;
    let length = || anyhow::Ok(fs::metadata(&args.cache)?.len());
    let before = length()?;
    let options = empty_like(&args.cache, &header, args.base_version.as_deref())?;
    LocalRuntime::new().block_on(create_image(&args.cache, &options))?;
    let report = Report {
        cache: args.cache.display().to_string(),
        quota: options.cache.map_or(0, |cache| cache.quota),
        cluster_size: options.cluster_size,
        extended_l2: options.extended_l2,
        file_bytes_before: before,
        file_bytes: length()?,
    };
    if args.json {
        print_json(&report)?
    } else {
        print(&report.text())?
    }
    Ok(ExitCode::SUCCESS)
}

/// What makes an empty image like the one that `header` describes.
fn empty_like(cache: &Path, header: &Header, version: Option<&str>) -> anyhow::Result<CreateOptions> {
    let backing = match header.backing_file.clone() {
        Some(name) => {
            let format = header.backing_format().with_context(|| {
                let cache = cache.display();
                format!(
                    "{cache}: the format of the backing file {name:?} is not stated; make a new cache image"
                )
            })?;
            Some((name, format))
        }
        None => None,
    };
    let base = match &backing {
        Some((name, format)) => {
            let path = resolve(cache, name).map_err(|problem| anyhow!("{}: {problem}", cache.display()))?;
            let format: Format =
                format.parse().map_err(|problem: String| anyhow!("backing file: {problem}"))?;
            let runtime = LocalRuntime::new();
            let described =
                runtime.block_on(describe_base(&path, format, NamedFiles::Allow, runtime.clone()));
            Some(described.with_context(|| format!("{}: its base", cache.display()))?)
        }
        None => None,
    };
    let identity = match (version, header.base_identity()) {
        (Some(version), _) => Some(BaseIdentity::Version(version.to_owned())),
        (None, Some(recorded @ BaseIdentity::Version(_))) => Some(recorded),
        (None, _) => base.as_ref().map(|(_, identity)| identity.clone()),
    };
    let quota = header.cache().context("this is no cache image")?.quota;
    Ok(CreateOptions {
        cluster_size: header.cluster_size(),
        extended_l2: header.has_extended_l2(),
        version: header.version,
        cache: Some(CacheOptions { quota, base: identity }),
        backing,
        ..CreateOptions::new(base.map_or(header.size, |(size, _)| size.next_multiple_of(512)))
    })
}

#[derive(Serialize)]
struct Report {
    cache: String,
    quota: u64,
    cluster_size: u64,
    extended_l2: bool,
    file_bytes_before: u64,
    file_bytes: u64,
}

impl Report {
    fn text(&self) -> String {
        let [before, after] = [self.file_bytes_before, self.file_bytes].map(|bytes| mb(bytes as f64));
        format!("{}: empty; the file had {before} and has {after}\n", self.cache)
    }
}
