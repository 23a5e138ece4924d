//! What the file of an image gives back once its disk has become smaller: L2 tables that map nothing any more, refcount
//! blocks that count nothing any more, and what lies behind the last cluster in use.
//!
//! 1. L1 entries of the tables become zero, as a batch in which the tables are freed.
//! 2. The refcount table without the blocks is written; a barrier.
//! 3. Only then memory forgets the blocks, and their own clusters are free: the storage points at them no more. The table
//!    in memory counts as changed meanwhile: whatever happens between, the next batch writes it as memory has it.
//! 4. Refcounts that became lower are published; a barrier. A cluster that is free in memory is one that nothing in the
//!    storage refers to (see [`super::freeing`]), so that the file can be cut off behind the last one that is not.
//!
//! A power cut between two of them leaves clusters that are counted and unreachable, or a file that is longer than needed.

use super::freeing::Freed;
use super::geometry::*;
use super::image::Image;
use super::pieces::Pieces;
use super::state::{Missing, State, Stop};
use crate::error::Result;
use crate::storage::{MetadataKind, Storage};
use std::collections::BTreeSet;
use std::ops::Range;

impl<S: Storage> Image<S> {
    /// Drops empty L2 tables of a part of the disk that there is no more, drops empty refcount blocks, and cuts the file
    /// off behind the last cluster in use. Only in a turn, and while nothing is in flight.
    pub(super) async fn give_back(&self, lost: Range<GuestCluster>) -> Result<()> {
        let tables = {
            let mut state = self.state.borrow_mut();
            // It may lie where a dropped block counts.
            state.give_up_table_room();
            state.tables_between(&lost)
        };
        for index in tables {
            self.with_metadata(|state| state.drop_if_empty(index)).await?;
        }
        self.publish_pending(true).await?;
        let mut candidates = self.state.borrow().counting_blocks();
        while !candidates.is_empty() {
            let empty = self.empty_blocks(candidates).await?;
            candidates = self.drop_blocks(&empty).await?;
        }
        self.cut_off().await
    }

    async fn empty_blocks(&self, candidates: BTreeSet<u64>) -> Result<Vec<u64>> {
        let mut empty = Vec::new();
        for block in candidates {
            if self.with_metadata(|state| state.counts_nothing(block)).await? {
                empty.push(block);
            }
        }
        Ok(empty)
    }

    /// Drops refcount blocks; returns those that count fewer clusters now, since they counted a dropped one.
    async fn drop_blocks(&self, blocks: &[u64]) -> Result<BTreeSet<u64>> {
        let mut fewer = BTreeSet::new();
        if blocks.is_empty() {
            return Ok(fewer);
        }
        self.write_table_without(blocks).await?;
        for block in blocks {
            let place = self.with_metadata(|state| state.forget_block(*block)).await?;
            if let Some(place) = place {
                self.remove_references(&[place..place + 1]).await;
                fewer.insert(self.geometry.block_of(place));
            }
        }
        Ok(fewer)
    }

    async fn write_table_without(&self, blocks: &[u64]) -> Result<()> {
        self.publish_refcount_table().await?;
        let (sectors, table) = {
            let mut state = self.state.borrow_mut();
            let mut table = state.refcount_table.clone();
            for block in blocks {
                set_entry(&mut table, *block, 0);
                state.mark_refcount_table(*block);
            }
            (state.refcount_table_dirty.clone(), table)
        };
        let pieces = Pieces::of_sectors(sectors, &table, self.header.borrow().refcount_table_offset);
        self.write_all(MetadataKind::RefcountTable, &pieces).await?;
        self.barrier().await
    }

    async fn cut_off(&self) -> Result<()> {
        self.publish_pending(true).await?;
        let end = self.geometry.host_offset(self.end_of_use().await?);
        let length = self.storage.len().await.map_err(self.blame.io("reading the length", 0))?;
        if end < length {
            self.storage.set_len(end).await.map_err(self.blame.io("shortening the file", end))?;
            self.file_len.set(end);
            self.barrier().await?;
        }
        Ok(())
    }

