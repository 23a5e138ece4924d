//! What `vmicache warm` tells.

use super::Args;
use super::boot::Outcome;
use super::filling::Warmed;
use crate::recording;
use crate::terminal::Table;
use crate::units::mb;
use serde::Serialize;
use std::path::Path;
use vmicache_format::qcow2::ClusterLayout;

/// What one boot did; sizes are in bytes.
#[derive(Serialize)]
pub struct BootReport {
    trace: String,
    /// While the cache was filled.
    base_bytes_read: u64,
    /// After all boots have filled it: what it has no room for.
    base_bytes_read_again: u64,
    #[serde(skip)]
    name: String,
    #[serde(skip)]
    failed_fills: u64,
}

impl BootReport {
    pub fn new(trace: &Path, filled: &Outcome, again: &Outcome) -> BootReport {
        BootReport {
            trace: trace.display().to_string(),
            name: recording::name(trace),
            base_bytes_read: filled.base_bytes_read,
            base_bytes_read_again: again.base_bytes_read,
            failed_fills: filled.failed_fills,
        }
    }
}

/// What was done, and what the cache holds now; sizes are in bytes.
#[derive(Serialize)]
pub struct Report {
    cache: String,
    base: String,
    /// Whether the cache image is new.
    made: bool,
    disk_size: u64,
    cluster_size: u64,
    extended_l2: bool,
    #[serde(skip)]
    clusters: ClusterLayout,
    quota: u64,
    /// By all boots, while they filled the cache.
    base_bytes_read: u64,
    /// Whether the boots need nothing from the base any more.
    complete: bool,
    /// Copies that could not be written, as on a full disk.
    failed_copies: u64,
    cache_bytes_in_use: u64,
    cache_data_bytes: u64,
    cache_file_bytes: u64,
    cached_bytes: u64,
    traces: Vec<BootReport>,
}

impl Report {
    pub fn new(args: &Args, made: bool, warmed: &Warmed) -> Report {
        let outcomes = args.traces.iter().zip(warmed.filled.iter().zip(&warmed.again));
        let traces: Vec<BootReport> =
            outcomes.map(|(path, (filled, again))| BootReport::new(path, filled, again)).collect();
        let cache = &warmed.cache;
        Report {
            cache: args.cache.display().to_string(),
            base: args.base.display().to_string(),
            made,
            disk_size: cache.size,
            cluster_size: cache.clusters.size,
            extended_l2: cache.clusters.extended_l2,
            clusters: cache.clusters,
            quota: cache.quota,
            base_bytes_read: traces.iter().map(|boot| boot.base_bytes_read).sum(),
            complete: traces.iter().all(|boot| boot.base_bytes_read_again == 0),
            failed_copies: traces.iter().map(|boot| boot.failed_fills).sum(),
            cache_bytes_in_use: cache.bytes_in_use,
            cache_data_bytes: cache.data_bytes,
            cache_file_bytes: cache.file_bytes,
            cached_bytes: cache.cached_bytes,
            traces,
        }
    }

    /// What does not fit, and why; `None` if everything does.
    pub fn warning(&self) -> Option<String> {
        if self.complete {
            return None;
        }
        let left: Vec<String> = self
            .traces
            .iter()
            .filter(|boot| boot.base_bytes_read_again > 0)
            .map(|boot| format!("{} {} bytes", boot.name, boot.base_bytes_read_again))
            .collect();
        let why = match self.failed_copies {
            0 => "the quota is too small (`vmicache quota` finds one that is not)".to_owned(),
            copies => format!("{copies} copies could not be written; is there room on the disk?"),
        };
        Some(format!("{why}; these boots still read from the base: {}", left.join(", ")))
    }

    pub fn text(&self) -> String {
        let mut table = Table::default();
        let mut size =
            |what: &str, bytes: u64| table.row([what.to_owned(), bytes.to_string(), mb(bytes as f64)]);
        size("read from the base", self.base_bytes_read);
        size("quota of the cache", self.quota);
        size("in use in the cache", self.cache_bytes_in_use);
        size("of it guest data", self.cache_data_bytes);
        size("length of the cache file", self.cache_file_bytes);
        for boot in self.traces.iter().filter(|boot| boot.base_bytes_read_again > 0) {
            size(&format!("left out of {}", boot.name), boot.base_bytes_read_again);
        }
        let end = if self.complete {
            "Everything fits: these boots need nothing from the base any more.\n"
        } else {
            ""
        };
        format!(
            "{}: {} cache with clusters of {}, over {}\n\n{}{end}",
            self.cache,
            if self.made { "new" } else { "existing" },
            self.clusters,
            self.base,
            table.text(2)
        )
    }
}
