//! Persistent bitmaps: their directory, tables and clusters.

use super::examination::{Examination, Place, REQUEST, number, word};
use crate::error::Result;
use crate::qcow2::geometry::OFFSET_MASK;
use crate::qcow2::header::extension;
use crate::storage::{MetadataKind, Storage};

/// The autoclear bit that says that the bitmaps are up to date.
const CONSISTENT: u64 = 1;
/// QEMU opens no larger directory.
const MAX_DIRECTORY: u64 = 65535 * 1024;
/// QEMU opens no larger bitmap table, in entries.
const MAX_TABLE: u64 = 0x800_0000;
const FIXED: usize = 24;
const DIRECTORY: &str = "bitmap directory";
const TABLE: &str = "bitmap table";

impl<S: Storage> Examination<'_, S> {
    /// Counts what the bitmaps use. Those that a writer has let fall behind belong to nobody any more.
    pub(super) async fn use_bitmaps(&mut self) -> Result<()> {
        if self.header.autoclear_features & CONSISTENT == 0 {
            return Ok(());
        }
        let extension = self.header.extension(extension::BITMAPS);
        let Some((size, offset)) = extension.and_then(|data| Some((word(data, 8)?, word(data, 16)?))) else {
            return Ok(());
        };
        if size > MAX_DIRECTORY || !self.layout.is_aligned(offset) {
            self.is_incomplete = true;
            self.corruption(1, DIRECTORY, offset, None, || {
                format!("{size} bytes at {offset:#x} are no place for it")
            });
            return Ok(());
        }
        if self.use_metadata(DIRECTORY, offset, size, 1) == Place::Outside {
            self.is_incomplete = true;
            return Ok(());
        }
        let within = size.min(self.layout.file_len.saturating_sub(offset));
        let read = self.storage.read_metadata(MetadataKind::Header, offset, within).await;
        let directory = read.map_err(self.blame.io("reading the bitmap directory", offset))?;
        let mut position = 0;
        while let Some(entry) = directory.get(position..).filter(|rest| rest.len() >= FIXED) {
            let Some(length) = self.use_bitmap(offset.saturating_add(position as u64), entry).await? else {
                break;
            };
            position = length.saturating_add(position);
        }
        Ok(())
    }

    /// Counts what one bitmap uses; the bytes of its entry, `None` if that goes beyond the directory.
    async fn use_bitmap(&mut self, position: u64, entry: &[u8]) -> Result<Option<usize>> {
        let field = |at: usize, bytes: usize| number(entry, at, bytes).unwrap_or(0);
        let (offset, entries) = (field(0, 8), field(8, 4));
        let lengths = [FIXED as u64, field(20, 4), field(18, 2)];
        let length = lengths.iter().sum::<u64>().next_multiple_of(8) as usize;
        if length > entry.len() || !self.layout.is_aligned(offset) || entries > MAX_TABLE {
            self.is_incomplete = true;
            self.corruption(1, DIRECTORY, position, None, || {
                format!("an entry of {length} bytes with a table of {entries} entries at {offset:#x}")
            });
            return Ok(Some(length).filter(|length| *length <= entry.len()));
        }
        let bytes = entries.saturating_mul(8);
        // Many bitmaps that claim one place would have it read many times.
        if self.use_metadata(TABLE, offset, bytes, 1) != Place::Own {
            self.is_incomplete = true;
            return Ok(Some(length));
        }
        let end = offset.saturating_add(bytes).min(self.layout.file_len);
        let mut position = offset;
        while position < end {
            let bytes = REQUEST.min(end.saturating_sub(position));
            let table = self.read(MetadataKind::Header, position, bytes).await?.unwrap_or_default();
            let words = (0..table.len()).step_by(8).filter_map(|at| word(&table, at));
            for (entry, at) in words.zip((position..).step_by(8)).filter(|(entry, _)| *entry != 0) {
                self.use_bitmap_cluster(entry, at);
            }
            self.check_memory()?;
            position = position.saturating_add(bytes);
        }
        Ok(Some(length))
    }

    fn use_bitmap_cluster(&mut self, entry: u64, at: u64) {
        let offset = entry & OFFSET_MASK;
        // Bit 0 alone: all ones, without a cluster.
        let reserved = !OFFSET_MASK & !u64::from(offset == 0);
        if entry & reserved != 0 || !self.layout.is_aligned(offset) {
            self.corruption(1, TABLE, at, None, || format!("the entry {entry:#018x} is none of a bitmap"));
        } else if offset != 0 {
            self.use_metadata("bitmap", offset, self.layout.cluster_size(), 1);
        }
    }
}
