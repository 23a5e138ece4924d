//! Free clusters and refcounts.

use super::geometry::*;
use super::state::{FreeClusters, Missing, State, Stop, push_run};
use smallvec::SmallVec;

impl State {
    /// Looks for `wanted` free clusters from the hint on; fewer are found only where the limit is reached.
    pub(super) fn find_free(&mut self, wanted: u64) -> Result<FreeClusters, Stop> {
        let geometry = self.geometry;
        let mut free = FreeClusters { end: self.free_hint, ..Default::default() };
        while free.found < wanted && free.end < self.limit {
            let block = geometry.block_of(free.end);
            let Some(entry) = self.refcount_table.get(block as usize) else {
                return Err(Missing::RefcountTable.into());
            };
            let left = wanted - free.found;
            if entry & OFFSET_MASK == 0 {
                // Nothing is counted there, so everything is free; the block itself takes the first cluster.
                free.blocks.push((block, free.end));
                let start = free.end + 1;
                let end = geometry.first_of_block(block + 1).min(self.limit).min(start + left).max(start);
                push_run(&mut free.runs, start..end);
                free.found += end - start;
                free.end = end;
                continue;
            }
            let slice = geometry.block_slice_of(free.end);
            let counts = self.refcounts.get(slice).ok_or(Missing::RefcountSlice(slice))?;
            let base = geometry.first_of_block_slice(slice);
            let end = counts.len().min((self.limit - base) as usize);
            let mut at = (free.end - base) as usize;
            let mut left = left as usize;
            while at < end && left > 0 {
                let start = at;
                at += counts[at..end.min(at + left)].iter().take_while(|count| **count == 0).count();
                push_run(&mut free.runs, base + start as u64..base + at as u64);
                left -= at - start;
                free.found += (at - start) as u64;
                if left > 0 {
                    at += counts[at..end].iter().take_while(|count| **count != 0).count();
                }
            }
            free.end = base + at as u64;
        }
        // Everything before the first free cluster is in use: the next search need not look there again.
        let blocks = free.blocks.first().map(|(_, cluster)| *cluster);
        let first = free.runs.first().map(|run| run.start).into_iter().chain(blocks).min();
        self.free_hint = first.unwrap_or(free.end);
        Ok(free)
    }

    /// Takes the first `wanted` clusters of what was found, with the refcount blocks that they need.
    pub(super) fn take(&mut self, free: &mut FreeClusters, wanted: u64) -> SmallVec<[HostRun; 1]> {
        let mut taken: SmallVec<[HostRun; 1]> = SmallVec::new();
        let mut left = wanted;
        for run in &free.runs {
            let take = left.min(length(run));
            push_run(&mut taken, run.start..run.start + take);
            left -= take;
        }
        let end = taken.last().map_or(self.free_hint, |run| run.end);
        for (block, cluster) in free.blocks.iter().filter(|(_, cluster)| *cluster < end) {
            self.add_block(*block, *cluster);
        }
        for run in &taken {
            self.set_refcounts(run.clone(), 1);
        }
        self.free_hint = if wanted == free.found { free.end } else { end };
        taken
    }

    /// Adds an empty refcount block that lies in a cluster which it counts itself.
    pub(super) fn add_block(&mut self, block: u64, cluster: HostCluster) {
        self.refcount_table[block as usize] = self.geometry.host_offset(cluster);
        self.mark_refcount_table(block);
        self.geometry.slices_of_block(block).for_each(|slice| self.refcounts.insert_zeroed(slice));
        self.set_refcounts(cluster..cluster + 1, 1);
        self.used += 1;
    }

    /// Sets the refcounts of clusters whose slices are in memory.
    pub(super) fn set_refcounts(&mut self, run: HostRun, count: u16) {
        let geometry = self.geometry;
        let mut at = run.start;
        while at < run.end {
            let slice = geometry.block_slice_of(at);
            let end = geometry.first_of_block_slice(slice + 1).min(run.end);
            let base = geometry.first_of_block_slice(slice);
            if let Some(counts) = self.refcounts.get_mut(slice) {
                counts[(at - base) as usize..(end - base) as usize].fill(count);
            }
            at = end;
        }
    }

    /// Frees the first clusters of a run that nothing points at and nothing writes into, as many as one
    /// slice counts; returns the end of what was freed.
    pub(super) fn free(&mut self, run: &HostRun) -> Result<HostCluster, Stop> {
        let slice = self.geometry.block_slice_of(run.start);
        if !self.refcounts.contains(slice) {
            return Err(Missing::RefcountSlice(slice).into());
        }
        let end = self.geometry.first_of_block_slice(slice + 1).min(run.end);
        self.set_refcounts(run.start..end, 0);
        self.free_hint = self.free_hint.min(run.start);
        self.used = self.used.saturating_sub(end - run.start);
        Ok(end)
    }
}
