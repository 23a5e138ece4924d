//! An image's metadata in memory. Everything here is synchronous: either all the metadata that a step needs
//! is in memory and the step happens as a whole, or it changes nothing and says what is missing.

use super::freeing::Freed;
use super::geometry::*;
use super::reached::Reached;
use super::slices::SliceCache;
use smallvec::{Array, SmallVec};
use std::collections::BTreeSet;
use std::ops::Range;

/// Metadata that must come into memory before a step can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Missing {
    /// A slice of an L2 table.
    L2Slice(u64),
    /// A slice of a refcount block.
    RefcountSlice(u64),
    /// The refcount table is too short for another cluster.
    RefcountTable,
}

/// Why a step did not happen.
#[derive(Debug)]
pub(crate) enum Stop {
    Missing(Missing),
    /// The image's file is wrong there.
    Invalid {
        structure: &'static str,
        offset: u64,
        problem: String,
    },
}

impl From<Missing> for Stop {
    fn from(missing: Missing) -> Self {
        Stop::Missing(missing)
    }
}

/// The metadata of an open image.
#[derive(Debug)]
pub(crate) struct State {
    pub geometry: Geometry,
    pub version: u32,
    /// Guest data lies in another file, at the offsets that it has on the disk.
    pub data_file: bool,
    pub l1: Vec<u64>,
    /// 512-byte sectors of the L1 table that differ from the storage.
    pub l1_dirty: BTreeSet<u64>,
    pub l2: SliceCache<u64>,
    /// As they stand in the file.
    pub refcounts: SliceCache<u8>,
    pub refcount_table: Vec<u64>,
    /// 512-byte sectors of the refcount table that differ from the storage.
    pub refcount_table_dirty: BTreeSet<u64>,
    /// Clusters that hold tables, and so never guest data; known of images that guests write.
    pub tables: Option<Reached>,
    /// No cluster below is free.
    pub free_hint: HostCluster,
    /// Whether free clusters are kept for tables.
    pub keeps_table_room: bool,
    /// Those that are kept at present.
    pub table_room: HostRun,
    /// Host clusters from here on must not be allocated.
    pub limit: HostCluster,
    /// Host clusters in use; exact for caches that were opened to be filled.
    pub used: u64,
    /// Of these, clusters of guest data.
    pub data_clusters: u64,
    /// Guest data, in bytes, that was written and is not yet published.
    pub unpublished: u64,
    /// How many batches have been begun: what has come since the last one is in no table of the storage.
    pub batches: u64,
    /// What no table in memory refers to any more, although those in the storage may.
    pub freed: Vec<Freed>,
    /// Where compressed data may go on: a byte within a cluster that holds nothing else.
    pub compressed_end: Option<u64>,
}

/// Entries in a 512-byte sector of the L1 or the refcount table.
const ENTRIES_PER_SECTOR: u64 = 64;

impl State {
    /// The host offset of the L2 table with this index; 0 if there is none.
    pub fn l2_table(&self, index: u64) -> Result<u64, Stop> {
        let entry = self.l1.get(index as usize).copied().unwrap_or(0);
        let offset = entry & OFFSET_MASK;
        if entry & L1_RESERVED == 0 && self.geometry.is_aligned(offset) {
            return Ok(offset);
        }
        let problem =
            format!("entry {index} is {entry:#018x}: reserved bits are set, or it points into a cluster");
        Err(Stop::Invalid { structure: "L1 table", offset: index.saturating_mul(8), problem })
    }

