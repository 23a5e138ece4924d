//! The pages that a page cache holds, and their states.
//!
//! Pages are kept in chunks of 64 with a bit for each state, so that a page costs little more than a byte.

use std::collections::BTreeSet;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::bits::{Bits, CHUNK, count, masks};
use super::recency::{EMPTY, List, NONE, Which};

/// Number of a file in its cache.
pub(super) type FileId = u32;

/// A chunk, and its neighbours on the list that it is on.
pub(super) struct Chunk {
    file: FileId,
    number: u64,
    pub(super) bits: Bits,
    /// `None` while no page of it is present.
    pub(super) list: Option<Which>,
    pub(super) newer: u32,
    pub(super) older: u32,
}

/// How many pages there are, and how many there have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) present: u64,
    pub(super) dirty: u64,
    pub(super) writing: u64,
    /// Pages that have become present, and that have been evicted.
    pub(super) entered: u64,
    pub(super) evicted: u64,
    /// Pages that have become dirty, and whose writing has ended.
    pub(super) dirtied: u64,
    pub(super) written: u64,
}

/// All pages of a cache.
pub(super) struct Pages {
    pub(super) capacity: u64,
    pub(super) chunks: Vec<Chunk>,
    free: Vec<u32>,
    pub(super) slots: FxHashMap<(FileId, u64), u32>,
    /// Chunks with dirty pages, in the order in which they are written.
    dirty: BTreeSet<(FileId, u64)>,
    pub(super) inactive: List,
    pub(super) active: List,
    pub(super) counts: Counts,
}

