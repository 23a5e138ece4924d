//! Free clusters and refcounts.

use super::geometry::*;
use super::state::{Missing, State, Stop, push_run};
use smallvec::SmallVec;

/// Free host clusters that a step may take.
#[derive(Debug, Default)]
pub(super) struct FreeClusters {
    pub runs: SmallVec<[HostRun; 2]>,
    /// Refcount blocks that do not exist yet, each with the free cluster where it is to lie.
    pub blocks: SmallVec<[(u64, HostCluster); 2]>,
    pub found: u64,
    /// What is left for such blocks of the room for tables.
    pub table_room: HostRun,
    /// Where the search ended.
    end: HostCluster,
}

impl State {
    /// Looks for `wanted` free clusters from the hint on; fewer are found only where the limit is reached.
    pub(super) fn find_free(&mut self, wanted: u64) -> Result<FreeClusters, Stop> {
        let free = self.find_free_beside(0, wanted)?;
        if free.found == wanted || self.table_room.is_empty() {
            return Ok(free);
        }
        self.give_up_table_room();
        self.find_free_beside(0, wanted)
    }

    /// The same, of clusters that are not kept for tables, of which `tables` are going to be used.
    pub(super) fn find_free_beside(&mut self, tables: u64, wanted: u64) -> Result<FreeClusters, Stop> {
        let geometry = self.geometry;
        let kept = self.table_room.clone();
        let mut free = FreeClusters {
            end: self.free_hint,
            table_room: kept.start + tables..kept.end,
            ..Default::default()
        };
        while free.found < wanted && free.end < self.limit {
            if kept.contains(&free.end) {
                free.end = kept.end;
                continue;
            }
            let limit = if free.end < kept.start { kept.start.min(self.limit) } else { self.limit };
            let block = geometry.block_of(free.end);
            let Some(entry) = self.refcount_table.get(block as usize) else {
                return Err(Missing::RefcountTable.into());
            };
            let left = wanted.saturating_sub(free.found);
            if entry & OFFSET_MASK == 0 {
                // Nothing is counted there, so everything is free.
                let place = free.place_of_block(free.end);
                let start = if place == free.end { place + 1 } else { free.end };
                if place != free.end {
                    self.refcount(place)?;
                }
                free.blocks.push((block, place));
                let end = geometry.clusters_of_block(block).end.min(limit).min(start + left).max(start);
                push_run(&mut free.runs, start..end);
                free.found = free.found.saturating_add(end - start);
                free.end = end;
                continue;
            }
            let slice = geometry.block_slice_of(free.end);
            let counts = self.refcounts.get(slice).ok_or(Missing::RefcountSlice(slice))?;
            let base = geometry.first_of_block_slice(slice);
            let end = (1usize << geometry.block_slice_bits).min((limit - base) as usize);
            let mut at = (free.end - base) as usize;
            let mut left = left as usize;
            while at < end && left > 0 {
                let start = at;
                at = geometry.width.find(counts, at, end.min(at.saturating_add(left)), false);
                push_run(&mut free.runs, base + start as u64..base + at as u64);
                let passed = at.saturating_sub(start);
                left = left.saturating_sub(passed);
                free.found = free.found.saturating_add(passed as u64);
                if left > 0 {
                    at = geometry.width.find(counts, at, end, true);
                }
            }
            free.end = base + at as u64;
        }
        // Everything before the first free cluster is in use: the next search need not look there again.
        let blocks = free.blocks.iter().map(|(_, cluster)| *cluster).find(|cluster| !kept.contains(cluster));
        let first = free.runs.first().map(|run| run.start).into_iter().chain(blocks).min();
        self.free_hint = first.unwrap_or(free.end);
        Ok(free)
    }

    /// Takes the first `wanted` clusters of what was found, with the refcount blocks that they need. It fails, and takes
    /// nothing, if one of them holds a table: then the refcounts are wrong.
    pub(super) fn take(&mut self, free: &mut FreeClusters, wanted: u64) -> Result<HostRuns, Stop> {
        let mut taken = HostRuns::new();
        let mut left = wanted;
        for run in &free.runs {
            let take = left.min(length(run));
            push_run(&mut taken, run.start..run.start + take);
            left = left.saturating_sub(take);
        }
        let end = taken.last().map_or(self.free_hint, |run| run.end);
        let blocks = free.blocks.iter().filter(|(block, _)| self.geometry.first_of_block(*block) < end);
        for run in taken.iter().cloned().chain(blocks.clone().map(|(_, cluster)| *cluster..*cluster + 1)) {
            self.check_no_table(&run)?;
        }
        for (block, cluster) in blocks.cloned().collect::<SmallVec<[_; 2]>>() {
            if self.table_room.contains(&cluster) {
                self.table_room.end = cluster;
            }
            self.add_block(block, cluster);
        }
        for run in &taken {
            self.set_refcounts(run.clone(), 1);
        }
        self.free_hint = if wanted == free.found { free.end } else { end };
        Ok(taken)
    }

