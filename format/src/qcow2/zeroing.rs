//! Clusters that are to read as zeroes, or that the guest no longer needs.

use super::freeing::Freed;
use super::geometry::*;
use super::mapping::{ALL_ZERO, L2Entry};
use super::state::{Missing, State, Stop};
use std::ops::Range;

/// How far a step that makes zeroes came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZeroStep {
    /// Done up to there.
    Done(Subcluster),
    /// Up to there, zeroes have to be written: a part of a compressed cluster cannot be marked.
    ToBeWritten(Subcluster),
    /// There is no room for a table.
    NoRoom,
}

impl State {
    /// Makes the first subclusters of a run, as many as lie in one L2 table, read as zeroes. Their host clusters stay
    /// in reserve, unless `unmap` says that whole clusters shall give them back.
    pub fn set_zero(&mut self, run: &GuestRun, unmap: bool) -> Result<ZeroStep, Stop> {
        let geometry = self.geometry;
        let (index, run) = self.within_table(run);
        if self.l2_table(index)? == 0 {
            let Some(table) = self.take_table()? else { return Ok(ZeroStep::NoRoom) };
            self.add_table(index, table);
        } else if !self.own_tables(&run)? {
            return Ok(ZeroStep::NoRoom);
        }
        let mut at = run.start;
        while at < run.end {
            let marked = self.mark_zero(&(at..run.end), unmap)?;
            if marked > 0 {
                at += marked;
                continue;
            }
            let cluster = geometry.cluster_of(at);
            let end = geometry.first_of_cluster(cluster + 1).min(run.end);
            let is_whole =
                at == geometry.first_of_cluster(cluster) && end == geometry.first_of_cluster(cluster + 1);
            let entry = self.entry(cluster)?;
            if entry.is_compressed() && !is_whole {
                // What precedes is done first.
                return Ok(if at > run.start { ZeroStep::Done(at) } else { ZeroStep::ToBeWritten(end) });
            }
            let gives_back = is_whole && (entry.is_compressed() || (unmap && !self.data_file));
            let zeroed = match (gives_back, geometry.has_subclusters()) {
                (true, _) => {
                    self.free_data(entry, unmap);
                    self.zero_entry()
                }
                (false, false) => L2Entry { word: entry.word | ZERO, bitmap: 0 },
                (false, true) => {
                    let low = lowest((end - at) as u32) << geometry.within_cluster(at);
                    L2Entry { word: entry.word, bitmap: entry.bitmap & !low | low << 32 }
                }
            };
            if zeroed != entry {
                self.set_entry(cluster, zeroed);
            }
            at = end;
        }
        Ok(ZeroStep::Done(at))
    }

    /// Marks the first of some clusters, as many as lie in one slice, as zero, up to the first one for which that is not
    /// all there is to do; returns how many.
    fn mark_zero(&mut self, run: &GuestRun, unmap: bool) -> Result<u64, Stop> {
        let geometry = self.geometry;
        if geometry.has_subclusters() {
            return Ok(0);
        }
        let cluster = geometry.cluster_of(run.start);
        let (slice, first) = (geometry.slice_of(cluster), geometry.index_in_slice(cluster));
        let needs_mark_alone = |word: &&u64| match unmap && !self.data_file {
            true => **word & !ZERO == 0,
            false => **word & COMPRESSED == 0,
        };
        let words = self.l2.get(slice).ok_or(Missing::L2Slice(slice))?;
        let words = words.get(first..).unwrap_or_default();
        let count = words.iter().take(length(run) as usize).take_while(needs_mark_alone).count();
        let changed = words.iter().take(count).any(|word| word & ZERO == 0);
        if changed && let Some(words) = self.l2.get_mut(slice) {
            words.iter_mut().skip(first).take(count).for_each(|word| *word |= ZERO);
        }
        Ok(count as u64)
    }

    /// Takes the data of the first of some whole clusters, as many as lie in one L2 table, away. They read as zeroes
    /// from now on, those of version 2 without a backing file because nothing is there; with a backing file, version 2
    /// has no such state, and they stay.
    pub fn discard(&mut self, clusters: &GuestRun, is_backed: bool) -> Result<ZeroStep, Stop> {
        if is_backed && self.version >= 3 {
            return self.set_zero(clusters, true);
        }
        if is_backed || self.data_file {
            return Ok(ZeroStep::Done(self.within_table(clusters).1.end));
        }
        let emptied = if self.version >= 3 { self.zero_entry() } else { L2Entry::default() };
        let has_data = |entry: L2Entry| entry.is_compressed() || entry.offset() != 0;
        self.take_data(clusters, has_data, emptied)
    }