impl Pages {
    /// None yet, and later at most `capacity` ones that are clean.
    pub(super) fn new(capacity: u64) -> Pages {
        Pages {
            capacity,
            chunks: vec![],
            free: vec![],
            slots: FxHashMap::default(),
            dirty: BTreeSet::new(),
            inactive: EMPTY,
            active: EMPTY,
            counts: Counts::default(),
        }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    fn bits(&self, file: FileId, chunk: u64) -> Bits {
        self.slots.get(&(file, chunk)).map_or(Bits::default(), |slot| self.chunks[*slot as usize].bits)
    }

    /// The first of `pages` that has one of the bits that `wanted` selects.
    pub(super) fn first(
        &self,
        file: FileId,
        pages: Range<u64>,
        wanted: impl Fn(&Bits) -> u64,
    ) -> Option<u64> {
        masks(pages).find_map(|(chunk, mask)| {
            let found = wanted(&self.bits(file, chunk)) & mask;
            (found != 0).then(|| chunk * CHUNK + u64::from(found.trailing_zeros()))
        })
    }

    /// The first run among `pages` that has the bits that `wanted` selects.
    pub(super) fn run(
        &self,
        file: FileId,
        pages: Range<u64>,
        wanted: impl Fn(&Bits) -> u64,
    ) -> Option<Range<u64>> {
        let start = self.first(file, pages.clone(), &wanted)?;
        let end = self.first(file, start..pages.end, |bits| !wanted(bits));
        Some(start..end.unwrap_or(pages.end))
    }

    /// All runs among `pages` that have the bits that `wanted` selects.
    pub(super) fn runs<'a>(
        &'a self,
        file: FileId,
        pages: Range<u64>,
        wanted: impl Fn(&Bits) -> u64 + 'a,
    ) -> impl Iterator<Item = Range<u64>> + 'a {
        let mut from = pages.start;
        std::iter::from_fn(move || {
            let run = self.run(file, from..pages.end, &wanted)?;
            from = run.end;
            Some(run)
        })
    }

    /// How many pages right before `page` are present, up to `most`.
    pub(super) fn present_before(&self, file: FileId, page: u64, most: u64) -> u64 {
        let earliest = page.saturating_sub(most);
        (earliest..page).rev().take_while(|page| self.is(file, *page, |bits| bits.present)).count() as u64
    }

    /// Whether `page` has the bit that `wanted` selects.
    pub(super) fn is(&self, file: FileId, page: u64, wanted: impl Fn(&Bits) -> u64) -> bool {
        wanted(&self.bits(file, page / CHUNK)) >> (page % CHUNK) & 1 != 0
    }

    /// The first dirty run of a file from page `from` on, at most `most` pages long.
    pub(super) fn dirty_run(&self, file: FileId, from: u64, most: u64) -> Option<Range<u64>> {
        let chunks = self.dirty.range((file, from / CHUNK)..=(file, u64::MAX));
        // In the first chunk, the dirty pages may all lie before `from`.
        let start = chunks.take(2).find_map(|(_, chunk)| {
            let first = from.max(chunk * CHUNK);
            self.first(file, first..(chunk + 1) * CHUNK, |bits| bits.dirty)
        })?;
        self.run(file, start..start + most, |bits| bits.dirty)
    }

    /// The page behind the last dirty chunk of a file; `None` if nothing of it is dirty.
    pub(super) fn dirty_end(&self, file: FileId) -> Option<u64> {
        self.dirty.range((file, 0)..=(file, u64::MAX)).next_back().map(|(_, chunk)| (chunk + 1) * CHUNK)
    }

    pub(super) fn begin_fetch(&mut self, file: FileId, pages: Range<u64>) {
        self.update(file, pages, |bits, mask| bits.fetching |= mask);
    }

    /// The pages have come.
    pub(super) fn end_fetch(&mut self, file: FileId, pages: Range<u64>) {
        self.update(file, pages, |bits, mask| {
            bits.fetching &= !mask;
            bits.present |= mask;
        });
    }

    /// Marks a page that is on its way.
    pub(super) fn mark(&mut self, file: FileId, page: u64) {
        if self.is(file, page, |bits| bits.fetching) {
            self.update(file, page..page + 1, |bits, mask| bits.marked |= mask);
        }
    }

    pub(super) fn unmark(&mut self, file: FileId, page: u64) {
        self.update(file, page..page + 1, |bits, mask| bits.marked &= !mask);
    }

    /// The pages have been written, and are therefore present.
    pub(super) fn make_dirty(&mut self, file: FileId, pages: Range<u64>) {
        self.update(file, pages, |bits, mask| {
            bits.present |= mask;
            bits.dirty |= mask;
        });
    }

    pub(super) fn begin_write(&mut self, file: FileId, pages: Range<u64>) {
        self.update(file, pages, |bits, mask| {
            bits.dirty &= !mask;
            bits.writing |= mask;
        });
    }

    pub(super) fn end_write(&mut self, file: FileId, pages: Range<u64>) {
        self.update(file, pages, |bits, mask| bits.writing &= !mask);
    }

    /// Counts everything anew.
    pub(super) fn recount(&self) -> Counts {
        let mut counts = Counts { present: 0, dirty: 0, writing: 0, ..self.counts };
        for slot in self.slots.values() {
            let bits = &self.chunks[*slot as usize].bits;
            counts.present += count(bits.present);
            counts.dirty += count(bits.dirty);
            counts.writing += count(bits.writing);
        }
        counts
    }

    /// Makes a page present behind the back of the counts.
    #[cfg(test)]
    pub(super) fn forge(&mut self) {
        let slot = self.slot(0, 1000);
        self.chunks[slot as usize].bits.present = 1;
    }

    /// Pages on both lists.
    pub(super) fn listed(&self) -> u64 {
        self.inactive.pages + self.active.pages
    }

    fn update(&mut self, file: FileId, pages: Range<u64>, change: impl Fn(&mut Bits, u64)) {
        for (number, mask) in masks(pages) {
            let slot = self.slot(file, number);
            self.change(slot, |bits| change(bits, mask));
        }
    }

    /// The slot of a chunk, which is made if there is none.
    fn slot(&mut self, file: FileId, number: u64) -> u32 {
        if let Some(slot) = self.slots.get(&(file, number)) {
            return *slot;
        }
        let chunk = Chunk { file, number, bits: Bits::default(), list: None, newer: NONE, older: NONE };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.chunks[slot as usize] = chunk;
                slot
            }
            None => {
                self.chunks.push(chunk);
                (self.chunks.len() - 1) as u32
            }
        };
        self.slots.insert((file, number), slot);
        slot
    }

    /// The one place where pages change their state: keeps counts, lists and the set of dirty chunks right.
    pub(super) fn change(&mut self, slot: u32, change: impl FnOnce(&mut Bits)) {
        let chunk = &mut self.chunks[slot as usize];
        let (file, number, list, before) = (chunk.file, chunk.number, chunk.list, chunk.bits);
        change(&mut chunk.bits);
        let after = chunk.bits;
        let entered = count(after.present & !before.present);
        let evicted = count(before.present & !after.present);
        let counts = &mut self.counts;
        counts.present = counts.present + entered - evicted;
        counts.entered += entered;
        counts.evicted += evicted;
        counts.dirtied += count(after.dirty & !before.dirty);
        counts.written += count(before.writing & !after.writing);
        counts.dirty = counts.dirty + count(after.dirty) - count(before.dirty);
        counts.writing = counts.writing + count(after.writing) - count(before.writing);
        if (before.dirty == 0) != (after.dirty == 0) {
            if after.dirty != 0 {
                self.dirty.insert((file, number));
            } else {
                self.dirty.remove(&(file, number));
            }
        }
        if let Some(which) = list {
            let list = self.list(which);
            list.pages = list.pages + entered - evicted;
        }
        if after.present == 0 {
            self.unlist(slot);
            if after.fetching == 0 {
                self.slots.remove(&(file, number));
                self.free.push(slot);
            }
        } else if entered > 0 {
            // A chunk is as young as its youngest page.
            self.move_to(slot, list.unwrap_or(Which::Inactive));
            self.limit_active();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs of consecutive numbers.
    fn runs_of(pages: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = vec![];
        for page in pages {
            match runs.last_mut() {
                Some(run) if run.end == page => run.end += 1,
                _ => runs.push(page..page + 1),
            }
        }
        runs
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..400_u64, 1..150_u64).prop_map(|(start, pages)| start..start + pages)
    }

    proptest! {
        /// Against a set of page numbers, for two files that must not mix.
        #[test]
        fn runs_are_those_of_a_set(
            fetched in prop::collection::vec((0..2_u32, range()), 0..8),
            written in prop::collection::vec((0..2_u32, range()), 0..4),
            asked in range(),
            most in 1..100_u64,
        ) {
            let mut pages = Pages::new(10_000);
            let (mut present, mut dirty) = (BTreeSet::new(), BTreeSet::new());
            for (file, range) in fetched {
                pages.begin_fetch(file, range.clone());
                pages.end_fetch(file, range.clone());
                present.extend(range.map(|page| (file, page)));
            }
            for (file, range) in written {
                pages.make_dirty(file, range.clone());
                present.extend(range.clone().map(|page| (file, page)));
                dirty.extend(range.map(|page| (file, page)));
            }
            for file in 0..2 {
                let is_present = |page: &u64| present.contains(&(file, *page));
                let here: Vec<_> = pages.runs(file, asked.clone(), |bits| bits.present).collect();
                prop_assert_eq!(here, runs_of(asked.clone().filter(is_present)));
                let missing: Vec<_> = pages.runs(file, asked.clone(), Bits::missing).collect();
                prop_assert_eq!(missing, runs_of(asked.clone().filter(|page| !is_present(page))));
                let before = (0..asked.start).rev().take(most as usize).take_while(is_present).count() as u64;
                prop_assert_eq!(pages.present_before(file, asked.start, most), before);
                let first_dirty = runs_of((asked.start..1000).filter(|page| dirty.contains(&(file, *page))));
                let first_dirty = first_dirty.first().map(|run| run.start..run.end.min(run.start + most));
                prop_assert_eq!(pages.dirty_run(file, asked.start, most), first_dirty);
            }
            prop_assert_eq!(pages.counts().present, present.len() as u64);
            prop_assert_eq!(pages.counts().dirty, dirty.len() as u64);
            prop_assert_eq!(pages.listed(), present.len() as u64);
            prop_assert_eq!(pages.recount(), *pages.counts());
        }
    }

    #[test]
    fn what_is_dirty_or_being_written_is_not_evicted() {
        let mut pages = Pages::new(0);
        pages.make_dirty(0, 0..3);
        pages.begin_write(0, 0..1);
        pages.end_fetch(0, 3..70);
        pages.shrink();
        assert_eq!((pages.counts().present, pages.counts().evicted), (3, 67));
        pages.end_write(0, 0..1);
        pages.shrink();
        assert_eq!((pages.counts().present, pages.counts().dirty), (2, 2));
        pages.begin_write(0, 1..3);
        pages.end_write(0, 1..3);
        pages.shrink();
        assert_eq!((pages.counts().present, pages.counts().written), (0, 3));
        // Nothing is left of the chunks.
        assert!(pages.slots.is_empty() && pages.dirty.is_empty() && pages.free.len() == pages.chunks.len());
    }
}
