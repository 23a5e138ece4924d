//! Host clusters for new data: set aside in one step, mapped in another, once the data is there.

use super::freeing::Freed;
use super::geometry::*;
use super::mapping::{ALL_ALLOCATED, CompressedData, L2Entry};
use super::state::{State, Stop, push_run, take_first};
use crate::byte_range::range_at;
use smallvec::SmallVec;
use std::ops::Range;

/// Where data of some subclusters is to go, which are mapped once it is there. It must be committed or released.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// Subclusters of the disk.
    pub guest: GuestRun,
    /// Bytes of the file of the data, together as long as the subclusters and in their order.
    pub host: SmallVec<[Range<u64>; 1]>,
    /// Clusters that no entry points at yet; they are free again if the reservation is given up.
    taken: HostRuns,
    /// The place of one compressed cluster.
    compressed: Option<CompressedData>,
    placed: Placed,
}

/// Clusters of the disk that got a host cluster when room for subclusters was set aside.
#[derive(Debug, Default)]
struct Placed {
    clusters: SmallVec<[Range<GuestCluster>; 1]>,
    /// Number of the batch that had been begun last.
    batch: u64,
}

impl Reservation {
    /// Of clusters that are mapped, as zeroes, and have their host clusters already.
    pub fn in_place(guest: GuestRun, host: Range<u64>) -> Self {
        let (taken, placed) = (SmallVec::new(), Placed::default());
        Reservation { guest, host: SmallVec::from_buf([host]), taken, compressed: None, placed }
    }
}

/// What a run needs that fits into the room there is.
struct Fitting {
    end: Subcluster,
    new_tables: SmallVec<[u64; 4]>,
    /// Host clusters for data.
    hosts: u64,
}

impl Fitting {
    /// Host clusters for data and tables.
    fn clusters(&self) -> u64 {
        self.hosts.saturating_add(self.new_tables.len() as u64)
    }
}

impl State {
    /// Sets places aside for the first subclusters of a run, all of them without data: as many as there is room for,
    /// `None` if there is none, or if the first one shares its host cluster with a snapshot.
    pub fn reserve(&mut self, run: GuestRun) -> Result<Option<Reservation>, Stop> {
        if !self.own_tables(&run)? {
            return Ok(None);
        }
        let run = self.before_shared(run)?;
        let wanted = self.fitting(&run, u64::MAX)?;
        let mut in_room = self.table_room_for(wanted.new_tables.len() as u64)?;
        let mut needed = wanted.clusters().saturating_sub(in_room);
        let mut free = self.find_free_beside(in_room, needed)?;
        if free.found < needed {
            (in_room, needed) = (0, wanted.clusters());
            free = self.find_free(needed)?;
        }
        let fitting = match free.found >= needed {
            true => wanted,
            false => self.fitting(&run, free.found)?,
        };
        if fitting.end == run.start {
            return Ok(None);
        }
        let mut host = self.take(&mut free, fitting.clusters().saturating_sub(in_room))?;
        // From here on nothing can fail. Tables first, so that table and data often are one run.
        for (number, index) in (0..).zip(fitting.new_tables) {
            let table = self.take_for_table(number < in_room, &mut host);
            self.add_table(index, table);
        }
        self.used = self.used.saturating_add(fitting.hosts);
        let guest = run.start..fitting.end;
        let reservation = match (self.data_file, self.geometry.has_subclusters()) {
            (_, true) => self.place_subclusters(guest, host),
            (true, false) => {
                let bytes = self.geometry.guest_offset(guest.start)..self.geometry.guest_offset(guest.end);
                Reservation::in_place(guest, bytes)
            }
            (false, false) => self.on_clusters(guest, host),
        };
        self.pin(&reservation);
        Ok(Some(reservation))
    }

