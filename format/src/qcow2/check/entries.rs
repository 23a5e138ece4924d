//! The entries of L2 tables.

use super::examination::{Examination, word};
use super::layout::Layout;
use super::mapping::TableUse;
use super::report::FLAG;
use crate::qcow2::geometry::{L2_RESERVED, OFFSET_MASK, ZERO};
use crate::qcow2::mapping::L2Entry;
use crate::storage::Storage;

const L2: &str = "L2 table";

impl L2Entry {
    pub(super) fn of(table: &[u8], index: u64, layout: &Layout) -> Self {
        let at = layout.l2_entry_at(index) as usize;
        let bitmap = if layout.is_extended { word(table, at.saturating_add(8)) } else { None };
        L2Entry { word: word(table, at).unwrap_or(0), bitmap: bitmap.unwrap_or(0) }
    }

    /// Writes it back.
    pub(super) fn store(self, table: &mut [u8], index: u64, layout: &Layout) {
        let at = layout.l2_entry_at(index) as usize;
        let bytes = [self.word.to_be_bytes(), self.bitmap.to_be_bytes()].concat();
        let entry = table.iter_mut().skip(at).take(layout.l2_entry_bytes() as usize);
        entry.zip(bytes).for_each(|(place, byte)| *place = byte);
    }

    /// It has a place in a file; not asked of compressed clusters.
    pub(super) fn is_allocated(self, layout: &Layout) -> bool {
        // In an external data file, the first cluster lies at offset 0.
        let first = layout.has_data_file && self.is_copied() && !self.reads_as_zeroes(layout);
        self.offset() != 0 || first
    }

    /// The whole cluster reads as zeroes, as its first word says.
    fn reads_as_zeroes(self, layout: &Layout) -> bool {
        !layout.is_extended && self.word & ZERO != 0
    }

    /// Something of it is read from its place.
    fn has_data(self, layout: &Layout) -> bool {
        match layout.is_extended {
            true => self.bitmap as u32 != 0,
            false => !self.reads_as_zeroes(layout),
        }
    }

    /// A preallocated cluster whose place is none: nobody reads it there, so that it may as well have none.
    pub(super) fn is_misplaced_zero(self, layout: &Layout) -> bool {
        !layout.is_aligned(self.offset()) && !self.has_data(layout)
    }

    /// The entry that points `clusters` further, and is otherwise the same.
    fn further(self, clusters: u64, layout: &Layout) -> Option<L2Entry> {
        let word = self.word.checked_add(clusters << layout.cluster_bits)?;
        (word & !OFFSET_MASK == self.word & !OFFSET_MASK).then_some(L2Entry { word, ..self })
    }
}

fn add(count: &mut u64, more: u64) {
    *count = count.saturating_add(more);
}

/// Entries that follow each other in a table and in the file, alike but for that.
struct Run<'a> {
    table: &'a TableUse,
    index: u64,
    entry: L2Entry,
    length: u64,
}