    /// Whether there is a refcount block of this number.
    fn has_block(&self, block: u64) -> Result<bool, Stop> {
        let entry = self.refcount_table.get(block as usize).ok_or(Missing::RefcountTable)?;
        Ok(entry & OFFSET_MASK != 0)
    }

    /// Adds an empty refcount block in a free cluster, whose own refcount it may be.
    pub(super) fn add_block(&mut self, block: u64, cluster: HostCluster) {
        if let Some(entry) = self.refcount_table.get_mut(block as usize) {
            *entry = self.geometry.host_offset(cluster);
        }
        self.mark_refcount_table(block);
        self.geometry.slices_of_block(block).for_each(|slice| self.refcounts.insert_zeroed(slice));
        self.set_refcounts(cluster..cluster + 1, 1);
        self.hold_table(cluster);
        self.used = self.used.saturating_add(1);
    }

    /// Takes `count` clusters in one run, all of them at or behind `from`, behind which little is in use. Refcount blocks
    /// that do not exist yet come to lie elsewhere: within the run they would interrupt it.
    pub(super) fn take_contiguous(&mut self, from: HostCluster, count: u64) -> Result<HostCluster, Stop> {
        let geometry = self.geometry;
        // The blocks themselves, and those that count them, lie before.
        let blocks = count >> geometry.block_bits;
        let start = from + blocks + blocks + 6;
        for block in geometry.block_of(start)..=geometry.block_of(start + count) {
            if self.has_block(block)? {
                continue;
            }
            let mut free = self.find_free(1)?;
            for run in self.take(&mut free, 1)? {
                if self.has_block(block)? {
                    // The search came as far as what the block counts, and so it has a place already.
                    self.free_hint = self.free_hint.min(run.start);
                    self.set_refcounts(run, 0);
                } else {
                    self.add_block(block, run.start);
                }
            }
        }
        let hint = std::mem::replace(&mut self.free_hint, start);
        let found = self.find_free(count);
        let taken = found.and_then(|mut free| self.take(&mut free, count));
        self.free_hint = hint;
        match taken?.as_slice() {
            [run] if length(run) == count => Ok(run.start),
            runs => {
                let offset = geometry.host_offset(runs.first().map_or(start, |run| run.start));
                let problem = "it is in use, although it lies behind the end of the file".to_owned();
                Err(Stop::Invalid { structure: "host cluster", offset, problem })
            }
        }
    }

    /// Sets the refcounts of clusters whose slices are in memory.
    pub(super) fn set_refcounts(&mut self, run: HostRun, count: u64) {
        let geometry = self.geometry;
        let mut at = run.start;
        while at < run.end {
            let slice = geometry.block_slice_of(at);
            let base = geometry.first_of_block_slice(slice);
            let end = geometry.clusters_of_block_slice(slice).end.min(run.end);
            if let Some(counts) = self.refcounts.get_mut(slice) {
                geometry.width.fill(counts, (at - base) as usize..(end - base) as usize, count);
            }
            at = end;
        }
    }

    /// The refcount of a cluster.
    pub(super) fn refcount(&mut self, cluster: HostCluster) -> Result<u64, Stop> {
        let geometry = self.geometry;
        let slice = geometry.block_slice_of(cluster);
        let counts = self.refcounts.get(slice).ok_or(Missing::RefcountSlice(slice))?;
        Ok(geometry.width.get(counts, (cluster - geometry.first_of_block_slice(slice)) as usize))
    }

    /// Counts one more reference to a cluster whose slice is in memory and whose refcount is below the largest.
    pub(super) fn add_reference(&mut self, cluster: HostCluster) {
        if let Ok(count) = self.refcount(cluster) {
            self.set_refcounts(cluster..cluster + 1, count.saturating_add(1));
        }
    }

    /// Counts one reference less to the first clusters of a run, as many as one slice counts; returns where they end.
    /// Those that nothing refers to any more are free at once: nothing may point at them or write into them.
    pub(super) fn remove_references(&mut self, run: &HostRun) -> Result<HostCluster, Stop> {
        let geometry = self.geometry;
        let slice = geometry.block_slice_of(run.start);
        let base = geometry.first_of_block_slice(slice);
        let end = geometry.clusters_of_block_slice(slice).end.min(run.end);
        let counts = self.refcounts.get_mut(slice).ok_or(Missing::RefcountSlice(slice))?;
        for index in run.start - base..end - base {
            let count = geometry.width.get(counts, index as usize);
            geometry.width.set(counts, index as usize, count.saturating_sub(1));
            if count == 1 {
                let cluster = base + index;
                self.free_hint = self.free_hint.min(cluster);
                self.used = self.used.saturating_sub(1);
                if let Some(tables) = &mut self.tables {
                    tables.unmark(cluster);
                }
                if self.compressed_end.is_some_and(|end| geometry.host_cluster_at(end) == cluster) {
                    self.compressed_end = None;
                }
            }
        }
        Ok(end)
    }
}
