//! F1 to F3 and F5 to F7: boot storms.

mod files;
mod group;
mod pictures;
mod sections;
mod tables;

pub use group::Group;
pub use pictures::figure;
pub use sections::{findings, hardware, inputs, section};
pub use tables::table;

use super::plan::{Experiment, Plan};
use crate::cells::Cells;
use crate::inputs::{Guest, Hardware, Inputs};
use crate::scenario::{CpuSeconds, DeploymentKind, Settings};
use crate::sweep::{Cell, Row, Sweep, run_cell};
use anyhow::{Context, ensure};
use std::sync::Arc;
use vmicache_sim::hardware::CacheMode;
use vmicache_sim::storm::State;

/// The boot storms of one guest.
pub struct Storms {
    /// Those that are shown; others may share some of their runs.
    experiments: Vec<Experiment>,
    sweeps: Vec<Swept>,
    hardware: Arc<Hardware>,
}

/// One sweep that has been run.
struct Swept {
    /// Name of its file.
    name: &'static str,
    /// The file as it was run.
    text: String,
    /// By cell, in the order of the sweep.
    runs: Vec<Run>,
}

/// One run.
pub struct Run {
    /// What ran.
    pub cell: Cell,
    /// What came out.
    pub row: Row,
}

/// Which runs of a sweep over nodes or images.
#[derive(Clone, Copy, Debug)]
pub struct Place<'p> {
    /// Name of the network.
    pub network: &'p str,
    /// Compute nodes.
    pub nodes: u32,
    /// Base images.
    pub images: u32,
    /// Seconds that a guest computes in a boot.
    pub cpu_seconds: f64,
    /// What caches hold at first; `None` of plain overlays.
    pub state: Option<State>,
}

impl Run {
    /// What ran, with every key.
    pub fn settings(&self) -> &Settings {
        &self.cell.scenario.settings
    }
}

/// Runs the sweeps of all experiments of `plan` on `guest`; `None` if there is none.
///
/// # Errors
/// If a sweep cannot be, or a storm cannot be run.
pub fn run(guest: &Guest, plan: &Plan, cells: &Cells) -> anyhow::Result<Option<Storms>> {
    let files = files::needed(&plan.experiments);
    if files.is_empty() {
        return Ok(None);
    }
    let inputs = Inputs::new(std::slice::from_ref(guest));
    let (mut sweeps, mut wanted) = (Vec::new(), Vec::new());
    for file in files {
        let text = file.text(&guest.name, plan.quick)?;
        let planned =
            Sweep::parse(&text, &format!("paper/experiments/{}.toml", file.name))?.cells(&inputs)?;
        wanted.extend(planned.into_iter().map(|cell| (sweeps.len(), cell)));
        sweeps.push(Swept { name: file.name, text, runs: Vec::new() });
    }
    let (_, first) = wanted.first().context("the sweeps have no cells")?;
    let hardware = Arc::clone(&first.scenario.hardware);
    ensure!(
        wanted.iter().all(|(_, cell)| Arc::ptr_eq(&cell.scenario.hardware, &hardware)),
        "the experiments run on different hardware; one profile would be right"
    );
    let rows = cells.each("boot storms", &wanted, |(_, cell)| {
        run_cell(cell, &inputs).with_context(|| cell.described())
    })?;
    for ((sweep, cell), row) in wanted.into_iter().zip(rows) {
        sweeps[sweep].runs.push(Run { cell, row });
    }
    Ok(Some(Storms { experiments: plan.experiments.clone(), sweeps, hardware }))
}

impl Storms {
    /// The hardware profile of all runs.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// The runs of a sweep, in its order; none if it has not been run.
    pub fn runs(&self, sweep: &str) -> &[Run] {
        self.sweeps.iter().find(|swept| swept.name == sweep).map_or(&[], |swept| &swept.runs)
    }

    /// Whether every sweep that an experiment shows has been run, be it for another.
    pub fn has_run(&self, experiment: Experiment) -> bool {
        files::names(experiment).iter().all(|name| !self.runs(name).is_empty())
    }

