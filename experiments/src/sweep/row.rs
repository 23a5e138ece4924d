//! What one run comes to.

use super::{Cell, key};
use crate::inputs::Inputs;
use crate::scenario::Scenario;
use crate::stats::quantile;
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use vmicache_sim::storm::{self, Layer, LayerUse, Outcome, ResourceUse, VmOutcome};

/// What one run comes to. Times in seconds of simulated time, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Virtual machines.
    pub vms: u64,
    /// Boot time, mean over the virtual machines.
    pub boot_mean_s: f64,
    /// Its median.
    pub boot_p50_s: f64,
    /// Its 95th percentile.
    pub boot_p95_s: f64,
    /// Its 99th percentile.
    pub boot_p99_s: f64,
    /// The longest.
    pub boot_max_s: f64,
    /// What the guests themselves computed in a boot, mean over the virtual machines.
    pub cpu_mean_s: f64,
    /// From the first start to the last end of a boot.
    pub makespan_s: f64,
    /// From the first start to the end of everything.
    pub settled_s: f64,
    /// Boot time of one virtual machine of the same scenario and replication that is alone on one node.
    pub alone_s: f64,
    /// Mean boot time as a multiple of that.
    pub slowdown: f64,
    /// Requests of all guests.
    pub guest_requests: u64,
    /// Guest data asked of the base images above every page cache.
    pub base_bytes: u64,
    /// Requests for it.
    pub base_requests: u64,
    /// The resource that the storm waited for most.
    pub bottleneck: String,
    /// Every shared resource.
    pub resources: Vec<ResourceRow>,
    /// Where the guests' reads were served, top first.
    pub layers: Vec<LayerRow>,
}

/// What a resource did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceRow {
    /// Such as `storage node disk`.
    pub name: String,
    /// How many of them there are.
    pub count: u32,
    /// Requests that it served.
    pub requests: u64,
    /// Bytes that it moved.
    pub bytes: u64,
    /// Share of the makespan in which it was busy; of the busiest one.
    pub utilisation: f64,
    /// Mean number of requests at it; of the busiest one.
    pub mean_queue: f64,
}

/// What was asked of a layer, and what it had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRow {
    /// Such as `cache image`.
    pub name: String,
    /// Bytes asked of it.
    pub asked_bytes: u64,
    /// Of these, bytes that it had.
    pub served_bytes: u64,
    /// These as a share of those; `None` if it was asked for nothing.
    pub hit_ratio: Option<f64>,
}

/// A number of a row that replications have a mean of.
pub struct Measure {
    /// Its name, with its unit.
    pub name: &'static str,
    /// Where it is.
    pub of: fn(&Row) -> f64,
    /// Whether it counts something.
    pub whole: bool,
}

impl Measure {
    const fn real(name: &'static str, of: fn(&Row) -> f64) -> Measure {
        Measure { name, of, whole: false }
    }

    const fn whole(name: &'static str, of: fn(&Row) -> f64) -> Measure {
        Measure { name, of, whole: true }
    }
}

impl Row {
    /// The numbers that every row has.
    pub const MEASURES: [Measure; 13] = [
        Measure::real("boot_mean_s", |row| row.boot_mean_s),
        Measure::real("boot_p50_s", |row| row.boot_p50_s),
        Measure::real("boot_p95_s", |row| row.boot_p95_s),
        Measure::real("boot_p99_s", |row| row.boot_p99_s),
        Measure::real("boot_max_s", |row| row.boot_max_s),
        Measure::real("cpu_mean_s", |row| row.cpu_mean_s),
        Measure::real("makespan_s", |row| row.makespan_s),
        Measure::real("settled_s", |row| row.settled_s),
        Measure::real("alone_s", |row| row.alone_s),
        Measure::real("slowdown", |row| row.slowdown),
        Measure::whole("guest_requests", |row| row.guest_requests as f64),
        Measure::whole("base_bytes", |row| row.base_bytes as f64),
        Measure::whole("base_requests", |row| row.base_requests as f64),
    ];

