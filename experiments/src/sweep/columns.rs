//! The columns that a table of runs has.

use super::{Cell, LayerRow, Measure, ResourceRow, Row, VERSION};
use crate::results::Table;
use crate::scenario::{CpuSeconds, InputHashes, Settings, StartSettings};
use serde::Serialize;

/// A run: its cell, and what it came to.
pub type Run<'r> = (&'r Cell, &'r Row);

/// A number of a run, where it has it.
pub type Number<'r> = Box<dyn Fn(&Row) -> Option<f64> + 'r>;

/// Version, hashes of the input files, and every key of the scenario but the replications.
pub fn scenario(table: Table, cells: &[&Cell]) -> Table {
    let all = || cells.iter().map(|cell| &cell.scenario.settings);
    let hashes =
        |hash: fn(InputHashes) -> String| cells.iter().map(move |cell| hash(cell.scenario.input_hashes()));
    let table = table
        .text("vmicache_version", cells.iter().map(|_| VERSION))
        .text("hardware_sha256", hashes(|hashes| hashes.hardware))
        .text("guest_sha256", hashes(|hashes| hashes.guest))
        .text("boots_sha256", hashes(|hashes| hashes.boots.into_values().collect::<Vec<_>>().join(" ")))
        .text("hardware", all().map(|settings| settings.hardware.as_str()))
        .text("network", all().map(|settings| settings.network.as_str()))
        .text("guest", all().map(|settings| settings.guest.as_str()))
        .count("nodes", all().map(|settings| settings.nodes.into()))
        .count("vms_per_node", all().map(|settings| settings.vms_per_node.into()))
        .count("vm_memory_mib", all().map(|settings| settings.vm_memory_mib.into()))
        .count("images", all().map(|settings| settings.images.into()))
        .text_if("cache_mode", all().map(|settings| word(&settings.cache_mode)))
        .real_if("cpu_seconds", all().map(cpu_seconds))
        .real("think_noise", all().map(|settings| settings.boot.think_noise))
        .text("recording", all().map(|settings| settings.boot.recording.as_str()))
        .text("start", all().map(|settings| start(settings.start).0))
        .real_if("jitter_s", all().map(|settings| start(settings.start).1))
        .real_if("interval_s", all().map(|settings| start(settings.start).2));
    deployment(table, cells).count("seed", all().map(|settings| settings.seed))
}

fn deployment(table: Table, cells: &[&Cell]) -> Table {
    let all = || cells.iter().map(|cell| cell.scenario.settings.deployment);
    table
        .text_if("deployment", all().map(|deployment| word(&deployment.kind)))
        .text_if("state", all().map(|deployment| word(&deployment.state)))
        .count_if("cluster_size_bytes", all().map(|deployment| deployment.cluster_size))
        .count_if("extended_l2", all().map(|deployment| Some(u64::from(deployment.clusters()?.extended_l2))))
        .count_if("quota_bytes", all().map(|deployment| deployment.quota))
        .text_if("filling", all().map(|deployment| word(&deployment.filling)))
}

/// Seconds that a guest computes in a boot; `None`: as recorded.
fn cpu_seconds(settings: &Settings) -> Option<f64> {
    match settings.boot.cpu_seconds {
        CpuSeconds::Seconds(seconds) => Some(seconds),
        CpuSeconds::Recorded(_) => None,
    }
}

/// The kind of start, its jitter and its interval.
fn start(start: StartSettings) -> (&'static str, Option<f64>, Option<f64>) {
    match start {
        StartSettings::AtOnce => ("at-once", None, None),
        StartSettings::Jitter { jitter_s } => ("jitter", Some(jitter_s), None),
        StartSettings::Staggered { interval_s } => ("staggered", None, Some(interval_s)),
    }
}

/// What a value is called in scenario files, where there is one.
fn word(value: &impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

/// What runs came to: every number, and the bottleneck.
pub fn outcome(mut table: Table, rows: &[&Row]) -> Table {
    for measure in Row::MEASURES {
        let values = rows.iter().map(|row| (measure.of)(row));
        table = match measure.whole {
            true => table.count(measure.name, values.map(|value| value as u64)),
            false => table.real(measure.name, values),
        };
    }
    table = table.text("bottleneck", rows.iter().map(|row| row.bottleneck.as_str()));
    for name in resources(rows) {
        let all = || rows.iter().map(|row| row.resource(name));
        table = table
            .count_if(&column(name, "requests"), all().map(|resource| Some(resource?.requests)))
            .count_if(&column(name, "bytes"), all().map(|resource| Some(resource?.bytes)))
            .real_if(&column(name, "utilisation"), all().map(|resource| Some(resource?.utilisation)))
            .real_if(&column(name, "mean_queue"), all().map(|resource| Some(resource?.mean_queue)));
    }
    for name in layers(rows) {
        let all = || rows.iter().map(|row| row.layer(name));
        table = table
            .count_if(&column(name, "asked_bytes"), all().map(|layer| Some(layer?.asked_bytes)))
            .count_if(&column(name, "served_bytes"), all().map(|layer| Some(layer?.served_bytes)))
            .real_if(&column(name, "hit_ratio"), all().map(|layer| layer?.hit_ratio));
    }
    table
}

/// The numbers of rows that replications have a mean of, by the names of their columns.
pub fn numbers<'r>(rows: &[&'r Row]) -> Vec<(String, Number<'r>)> {
    let mut numbers: Vec<(String, Number)> = Vec::new();
    for Measure { name, of, .. } in Row::MEASURES {
        numbers.push((name.to_owned(), Box::new(move |row| Some(of(row)))));
    }
    for name in resources(rows) {
        let mut add = |what, of: fn(&ResourceRow) -> f64| {
            numbers.push((column(name, what), Box::new(move |row| row.resource(name).map(of))));
        };
        add("requests", |resource| resource.requests as f64);
        add("bytes", |resource| resource.bytes as f64);
        add("utilisation", |resource| resource.utilisation);
        add("mean_queue", |resource| resource.mean_queue);
    }
    for name in layers(rows) {
        let hits: fn(&LayerRow) -> Option<f64> = |layer| layer.hit_ratio;
        numbers.push((column(name, "hit_ratio"), Box::new(move |row| row.layer(name).and_then(hits))));
    }
    numbers
}

fn resources<'r>(rows: &[&'r Row]) -> Vec<&'r str> {
    names(rows, |row| row.resources.iter().map(|resource| resource.name.as_str()).collect())
}

fn layers<'r>(rows: &[&'r Row]) -> Vec<&'r str> {
    names(rows, |row| row.layers.iter().map(|layer| layer.name.as_str()).collect())
}

/// The names that rows have of something, in the order in which they first come.
fn names<'r>(rows: &[&'r Row], of: impl Fn(&'r Row) -> Vec<&'r str>) -> Vec<&'r str> {
    let mut names = Vec::new();
    for name in rows.iter().flat_map(|row| of(row)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// `storage_node_disk_bytes`.
fn column(name: &str, what: &str) -> String {
    let word: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("{word}_{what}")
}
