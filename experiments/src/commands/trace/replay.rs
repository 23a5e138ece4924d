//! `vmicache trace replay`: one recorded boot through real images.

use crate::base_image::{self, BaseImage};
use crate::recording::open;
use crate::size;
use crate::terminal::{Table, print, print_json};
use crate::units::mb;
use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use vmicache_format::files::Format;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{self, Chain, Layout, Outcome, disk_size_for, replay_over};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache trace replay boot.csv.gz --layout plain
  vmicache trace replay boot.csv.gz --layout cold --cluster-size 64K
  vmicache trace replay boot.csv.gz --layout cold --cluster-size 128K --extended-l2
  vmicache trace replay boot.csv.gz --layout warm --fill other-boot.csv.gz --quota 100M --json";

/// Arguments of `vmicache trace replay`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", size::HELP))]
pub struct Args {
    /// The boot, as CSV or compressed with gzip
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What stands between the guest and the base image
    #[arg(long, value_enum)]
    layout: LayoutName,
    /// Boot that fills the cache of a warm layout beforehand [default: the same boot]
    #[arg(long, value_name = "FILE")]
    fill: Option<PathBuf>,
    /// Cluster size of the cache image: a power of two from 512 to 2M
    ///
    /// The overlay has clusters of 64 KiB. A plain layout has no cache and ignores this and the quota.
    #[arg(
        long, value_name = "SIZE", default_value = "512", default_value_if("extended_l2", "true", "64K"),
        value_parser = size::parse_cluster_size, allow_hyphen_values = true
    )]
    cluster_size: u64,
    /// Give the cache image extended L2 entries: of each cluster, from 16K on [default: 64K], it copies subclusters, a
    /// 32nd each
    #[arg(long)]
    extended_l2: bool,
    /// Quota of the cache image [default: as much as the disk could need]
    ///
    /// The length that the cache's file never exceeds, data and metadata together.
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_hyphen_values = true)]
    quota: Option<u64>,
    /// Virtual size of the disk [default: just enough for the traces]
    ///
    /// A multiple of 512. It sets how much metadata even an empty cache has.
    #[arg(long, value_name = "SIZE", value_parser = size::parse_disk_size, allow_hyphen_values = true)]
    disk_size: Option<u64>,
    /// The base image, whose holes cost no traffic [default: one with data everywhere]
    #[arg(long, value_name = "FILE", conflicts_with = "disk_size")]
    base: Option<PathBuf>,
    /// Format of the base image: raw or qcow2 [default: as its first bytes say]
    #[arg(short = 'F', long, value_name = "FMT", requires = "base")]
    base_format: Option<Format>,
    /// Print JSON: sizes in bytes; the file sizes are lengths
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum LayoutName {
    /// overlay -> base
    Plain,
    /// overlay -> empty cache -> base
    Cold,
    /// overlay -> cache that a boot has filled -> base
    Warm,
}