    /// Takes the data of the first of some whole clusters away, as many as lie in one L2 table: nothing is mapped there.
    pub fn unmap(&mut self, clusters: &GuestRun) -> Result<ZeroStep, Stop> {
        let nothing = L2Entry::default();
        self.take_data(clusters, |entry| entry != nothing, nothing)
    }

    /// Puts `emptied` in the place of those entries of the first of some whole clusters, as many as lie in one L2 table,
    /// for which `is_to_go` holds.
    fn take_data(
        &mut self,
        clusters: &GuestRun,
        is_to_go: impl Fn(L2Entry) -> bool,
        emptied: L2Entry,
    ) -> Result<ZeroStep, Stop> {
        let (index, run) = self.within_table(clusters);
        if self.l2_table(index)? == 0 {
            return Ok(ZeroStep::Done(run.end));
        }
        let range = self.geometry.clusters_of(&run);
        let mut cluster = self.first_for(&range, &is_to_go)?;
        // A table that stays as it is may stay shared.
        if cluster < range.end && !self.own_tables(&run)? {
            return Ok(ZeroStep::NoRoom);
        }
        while cluster < range.end {
            let entry = self.entry(cluster)?;
            self.free_data(entry, true);
            self.set_entry(cluster, emptied);
            cluster = self.first_for(&(cluster + 1..range.end), &is_to_go)?;
        }
        Ok(ZeroStep::Done(run.end))
    }

    /// Whether no entry of some clusters of one L2 table, which exists, says anything.
    pub(super) fn maps_nothing(&mut self, clusters: &Range<GuestCluster>) -> Result<bool, Stop> {
        Ok(self.first_for(clusters, &|entry| entry != L2Entry::default())? == clusters.end)
    }

    /// The first of some clusters of one L2 table for whose entry `holds` is true; the end of the range if there is none.
    fn first_for(
        &mut self,
        clusters: &Range<GuestCluster>,
        holds: &impl Fn(L2Entry) -> bool,
    ) -> Result<GuestCluster, Stop> {
        let geometry = self.geometry;
        let words_of_entry = if geometry.has_subclusters() { 2 } else { 1 };
        let skips_empty = !holds(L2Entry::default());
        let holds = |words: &[u64]| match words {
            [word] => holds(L2Entry { word: *word, bitmap: 0 }),
            [word, bitmap] => holds(L2Entry { word: *word, bitmap: *bitmap }),
            _ => false,
        };
        let mut cluster = clusters.start;
        while cluster < clusters.end {
            let slice = geometry.slice_of(cluster);
            let words = self.l2.get(slice).ok_or(Missing::L2Slice(slice))?;
            let first = geometry.index_in_slice(cluster);
            // All of a slice at once: large disks of nothing but empty tables are looked through as they shrink.
            if skips_empty && first == 0 && words.iter().fold(0, |bits, word| bits | word) == 0 {
                cluster = geometry.clusters_of_slice(slice).end;
                continue;
            }
            let entries = words.chunks_exact(words_of_entry).skip(first);
            match (0..).zip(entries).find(|(_, words)| holds(words)) {
                Some((number, _)) => return Ok((cluster + number).min(clusters.end)),
                None => cluster = geometry.clusters_of_slice(slice).end,
            }
        }
        Ok(clusters.end)
    }

    /// The index of the L2 table in which a run begins, and the part of the run that lies in it.
    fn within_table(&self, run: &GuestRun) -> (u64, GuestRun) {
        let geometry = self.geometry;
        let index = geometry.l1_index(geometry.cluster_of(run.start));
        (index, run.start..run.end.min(geometry.end_of_table(index)))
    }

    /// A whole cluster that reads as zeroes and has no host cluster.
    fn zero_entry(&self) -> L2Entry {
        match self.geometry.has_subclusters() {
            true => L2Entry { word: 0, bitmap: ALL_ZERO },
            false => L2Entry { word: ZERO, bitmap: 0 },
        }
    }

    fn free_data(&mut self, entry: L2Entry, discard: bool) {
        let clusters = entry.references(&self.geometry, self.data_file);
        if !clusters.is_empty() {
            // Sectors of compressed data are shared.
            let discard = discard && !entry.is_compressed() && entry.is_copied();
            match self.freed.last_mut() {
                Some(last) if last.clusters.end == clusters.start && last.discard == discard => {
                    last.clusters.end = clusters.end;
                }
                _ if discard => self.freed.push(Freed::discarded(clusters)),
                _ => self.freed.push(Freed::reference(clusters)),
            }
        }
    }
}