    /// Sets new clusters aside for the first of some clusters that have data which others refer to as well, or which
    /// is compressed. What they refer to now is freed when the reservation is committed.
    pub fn reserve_replacement(
        &mut self,
        clusters: &Range<GuestCluster>,
    ) -> Result<Option<Reservation>, Stop> {
        let geometry = self.geometry;
        let guest = geometry.first_of_cluster(clusters.start)..geometry.first_of_cluster(clusters.end);
        if !self.own_tables(&guest)? {
            return Ok(None);
        }
        let mut free = self.find_free(length(clusters))?;
        if free.found == 0 {
            return Ok(None);
        }
        let wanted = free.found.min(length(clusters));
        let host = self.take(&mut free, wanted)?;
        self.used = self.used.saturating_add(wanted);
        let end = geometry.first_of_cluster(clusters.start + wanted);
        let reservation = self.on_clusters(guest.start..end, host);
        self.pin(&reservation);
        Ok(Some(reservation))
    }

    /// Sets a place aside for `bytes` bytes of compressed data: behind other such data if there is room.
    pub fn reserve_compressed(
        &mut self,
        cluster: GuestCluster,
        bytes: u64,
    ) -> Result<Option<Reservation>, Stop> {
        let geometry = self.geometry;
        let guest = geometry.first_of_cluster(cluster)..geometry.first_of_cluster(cluster + 1);
        if !self.own_tables(&guest)? {
            return Ok(None);
        }
        let new_table = self.l2_table(geometry.l1_index(cluster))? == 0;
        let behind = self.room_behind_compressed()?;
        let fits = |offset: &u64| length(&geometry.host_clusters(&range_at(*offset, bytes))) == 1;
        let within = behind.filter(fits);
        let needed = u64::from(within.is_none()).saturating_add(u64::from(new_table));
        let mut free = self.find_free(needed)?;
        if free.found < needed {
            return Ok(None);
        }
        let mut host = self.take(&mut free, needed)?;
        // It goes on in the next cluster, if that is free.
        let across = behind.filter(|offset| {
            let next = geometry.host_cluster_at(*offset) + 1;
            within.is_none() && host.first().is_some_and(|run| run.start == next)
        });
        if across.is_some() {
            take_first(&mut host);
        }
        if new_table {
            let table = take_first(&mut host);
            self.add_table(geometry.l1_index(cluster), table);
        }
        let offset = match within.or(across) {
            Some(offset) => {
                self.add_reference(geometry.host_cluster_at(offset));
                offset
            }
            None => geometry.host_offset(take_first(&mut host)),
        };
        let data = CompressedData { offset, bytes };
        let place = data.range();
        self.compressed_end = (!geometry.is_aligned(place.end)).then_some(place.end);
        let touched = geometry.host_clusters(&place);
        let reservation = Reservation {
            guest,
            host: SmallVec::from_elem(place, 1),
            taken: SmallVec::from_buf([touched]),
            compressed: Some(data),
            placed: Placed::default(),
        };
        self.pin(&reservation);
        Ok(Some(reservation))
    }

    /// Where compressed data ended last, within a cluster to which one more reference can be counted.
    fn room_behind_compressed(&mut self) -> Result<Option<u64>, Stop> {
        let Some(end) = self.compressed_end else { return Ok(None) };
        let cluster = self.geometry.host_cluster_at(end);
        Ok((self.refcount(cluster)? < self.geometry.width.max()).then_some(end))
    }

    /// Whether the cluster of a subcluster without data has a host cluster to which others refer as well.
    pub fn shares_host(&mut self, at: Subcluster) -> Result<bool, Stop> {
        Ok(self.before_shared(at..at + 1)?.is_empty())
    }

    /// The part of a run before the first cluster whose host cluster others refer to.
    fn before_shared(&mut self, run: GuestRun) -> Result<GuestRun, Stop> {
        let geometry = self.geometry;
        if !geometry.has_subclusters() {
            return Ok(run);
        }
        let clusters = geometry.clusters_of(&run);
        let mut cluster = clusters.start;
        while cluster < clusters.end {
            if self.l2_table(geometry.l1_index(cluster))? != 0 {
                let entry = self.entry(cluster)?;
                let is_shared = entry.has_host(self.data_file) && !entry.is_copied();
                if is_shared || entry.is_compressed() {
                    return Ok(run.start..geometry.first_of_cluster(cluster).max(run.start));
                }
            }
            cluster += 1;
        }
        Ok(run)
    }

