//! Chunks of pages as bits.

use std::ops::Range;

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;
/// Pages of a chunk.
pub(super) const CHUNK: u64 = 64;

/// States of the pages of a chunk: bit `i` belongs to page `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    /// In memory.
    pub(super) present: u64,
    /// Being read from below.
    pub(super) fetching: u64,
    /// Written, and not below yet.
    pub(super) dirty: u64,
    /// Being written below.
    pub(super) writing: u64,
    /// Used once since they came, or since their chunk was last moved between the lists.
    pub(super) used: u64,
    /// Readahead markers.
    pub(super) marked: u64,
}

impl Bits {
    /// Neither in memory nor on the way.
    pub(super) fn missing(&self) -> u64 {
        !(self.present | self.fetching)
    }

    pub(super) fn evictable(&self) -> u64 {
        self.present & !(self.dirty | self.writing)
    }
}

/// The chunks that `pages` lie in, with the bits of those pages.
pub(super) fn masks(pages: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let mut from = pages.start;
    std::iter::from_fn(move || {
        if from >= pages.end {
            return None;
        }
        let chunk = from / CHUNK;
        let to = pages.end.min((chunk + 1) * CHUNK);
        let mask = u64::MAX >> (CHUNK - (to - from)) << (from % CHUNK);
        from = to;
        Some((chunk, mask))
    })
}

/// The lowest `most` bits that are set.
pub(super) fn lowest(bits: u64, most: u64) -> u64 {
    let mut rest = bits;
    for _ in 0..most.min(CHUNK) {
        rest &= rest.wrapping_sub(1);
    }
    bits & !rest
}

pub(super) fn count(bits: u64) -> u64 {
    u64::from(bits.count_ones())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bits_are_taken() {
        assert_eq!(lowest(0b1011_0100, 2), 0b0001_0100);
        assert_eq!(lowest(0b1011_0100, 0), 0);
        assert_eq!(lowest(0b1011_0100, 1000), 0b1011_0100);
        assert_eq!(lowest(u64::MAX, 64), u64::MAX);
    }
}