    /// The sweeps as they were run: name and text.
    pub fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.sweeps.iter().map(|swept| (swept.name, swept.text.as_str()))
    }

    /// The sweeps that an experiment shows, by name; none if it is not to be shown.
    pub fn sweeps_of(&self, experiment: Experiment) -> impl Iterator<Item = (&'static str, &[Run])> {
        let shown = self.experiments.contains(&experiment);
        let names = if shown { files::names(experiment) } else { &[] };
        names.iter().map(|name| (*name, self.runs(name)))
    }

    /// The replications of the cell of a sweep that `wanted` describes; `None` if there is none.
    pub fn group(&self, sweep: &str, wanted: impl Fn(&Settings) -> bool) -> Option<Group<'_>> {
        Group::new(self.runs(sweep).iter().filter(|run| wanted(run.settings())))
    }

    /// The replications of a cell of a sweep over nodes or images.
    pub fn cell(&self, sweep: &str, place: &Place) -> Option<Group<'_>> {
        self.group(sweep, |settings| {
            settings.network == place.network
                && (settings.nodes, settings.images) == (place.nodes, place.images)
                && cpu_seconds(settings) == Some(place.cpu_seconds)
                && (place.state.is_none() || settings.deployment.state.map(State::from) == place.state)
        })
    }

    /// The replications of plain overlays beside F3.
    pub fn plain_of_f3(&self, mode: CacheMode, network: &str, nodes: u32) -> Option<Group<'_>> {
        self.group("F3-plain", |settings| {
            settings.network == network
                && settings.nodes == nodes
                && CacheMode::from(settings.cache_mode) == mode
        })
    }

    /// The replications of one quota of F3.
    pub fn cell_of_f3(
        &self,
        sweep: &str,
        kind: DeploymentKind,
        state: State,
        network: &str,
        nodes: u32,
        quota: u64,
    ) -> Option<Group<'_>> {
        self.group(sweep, |settings| {
            let deployment = &settings.deployment;
            settings.network == network
                && settings.nodes == nodes
                && deployment.kind == kind
                && deployment.quota == Some(quota)
                && deployment.state.map(State::from) == Some(state)
        })
    }

    /// The values that the runs of a sweep have of something, in the order of the sweep.
    pub fn values<T: PartialEq>(&self, sweep: &str, value: impl Fn(&Settings) -> Option<T>) -> Vec<T> {
        let mut values = Vec::new();
        for value in self.runs(sweep).iter().filter_map(|run| value(run.settings())) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    }

    /// The networks of a sweep, by name.
    pub fn networks(&self, sweep: &str) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for run in self.runs(sweep) {
            let name = run.settings().network.as_str();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// What people call the network of that name.
    pub fn network_title<'n>(&'n self, name: &'n str) -> &'n str {
        let networks = &self.hardware.profile.networks;
        networks.iter().find(|network| network.name == name).map_or(name, |network| &network.title)
    }

    /// How long guests compute in the boots of a sweep, in seconds.
    pub fn cpu_axis(&self, sweep: &str) -> Vec<f64> {
        self.values(sweep, cpu_seconds)
    }

    /// The quotas of a sweep in bytes.
    pub fn quotas(&self, sweep: &str) -> Vec<u64> {
        self.values(sweep, |settings| settings.deployment.quota)
    }

    /// How many replications every cell has.
    pub fn replications(&self) -> u32 {
        let runs = self.sweeps.iter().flat_map(|swept| &swept.runs);
        runs.map(|run| run.settings().replications).min().unwrap_or(0)
    }
}

/// Seconds that guests compute in a boot; `None`: as recorded.
pub fn cpu_seconds(settings: &Settings) -> Option<f64> {
    match settings.boot.cpu_seconds {
        CpuSeconds::Seconds(seconds) => Some(seconds),
        CpuSeconds::Recorded(_) => None,
    }
}