    /// How much of a run fits if there are `room` free clusters for data and tables.
    fn fitting(&mut self, run: &GuestRun, room: u64) -> Result<Fitting, Stop> {
        let geometry = self.geometry;
        let mut left = room;
        let mut fitting = Fitting { end: run.start, new_tables: SmallVec::new(), hosts: 0 };
        if run.is_empty() {
            return Ok(fitting);
        }
        for index in self.table_indices(run) {
            let is_new = self.l2_table(index)? == 0;
            let Some(room) = left.checked_sub(u64::from(is_new)) else { break };
            let table_end = geometry.end_of_table(index).min(run.end);
            let (end, hosts) = self.hosts_that_fit(&(fitting.end..table_end), is_new, room)?;
            if end == fitting.end {
                break;
            }
            if is_new {
                fitting.new_tables.push(index);
            }
            left = room.saturating_sub(hosts);
            fitting.hosts = fitting.hosts.saturating_add(hosts);
            fitting.end = end;
            if end < table_end {
                break;
            }
        }
        Ok(fitting)
    }

    /// How far a run within one L2 table comes with `room` host clusters, and how many of them it needs for that.
    fn hosts_that_fit(&mut self, run: &GuestRun, is_new: bool, room: u64) -> Result<(Subcluster, u64), Stop> {
        let geometry = self.geometry;
        if self.data_file {
            return Ok((run.end, 0));
        }
        if !geometry.has_subclusters() {
            let hosts = length(run).min(room);
            return Ok((run.start + hosts, hosts));
        }
        let clusters = geometry.clusters_of(run);
        let (mut cluster, mut hosts) = (clusters.start, 0u64);
        while cluster < clusters.end {
            let needs_host = is_new || self.entry(cluster)?.offset() == 0;
            if needs_host && hosts == room {
                return Ok((geometry.first_of_cluster(cluster).max(run.start), hosts));
            }
            hosts = hosts.saturating_add(u64::from(needs_host));
            cluster += 1;
        }
        Ok((run.end, hosts))
    }

    /// A reservation of clusters that no entry points at yet.
    fn on_clusters(&self, guest: GuestRun, host: HostRuns) -> Reservation {
        let bytes = |run: &HostRun| self.geometry.host_offset(run.start)..self.geometry.host_offset(run.end);
        let places = host.iter().map(bytes).collect();
        Reservation { guest, host: places, taken: host, compressed: None, placed: Placed::default() }
    }

    /// A reservation of subclusters. Clusters of theirs that have no host cluster get one at once, in which nothing is
    /// allocated yet: as if it had always been there.
    fn place_subclusters(&mut self, guest: GuestRun, mut host: HostRuns) -> Reservation {
        let geometry = self.geometry;
        let mut bytes: SmallVec<[Range<u64>; 1]> = SmallVec::new();
        let mut placed = Placed { clusters: SmallVec::new(), batch: self.batches };
        let mut at = guest.start;
        while at < guest.end {
            let cluster = geometry.cluster_of(at);
            let mut entry = self.entry(cluster).unwrap_or_default();
            let cluster_offset = geometry.guest_offset(geometry.first_of_cluster(cluster));
            if !entry.has_host(self.data_file) {
                let offset = match self.data_file {
                    true => cluster_offset,
                    false => {
                        self.data_clusters = self.data_clusters.saturating_add(1);
                        geometry.host_offset(take_first(&mut host))
                    }
                };
                entry.word = offset | COPIED;
                self.set_entry(cluster, entry);
                push_run(&mut placed.clusters, cluster..cluster + 1);
            }
            let end = geometry.first_of_cluster(cluster + 1).min(guest.end);
            let within = geometry.guest_offset(at).saturating_sub(cluster_offset);
            let start = entry.offset().saturating_add(within);
            push_run(&mut bytes, range_at(start, geometry.guest_length(&(at..end))));
            at = end;
        }
        Reservation { guest, host: bytes, taken: SmallVec::new(), compressed: None, placed }
    }

