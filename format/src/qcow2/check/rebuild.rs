//! New refcount structures, where the old ones cannot be used.
//!
//! They are written to free clusters; then the header is switched to them, which is one sector. Until then the old
//! ones stand untouched, and from then on nobody reads them: the new counts already have them as free.

use super::examination::Examination;
use super::report::FindingKind;
use crate::error::Result;
use crate::qcow2::geometry::OFFSET_END;
use crate::qcow2::header::MAX_REFCOUNT_TABLE_BYTES;
use crate::storage::{MetadataKind, Storage};
use rustc_hash::FxHashSet;
use std::collections::{BTreeMap, BTreeSet};

/// Where offset and length of the refcount table stand in the header.
const TABLE_FIELDS: usize = 48;

/// Where the new structures are to lie, in clusters.
struct Plan {
    table: u64,
    table_clusters: u64,
    /// The blocks, by their index in the table.
    blocks: BTreeMap<u64, u64>,
    taken: FxHashSet<u64>,
}

impl Plan {
    fn end(&self) -> u64 {
        self.taken.iter().max().map_or(0, |last| last.saturating_add(1))
    }
}

impl<S: Storage> Examination<'_, S> {
    /// Writes new refcount structures with right counts. Afterwards, this look at the image is out of date.
    pub(super) async fn rebuild_refcounts(&mut self) -> Result<()> {
        let old = self.give_up_old_structures();
        self.dangling.sort_unstable_by_key(|run| run.start);
        self.dangling.dedup_by(|later, kept| {
            let joins = later.start <= kept.end;
            if joins {
                kept.end = kept.end.max(later.end);
            }
            joins
        });
        let Some(plan) = self.plan(&old) else {
            let offset = self.header.refcount_table_offset;
            self.note(FindingKind::Note, "refcount table", offset, None, || {
                "new refcount structures would exceed the format's limits or the quota".into()
            });
            return Ok(());
        };
        let layout = self.layout;
        for (index, cluster) in &plan.blocks {
            let mut block = vec![0; layout.cluster_size() as usize];
            for entry in 0..layout.block_entries() {
                let counted = layout.counted(*index, entry);
                let count = if plan.taken.contains(&counted) { 1 } else { self.right_refcount(counted) };
                if count != 0 {
                    layout.width.set(&mut block, entry as usize, count);
                }
            }
            self.write_new(MetadataKind::RefcountBlock, *cluster, &block).await?;
        }
        let mut table = vec![0; (plan.table_clusters << layout.cluster_bits) as usize];
        for (index, cluster) in &plan.blocks {
            let place = table.iter_mut().skip((*index as usize).saturating_mul(8));
            place.zip((cluster << layout.cluster_bits).to_be_bytes()).for_each(|(place, byte)| *place = byte);
        }
        self.write_new(MetadataKind::RefcountTable, plan.table, &table).await?;
        self.flush().await?;
        let offset = (plan.table << layout.cluster_bits).to_be_bytes();
        let clusters = (plan.table_clusters as u32).to_be_bytes();
        self.patch_header(TABLE_FIELDS, &[&offset[..], &clusters[..]].concat()).await
    }

    async fn write_new(&self, kind: MetadataKind, cluster: u64, bytes: &[u8]) -> Result<()> {
        let offset = cluster << self.layout.cluster_bits;
        let write = self.storage.write_metadata(kind, offset, bytes).await;
        write.map_err(self.blame.io("writing new refcount structures", offset))
    }

    /// Takes back what the old structures use; their clusters, which must not be written to yet.
    fn give_up_old_structures(&mut self) -> FxHashSet<u64> {
        let layout = self.layout;
        let bytes = u64::from(self.header.refcount_table_clusters) << layout.cluster_bits;
        let table = self.clusters(self.header.refcount_table_offset, bytes);
        let mut old: Vec<u64> = table.into_iter().flatten().collect();
        let blocks = self.refcount_table.iter().filter(|entry| **entry != 0 && self.is_followed(**entry));
        old.extend(blocks.map(|entry| entry >> layout.cluster_bits));
        old.iter().for_each(|cluster| self.references.remove(*cluster));
        old.into_iter().collect()
    }

    fn is_used(&self, cluster: u64) -> bool {
        let tally = self.references.tally(cluster);
        let before = self.dangling.partition_point(|run| run.start <= cluster);
        let dangles = before.checked_sub(1).and_then(|last| self.dangling.get(last));
        tally.references > 0
            || (self.is_incomplete && tally.refcount > 0)
            || dangles.is_some_and(|run| cluster < run.end)
    }

    fn plan(&self, old: &FxHashSet<u64>) -> Option<Plan> {
        let layout = self.layout;
        let mut needed = BTreeSet::new();
        self.references.for_each(|tally| {
            if self.is_used(tally.cluster) {
                needed.insert(layout.block_of(tally.cluster));
            }
        });
        let most = MAX_REFCOUNT_TABLE_BYTES >> layout.cluster_bits;
        let mut table_clusters = u64::from(self.header.refcount_table_clusters).clamp(1, most);
        loop {
            let plan = self.plan_with_table(old, &needed, table_clusters)?;
            let last = plan.blocks.last_key_value().map_or(0, |(index, _)| *index);
            let wanted = last.saturating_add(1).saturating_mul(8).div_ceil(layout.cluster_size());
            if wanted > most {
                return None;
            }
            if wanted <= table_clusters {
                let quota = self.header.cache().map_or(u64::MAX, |cache| cache.quota);
                let end = (plan.end() << layout.cluster_bits).max(layout.file_len);
                return Some(plan).filter(|_| end <= quota.max(layout.file_len));
            }
            table_clusters = wanted;
        }
    }

    fn plan_with_table(
        &self,
        old: &FxHashSet<u64>,
        needed: &BTreeSet<u64>,
        table_clusters: u64,
    ) -> Option<Plan> {
        let end = OFFSET_END >> self.layout.cluster_bits;
        let free = || (1..end).filter(|cluster| !old.contains(cluster) && !self.is_used(*cluster));
        let (mut table, mut length) = (0u64, 0u64);
        for cluster in free() {
            let goes_on = cluster == table.saturating_add(length);
            (table, length) = if goes_on { (table, length.saturating_add(1)) } else { (cluster, 1) };
            if length == table_clusters {
                break;
            }
        }
        let table_range = table..table.saturating_add(length);
        let mut plan =
            Plan { table, table_clusters, blocks: BTreeMap::new(), taken: table_range.clone().collect() };
        let mut pending: BTreeSet<u64> =
            needed.iter().copied().chain(table_range.map(|cluster| self.layout.block_of(cluster))).collect();
        let mut places = free();
        while let Some(index) = pending.pop_first() {
            let place = places.by_ref().find(|cluster| !plan.taken.contains(cluster))?;
            plan.blocks.insert(index, place);
            plan.taken.insert(place);
            let block = self.layout.block_of(place);
            if !plan.blocks.contains_key(&block) {
                pending.insert(block);
            }
        }
        Some(plan)
    }

    /// It was counted as a refcount block.
    fn is_followed(&self, entry: u64) -> bool {
        entry & crate::qcow2::geometry::REFCOUNT_TABLE_RESERVED == 0
            && self.layout.is_aligned(entry)
            && entry < self.layout.file_len
    }
}
