//! In what order pages leave, after Linux: a chunk enters the inactive list, a page's second use moves its
//! chunk to the active one, and only what falls off the inactive list is evicted. The active list holds at
//! most half of the capacity, so that no more than that can be kept from leaving.

use std::ops::Range;

use super::bits::{count, lowest, masks};
use super::pages::{Chunk, FileId, Pages};

/// No chunk.
pub(super) const NONE: u32 = u32::MAX;

/// One of the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Inactive,
    Active,
}

/// A list of chunks by age, and how many pages of them are present.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub(super) newest: u32,
    pub(super) oldest: u32,
    pub(super) pages: u64,
}

pub(super) const EMPTY: List = List { newest: NONE, oldest: NONE, pages: 0 };

impl Pages {
    /// The pages, as far as they are present, have been used.
    pub(super) fn touch(&mut self, file: FileId, pages: Range<u64>) {
        for (number, mask) in masks(pages) {
            let Some(&slot) = self.slots.get(&(file, number)) else { continue };
            let chunk = &mut self.chunks[slot as usize];
            let touched = chunk.bits.present & mask;
            let second = chunk.bits.used & touched != 0;
            chunk.bits.used |= touched;
            if second && chunk.list == Some(Which::Inactive) {
                self.move_to(slot, Which::Active);
                self.limit_active();
            }
        }
    }

    /// Evicts the oldest clean pages until no more are present than there is room for. What is dirty stays.
    pub(super) fn shrink(&mut self) {
        // How many chunks may be passed over because nothing of them is clean.
        let mut patience = self.slots.len();
        while self.counts.present > self.capacity {
            let slot = if self.inactive.oldest != NONE { self.inactive.oldest } else { self.active.oldest };
            if slot == NONE {
                return;
            }
            let excess = self.counts.present - self.capacity;
            let evicted = lowest(self.chunks[slot as usize].bits.evictable(), excess);
            if evicted != 0 {
                self.change(slot, |bits| {
                    bits.present &= !evicted;
                    bits.used &= !evicted;
                    bits.marked &= !evicted;
                });
            } else if patience > 0 {
                patience -= 1;
                self.move_to(slot, Which::Inactive);
            } else {
                return;
            }
        }
    }

    pub(super) fn limit_active(&mut self) {
        while self.active.pages > self.capacity / 2 {
            self.move_to(self.active.oldest, Which::Inactive);
        }
    }

    pub(super) fn list(&mut self, which: Which) -> &mut List {
        match which {
            Which::Inactive => &mut self.inactive,
            Which::Active => &mut self.active,
        }
    }

    /// Makes a chunk the newest of a list. Where it was in another, its pages must be used twice again.
    pub(super) fn move_to(&mut self, slot: u32, which: Which) {
        if self.chunks[slot as usize].list.is_some_and(|list| list != which) {
            self.chunks[slot as usize].bits.used = 0;
        }
        self.unlist(slot);
        let list = self.list(which);
        let older = std::mem::replace(&mut list.newest, slot);
        if older == NONE {
            list.oldest = slot;
        } else {
            self.chunks[older as usize].newer = slot;
        }
        let chunk = &mut self.chunks[slot as usize];
        (chunk.list, chunk.older, chunk.newer) = (Some(which), older, NONE);
        let pages = count(chunk.bits.present);
        self.list(which).pages += pages;
    }

    pub(super) fn unlist(&mut self, slot: u32) {
        let Chunk { list: Some(which), newer, older, bits, .. } = self.chunks[slot as usize] else { return };
        self.chunks[slot as usize].list = None;
        if newer != NONE {
            self.chunks[newer as usize].older = older;
        }
        if older != NONE {
            self.chunks[older as usize].newer = newer;
        }
        let list = self.list(which);
        list.pages -= count(bits.present);
        if newer == NONE {
            list.newest = older;
        }
        if older == NONE {
            list.oldest = newer;
        }
    }
}
