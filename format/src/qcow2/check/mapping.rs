//! From the L1 tables to the L2 tables.
//!
//! Snapshots share tables, and a hostile image can make them share as it likes. So every byte of the file is
//! read as part of an L1 table at most once, and every L2 table once, however many tables it belongs to.

use super::examination::{Examination, REQUEST, neighbours, word};
use super::report::FLAG;
use super::snapshots::L1Table;
use crate::error::Result;
use crate::qcow2::geometry::{COPIED, L1_RESERVED, OFFSET_MASK};
use crate::storage::{MetadataKind, Storage};

const L1: &str = "L1 table";

/// An L2 table, and how often it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TableUse {
    /// Where it lies, in bytes.
    pub offset: u64,
    /// Its index in an L1 table that it belongs to.
    pub l1_index: u64,
    /// How many entries of the active L1 table point at it.
    pub active: u64,
    /// How many entries of all L1 tables do.
    pub times: u64,
}

/// A part of the file that belongs to the same L1 tables throughout.
struct Piece {
    start: u64,
    end: u64,
    /// Where a table begins to which it belongs.
    table: u64,
    active: u64,
    times: u64,
}

/// The L1 tables cut into pieces, in the order of the file.
fn pieces(tables: &[L1Table]) -> Vec<Piece> {
    let mut edges: Vec<(u64, bool, L1Table)> = Vec::with_capacity(tables.len().saturating_mul(2));
    for table in tables.iter().filter(|table| table.bytes > 0) {
        edges.push((table.offset, true, *table));
        edges.push((table.offset.saturating_add(table.bytes), false, *table));
    }
    edges.sort_unstable();
    let (mut pieces, mut times, mut active, mut start, mut begun) = (Vec::new(), 0u64, 0u64, 0, 0);
    for (end, begins, table) in edges {
        if times > 0 && end > start {
            pieces.push(Piece { start, end, table: begun, active, times });
        }
        start = end;
        let is_active = u64::from(table.is_active);
        if begins {
            (times, active, begun) =
                (times.saturating_add(1), active.saturating_add(is_active), table.offset);
        } else {
            (times, active) = (times.saturating_sub(1), active.saturating_sub(is_active));
        }
    }
    pieces
}

impl<S: Storage> Examination<'_, S> {
    /// Finds the L2 tables and counts them.
    pub(super) async fn follow_l1_tables(&mut self, tables: Vec<L1Table>) -> Result<()> {
        let mut found = Vec::new();
        for piece in pieces(&tables) {
            let end = piece.end.min(self.layout.file_len);
            let mut position = piece.start;
            while position < end {
                let bytes = REQUEST.min(end.saturating_sub(position));
                let entries = self.read(MetadataKind::L1Table, position, bytes).await?.unwrap_or_default();
                let words = (0..entries.len()).step_by(8).filter_map(|at| word(&entries, at));
                for (entry, at) in words.zip((position..).step_by(8)).filter(|(entry, _)| *entry != 0) {
                    found.extend(self.follow_l1_entry(entry, at, &piece));
                }
                position = position.saturating_add(bytes);
            }
        }
        found.sort_unstable();
        found.dedup_by(|later, kept| {
            let same = later.offset == kept.offset;
            if same {
                kept.active = kept.active.saturating_add(later.active);
                kept.times = kept.times.saturating_add(later.times);
            }
            same
        });
        for table in &found {
            self.use_metadata("L2 table", table.offset, self.layout.cluster_size(), table.times);
            self.check_memory()?;
        }
        self.l2_tables = found;
        Ok(())
    }

    fn follow_l1_entry(&mut self, entry: u64, at: u64, piece: &Piece) -> Option<TableUse> {
        let offset = entry & OFFSET_MASK;
        let l1_index = at.saturating_sub(piece.table) / 8;
        let guest = Some(self.layout.guest_offset(l1_index, 0));
        if entry & L1_RESERVED != 0 {
            self.corruption(piece.times, L1, at, guest, || format!("reserved bits are set in {entry:#018x}"));
        }
        let cluster = offset >> self.layout.cluster_bits;
        let refcount = self.references.tally(cluster).refcount;
        if piece.active > 0 && offset != 0 && (refcount == 1) != (entry & COPIED != 0) {
            self.wrong_flags = self.wrong_flags.saturating_add(piece.active);
            self.corruption(piece.active, FLAG, at, guest, || {
                format!("OFLAG_COPIED L2 cluster: l1_index={l1_index} l1_entry={entry:x} refcount={refcount}")
            });
        }
        let problem = if offset == 0 {
            "points nowhere, and has flags"
        } else if !self.layout.is_aligned(offset) {
            "is not cluster aligned"
        } else if offset >= self.layout.file_len {
            "points beyond the end of the file"
        } else {
            return Some(TableUse { offset, l1_index, active: piece.active, times: piece.times });
        };
        self.is_incomplete = true;
        if offset != 0 {
            self.dangles(offset, self.layout.cluster_size());
        }
        self.corruption(piece.times, L1, at, guest, || format!("the entry {entry:#018x} {problem}"));
        None
    }

    /// Reads every L2 table and counts what it points at.
    pub(super) async fn follow_l2_tables(&mut self) -> Result<()> {
        let tables = std::mem::take(&mut self.l2_tables);
        let cluster = self.layout.cluster_size();
        let mut rest = tables.as_slice();
        while let Some(first) = rest.first() {
            let (now, later) = rest.split_at(neighbours(rest.iter().map(|table| table.offset), cluster));
            rest = later;
            let bytes = self.layout.bytes_of(now.len() as u64);
            let bytes = self.read(MetadataKind::L2Table, first.offset, bytes).await?;
            let bytes = bytes.unwrap_or_default();
            for (table, entries) in now.iter().zip(bytes.chunks_exact(cluster as usize)) {
                self.follow_l2_table(table, entries);
            }
            self.check_memory()?;
        }
        self.l2_tables = tables;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_tables_are_cut_into_pieces_that_are_read_once() {
        let table = |offset, bytes, is_active| L1Table { offset, bytes, is_active };
        let tables =
            [table(100, 50, true), table(120, 50, false), table(120, 50, false), table(300, 0, false)];
        let found: Vec<_> =
            pieces(&tables).iter().map(|p| (p.start, p.end, p.table, p.active, p.times)).collect();
        assert_eq!(found, [(100, 120, 100, 1, 1), (120, 150, 120, 1, 3), (150, 170, 120, 0, 2)]);
    }
}
