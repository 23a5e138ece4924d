//! Sweep files: a scenario and the axes along which it varies.

mod axis;
mod columns;
mod row;
mod store;
mod tables;

pub use columns::{Number, numbers, outcome as outcome_columns, scenario as scenario_columns};
pub use row::{LayerRow, Measure, ResourceRow, Row, run, run_cell};
pub use store::Store;
pub use tables::{bottlenecks, tables};

use crate::inputs::{Inputs, sha256};
use crate::scenario::{Content, Draft, InputHashes, Node, Scenario, Settings, resolve};
use anyhow::{bail, ensure};
use axis::Axis;
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of this program: other versions may come to other results.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// More cells than this would be a slip.
const MOST_CELLS: usize = 1_000_000;
/// The table of a sweep file that is no part of the scenario.
const AXES: &str = "axes";

/// A sweep, as its file describes it.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The file's name.
    pub file: String,
    base: Draft,
    axes: Vec<Axis>,
}

/// One run of a sweep: a point of its axes, and a replication.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Where on the axes it lies: each axis' key, and the value as it is printed.
    pub settings: Vec<(String, String)>,
    /// What runs.
    pub scenario: Scenario,
    /// Number of the replication, from 0.
    pub replication: u64,
}

impl Sweep {
    /// The sweep `text`, which is from the file `file`.
    ///
    /// # Errors
    /// If it is not TOML, has an unknown key, or an axis is empty, has a value twice, or is set elsewhere.
    pub fn parse(text: &str, file: &str) -> anyhow::Result<Sweep> {
        let Node { place, content } = Node::parse(text, file)?;
        let Content::Table(entries) = content else { bail!("{place}: a table would be right") };
        let (axes, scenario): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| key == AXES);
        let Some((_, axes)) = axes.into_iter().next() else {
            bail!(
                "{place}: {AXES} is missing: a table would be right, such as [{AXES}] with nodes = [1, 2, 4]"
            );
        };
        let mut base = Draft::new(place.clone());
        base.set("", &Draft::setting("", Node { place, content: Content::Table(scenario) })?);
        let axes = axis::parse(axes, &base)?;
        Ok(Sweep { file: file.to_owned(), base, axes })
    }

    /// Every cell, the first axis turning slowest and the replications fastest.
    ///
    /// # Errors
    /// If one of them cannot be, or two are the same.
    pub fn cells(&self, inputs: &Inputs) -> anyhow::Result<Vec<Cell>> {
        let points = self.axes.iter().try_fold(1usize, |points, axis| points.checked_mul(axis.values.len()));
        ensure!(
            points.is_some_and(|points| points <= MOST_CELLS),
            "{}: the axes have more than {MOST_CELLS} points; fewer values would be right",
            self.file
        );
        let mut cells = Vec::new();
        let mut seen = BTreeMap::new();
        for number in 0..points.unwrap_or(0) {
            let (settings, draft) = self.point(number);
            let scenario = resolve(&draft, inputs).map_err(|error| match described(&settings) {
                at if at.is_empty() => error,
                at => error.context(format!("{}: at {at}", self.file)),
            })?;
            let replications = u64::from(scenario.settings.replications);
            let first = Cell { settings, scenario, replication: 0 };
            if let Some(before) = seen.insert(first.key()?, described(&first.settings)) {
                let again = described(&first.settings);
                bail!(
                    "{}: {before} and {again} are the same scenario; one of the two would be right",
                    self.file
                );
            }
            ensure!(
                cells.len() <= MOST_CELLS,
                "{}: more than {MOST_CELLS} cells; fewer would be right",
                self.file
            );
            cells.extend((0..replications).map(|replication| Cell { replication, ..first.clone() }));
        }
        Ok(cells)
    }

    /// The point of this number, and its scenario.
    fn point(&self, mut number: usize) -> (Vec<(String, String)>, Draft) {
        let mut chosen = Vec::new();
        for axis in self.axes.iter().rev() {
            chosen.extend(axis.values.get(number % axis.values.len()).map(|value| (&axis.key, value)));
            number /= axis.values.len();
        }
        let mut draft = self.base.clone();
        let mut settings = Vec::new();
        for (key, value) in chosen.into_iter().rev() {
            draft.set(key, &value.setting);
            settings.push((key.clone(), value.printed.clone()));
        }
        (settings, draft)
    }

    /// The axes: each key with its values as they are printed.
    pub fn axes(&self) -> Vec<(String, Vec<String>)> {
        let printed = |axis: &Axis| axis.values.iter().map(|value| value.printed.clone()).collect();
        self.axes.iter().map(|axis| (axis.key.clone(), printed(axis))).collect()
    }
}

/// Everything that a run's outcome follows from.
#[derive(Serialize)]
struct Identity<'a> {
    version: &'static str,
    scenario: &'a Settings,
    inputs: InputHashes,
    replication: u64,
}

/// A hash of everything that the outcome of a replication follows from.
fn key(scenario: &Scenario, replication: u64) -> anyhow::Result<String> {
    // How many replications there are in all says nothing about each.
    let settings = Settings { replications: 1, ..scenario.settings.clone() };
    let identity =
        Identity { version: VERSION, scenario: &settings, inputs: scenario.input_hashes(), replication };
    Ok(sha256(&serde_json::to_vec(&identity)?))
}

/// `nodes = 4, network = 1gbe`.
fn described(settings: &[(String, String)]) -> String {
    settings.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ")
}

impl Cell {
    /// A hash of everything that its row follows from: what it is stored by.
    ///
    /// # Errors
    /// None that is known: its settings can be written down.
    pub fn key(&self) -> anyhow::Result<String> {
        key(&self.scenario, self.replication)
    }

    /// Where it lies, in words.
    pub fn described(&self) -> String {
        let replication = format!("replication {}", self.replication);
        match described(&self.settings) {
            at if at.is_empty() => replication,
            at => format!("{at}, {replication}"),
        }
    }
}
