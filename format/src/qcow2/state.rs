//! An image's metadata in memory. Everything here is synchronous: either all the metadata that a step needs
//! is in memory and the step happens as a whole, or it changes nothing and says what is missing.

use super::geometry::*;
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
    Unsupported(String),
}

impl From<Missing> for Stop {
    fn from(missing: Missing) -> Self {
        Stop::Missing(missing)
    }
}

/// What a run of guest clusters is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: what lies below shows through.
    Absent,
    /// Zeroes, without a host cluster.
    Zero,
    /// Zeroes, with host clusters in reserve from this cluster on.
    ZeroAllocated(HostCluster),
    /// Data, from this host cluster on; `copied`: nobody else refers to it.
    Data { host: HostCluster, copied: bool },
}

/// The longest run of one kind at the start of a range, in guest clusters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub kind: Kind,
    pub end: GuestCluster,
}

/// What the untouched rest of a newly written cluster is copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopySource {
    Below,
    Zeroes,
}

/// Where the first part of a guest's write goes.
#[derive(Debug)]
pub(crate) enum WriteRun {
    /// Onto clusters that are mapped: up to guest cluster `end`, from host cluster `host` on.
    InPlace { host: HostCluster, end: GuestCluster },
    /// Onto clusters that are mapped once the data is there.
    New { reservation: Reservation, source: CopySource },
}

/// Host clusters set aside for guest clusters that are to be mapped once the data is there. It must be
/// committed or released.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// Guest clusters, all in the step's range.
    pub guest: GuestRun,
    /// As many host clusters, in the same order.
    pub host: SmallVec<[HostRun; 1]>,
    /// The host clusters were mapped before: releasing them must not free them.
    pub reused: bool,
}

impl Reservation {
    /// The host clusters with the guest clusters that they are for.
    pub fn pairs(&self) -> impl Iterator<Item = (GuestRun, HostRun)> + '_ {
        let mut guest = self.guest.start;
        self.host.iter().map(move |host| {
            let start = guest;
            guest += length(host);
            (start..guest, host.clone())
        })
    }
}

/// Free host clusters that a step may take.
#[derive(Debug, Default)]
pub(super) struct FreeClusters {
    pub runs: SmallVec<[HostRun; 2]>,
    /// Refcount blocks that do not exist yet, each with the free cluster where it is to lie.
    pub blocks: SmallVec<[(u64, HostCluster); 2]>,
    pub found: u64,
    /// Where the search ended.
    pub end: HostCluster,
}

/// The metadata of an open image.
#[derive(Debug)]
pub(crate) struct State {
    pub geometry: Geometry,
    pub version: u32,
    pub l1: Vec<u64>,
    /// 512-byte sectors of the L1 table that differ from the storage.
    pub l1_dirty: BTreeSet<u64>,
    pub l2: SliceCache<u64>,
    pub refcounts: SliceCache<u16>,
    pub refcount_table: Vec<u64>,
    /// 512-byte sectors of the refcount table that differ from the storage.
    pub refcount_table_dirty: BTreeSet<u64>,
    /// No cluster below is free.
    pub free_hint: HostCluster,
    /// Host clusters from here on must not be allocated.
    pub limit: HostCluster,
    /// Host clusters in use; exact for caches that were opened to be filled.
    pub used: u64,
    /// Of these, clusters of guest data.
    pub data_clusters: u64,
    /// Guest data, in bytes, that was written and is not yet published.
    pub unpublished: u64,
}

/// Entries in a 512-byte sector of the L1 or the refcount table.
const ENTRIES_PER_SECTOR: u64 = 64;

impl State {
    /// The host offset of the L2 table with this index; 0 if there is none.
    pub fn l2_table(&self, index: u64) -> Result<u64, Stop> {
        let entry = self.l1.get(index as usize).copied().unwrap_or(0);
        let offset = entry & OFFSET_MASK;
        if entry & L1_RESERVED == 0 && offset & (self.geometry.cluster_size() - 1) == 0 {
            return Ok(offset);
        }
        let problem =
            format!("entry {index} is {entry:#018x}: reserved bits are set, or it points into a cluster");
        Err(Stop::Invalid { structure: "L1 table", offset: index * 8, problem })
    }

