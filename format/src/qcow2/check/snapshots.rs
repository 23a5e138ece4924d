//! The L1 tables: the active one, and those of the snapshots.

use super::examination::{Examination, Place, number};
use crate::error::Result;
use crate::qcow2::geometry::OFFSET_END;
use crate::qcow2::header::MAX_L1_BYTES;
use crate::storage::{MetadataKind, Storage};

const SNAPSHOTS: &str = "snapshot table";
/// QEMU opens no image with more.
const MAX_SNAPSHOTS: u32 = 65536;
/// QEMU opens no longer table.
const MAX_TABLE: u64 = 64 << 20;
/// QEMU opens no entry with more extra data.
const MAX_EXTRA: u64 = 1024;
/// Extra data that version 3 demands: the size of the VM's state, and that of the disk.
const MIN_EXTRA: u64 = 16;
const FIXED: u64 = 40;
/// What is read of the table at a time.
const WINDOW: u64 = 64 << 10;

/// An L1 table in the file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct L1Table {
    pub offset: u64,
    pub bytes: u64,
    /// It maps the disk as it is now.
    pub is_active: bool,
}

/// The lengths that an entry of the snapshot table gives.
struct Entry {
    l1_offset: u64,
    l1_bytes: u64,
    extra: u64,
    bytes: u64,
}

impl Entry {
    fn parse(fixed: &[u8]) -> Option<Self> {
        let field = |at: usize, bytes: usize| number(fixed, at, bytes);
        let extra = field(36, 4)?;
        let lengths = [FIXED, extra, field(12, 2)?, field(14, 2)?];
        Some(Entry {
            l1_offset: field(0, 8)?,
            l1_bytes: field(8, 4)?.saturating_mul(8),
            extra,
            bytes: lengths.iter().sum::<u64>().next_multiple_of(8),
        })
    }
}

impl<S: Storage> Examination<'_, S> {
    /// Every L1 table that can be followed. Counts them, and the snapshot table.
    pub(super) async fn l1_tables(&mut self) -> Result<Vec<L1Table>> {
        let (offset, bytes) = (self.header.l1_table_offset, u64::from(self.header.l1_size) * 8);
        let mut tables = vec![L1Table { offset, bytes, is_active: true }];
        self.use_metadata("L1 table", offset, bytes, 1);
        self.read_snapshots(&mut tables).await?;
        Ok(tables)
    }

    async fn read_snapshots(&mut self, tables: &mut Vec<L1Table>) -> Result<()> {
        let (count, start) = (self.header.nb_snapshots, self.header.snapshots_offset);
        if count == 0 {
            return Ok(());
        }
        if count > MAX_SNAPSHOTS || !self.layout.is_aligned(start) || start >= OFFSET_END {
            let problem = format!("{count} snapshots at {start}: allowed are 65536, at a cluster's start");
            return Err(self.blame.invalid("header", 60, problem));
        }
        if self.layout.has_data_file {
            self.corruption(1, "header", 60, None, || {
                format!("{count} snapshots in an image with an external data file")
            });
        }
        let mut position = start;
        let (mut window_start, mut window) = (0, Vec::new());
        for index in 0..count {
            let in_window = (position.wrapping_sub(window_start)) as usize;
            if window.len() < in_window.saturating_add(FIXED as usize) {
                window_start = position;
                let read = self.storage.read_metadata(MetadataKind::Header, position, WINDOW).await;
                window = read.map_err(self.blame.io("reading the snapshot table", position))?;
            }
            let at = position.saturating_sub(window_start) as usize;
            let Some(entry) = Entry::parse(window.get(at..).unwrap_or_default()) else { break };
            let end = position.saturating_add(entry.bytes);
            if end > self.layout.file_len || end.saturating_sub(start) > MAX_TABLE {
                self.is_incomplete = true;
                self.corruption(1, SNAPSHOTS, position, None, || {
                    format!("entry {index} ends at {end:#x}, beyond what the file or the format allows")
                });
                break;
            }
            self.check_snapshot(index, position, &entry, tables);
            self.check_memory()?;
            position = end;
        }
        self.use_metadata(SNAPSHOTS, start, position.saturating_sub(start), 1);
        Ok(())
    }

    fn check_snapshot(&mut self, index: u32, position: u64, entry: &Entry, tables: &mut Vec<L1Table>) {
        let (offset, bytes) = (entry.l1_offset, entry.l1_bytes);
        if entry.extra > MAX_EXTRA {
            self.corruption(1, SNAPSHOTS, position, None, || {
                format!("entry {index} has {} bytes of extra data, allowed are {MAX_EXTRA}", entry.extra)
            });
        } else if self.layout.version >= 3 && entry.extra < MIN_EXTRA {
            self.corruption(1, SNAPSHOTS, position, None, || format!("entry {index} is incomplete"));
        }
        let problem = if !self.layout.is_aligned(offset) {
            "is not cluster aligned"
        } else if bytes > MAX_L1_BYTES {
            "is too large"
        } else {
            match self.use_metadata("L1 table of a snapshot", offset, bytes, 1) {
                Place::Outside => self.is_incomplete = true,
                Place::Own | Place::Shared => tables.push(L1Table { offset, bytes, is_active: false }),
            }
            return;
        };
        self.is_incomplete = true;
        self.corruption(1, SNAPSHOTS, position, None, || {
            format!("entry {index}: the L1 table at {offset:#x} of {bytes} bytes {problem}")
        });
    }
}
