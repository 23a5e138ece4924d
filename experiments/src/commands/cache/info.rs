//! `vmicache cache info`: what a cache image holds.

use super::header_of;
use crate::terminal::{Table, print, print_json};
use crate::units::{hex, mb, percent};
use anyhow::Context;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use vmicache_format::cache::{BaseIdentity, Description, describe};
use vmicache_format::files::resolve;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache cache info cache.qcow2
  vmicache cache info --json cache.qcow2

Everything is counted from the image's tables. Nothing is locked: the image may be in use.";

/// Arguments of `vmicache cache info`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
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
/// If the file is no cache image, or its tables are damaged.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    header_of(&args.cache)?;
    let name = args.cache.display().to_string();
    let storage = HostFile::open(&args.cache, Access::Inspect).with_context(|| name.clone())?;
    let runtime = LocalRuntime::new();
    let description = runtime.block_on(describe(storage, &name, runtime.clone()))?;
    let report = Report::new(args, description);
    if args.json {
        print_json(&report)?
    } else {
        print(&report.text())?
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Report {
    cache: String,
    disk_size: u64,
    cluster_size: u64,
    extended_l2: bool,
    #[serde(skip)]
    clusters: ClusterLayout,
    quota: u64,
    bytes_in_use: u64,
    /// As the header has it.
    bytes_in_use_hint: u64,
    data_bytes: u64,
    cached_bytes: u64,
    /// Of the cached bytes, those that take no room.
    zero_bytes: u64,
    cached_share_of_quota: f64,
    room_left: u64,
    file_bytes: u64,
    /// Null if the image has no backing file.
    base: Option<String>,
    base_format: Option<String>,
    /// Null if none is recorded, or in a way that this version does not know.
    base_identity: Option<Identity>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Identity {
    Digest { length: u64, sample_sha256: String },
    Version { version: String },
}

impl Identity {
    fn of(identity: &BaseIdentity) -> Identity {
        match identity {
            BaseIdentity::Digest { length, digest } => {
                Identity::Digest { length: *length, sample_sha256: hex(digest) }
            }
            BaseIdentity::Version(version) => Identity::Version { version: version.clone() },
        }
    }

    fn text(&self) -> String {
        match self {
            Identity::Digest { length, sample_sha256 } => {
                format!("{length} bytes, sample {}", &sample_sha256[..16])
            }
            Identity::Version { version } => format!("version {version:?}"),
        }
    }
}

impl Report {
    fn new(args: &Args, found: Description) -> Report {
        // Clusters are whole: what the quota leaves of one holds nothing.
        let room = found.quota - found.quota % found.clusters.size;
        // A name that is no file's stays as it is recorded.
        let base = found.backing_file.map(|name| match resolve(&args.cache, &name) {
            Ok(path) => path.display().to_string(),
            Err(_) => name,
        });
        Report {
            cache: args.cache.display().to_string(),
            disk_size: found.size,
            cluster_size: found.clusters.size,
            extended_l2: found.clusters.extended_l2,
            clusters: found.clusters,
            quota: found.quota,
            bytes_in_use: found.bytes_in_use,
            bytes_in_use_hint: found.bytes_in_use_hint,
            data_bytes: found.data_bytes,
            cached_bytes: found.cached_bytes,
            zero_bytes: found.zero_bytes,
            cached_share_of_quota: found.cached_bytes as f64 / found.quota as f64,
            room_left: room.saturating_sub(found.bytes_in_use),
            file_bytes: found.file_bytes,
            base,
            base_format: found.backing_format,
            base_identity: found.base.as_ref().map(Identity::of),
        }
    }

    fn text(&self) -> String {
        let mut table = Table::default();
        let mut size = |what: &str, bytes: u64, note: String| {
            table.row([what.to_owned(), bytes.to_string(), mb(bytes as f64), note]);
        };
        size("disk", self.disk_size, String::new());
        size("quota", self.quota, String::new());
        size("in use", self.bytes_in_use, percent(self.bytes_in_use as f64 / self.quota as f64));
        size("in use, as the header has it", self.bytes_in_use_hint, String::new());
        size("of it guest data", self.data_bytes, String::new());
        size("room left", self.room_left, String::new());
        size("length of the file", self.file_bytes, String::new());
        size("cached of the disk", self.cached_bytes, percent(self.cached_share_of_quota));
        size("of it zeroes", self.zero_bytes, String::new());
        let base = self.base.as_deref().unwrap_or("none");
        let format = self.base_format.as_ref().map(|format| format!(" ({format})")).unwrap_or_default();
        let identity = self.base_identity.as_ref().map_or("not recorded".to_owned(), Identity::text);
        format!(
            "{}: cache image with clusters of {}\n  base: {base}{format}\n  made for: {identity}\n\n{}\n\
             Shares are of the quota.\n",
            self.cache,
            self.clusters,
            table.text(2)
        )
    }
}
