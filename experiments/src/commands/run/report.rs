//! The replications of a scenario, for people and for programs.

use crate::scenario::{CpuSeconds, DeploymentKind, InputHashes, Scenario, Settings, StartSettings};
use crate::stats::Summary;
use crate::sweep::{Number, Row, VERSION, bottlenecks, numbers};
use crate::terminal::Table;
use crate::units::{MB, counted, mb};
use serde::Serialize;
use std::collections::BTreeMap;
use vmicache_sim::storm::{Outcome, VmOutcome};

/// One replication.
pub struct Replication {
    /// What it came to in numbers.
    pub row: Row,
    /// All of what happened.
    pub outcome: Outcome,
}

/// The replications for people to read.
pub fn text(scenario: &Scenario, replications: &[Replication]) -> String {
    let rows: Vec<&Row> = replications.iter().map(|replication| &replication.row).collect();
    let mut text = heading(scenario);
    text.push_str(&format!(
        "\n{}, seed {}; mean ± half the width of the 95 % confidence interval, smallest to largest\n\n",
        counted(rows.len(), "replication"),
        scenario.settings.seed
    ));
    text.push_str(&times(&rows).text(2));
    for table in [resources(&rows), layers(&rows)] {
        text.push('\n');
        text.push_str(&table.text(2));
    }
    let bottleneck = bottlenecks(&rows);
    text.push_str(&format!("\n  bottleneck: {bottleneck}\n"));
    text
}

/// What ran, in two lines.
fn heading(scenario: &Scenario) -> String {
    let Settings { nodes, vms_per_node, images, boot, .. } = &scenario.settings;
    let start = match scenario.settings.start {
        StartSettings::AtOnce => "start at once".to_owned(),
        StartSettings::Jitter { jitter_s } => format!("start within {jitter_s} s"),
        StartSettings::Staggered { interval_s } => format!("start every {interval_s} s"),
    };
    let computing = match boot.cpu_seconds {
        CpuSeconds::Seconds(seconds) => format!("{seconds} s of computing per boot (assumed)"),
        CpuSeconds::Recorded(_) => "computing as recorded".to_owned(),
    };
    format!(
        "{}: {}, {} on each, {}; {start}; {computing}\n{}, {}; {}\n",
        scenario.guest.guest.title,
        counted(*nodes as usize, "node"),
        counted(*vms_per_node as usize, "VM"),
        counted(*images as usize, "image"),
        scenario.hardware.profile.title,
        scenario.network.title,
        deployment(&scenario.settings),
    )
}

fn deployment(settings: &Settings) -> String {
    let deployment = &settings.deployment;
    let kind = match deployment.kind {
        DeploymentKind::PlainOverlay => "plain overlays",
        DeploymentKind::ComputeDiskCache => "caches on the compute nodes' disks",
        DeploymentKind::ComputeMemoryCache => "caches in the compute nodes' memory",
        DeploymentKind::StorageMemoryCache => "caches in the storage node's memory",
        DeploymentKind::FullCopy => "full copies on the compute nodes' disks",
    };
    let mut text = match deployment.state {
        Some(state) => format!("{} {kind}", format!("{state:?}").to_lowercase()),
        None => kind.to_owned(),
    };
    if let Some(clusters) = deployment.clusters() {
        text.push_str(&format!(", clusters of {clusters}"));
    }
    if let Some(bytes) = deployment.quota {
        text.push_str(&format!(", quota {}", mb(bytes as f64)));
    }
    text
}

fn times(rows: &[&Row]) -> Table {
    let mut table = Table::default();
    let mut row = |name: &str, of: fn(&Row) -> f64| {
        if let Some(summary) = Summary::of(rows.iter().map(|row| of(row))) {
            let range = format!("{:.2} to {:.2}", summary.min, summary.max);
            table.row([name.to_owned(), interval(&summary), range]);
        }
    };
    row("boot time (s), mean over the VMs", |row| row.boot_mean_s);
    row("  median", |row| row.boot_p50_s);
    row("  95th percentile", |row| row.boot_p95_s);
    row("  99th percentile", |row| row.boot_p99_s);
    row("  longest", |row| row.boot_max_s);
    row("  of one VM alone", |row| row.alone_s);
    row("slowdown, the mean against that", |row| row.slowdown);
    row("first start to last boot (s)", |row| row.makespan_s);
    row("first start to end of everything (s)", |row| row.settled_s);
    row("asked of the base images (MB)", |row| row.base_bytes as f64 / MB);
    row("  requests", |row| row.base_requests as f64);
    table
}

