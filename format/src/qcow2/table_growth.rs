//! A larger refcount table, when the old one can count no further cluster.

use super::geometry::*;
use super::header::{Header, MAX_REFCOUNT_TABLE_BYTES};
use super::image::{Image, Mode};
use super::slices::Entry;
use super::state::State;
use crate::byte_range::range_at;
use crate::error::Result;
use crate::storage::{MetadataKind, Storage};

/// Where the larger table and the blocks that count it lie: right behind what the old table can count.
struct Plan {
    first: HostCluster,
    blocks: u64,
    table_clusters: u64,
}

impl Plan {
    /// `wanted`: entries that there should be at least.
    fn new(geometry: &Geometry, old_entries: u64, wanted: u64) -> Self {
        let entries_per_cluster = geometry.cluster_size() / 8;
        let first = geometry.first_of_block(old_entries);
        let mut blocks = 1;
        loop {
            // Half as large again, so that it rarely happens; but the last table is as large as the format allows.
            let ample =
                old_entries.saturating_add(old_entries / 2).max(wanted).min(MAX_REFCOUNT_TABLE_BYTES / 8);
            let entries = ample.max(old_entries.saturating_add(blocks));
            let table_clusters = entries.div_ceil(entries_per_cluster);
            let needed = blocks.saturating_add(table_clusters).div_ceil(1 << geometry.block_bits);
            if needed <= blocks {
                return Plan { first, blocks, table_clusters };
            }
            blocks = needed;
        }
    }

    fn end(&self) -> HostCluster {
        self.first + self.blocks + self.table_clusters
    }

    fn clusters(&self) -> u64 {
        self.end() - self.first
    }
}

impl<S: Storage> Image<S> {
    /// Moves the refcount table to a larger place. Where the quota leaves no room for that, the image is full.
    ///
    /// The new blocks and the new table are durable before the header points at them, and the old table is
    /// free only once it no longer does.
    /// `full` is the number of entries of the table that was too short: it may have been moved meanwhile.
    pub(super) async fn grow_refcount_table(&self, full: usize) -> Result<()> {
        let _turn = self.publishing_turn().await;
        let is_still_full = self.state.borrow().refcount_table.len() == full;
        if is_still_full { self.grow().await } else { Ok(()) }
    }

    /// Entries that count the image once a guest has written all of its disk, if that is no large table: moving it
    /// several times costs more. A cache takes no room in advance.
    fn entries_in_the_end(&self) -> u64 {
        const MOST_BYTES: u64 = 64 << 10;
        if self.mode() != Mode::Write {
            return 0;
        }
        let geometry = self.geometry;
        let blocks_of = |clusters: u64| clusters.div_ceil(1 << geometry.block_bits);
        let data = self.size().div_ceil(geometry.cluster_size());
        let tables = data.div_ceil(1 << geometry.l2_bits).saturating_add(blocks_of(data));
        // Some room for the rest: header, L1 and refcount table.
        let blocks = blocks_of(data.saturating_add(tables)).saturating_add(2);
        blocks.min(MOST_BYTES / 8)
    }

    /// Publishes until the storage has the refcount table as it is in memory. Only in a turn.
    pub(super) async fn publish_refcount_table(&self) -> Result<()> {
        loop {
            self.publish_refcounts().await?;
            if self.state.borrow().refcount_table_dirty.is_empty() {
                return Ok(());
            }
        }
    }

    async fn grow(&self) -> Result<()> {
        // The new table is to point at nothing that a power cut could still lose.
        self.publish_refcount_table().await?;
        let geometry = self.geometry;
        let (old_entries, limit) = {
            let state = self.state.borrow();
            (state.refcount_table.len() as u64, state.limit)
        };
        let plan = Plan::new(&geometry, old_entries, self.entries_in_the_end());
        if plan.end() > limit {
            self.state.borrow_mut().limit = plan.first.min(limit);
            return Ok(());
        }
        let table_bytes = plan.table_clusters << geometry.cluster_bits;
        if table_bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(self.blame.refused("the refcount table would exceed 8 MiB: use larger clusters"));
        }
        let mut table = self.state.borrow().refcount_table.clone();
        table.resize((table_bytes / 8) as usize, 0);
        for (block, entry) in (0..plan.blocks).zip(table.iter_mut().skip(old_entries as usize)) {
            *entry = geometry.host_offset(plan.first + block);
        }
        let mut counts = vec![0u8; (plan.blocks << geometry.cluster_bits) as usize];
        geometry.width.fill(&mut counts, 0..plan.clusters() as usize, 1);
        let blocks_offset = geometry.host_offset(plan.first);
        let table_offset = geometry.host_offset(plan.first + plan.blocks);
        for (kind, offset, bytes) in [
            (MetadataKind::RefcountBlock, blocks_offset, counts.clone()),
            (MetadataKind::RefcountTable, table_offset, u64::encode(&table)),
        ] {
            let write = self.storage.write_metadata(kind, offset, &bytes).await;
            write.map_err(self.blame.io("writing a larger refcount table", offset))?;
            self.note_written(offset, bytes.len() as u64);
        }
        self.barrier().await?;
        let old = self.header();
        let header = Header {
            refcount_table_offset: table_offset,
            refcount_table_clusters: plan.table_clusters as u32,
            ..old.clone()
        };
        // Only now: had the header not been written, the old table would still be the one that counts.
        self.switch_header(header).await?;
        adopt(&mut self.state.borrow_mut(), table, &plan, &counts);
        let old_bytes = u64::from(old.refcount_table_clusters) << geometry.cluster_bits;
        let old_table = geometry.host_clusters(&range_at(old.refcount_table_offset, old_bytes));
        // The old table counts them, so that no growth can be needed.
        Box::pin(self.remove_references(&[old_table])).await;
        Ok(())
    }
}

fn adopt(state: &mut State, table: Vec<u64>, plan: &Plan, counts: &[u8]) {
    let slice_bytes = state.geometry.slice_bytes() as usize;
    // While the new table was written, entries may have been added to the old one.
    let mut table = table;
    let old = std::mem::take(&mut state.refcount_table);
    table.iter_mut().zip(&old).for_each(|(entry, old)| *entry = *old);
    state.refcount_table = table;
    let first_slice = state.geometry.block_slice_of(plan.first);
    for (number, slice) in (first_slice..).zip(counts.chunks(slice_bytes)) {
        state.refcounts.insert_clean(number, slice.iter().copied());
    }
    state.used = state.used.saturating_add(plan.clusters());
    if let Some(tables) = &mut state.tables {
        tables.mark(plan.first..plan.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_grows_up_to_what_the_format_allows() {
        let geometry = Geometry::new(9, false, 6);
        let (mut entries, mut moves) = (64, 0);
        while entries < MAX_REFCOUNT_TABLE_BYTES / 8 {
            let plan = Plan::new(&geometry, entries, 0);
            assert!(plan.blocks + plan.table_clusters <= plan.blocks << geometry.block_bits);
            assert!(
                plan.table_clusters * 512 <= MAX_REFCOUNT_TABLE_BYTES,
                "{} after {entries}",
                plan.table_clusters
            );
            assert!(plan.table_clusters * 64 >= entries + plan.blocks);
            entries = plan.table_clusters * 64;
            moves += 1;
        }
        assert!(moves < 40, "{moves} moves");
    }
}