impl LayoutName {
    fn layout(self) -> Layout {
        match self {
            LayoutName::Plain => Layout::Plain,
            LayoutName::Cold => Layout::Cold,
            LayoutName::Warm => Layout::Warm,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If a file is not a trace, or the boot cannot be replayed through such images.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let layout = args.layout.layout();
    ensure!(
        args.fill.is_none() || layout == Layout::Warm,
        "--fill names the boot that fills a warm cache; it needs --layout warm"
    );
    let clusters = size::cluster_layout(args.cluster_size, args.extended_l2)
        .with_context(|| format!("--extended-l2 with --cluster-size {}", args.cluster_size))?;
    let image = args.base.as_deref().map(|path| base_image::open(path, args.base_format)).transpose()?;
    let size = args.disk_size.or(image.as_ref().map(|image| replay::Base::new(image.size).disk_size()));
    let boot = open(&args.file, size)?;
    let fill = args.fill.as_deref().map(|path| open(path, size)).transpose()?;
    let fill: Vec<&Trace> = fill.iter().collect();
    let boots: Vec<&Trace> = fill.iter().copied().chain([&boot]).collect();
    let disk_size = size.unwrap_or_else(|| disk_size_for(boots.iter().copied()));
    let base = match image {
        Some(image) => BaseImage::survey(image, &boots)?.replayed,
        None => replay::Base::new(disk_size),
    };
    let chain = Chain { layout, clusters, quota: args.quota, disk_size };
    let outcome = replay_over(&base, &boot, &fill, &chain)
        .with_context(|| format!("cannot replay {}", args.file.display()))?;
    let report = Report::new(&args, chain, outcome);
    if args.json {
        print_json(&report)?
    } else {
        print(&report.text())?
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Report {
    trace: String,
    layout: LayoutName,
    /// Null unless the layout is warm.
    fill: Option<String>,
    disk_size: u64,
    /// Null without a cache.
    cluster_size: Option<u64>,
    /// Null without a cache.
    extended_l2: Option<bool>,
    #[serde(skip)]
    clusters: Option<ClusterLayout>,
    /// Null without a cache, or without a limit.
    quota: Option<u64>,
    guest_requests: u64,
    guest_bytes_read: u64,
    base_requests: u64,
    base_bytes_read: u64,
    cache_bytes_in_use: u64,
    cache_data_bytes: u64,
    cache_file_bytes: u64,
    overlay_file_bytes: u64,
}

impl Report {
    fn new(args: &Args, chain: Chain, outcome: Outcome) -> Report {
        let cached = chain.layout != Layout::Plain;
        let warm = chain.layout == Layout::Warm;
        Report {
            trace: args.file.display().to_string(),
            layout: args.layout,
            fill: warm.then(|| args.fill.as_ref().unwrap_or(&args.file).display().to_string()),
            disk_size: chain.disk_size,
            cluster_size: cached.then_some(chain.clusters.size),
            extended_l2: cached.then_some(chain.clusters.extended_l2),
            clusters: cached.then_some(chain.clusters),
            quota: chain.quota.filter(|_| cached),
            guest_requests: outcome.guest_requests,
            guest_bytes_read: outcome.guest_bytes_read,
            base_requests: outcome.base_requests,
            base_bytes_read: outcome.base_bytes_read,
            cache_bytes_in_use: outcome.cache_bytes_in_use,
            cache_data_bytes: outcome.cache_data_bytes,
            cache_file_bytes: outcome.cache_file_bytes,
            overlay_file_bytes: outcome.overlay_file_bytes,
        }
    }

    fn text(&self) -> String {
        let images = match (&self.fill, self.clusters) {
            (_, None) => "overlay -> base".to_owned(),
            (None, Some(clusters)) => format!("overlay -> empty cache with clusters of {clusters} -> base"),
            (Some(fill), Some(clusters)) => {
                format!("overlay -> cache with clusters of {clusters}, filled by {fill} -> base")
            }
        };
        let mut table = Table::default();
        let mut size =
            |what: &str, bytes: u64| table.row([what.to_owned(), bytes.to_string(), mb(bytes as f64)]);
        size("disk", self.disk_size);
        if let Some(quota) = self.quota {
            size("quota of the cache", quota);
        }
        size("read by the guest", self.guest_bytes_read);
        size("read from the base", self.base_bytes_read);
        if self.clusters.is_some() {
            size("in use in the cache", self.cache_bytes_in_use);
            size("of it guest data", self.cache_data_bytes);
            size("length of the cache file", self.cache_file_bytes);
        }
        size("length of the overlay file", self.overlay_file_bytes);
        table.row(["requests of the guest".to_owned(), self.guest_requests.to_string()]);
        table.row(["read requests to the base".to_owned(), self.base_requests.to_string()]);
        format!("{}\n  {images}\n\n{}", self.trace, table.text(2))
    }
}
