//! The runs of an experiment as a table, a row each.

use super::{Run, Storms};
use crate::reproduce::plan::{Experiment, Plan};
use crate::results::Table;
use crate::sweep::{Cell, Row, outcome_columns, scenario_columns};

/// The table of an experiment on all guests; `None` if it has no storms, or they have not been run.
pub fn table(all: &[&Storms], experiment: Experiment, plan: &Plan) -> Option<Table> {
    let mut runs: Vec<(&str, &Run)> = Vec::new();
    for (name, of_sweep) in all.iter().flat_map(|storms| storms.sweeps_of(experiment)) {
        runs.extend(of_sweep.iter().map(|run| (name, run)));
    }
    if runs.is_empty() {
        return None;
    }
    let cells: Vec<&Cell> = runs.iter().map(|(_, run)| &run.cell).collect();
    let rows: Vec<&Row> = runs.iter().map(|(_, run)| &run.row).collect();
    let table = Table::new(experiment.name())
        .text("plan", runs.iter().map(|_| plan.scope()))
        .text("sweep", runs.iter().map(|(sweep, _)| *sweep));
    let table =
        scenario_columns(table, &cells).count("replication", cells.iter().map(|cell| cell.replication));
    Some(outcome_columns(table, &rows))
}
