//! Mending in place: whole sectors, each of which is right before and after.

use super::Repair;
use super::examination::{Examination, REQUEST, word};
use super::layout::Layout;
use super::mapping::TableUse;
use crate::error::Result;
use crate::qcow2::geometry::{COPIED, OFFSET_MASK, ZERO};
use crate::qcow2::header::incompatible;
use crate::qcow2::mapping::L2Entry;
use crate::storage::{MetadataKind, Storage};

/// What is written atomically.
pub(super) const SECTOR: usize = 512;
/// Where the incompatible features stand in the header.
const FEATURES: usize = 72;

impl<S: Storage> Examination<'_, S> {
    /// Writes the sectors in which `new` differs from `old`.
    pub(super) async fn write_changes(
        &self,
        kind: MetadataKind,
        offset: u64,
        old: &[u8],
        new: &[u8],
    ) -> Result<()> {
        let sectors = old.chunks(SECTOR).zip(new.chunks(SECTOR)).zip((offset..).step_by(SECTOR));
        for ((_, sector), at) in sectors.filter(|((old, new), _)| old != new) {
            let write = self.storage.write_metadata(kind, at, sector).await;
            write.map_err(self.blame.io("repairing", at))?;
        }
        Ok(())
    }

    pub(super) async fn flush(&self) -> Result<()> {
        self.storage.flush().await.map_err(self.blame.io("flushing a repair", 0))
    }

    /// Refcounts differ from the references, or their structures cannot stay as they are.
    pub(super) fn has_wrong_refcounts(&self) -> bool {
        self.table_must_move || !self.wrong_blocks.is_empty() || !self.bad_blocks.is_empty()
    }

    /// Brings the refcounts as close to the references as `repair` allows.
    pub(super) async fn repair_refcounts(&mut self, repair: Repair) -> Result<()> {
        let is_missing =
            |index: &u64| self.refcount_table.get(*index as usize).is_none_or(|entry| *entry == 0);
        let is_unusable = self.table_must_move || !self.bad_blocks.is_empty();
        let needs_new = is_unusable || self.wrong_blocks.iter().any(is_missing);
        if repair == Repair::All && needs_new {
            return self.rebuild_refcounts().await;
        }
        for index in self.wrong_blocks.iter().filter(|index| !self.bad_blocks.contains(index)) {
            let Some(offset) = self.refcount_table.get(*index as usize).copied() else { continue };
            if offset != 0 {
                self.repair_block(*index, offset, repair).await?;
            }
        }
        self.flush().await
    }

    /// What the refcount of a cluster should be; never less than it is if something may be unknown.
    pub(super) fn right_refcount(&self, cluster: u64) -> u64 {
        let tally = self.references.tally(cluster);
        let least = if self.is_incomplete { tally.refcount } else { 0 };
        tally.references.min(self.layout.width.max()).max(least)
    }

    async fn repair_block(&self, index: u64, offset: u64, repair: Repair) -> Result<()> {
        let read =
            self.storage.read_metadata(MetadataKind::RefcountBlock, offset, self.layout.cluster_size());
        let old = read.await.map_err(self.blame.io("reading a refcount block", offset))?;
        let (mut new, width) = (old.clone(), self.layout.width);
        for entry in 0..self.layout.block_entries() {
            let cluster = self.layout.counted(index, entry);
            let (now, right) = (width.get(&old, entry as usize), self.right_refcount(cluster));
            if now != right && (repair == Repair::All || now > right) {
                width.set(&mut new, entry as usize, right);
            }
        }
        self.write_changes(MetadataKind::RefcountBlock, offset, &old, &new).await
    }

    /// Gives L2 entries their one right form.
    pub(super) async fn repair_entries(&self) -> Result<()> {
        for table in &self.l2_tables {
            self.mend_table(table, |entry| right_form(entry, &self.layout)).await?;
        }
        self.flush().await
    }

    /// Sets the flags of the active tables to what the refcounts say.
    pub(super) async fn repair_flags(&self) -> Result<()> {
        self.repair_l1_flags().await?;
        for table in self.l2_tables.iter().filter(|table| table.active > 0) {
            self.mend_table(table, |entry| self.right_flag(entry)).await?;
        }
        self.flush().await
    }

    /// Something else uses the cluster at `offset`, too: nothing may be written there.
    fn is_contested(&self, offset: u64) -> bool {
        self.references.overlaps.contains(&(offset >> self.layout.cluster_bits))
    }

    async fn mend_table(&self, table: &TableUse, mend: impl Fn(L2Entry) -> L2Entry) -> Result<()> {
        if self.is_contested(table.offset) {
            return Ok(());
        }
        let cluster = self.layout.cluster_size();
        let Some(old) = self.read(MetadataKind::L2Table, table.offset, cluster).await? else { return Ok(()) };
        let mut new = old.clone();
        for index in 0..self.layout.l2_entries() {
            let entry = L2Entry::of(&old, index, &self.layout);
            let mended = mend(entry);
            if mended != entry {
                mended.store(&mut new, index, &self.layout);
            }
        }
        self.write_changes(MetadataKind::L2Table, table.offset, &old, &new).await
    }

    fn right_flag(&self, entry: L2Entry) -> L2Entry {
        if entry.is_compressed() || !entry.is_allocated(&self.layout) {
            return entry;
        }
        let is_one = self.layout.has_data_file || self.is_refcount_one(entry.offset());
        L2Entry { word: entry.word & !COPIED | if is_one { COPIED } else { 0 }, ..entry }
    }

    fn is_refcount_one(&self, offset: u64) -> bool {
        self.references.tally(offset >> self.layout.cluster_bits).refcount == 1
    }

    async fn repair_l1_flags(&self) -> Result<()> {
        let (mut position, size) = (self.header.l1_table_offset, u64::from(self.header.l1_size) * 8);
        let end = position.saturating_add(size).min(self.layout.file_len);
        while position < end {
            // A whole number of clusters, but for the last.
            let bytes = REQUEST.max(self.layout.cluster_size()).min(end.saturating_sub(position));
            let old = self.read(MetadataKind::L1Table, position, bytes).await?.unwrap_or_default();
            let mut new = old.clone();
            for (at, entry) in (0..old.len()).step_by(8).filter_map(|at| Some((at, word(&old, at)?))) {
                let offset = entry & OFFSET_MASK;
                if offset == 0 || self.is_contested(position.saturating_add(at as u64)) {
                    continue;
                }
                let flag = if self.is_refcount_one(offset) { COPIED } else { 0 };
                let mended = (entry & !COPIED | flag).to_be_bytes();
                new.iter_mut().skip(at).zip(mended).for_each(|(place, byte)| *place = byte);
            }
            self.write_changes(MetadataKind::L1Table, position, &old, &new).await?;
            position = position.saturating_add(bytes);
        }
        Ok(())
    }

    /// Cuts off the unused end of a cache that is longer than its quota; says whether it did.
    pub(super) async fn shorten_cache(&mut self) -> Result<bool> {
        let (end, len) = (self.report.image_end_offset, self.layout.file_len);
        let is_longer = self.header.cache().is_some_and(|cache| len > cache.quota && end <= cache.quota);
        if !is_longer || self.is_incomplete || self.report.leaks > 0 {
            return Ok(false);
        }
        self.storage.set_len(end).await.map_err(self.blame.io("shortening the file", end))?;
        self.flush().await?;
        Ok(true)
    }

    /// Clears the dirty bit if nothing is wrong any more, and after a repair of everything the corrupt bit, too.
    pub(super) async fn clear_marks(&self, repair: Repair) -> Result<()> {
        let marks = match repair {
            Repair::All => incompatible::DIRTY | incompatible::CORRUPT,
            _ => incompatible::DIRTY,
        };
        let features = self.header.incompatible_features;
        if features & marks == 0 || self.report.corruptions > 0 || self.report.check_errors > 0 {
            return Ok(());
        }
        self.flush().await?;
        self.patch_header(FEATURES, &(features & !marks).to_be_bytes()).await
    }

    /// Replaces a few bytes in the header's first sector, durably and all at once.
    pub(super) async fn patch_header(&self, at: usize, bytes: &[u8]) -> Result<()> {
        let read = self.storage.read_metadata(MetadataKind::Header, 0, SECTOR as u64).await;
        let mut sector = read.map_err(self.blame.io("reading the header", 0))?;
        sector.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
        let write = self.storage.write_metadata(MetadataKind::Header, 0, &sector).await;
        write.map_err(self.blame.io("writing the header", 0))?;
        self.flush().await
    }
}

/// The one right form of an entry, if that is no question: preallocated clusters need no place where none can be, and
/// what is compressed has neither a flag nor subclusters.
fn right_form(entry: L2Entry, layout: &Layout) -> L2Entry {
    if entry.is_compressed() {
        return L2Entry { word: entry.word & !COPIED, bitmap: 0 };
    }
    if !entry.is_allocated(layout) || !entry.is_misplaced_zero(layout) {
        return entry;
    }
    match layout.is_extended {
        true => L2Entry { word: 0, ..entry },
        false if layout.version >= 3 => L2Entry { word: ZERO, ..entry },
        false => entry,
    }
}