    /// Maps the first clusters of a range that is not empty and lies within the disk.
    pub fn map(&mut self, clusters: &GuestRun) -> Result<Run, Stop> {
        let (geometry, version) = (self.geometry, self.version);
        let mut at = clusters.start;
        let mut run: Option<Kind> = None;
        while at < clusters.end {
            let l1_index = geometry.l1_index(at);
            let table = self.l2_table(l1_index)?;
            if table == 0 {
                if *run.get_or_insert(Kind::Absent) != Kind::Absent {
                    break;
                }
                at = geometry.first_of_table(l1_index + 1).min(clusters.end);
                continue;
            }
            let slice = geometry.slice_of(at);
            let entries = self.l2.get(slice).ok_or(Missing::L2Slice(slice))?;
            let first = geometry.index_in_slice(at);
            let wanted = (clusters.end - at).min((entries.len() - first) as u64) as usize;
            let entries = &entries[first..first + wanted];
            let kind = classify(entries[0], &geometry, version).map_err(|problem| match problem {
                Problem::Unsupported(what) => {
                    let offset = geometry.guest_offset(at);
                    Stop::Unsupported(format!("{what} (at offset {offset} of the disk)"))
                }
                Problem::Invalid(problem) => {
                    let (_, within) = geometry.slice_position(slice);
                    Stop::Invalid {
                        structure: "L2 table",
                        offset: table + within + first as u64 * 8,
                        problem,
                    }
                }
            })?;
            match run {
                None => run = Some(kind),
                Some(sofar) if kind == advance(sofar, at - clusters.start) => {}
                Some(_) => break,
            }
            let alike = count_alike(entries, geometry.cluster_size());
            at += alike as u64;
            if alike < entries.len() {
                break;
            }
        }
        Ok(Run { kind: run.unwrap_or(Kind::Absent), end: at })
    }

    /// Sets clusters aside for the first guest clusters of a range, all of them unmapped: as many as there
    /// is room for, `None` if there is none.
    pub fn reserve(&mut self, clusters: GuestRun) -> Result<Option<Reservation>, Stop> {
        let geometry = self.geometry;
        let tables = geometry.l1_index(clusters.start)..geometry.l1_index(last_of(&clusters)) + 1;
        let mut new_tables = 0;
        for index in tables.clone() {
            if self.l2_table(index)? == 0 {
                new_tables += 1;
                continue;
            }
            for slice in self.slices_between(index, &clusters) {
                if !self.l2.contains(slice) {
                    return Err(Missing::L2Slice(slice).into());
                }
            }
        }
        let mut free = self.find_free(length(&clusters) + new_tables)?;

        // From here on nothing can fail. Tables first, so that table and data often are one run.
        let (mut left, mut end, mut taken_tables) = (free.found, clusters.start, SmallVec::<[u64; 4]>::new());
        for index in tables {
            let is_new = self.l1[index as usize] & OFFSET_MASK == 0;
            if left <= u64::from(is_new) {
                break;
            }
            if is_new {
                taken_tables.push(index);
                left -= 1;
            }
            let table_end = geometry.first_of_table(index + 1).min(clusters.end);
            let take = left.min(table_end - end);
            left -= take;
            end += take;
            if end < table_end {
                break;
            }
        }
        let data = end - clusters.start;
        if data == 0 {
            return Ok(None);
        }
        let mut host = self.take(&mut free, data + taken_tables.len() as u64);
        for index in taken_tables {
            let table = take_first(&mut host);
            self.add_table(index, table);
        }
        self.used += data;
        let reservation = Reservation { guest: clusters.start..end, host, reused: false };
        self.pin(&reservation);
        Ok(Some(reservation))
    }

    /// Keeps the L2 slices of a reservation in memory until it is committed or released.
    pub fn pin(&mut self, reservation: &Reservation) {
        self.slices_of(&reservation.guest).for_each(|slice| self.l2.pin(slice));
    }

    fn unpin(&mut self, reservation: &Reservation) {
        self.slices_of(&reservation.guest).for_each(|slice| self.l2.unpin(slice));
    }

    /// Maps a reservation whose data has been written. The clusters for which `is_hole` holds were not: they
    /// read as zeroes, and their host clusters are returned, to be freed.
    pub fn commit(
        &mut self,
        reservation: &Reservation,
        is_hole: impl Fn(GuestCluster) -> bool,
    ) -> SmallVec<[HostRun; 1]> {
        let mut unused: SmallVec<[HostRun; 1]> = SmallVec::new();
        let geometry = self.geometry;
        for (guest, host) in reservation.pairs() {
            let mut at = guest.start;
            while at < guest.end {
                let slice = geometry.slice_of(at);
                let end = geometry.first_of_slice(slice + 1).min(guest.end);
                let first = geometry.index_in_slice(at);
                // Pinned since it was reserved.
                let Some(entries) = self.l2.get_mut(slice) else { break };
                for (entry, number) in entries[first..].iter_mut().zip(0..end - at) {
                    let place = host.start + (at - guest.start) + number;
                    if is_hole(at + number) {
                        *entry = ZERO;
                        push_run(&mut unused, place..place + 1);
                    } else {
                        *entry = geometry.host_offset(place) | COPIED;
                    }
                }
                at = end;
            }
        }
        self.unpin(reservation);
        let holes: u64 = unused.iter().map(length).sum();
        let mapped = length(&reservation.guest) - holes;
        if !reservation.reused {
            self.data_clusters += mapped;
        }
        self.unpublished += mapped << geometry.cluster_bits;
        unused
    }

    /// Gives a reservation up; its clusters are returned, to be freed.
    pub fn release(&mut self, reservation: &Reservation) -> SmallVec<[HostRun; 1]> {
        self.unpin(reservation);
        if reservation.reused { SmallVec::new() } else { reservation.host.clone() }
    }

