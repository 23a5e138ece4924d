//! The refcounts, and whether they agree with the references.

use super::examination::{Examination, Place, neighbours, word};
use super::references::GROUP;
use super::report::{FindingKind, REFCOUNT};
use crate::error::Result;
use crate::qcow2::geometry::REFCOUNT_TABLE_RESERVED;
use crate::storage::{MetadataKind, Storage};

const TABLE: &str = "refcount table";
const BLOCK: &str = "refcount block";

impl<S: Storage> Examination<'_, S> {
    /// Reads the refcount table and every block of it that can be used.
    pub(super) async fn load_refcounts(&mut self) -> Result<()> {
        let layout = self.layout;
        let offset = self.header.refcount_table_offset;
        let bytes = u64::from(self.header.refcount_table_clusters) << layout.cluster_bits;
        if self.use_metadata(TABLE, offset, bytes, 1) == Place::Outside {
            self.table_must_move = true;
            return Ok(());
        }
        let table = self.read(MetadataKind::RefcountTable, offset, bytes).await?.unwrap_or_default();
        self.refcount_table = (0..table.len()).step_by(8).filter_map(|at| word(&table, at)).collect();
        let mut blocks = Vec::new();
        for (index, entry) in (0..).zip(self.refcount_table.clone()).filter(|(_, entry)| *entry != 0) {
            if let Some(problem) = self.block_problem(entry) {
                self.bad_blocks.insert(index);
                self.corruption(1, TABLE, offset.saturating_add(index.saturating_mul(8)), None, || {
                    format!("refcount block {index} {problem} (entry {entry:#x})")
                });
                continue;
            }
            self.use_metadata(BLOCK, entry, layout.cluster_size(), 1);
            blocks.push((entry, index));
        }
        blocks.sort_unstable();
        let mut rest = blocks.as_slice();
        while !rest.is_empty() {
            let count = neighbours(rest.iter().map(|(offset, _)| *offset), layout.cluster_size());
            let (now, later) = rest.split_at(count);
            rest = later;
            self.load_blocks(now).await?;
            self.check_memory()?;
        }
        Ok(())
    }

    fn block_problem(&self, entry: u64) -> Option<&'static str> {
        if entry & REFCOUNT_TABLE_RESERVED != 0 {
            Some("has reserved bits set")
        } else if !self.layout.is_aligned(entry) {
            Some("is not cluster aligned")
        } else if entry >= self.layout.file_len {
            Some("is outside image")
        } else {
            None
        }
    }

    /// Reads blocks that lie one behind the other: their offsets, and their indices in the table.
    async fn load_blocks(&mut self, blocks: &[(u64, u64)]) -> Result<()> {
        let layout = self.layout;
        let (Some((offset, _)), cluster) = (blocks.first(), layout.cluster_size()) else { return Ok(()) };
        let bytes = layout.bytes_of(blocks.len() as u64);
        let bytes = self.read(MetadataKind::RefcountBlock, *offset, bytes).await?;
        let Some(bytes) = bytes else { return Ok(()) };
        let group_bytes = (GROUP as usize / 8).saturating_mul(layout.width.bits() as usize);
        let end = layout.file_clusters();
        for ((_, index), block) in blocks.iter().zip(bytes.chunks_exact(cluster as usize)) {
            let first = layout.counted(*index, 0);
            if first > end {
                continue;
            }
            // The cluster behind the last may be used by something that ends in it.
            let groups = end.saturating_sub(first).saturating_add(1).div_ceil(GROUP) as usize;
            for (number, group) in (first / GROUP..).zip(block.chunks_exact(group_bytes).take(groups)) {
                if group.iter().any(|byte| *byte != 0) {
                    let counts = (0..GROUP as usize).map(|index| layout.width.get(group, index));
                    self.references.set_refcounts(number, counts);
                }
            }
        }
        Ok(())
    }

    /// Compares every refcount with the references.
    pub(super) fn compare(&mut self) {
        let references = std::mem::take(&mut self.references);
        let layout = self.layout;
        let (file_clusters, max) = (layout.file_clusters(), layout.width.max());
        let (mut end, mut used) = (0, 0u64);
        references.for_each(|tally| {
            let (cluster, references, refcount) = (tally.cluster, tally.references, tally.refcount);
            if cluster >= file_clusters && references == 0 {
                return;
            }
            end = cluster.saturating_add(1);
            used = used.saturating_add(u64::from(references > 0));
            if references == refcount {
                return;
            }
            let host_offset = cluster << layout.cluster_bits;
            if references > max {
                self.corruption(references.saturating_sub(max), REFCOUNT, host_offset, None, || {
                    format!("cluster {cluster} has {references} references, a refcount ends at {max}")
                });
            }
            let references = references.min(max);
            let text = || format!("cluster {cluster} refcount={refcount} reference={references}");
            if references == refcount {
                return;
            }
            self.wrong_blocks.insert(layout.block_of(cluster));
            if refcount > references {
                self.report.leaks = self.report.leaks.saturating_add(1);
                self.note(FindingKind::Leak, REFCOUNT, host_offset, None, text);
            } else {
                self.corruption(1, REFCOUNT, host_offset, None, text);
            }
        });
        self.report.image_end_offset = end << layout.cluster_bits;
        self.report.bytes_in_use = used << layout.cluster_bits;
        self.references = references;
        self.check_blocks();
        self.check_overlaps();
    }

    /// A refcount block that something else uses, too, cannot stay where it is.
    fn check_blocks(&mut self) {
        for (index, entry) in (0..).zip(self.refcount_table.clone()) {
            if entry == 0 || self.bad_blocks.contains(&index) {
                continue;
            }
            let references = self.references.tally(entry >> self.layout.cluster_bits).references;
            if references == 1 {
                continue;
            }
            self.bad_blocks.insert(index);
            self.references.overlaps.remove(&(entry >> self.layout.cluster_bits));
            self.corruption(1, BLOCK, entry, None, || {
                format!("refcount block {index} is used {references} times")
            });
        }
    }

    /// Metadata that something else uses, too. Where its refcount is too low, that is an error already.
    fn check_overlaps(&mut self) {
        let mut overlaps: Vec<u64> = self.references.overlaps.iter().copied().collect();
        overlaps.sort_unstable();
        let table = self.header.refcount_table_offset >> self.layout.cluster_bits;
        for cluster in overlaps {
            let of_table = cluster.checked_sub(table);
            self.table_must_move |= of_table.is_some_and(|c| c < self.header.refcount_table_clusters.into());
            let tally = self.references.tally(cluster);
            let is_new = tally.references <= tally.refcount;
            let kind = if is_new { FindingKind::Corruption } else { FindingKind::Note };
            self.report.corruptions = self.report.corruptions.saturating_add(u64::from(is_new));
            self.note(kind, "metadata", cluster << self.layout.cluster_bits, None, || {
                format!("cluster {cluster} holds metadata, and something else uses it, too")
            });
        }
    }
}