impl<S: Storage> Examination<'_, S> {
    /// Checks the entries of one L2 table, and counts what they point at.
    pub(super) fn follow_l2_table(&mut self, table: &TableUse, entries: &[u8]) {
        let layout = self.layout;
        let mut expected = None;
        let mut index = 0u64;
        while index < layout.l2_entries() {
            let entry = L2Entry::of(entries, index, &layout);
            let mut length = 1u64;
            if entry.is_compressed() {
                self.check_compressed(table, index, entry);
            } else if entry != L2Entry::default() {
                if entry.is_allocated(&layout) {
                    let goes_on = |number: &u64| {
                        let next = L2Entry::of(entries, index.saturating_add(*number), &layout);
                        entry.further(*number, &layout) == Some(next)
                    };
                    let behind = 1..layout.l2_entries().saturating_sub(index);
                    length = length.saturating_add(behind.take_while(goes_on).count() as u64);
                }
                self.check_standard(&Run { table, index, entry, length }, &mut expected);
            }
            index = index.saturating_add(length);
        }
    }

    /// Counts errors in every entry of a run, for every use of the table.
    fn wrong(&mut self, run: &Run<'_>, times: u64, text: impl FnOnce() -> String) {
        self.wrong_in(L2, run, times, text);
    }

    fn wrong_in(
        &mut self,
        structure: &'static str,
        run: &Run<'_>,
        times: u64,
        text: impl FnOnce() -> String,
    ) {
        let at = run.table.offset.saturating_add(self.layout.l2_entry_at(run.index));
        let guest = self.layout.guest_offset(run.table.l1_index, run.index);
        self.corruption(times.saturating_mul(run.length), structure, at, Some(guest), text);
    }

    /// Counts an entry that has one right form only, if it does.
    fn count_wrong_entry(&mut self, has_one_form: bool) {
        self.wrong_entries = self.wrong_entries.saturating_add(u64::from(has_one_form));
    }

    /// Counts flags that contradict a refcount.
    fn wrong_flag(&mut self, run: &Run<'_>, refcount: u64) {
        let (times, word) = (run.table.active, run.entry.word);
        self.wrong_flags = self.wrong_flags.saturating_add(times.saturating_mul(run.length));
        self.wrong_in(FLAG, run, times, || {
            format!("OFLAG_COPIED data cluster: l2_entry={word:x} refcount={refcount}")
        });
    }

    /// `expected` is where a cluster would lie that is not fragmented.
    fn check_standard(&mut self, run: &Run<'_>, expected: &mut Option<u64>) {
        let (layout, entry, times) = (self.layout, run.entry, run.table.times);
        let L2Entry { word, bitmap } = entry;
        let zero_allowed = layout.version >= 3 && !layout.is_extended;
        let reserved = L2_RESERVED | if zero_allowed { 0 } else { ZERO };
        if word & reserved != 0 {
            self.wrong(run, times, || format!("reserved bits are set in {word:#018x}"));
        }
        if !entry.is_allocated(&layout) {
            if bitmap as u32 != 0 {
                self.wrong(run, times, || {
                    format!("subclusters are allocated without a cluster: {bitmap:#018x}")
                });
            }
            return;
        }
        if (bitmap >> 32) & bitmap & u64::from(u32::MAX) != 0 {
            self.wrong(run, times, || {
                format!("subclusters are allocated and read as zeroes: {bitmap:#018x}")
            });
        }
        if !layout.is_aligned(entry.offset()) {
            self.count_wrong_entry(entry.is_misplaced_zero(&layout));
            self.wrong(run, times, || format!("the offset {:#x} is not cluster aligned", entry.offset()));
        }
        if run.table.active > 0 {
            let fragments = u64::from(expected.is_some_and(|offset| offset != entry.offset()));
            add(&mut self.report.allocated_clusters, run.length.saturating_mul(run.table.active));
            add(&mut self.report.fragmented_clusters, fragments.saturating_mul(run.table.active));
            *expected = Some(entry.offset().saturating_add(layout.bytes_of(run.length)));
        }
        if layout.has_data_file {
            self.check_in_data_file(run);
        } else {
            self.use_data(run);
        }
    }

    fn check_in_data_file(&mut self, run: &Run<'_>) {
        let offset = run.entry.offset();
        let guest = self.layout.guest_offset(run.table.l1_index, run.index);
        if offset != guest {
            self.wrong(run, run.table.times, || {
                format!("byte {guest:#x} of the disk is said to lie at {offset:#x} of the data file")
            });
        }
        if run.table.active > 0 && !run.entry.is_copied() {
            self.wrong_flag(run, 1);
        }
    }

    /// Counts the clusters of a run, and compares their flag with their refcounts.
    fn use_data(&mut self, run: &Run<'_>) {
        let layout = self.layout;
        let (cluster, table) = (layout.cluster_size(), run.table);
        let offset = run.entry.offset();
        // The file's last cluster need not be complete.
        let inside = layout.file_len.saturating_sub(offset).div_ceil(cluster).min(run.length);
        if inside > 0
            && let Some(clusters) = self.clusters(offset, layout.bytes_of(inside))
        {
            self.references.add(clusters, table.times, false);
        }
        if inside < run.length {
            let (index, length) = (run.index.saturating_add(inside), run.length.saturating_sub(inside));
            let (offset, len) = (offset.saturating_add(layout.bytes_of(inside)), layout.file_len);
            self.dangles(offset, layout.bytes_of(length));
            self.wrong(&Run { index, length, ..*run }, table.times, || {
                format!("data at {offset:#x}, but the file ends at {len:#x}")
            });
        }
        if table.active > 0 {
            self.check_flags(run);
        }
    }

    fn check_flags(&mut self, run: &Run<'_>) {
        let first = run.entry.offset() >> self.layout.cluster_bits;
        let mut contradictions = Vec::new();
        let clusters = first..first.saturating_add(run.length);
        self.references.refcount_one_is_not(clusters, run.entry.is_copied(), |cluster, refcount| {
            contradictions.push((cluster.saturating_sub(first), refcount));
        });
        for (number, refcount) in contradictions {
            let entry = run.entry.further(number, &self.layout).unwrap_or(run.entry);
            self.wrong_flag(
                &Run { index: run.index.saturating_add(number), length: 1, entry, ..*run },
                refcount,
            );
        }
    }

    fn check_compressed(&mut self, table: &TableUse, index: u64, entry: L2Entry) {
        let run = Run { table, index, entry, length: 1 };
        let L2Entry { word, bitmap } = entry;
        if entry.is_copied() {
            self.count_wrong_entry(true);
            self.wrong(&run, table.times, || {
                format!("a compressed cluster has OFLAG_COPIED set: {word:#018x}")
            });
        }
        if bitmap != 0 {
            self.count_wrong_entry(true);
            self.wrong(&run, table.times, || format!("a compressed cluster has subclusters: {bitmap:#018x}"));
        }
        if self.layout.has_data_file {
            self.wrong(&run, table.times, || {
                "a compressed cluster, but there is an external data file".into()
            });
            return;
        }
        let place = entry.compressed_data(self.layout.cluster_bits);
        match self.clusters(place.offset, place.bytes).filter(|_| place.offset >> 56 == 0) {
            Some(clusters) => {
                self.references.add(clusters, table.times, false);
            }
            None => {
                let len = self.layout.file_len;
                self.dangles(place.offset, place.bytes);
                self.wrong(&run, table.times, || {
                    format!(
                        "{} compressed bytes at {:#x}, but the file ends at {len:#x}",
                        place.bytes, place.offset
                    )
                });
            }
        }
        if table.active > 0 {
            add(&mut self.report.allocated_clusters, table.active);
            add(&mut self.report.compressed_clusters, table.active);
            add(&mut self.report.fragmented_clusters, table.active);
        }
    }
}