    /// Where the last cluster ends that is counted, or holds a table.
    async fn end_of_use(&self) -> Result<HostCluster> {
        let (blocks, tables) = {
            let state = self.state.borrow();
            (state.counting_blocks(), state.tables.as_ref().map_or(HostCluster(0), |tables| tables.end()))
        };
        for slice in blocks.into_iter().rev().flat_map(|block| self.geometry.slices_of_block(block).rev()) {
            let end = self.with_metadata(|state| state.end_of_use_in(slice)).await?;
            if let Some(end) = end {
                return Ok(end.max(tables));
            }
        }
        Ok(tables)
    }
}

impl State {
    /// The L2 tables that there are of some guest clusters, as indices into the L1 table.
    fn tables_between(&self, clusters: &Range<GuestCluster>) -> Vec<u64> {
        let geometry = self.geometry;
        let exists = |index: &u64| self.l1.get(*index as usize).is_some_and(|entry| entry & OFFSET_MASK != 0);
        geometry.l1_indices(clusters).filter(exists).collect()
    }

    /// Drops an L2 table in which nothing is mapped.
    fn drop_if_empty(&mut self, index: u64) -> Result<(), Stop> {
        let table = self.geometry.host_cluster(self.l2_table(index)?);
        if !self.maps_nothing(&self.geometry.clusters_of_table(index))? {
            return Ok(());
        }
        self.geometry.slices_of_table(index).for_each(|slice| self.l2.remove(slice));
        set_entry(&mut self.l1, index, 0);
        self.mark_l1(index);
        self.freed.push(Freed::reference(table..table + 1));
        Ok(())
    }

    /// The refcount blocks that there are, as indices into the refcount table.
    fn counting_blocks(&self) -> BTreeSet<u64> {
        let entries = (0..).zip(&self.refcount_table);
        entries.filter(|(_, entry)| **entry & OFFSET_MASK != 0).map(|(block, _)| block).collect()
    }

    fn place_of_block(&self, block: u64) -> HostCluster {
        let entry = self.refcount_table.get(block as usize).copied().unwrap_or(0);
        self.geometry.host_cluster(entry)
    }

    /// Whether a refcount block counts nothing but itself, if it lies among the clusters that it counts.
    fn counts_nothing(&mut self, block: u64) -> Result<bool, Stop> {
        let (geometry, own) = (self.geometry, self.place_of_block(block));
        for slice in geometry.slices_of_block(block) {
            let counts = self.refcounts.get(slice).ok_or(Missing::RefcountSlice(slice))?;
            let is_empty = match geometry.block_slice_of(own) == slice {
                true => {
                    let own = (own - geometry.first_of_block_slice(slice)) as usize;
                    let is_right = |index| geometry.width.get(counts, index) == u64::from(index == own);
                    (0..1 << geometry.block_slice_bits).all(is_right)
                }
                false => counts.iter().all(|byte| *byte == 0),
            };
            if !is_empty {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets a refcount block, if it is still empty; returns its cluster if another block counts that.
    fn forget_block(&mut self, block: u64) -> Result<Option<HostCluster>, Stop> {
        let place = self.place_of_block(block);
        if !self.counts_nothing(block)? {
            return Ok(None);
        }
        let counts_itself = self.geometry.block_of(place) == block;
        if counts_itself {
            self.remove_references(&(place..place + 1))?;
        }
        self.geometry.slices_of_block(block).for_each(|slice| self.refcounts.remove(slice));
        set_entry(&mut self.refcount_table, block, 0);
        Ok((!counts_itself).then_some(place))
    }

    /// Where the last cluster in use ends that a refcount slice counts.
    fn end_of_use_in(&mut self, slice: u64) -> Result<Option<HostCluster>, Stop> {
        let geometry = self.geometry;
        let counts = self.refcounts.get(slice).ok_or(Missing::RefcountSlice(slice))?;
        let last =
            (0..1usize << geometry.block_slice_bits).rfind(|index| geometry.width.get(counts, *index) != 0);
        Ok(last.map(|last| geometry.first_of_block_slice(slice) + last as u64 + 1))
    }
}

fn set_entry(table: &mut [u64], index: u64, entry: u64) {
    if let Some(place) = table.get_mut(index as usize) {
        *place = entry;
    }
}