fn resources(rows: &[&Row]) -> Table {
    let mut table = Table::default();
    table.row(["", "requests", "MB", "busy, %", "mean queue"]);
    let names = rows.first().map(|row| row.resources.as_slice()).unwrap_or_default();
    for named in names {
        let over = |of: fn(&Row, &str) -> Option<f64>| {
            let summary = Summary::of(rows.iter().filter_map(|row| of(row, &named.name)));
            summary.map(|summary| interval(&summary)).unwrap_or_default()
        };
        table.row([
            named.name.clone(),
            over(|row, name| Some(row.resource(name)?.requests as f64)),
            over(|row, name| Some(row.resource(name)?.bytes as f64 / MB)),
            over(|row, name| Some(row.resource(name)?.utilisation * 100.0)),
            over(|row, name| Some(row.resource(name)?.mean_queue)),
        ]);
    }
    table
}

fn layers(rows: &[&Row]) -> Table {
    let mut table = Table::default();
    table.row(["", "asked, MB", "served, MB", "hits, %"]);
    let names = rows.first().map(|row| row.layers.as_slice()).unwrap_or_default();
    for named in names {
        let over = |of: fn(&Row, &str) -> Option<f64>| {
            let summary = Summary::of(rows.iter().filter_map(|row| of(row, &named.name)));
            summary.map_or_else(|| "-".to_owned(), |summary| interval(&summary))
        };
        table.row([
            named.name.clone(),
            over(|row, name| Some(row.layer(name)?.asked_bytes as f64 / MB)),
            over(|row, name| Some(row.layer(name)?.served_bytes as f64 / MB)),
            over(|row, name| Some(row.layer(name)?.hit_ratio? * 100.0)),
        ]);
    }
    table
}

/// `36.21 ± 0.31`.
fn interval(summary: &Summary) -> String {
    let half_width = summary.half_width.map(|half_width| format!(" ± {half_width:.2}")).unwrap_or_default();
    format!("{:.2}{half_width}", summary.mean)
}

/// The replications for programs to read; times in seconds, sizes in bytes.
#[derive(Serialize)]
pub struct Json<'a> {
    vmicache_version: &'static str,
    scenario: &'a Settings,
    inputs: InputHashes,
    summary: BTreeMap<String, JsonSummary>,
    bottleneck: String,
    replications: Vec<JsonReplication<'a>>,
}

#[derive(Serialize)]
struct JsonSummary {
    mean: f64,
    /// Of the 95 % confidence interval; null for one replication.
    half_width: Option<f64>,
    min: f64,
    max: f64,
    count: usize,
}

#[derive(Serialize)]
struct JsonReplication<'a> {
    replication: usize,
    #[serde(flatten)]
    row: &'a Row,
    virtual_machines: Vec<JsonVm<'a>>,
}

#[derive(Serialize)]
struct JsonVm<'a> {
    node: u32,
    image: u32,
    recording: &'a str,
    started_s: f64,
    boot_s: f64,
    cpu_s: f64,
    base_bytes: u64,
}

impl<'a> Json<'a> {
    /// The replications of `scenario`.
    pub fn new(scenario: &'a Scenario, replications: &'a [Replication]) -> Json<'a> {
        let rows: Vec<&Row> = replications.iter().map(|replication| &replication.row).collect();
        let summary = |(name, number): (String, Number)| {
            let summary = Summary::of(rows.iter().filter_map(|row| number(row)))?;
            let Summary { count, mean, min, max, half_width } = summary;
            Some((name, JsonSummary { mean, half_width, min, max, count }))
        };
        let replication = |(replication, ran): (usize, &'a Replication)| JsonReplication {
            replication,
            row: &ran.row,
            virtual_machines: ran.outcome.vms.iter().map(|vm| JsonVm::new(scenario, vm)).collect(),
        };
        Json {
            vmicache_version: VERSION,
            scenario: &scenario.settings,
            inputs: scenario.input_hashes(),
            summary: numbers(&rows).into_iter().filter_map(summary).collect(),
            bottleneck: bottlenecks(&rows),
            replications: replications.iter().enumerate().map(replication).collect(),
        }
    }
}

impl<'a> JsonVm<'a> {
    fn new(scenario: &'a Scenario, vm: &VmOutcome) -> JsonVm<'a> {
        let boot = scenario.guest.guest.boots.get(vm.recording);
        JsonVm {
            node: vm.node,
            image: vm.image,
            recording: boot.map_or("", |boot| boot.name.as_str()),
            started_s: vm.started.seconds(),
            boot_s: vm.boot_time().seconds(),
            cpu_s: vm.cpu.seconds(),
            base_bytes: vm.base_bytes,
        }
    }
}