    /// The row of `outcome`, to be compared with a virtual machine that took `alone_s` seconds alone.
    fn new(outcome: &Outcome, alone_s: f64) -> anyhow::Result<Row> {
        let boots = boot_times(&outcome.vms);
        let boot_mean_s = mean(&boots);
        ensure!(alone_s > 0.0, "one virtual machine alone takes no time, which nothing can be compared with");
        Ok(Row {
            vms: boots.len() as u64,
            boot_mean_s,
            boot_p50_s: quantile(&boots, 0.5),
            boot_p95_s: quantile(&boots, 0.95),
            boot_p99_s: quantile(&boots, 0.99),
            boot_max_s: quantile(&boots, 1.0),
            cpu_mean_s: mean(&outcome.vms.iter().map(|vm| vm.cpu.seconds()).collect::<Vec<_>>()),
            makespan_s: outcome.makespan.seconds(),
            settled_s: outcome.settled.seconds(),
            alone_s,
            slowdown: boot_mean_s / alone_s,
            guest_requests: outcome.guest_requests,
            base_bytes: outcome.base_bytes,
            base_requests: outcome.base_requests,
            bottleneck: outcome.bottleneck.clone(),
            resources: outcome.resources.iter().map(ResourceRow::from).collect(),
            layers: outcome.layers.iter().map(LayerRow::from).collect(),
        })
    }

    /// The resource of this name.
    pub fn resource(&self, name: &str) -> Option<&ResourceRow> {
        self.resources.iter().find(|resource| resource.name == name)
    }

    /// The layer of this name.
    pub fn layer(&self, name: &str) -> Option<&LayerRow> {
        self.layers.iter().find(|layer| layer.name == name)
    }
}

impl From<&ResourceUse> for ResourceRow {
    fn from(used: &ResourceUse) -> ResourceRow {
        ResourceRow {
            name: used.name.clone(),
            count: used.count,
            requests: used.requests,
            bytes: used.bytes,
            utilisation: used.utilisation,
            mean_queue: used.mean_queue,
        }
    }
}

impl From<&LayerUse> for LayerRow {
    fn from(used: &LayerUse) -> LayerRow {
        let name = match used.layer {
            Layer::Overlay => "overlay image",
            Layer::CacheImage => "cache image",
            Layer::Base => "base image",
            Layer::ComputePageCache => "compute node page cache",
            Layer::StoragePageCache => "storage node page cache",
        };
        LayerRow {
            name: name.to_owned(),
            asked_bytes: used.asked_bytes,
            served_bytes: used.served_bytes,
            hit_ratio: used.hit_ratio(),
        }
    }
}

/// Runs a cell. What its slowdown is against runs once for all cells that share it.
///
/// # Errors
/// If the storm cannot be run.
pub fn run_cell(cell: &Cell, inputs: &Inputs) -> anyhow::Result<Row> {
    let ran = run(&cell.scenario, cell.replication, false, inputs);
    ran.map(|(row, _)| row).with_context(|| cell.described())
}

/// Runs one replication of a scenario; the outcome has a timeline if that is asked for.
///
/// # Errors
/// If the storm cannot be run.
pub fn run(
    scenario: &Scenario,
    replication: u64,
    timeline: bool,
    inputs: &Inputs,
) -> anyhow::Result<(Row, Outcome)> {
    let outcome = storm::run(&scenario.storm(replication, timeline))?;
    let alone_s = match outcome.vms.as_slice() {
        [only] => only.boot_time().seconds(),
        _ => alone(&scenario.alone(), replication, inputs)?,
    };
    Ok((Row::new(&outcome, alone_s)?, outcome))
}

/// Mean boot time in seconds of `scenario`, which has one virtual machine.
fn alone(scenario: &Scenario, replication: u64, inputs: &Inputs) -> anyhow::Result<f64> {
    inputs.alone.get(key(scenario, replication)?, || {
        let outcome = storm::run(&scenario.storm(replication, false));
        let outcome = outcome.context("one virtual machine alone, which the slowdown is against")?;
        Ok(mean(&boot_times(&outcome.vms)))
    })
}

/// Boot times in seconds, rising.
fn boot_times(vms: &[VmOutcome]) -> Vec<f64> {
    let mut times: Vec<f64> = vms.iter().map(|vm| vm.boot_time().seconds()).collect();
    times.sort_by(f64::total_cmp);
    times
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