    /// Makes whole, mapped or unmapped clusters read as zeroes, as many as lie in one L2 slice; host
    /// clusters stay in reserve. Returns the end of what was done; `None` if there is no room for a table.
    pub fn set_zero(&mut self, clusters: &GuestRun) -> Result<Option<GuestCluster>, Stop> {
        let geometry = self.geometry;
        let (slice, index) = (geometry.slice_of(clusters.start), geometry.l1_index(clusters.start));
        if self.l2_table(index)? == 0 {
            let mut free = self.find_free(1)?;
            if free.found == 0 {
                return Ok(None);
            }
            let table = take_first(&mut self.take(&mut free, 1));
            self.add_table(index, table);
        }
        let first = geometry.index_in_slice(clusters.start);
        let entries = self.l2.get(slice).ok_or(Missing::L2Slice(slice))?;
        let end = clusters.end.min(clusters.start + (entries.len() - first) as u64);
        let count = (end - clusters.start) as usize;
        if let Some(entry) = entries[first..first + count].iter().find(|entry| **entry & COMPRESSED != 0) {
            return Err(Stop::Unsupported(format!("compressed cluster (L2 entry {entry:#018x})")));
        }
        if let Some(entries) = self.l2.get_mut(slice) {
            entries[first..first + count].iter_mut().for_each(|entry| *entry |= ZERO);
        }
        Ok(Some(end))
    }

    fn add_table(&mut self, l1_index: u64, cluster: HostCluster) {
        self.l1[l1_index as usize] = self.geometry.host_offset(cluster) | COPIED;
        self.l1_dirty.insert(l1_index / ENTRIES_PER_SECTOR);
        self.geometry.slices_of_table(l1_index).for_each(|slice| self.l2.insert_zeroed(slice));
        self.used += 1;
    }

    pub fn mark_refcount_table(&mut self, index: u64) {
        self.refcount_table_dirty.insert(index / ENTRIES_PER_SECTOR);
    }

    fn slices_of(&self, clusters: &GuestRun) -> Range<u64> {
        self.geometry.slice_of(clusters.start)..self.geometry.slice_of(last_of(clusters)) + 1
    }

    fn slices_between(&self, l1_index: u64, clusters: &GuestRun) -> Range<u64> {
        let (table, range) = (self.geometry.slices_of_table(l1_index), self.slices_of(clusters));
        table.start.max(range.start)..table.end.min(range.end)
    }
}

enum Problem {
    Invalid(String),
    Unsupported(String),
}

fn classify(entry: u64, geometry: &Geometry, version: u32) -> Result<Kind, Problem> {
    if entry & COMPRESSED != 0 {
        return Err(Problem::Unsupported("compressed cluster".into()));
    }
    let offset = entry & OFFSET_MASK;
    let host = geometry.host_cluster(entry);
    if entry & L2_RESERVED != 0
        || offset & (geometry.cluster_size() - 1) != 0
        || (entry & ZERO != 0 && version < 3)
    {
        let problem = format!("entry {entry:#018x}: reserved bits are set, or it points into a cluster");
        return Err(Problem::Invalid(problem));
    }
    Ok(match (entry & ZERO != 0, offset != 0) {
        (true, false) => Kind::Zero,
        (true, true) => Kind::ZeroAllocated(host),
        (false, false) => Kind::Absent,
        (false, true) => Kind::Data { host, copied: entry & COPIED != 0 },
    })
}

/// What a run that began as `kind` must be `clusters` later to go on.
fn advance(kind: Kind, clusters: u64) -> Kind {
    match kind {
        Kind::Absent | Kind::Zero => kind,
        Kind::ZeroAllocated(host) => Kind::ZeroAllocated(host + clusters),
        Kind::Data { host, copied } => Kind::Data { host: host + clusters, copied },
    }
}

/// How many entries go on as the first one begins: the same, or pointing one cluster further each.
fn count_alike(entries: &[u64], cluster_size: u64) -> usize {
    let step = if entries[0] & OFFSET_MASK == 0 { 0 } else { cluster_size };
    let mut expected = entries[0];
    entries
        .iter()
        .take_while(|entry| {
            let alike = **entry == expected;
            expected = expected.wrapping_add(step);
            alike
        })
        .count()
}

/// The last cluster of a run that is not empty.
fn last_of(run: &GuestRun) -> GuestCluster {
    GuestCluster(run.end.0 - 1)
}

/// Adds a run behind others, merging it with the last one if that ends where it begins.
pub(super) fn push_run<A: Array<Item = HostRun>>(runs: &mut SmallVec<A>, run: HostRun) {
    match runs.last_mut() {
        _ if run.is_empty() => {}
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

/// Takes the first cluster off runs that are not empty.
fn take_first(runs: &mut SmallVec<[HostRun; 1]>) -> HostCluster {
    let cluster = runs[0].start;
    runs[0].start += 1;
    if runs[0].is_empty() {
        runs.remove(0);
    }
    cluster
}