    /// Keeps the L2 slices of a reservation in memory until it is committed or released.
    pub fn pin(&mut self, reservation: &Reservation) {
        self.slices_of(&reservation.guest).for_each(|slice| self.l2.pin(slice));
    }

    fn unpin(&mut self, reservation: &Reservation) {
        self.slices_of(&reservation.guest).for_each(|slice| self.l2.unpin(slice));
    }

    /// Maps a reservation whose data has been written. The subclusters for which `is_hole` holds were not: they read
    /// as zeroes. Clusters that are not needed after all are returned, to be freed; `is_shared` says which ones another
    /// operation is going to write to.
    pub fn commit(
        &mut self,
        reservation: &Reservation,
        is_hole: impl Fn(Subcluster) -> bool,
        is_shared: impl Fn(GuestCluster) -> bool,
    ) -> HostRuns {
        let mut unused = match (reservation.compressed, self.geometry.has_subclusters()) {
            (Some(data), _) => self.commit_compressed(reservation, data),
            (None, true) => self.commit_subclusters(reservation, is_hole),
            (None, false) => self.commit_clusters(reservation, is_hole),
        };
        unused.extend(self.give_back_empty(reservation, is_shared));
        self.unpin(reservation);
        unused
    }

    fn commit_clusters(
        &mut self,
        reservation: &Reservation,
        is_hole: impl Fn(Subcluster) -> bool,
    ) -> HostRuns {
        let geometry = self.geometry;
        let mut unused: HostRuns = SmallVec::new();
        let mut replaced: HostRuns = SmallVec::new();
        let mut mapped = 0u64;
        let mut at = reservation.guest.start;
        for host in &reservation.host {
            let mut rest = geometry.host_clusters(host);
            while !rest.is_empty() {
                let cluster = geometry.cluster_of(at);
                let slice = geometry.slice_of(cluster);
                let in_slice = geometry.clusters_of_slice(slice).end - cluster;
                let count = length(&rest).min(in_slice);
                // Pinned since it was reserved.
                let Some(words) = self.l2.get_mut(slice) else { break };
                let first = geometry.index_in_slice(cluster);
                for (number, word) in (0..count).zip(words.iter_mut().skip(first)) {
                    let place = rest.start + number;
                    let offset = geometry.host_offset(place);
                    let old = L2Entry { word: *word, bitmap: 0 };
                    if is_hole(at + number) {
                        *word = ZERO;
                        push_run(&mut unused, place..place + 1);
                    } else {
                        *word = offset | COPIED;
                        mapped = mapped.saturating_add(1);
                    }
                    if old.word & (OFFSET_MASK | COMPRESSED) != 0 && old.offset() != offset {
                        push_run(&mut replaced, old.references(&geometry, self.data_file));
                    }
                }
                at += count;
                rest.start += count;
            }
        }
        self.freed.extend(replaced.into_iter().map(Freed::reference));
        if !reservation.taken.is_empty() {
            self.data_clusters = self.data_clusters.saturating_add(mapped);
        }
        self.add_unpublished(mapped << geometry.cluster_bits);
        if reservation.taken.is_empty() { SmallVec::new() } else { unused }
    }