    /// Sees that the L2 tables of a run, as far as there are any, are in memory where the run touches them, and that
    /// no snapshot shares them. False: there is no room for an own one.
    pub fn own_tables(&mut self, run: &GuestRun) -> Result<bool, Stop> {
        let geometry = self.geometry;
        for index in self.table_indices(run) {
            if self.l2_table(index)? == 0 {
                continue;
            }
            let is_own = self.l1.get(index as usize).is_some_and(|entry| entry & COPIED != 0);
            let slices = match is_own {
                true => self.slices_between(index, run),
                false => geometry.slices_of_table(index),
            };
            for slice in slices {
                if !self.l2.contains(slice) {
                    return Err(Missing::L2Slice(slice).into());
                }
            }
            if !is_own && !self.copy_table(index)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives the active disk its own copy of an L2 table that it shares with snapshots; the clusters that the table
    /// refers to were counted for each of them when the snapshot was made.
    fn copy_table(&mut self, index: u64) -> Result<bool, Stop> {
        let old = self.geometry.host_cluster(self.l2_table(index)?);
        let Some(table) = self.take_table()? else { return Ok(false) };
        self.point_to_table(index, table);
        self.freed.push(Freed::reference(old..old + 1));
        self.geometry.slices_of_table(index).for_each(|slice| self.l2.mark_dirty(slice));
        self.used = self.used.saturating_add(1);
        Ok(true)
    }

    /// Adds an empty L2 table.
    pub(super) fn add_table(&mut self, l1_index: u64, cluster: HostCluster) {
        self.point_to_table(l1_index, cluster);
        self.geometry.slices_of_table(l1_index).for_each(|slice| self.l2.insert_zeroed(slice));
        self.used = self.used.saturating_add(1);
    }

    fn point_to_table(&mut self, l1_index: u64, cluster: HostCluster) {
        if let Some(entry) = self.l1.get_mut(l1_index as usize) {
            *entry = self.geometry.host_offset(cluster) | COPIED;
        }
        self.mark_l1(l1_index);
        self.hold_table(cluster);
    }

    /// Notes that a cluster holds a table.
    pub(super) fn hold_table(&mut self, cluster: HostCluster) {
        if let Some(tables) = &mut self.tables {
            tables.mark(cluster..cluster + 1);
        }
    }

    /// Refuses what would write guest data over a table: a mapping or a refcount of the file is wrong.
    pub(super) fn check_no_table(&self, run: &HostRun) -> Result<(), Stop> {
        let Some(cluster) = self.tables.as_ref().and_then(|tables| tables.first_in(run)) else {
            return Ok(());
        };
        let offset = self.geometry.host_offset(cluster);
        let problem = "it holds a table, but is mapped as guest data or counted as free".to_owned();
        Err(Stop::Invalid { structure: "host cluster", offset, problem })
    }

    pub fn mark_l1(&mut self, index: u64) {
        self.l1_dirty.insert(index / ENTRIES_PER_SECTOR);
    }

    pub fn mark_refcount_table(&mut self, index: u64) {
        self.refcount_table_dirty.insert(index / ENTRIES_PER_SECTOR);
    }

    /// The indices of the L2 tables of a run that is not empty.
    pub(super) fn table_indices(&self, run: &GuestRun) -> Range<u64> {
        self.geometry.l1_indices(&self.geometry.clusters_of(run))
    }

    pub(super) fn slices_of(&self, run: &GuestRun) -> Range<u64> {
        self.geometry.slices_of(&self.geometry.clusters_of(run))
    }

    fn slices_between(&self, l1_index: u64, run: &GuestRun) -> Range<u64> {
        let (table, range) = (self.geometry.slices_of_table(l1_index), self.slices_of(run));
        table.start.max(range.start)..table.end.min(range.end)
    }
}

/// Adds a run behind others, merging it with the last one if that ends where it begins.
pub(super) fn push_run<T: PartialOrd, A: Array<Item = Range<T>>>(runs: &mut SmallVec<A>, run: Range<T>) {
    match runs.last_mut() {
        _ if run.is_empty() => {}
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

/// Takes the first cluster off runs that are not empty.
pub(super) fn take_first(runs: &mut HostRuns) -> HostCluster {
    let Some(first) = runs.first_mut() else { return HostCluster(0) };
    let cluster = first.start;
    first.start += 1;
    if first.is_empty() {
        runs.remove(0);
    }
    cluster
}
