//! The replications of one cell, and what they amount to.

use super::Run;
use crate::stats::Summary;
use crate::sweep::{Row, bottlenecks};

/// Runs that differ in the replication alone, by its number.
pub struct Group<'r>(Vec<&'r Run>);

impl<'r> Group<'r> {
    /// Of these runs; `None` if there are none.
    pub fn new(runs: impl Iterator<Item = &'r Run>) -> Option<Group<'r>> {
        let mut runs: Vec<&Run> = runs.collect();
        runs.sort_by_key(|run| run.cell.replication);
        (!runs.is_empty()).then_some(Group(runs))
    }

    /// Any of the runs, for what all have in common.
    pub fn first(&self) -> Option<&'r Run> {
        self.0.first().copied()
    }

    /// A quantity over the replications.
    pub fn of(&self, value: impl Fn(&Row) -> f64) -> Option<Summary> {
        Summary::of(self.0.iter().map(|run| value(&run.row)))
    }

    /// Mean boot time over the virtual machines, in seconds.
    pub fn boot(&self) -> Option<Summary> {
        self.of(|row| row.boot_mean_s)
    }

    /// The difference to `other`, replication by replication.
    pub fn minus(&self, other: &Group, value: impl Fn(&Row) -> f64) -> Option<Summary> {
        self.paired(other, |own, others| value(own) - value(others))
    }

    /// The ratio to `other`, replication by replication.
    pub fn over(&self, other: &Group, value: impl Fn(&Row) -> f64) -> Option<Summary> {
        self.paired(other, |own, others| value(own) / value(others))
    }

    fn paired(&self, other: &Group, value: impl Fn(&Row, &Row) -> f64) -> Option<Summary> {
        let of_same = |run: &Run| other.0.iter().find(|other| other.cell.replication == run.cell.replication);
        Summary::of(self.0.iter().filter_map(|run| Some(value(&run.row, &of_same(run)?.row))))
    }

    /// Whether every replication has `resource` as its bottleneck.
    pub fn is_bound_by(&self, resource: &str) -> bool {
        self.0.iter().all(|run| run.row.bottleneck == resource)
    }

    /// The bottlenecks, the most frequent first: `storage node disk`, or `storage node disk (4), compute node disks (1)`.
    pub fn bottlenecks(&self) -> String {
        bottlenecks(&self.0.iter().map(|run| &run.row).collect::<Vec<_>>())
    }
}