    fn commit_subclusters(
        &mut self,
        reservation: &Reservation,
        is_hole: impl Fn(Subcluster) -> bool,
    ) -> HostRuns {
        let geometry = self.geometry;
        let replaces = !reservation.taken.is_empty();
        let mut offsets =
            reservation.host.iter().flat_map(|bytes| bytes.clone().step_by(geometry.cluster_size() as usize));
        let mut at = reservation.guest.start;
        while at < reservation.guest.end {
            let cluster = geometry.cluster_of(at);
            let end = geometry.first_of_cluster(cluster + 1).min(reservation.guest.end);
            let Ok(mut entry) = self.entry(cluster) else { break };
            if replaces {
                let old = entry.references(&geometry, self.data_file);
                if !old.is_empty() {
                    self.freed.push(Freed::reference(old));
                }
                entry = L2Entry { word: offsets.next().unwrap_or(0) | COPIED, bitmap: ALL_ALLOCATED };
                self.data_clusters = self.data_clusters.saturating_add(1);
                self.add_unpublished(geometry.cluster_size());
            } else {
                for number in 0..end - at {
                    let bit = 1u64 << geometry.within_cluster(at + number);
                    let (set, clear) = if is_hole(at + number) { (bit << 32, bit) } else { (bit, bit << 32) };
                    entry.bitmap = entry.bitmap & !clear | set;
                }
                self.add_unpublished(geometry.guest_length(&(at..end)));
            }
            self.set_entry(cluster, entry);
            at = end;
        }
        SmallVec::new()
    }

    fn commit_compressed(&mut self, reservation: &Reservation, data: CompressedData) -> HostRuns {
        let geometry = self.geometry;
        let cluster = geometry.cluster_of(reservation.guest.start);
        let Ok(old) = self.entry(cluster) else { return SmallVec::new() };
        let references = old.references(&geometry, self.data_file);
        if !references.is_empty() {
            self.freed.push(Freed::reference(references));
        }
        self.set_entry(cluster, L2Entry::of_compressed(data, geometry.cluster_bits));
        self.add_unpublished(data.bytes);
        SmallVec::new()
    }

    /// Takes note of guest data that is to be published.
    pub(super) fn add_unpublished(&mut self, bytes: u64) {
        self.unpublished = self.unpublished.saturating_add(bytes);
    }

    /// Gives a reservation up; its clusters are returned, to be freed, but those that `is_shared` with other operations.
    pub fn release(
        &mut self,
        reservation: &Reservation,
        is_shared: impl Fn(GuestCluster) -> bool,
    ) -> HostRuns {
        let mut unused = reservation.taken.clone();
        unused.extend(self.give_back_empty(reservation, is_shared));
        self.unpin(reservation);
        unused
    }

    /// Takes host clusters away that were given to clusters for subclusters of which none has data now. Those of a cache
    /// that no batch can have published are returned, to be freed at once: where one hole is read after the other, they
    /// would take more room than data does.
    fn give_back_empty(
        &mut self,
        reservation: &Reservation,
        is_shared: impl Fn(GuestCluster) -> bool,
    ) -> HostRuns {
        let geometry = self.geometry;
        let mut unpublished: HostRuns = SmallVec::new();
        let is_placed = reservation.taken.is_empty() && reservation.compressed.is_none();
        if !geometry.has_subclusters() || self.data_file || !is_placed {
            return unpublished;
        }
        let Placed { clusters: placed, batch } = &reservation.placed;
        // Of an image that guests write, requests may still be using them: it keeps to the long way.
        let is_unpublished = self.tables.is_none() && *batch == self.batches;
        let is_new = |cluster| is_unpublished && placed.iter().any(|run| run.contains(&cluster));
        let clusters = geometry.clusters_of(&reservation.guest);
        for cluster in (clusters.start.0..clusters.end.0).map(GuestCluster) {
            let Ok(entry) = self.entry(cluster) else { continue };
            let is_empty = entry.bitmap & ALL_ALLOCATED == 0 && entry.offset() != 0;
            if is_empty && entry.is_copied() && !is_shared(cluster) {
                let host = entry.references(&geometry, false);
                match is_new(cluster) {
                    true => push_run(&mut unpublished, host),
                    false => self.freed.push(Freed::reference(host)),
                }
                self.set_entry(cluster, L2Entry { word: 0, ..entry });
                self.data_clusters = self.data_clusters.saturating_sub(1);
            }
        }
        unpublished
    }
}
