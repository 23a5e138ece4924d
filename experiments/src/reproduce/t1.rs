//! T1: the read working set of a boot.

use super::plan::Plan;
use crate::cells::Cells;
use crate::inputs::{Boot, Guest};
use crate::stats::Summary;
use std::collections::BTreeMap;
use vmicache_format::trace::working_set;

/// The working set of one boot at one granularity.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Whose boot it is.
    pub guest: &'a Guest,
    /// The boot.
    pub boot: &'a Boot,
    /// Blocks of this many bytes count as read when one byte of them is.
    pub granularity: u64,
    /// Bytes of the blocks that were read at least once, what the guest itself had written before not counted.
    pub working_set: u64,
}

impl Row<'_> {
    /// The working set as a share of what the image has allocated.
    pub fn share_of_allocated(&self) -> f64 {
        self.working_set as f64 / self.guest.allocated_bytes as f64
    }

    /// The working set as a share of the virtual disk.
    pub fn share_of_disk(&self) -> f64 {
        self.working_set as f64 / self.guest.disk_bytes as f64
    }
}

/// One row a granularity and boot, in this order.
///
/// # Errors
/// None of its own.
pub fn run<'a>(guest: &'a Guest, plan: &Plan, cells: &Cells) -> anyhow::Result<Vec<Row<'a>>> {
    let mut wanted = Vec::new();
    for granularity in &plan.granularities {
        wanted.extend(guest.boots.iter().map(|boot| (boot, *granularity)));
    }
    cells.each("T1: working sets", &wanted, |&(boot, granularity)| {
        Ok(Row { guest, boot, granularity, working_set: working_set(&boot.trace, granularity) })
    })
}

/// The working sets in bytes over the boots, by rising granularity.
pub fn summaries(rows: &[Row]) -> Vec<(u64, Summary)> {
    let mut by_granularity: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for row in rows {
        by_granularity.entry(row.granularity).or_default().push(row.working_set as f64);
    }
    by_granularity
        .into_iter()
        .filter_map(|(granularity, sets)| Some((granularity, Summary::of(sets)?)))
        .collect()
}
