//! Refcounts of 1 to 64 bits, as they stand in refcount blocks.

use std::ops::Range;

/// How wide the refcounts of an image are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RefcountWidth {
    /// Binary logarithm of the bits: 0 to 6.
    order: u32,
}

impl RefcountWidth {
    /// The width that a header gives as `refcount_order`; the format ends at 6.
    pub fn new(order: u32) -> Self {
        RefcountWidth { order: order.min(6) }
    }

    /// Bits of a refcount: 1 to 64.
    pub fn bits(self) -> u32 {
        1 << self.order
    }

    /// Binary logarithm of the refcounts in a byte, where that is several.
    fn per_byte_bits(self) -> u32 {
        3u32.saturating_sub(self.order)
    }

    /// Bytes of a refcount, where that is not less than one.
    fn bytes(self) -> usize {
        1 << self.order.saturating_sub(3)
    }

    /// The largest refcount.
    pub fn max(self) -> u64 {
        u64::MAX >> 64u32.saturating_sub(self.bits())
    }

    /// The refcount with this index; 0 beyond the end. Below a byte, the lowest bits come first.
    pub fn get(self, counts: &[u8], index: usize) -> u64 {
        if self.order < 3 {
            let per_byte_bits = self.per_byte_bits();
            let byte = counts.get(index >> per_byte_bits).copied().unwrap_or(0);
            let within = index & !(usize::MAX << per_byte_bits);
            return u64::from(byte) >> (within << self.order) & self.max();
        }
        let bytes = self.bytes();
        let start = index.saturating_mul(bytes);
        let entry = counts.get(start..start.saturating_add(bytes)).unwrap_or_default();
        entry.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// Sets the refcount with this index, which must not exceed [`max`](Self::max). Beyond the end nothing happens.
    pub fn set(self, counts: &mut [u8], index: usize, count: u64) {
        debug_assert!(count <= self.max());
        if self.order < 3 {
            let per_byte_bits = self.per_byte_bits();
            let shift = (index & !(usize::MAX << per_byte_bits)) << self.order;
            if let Some(byte) = counts.get_mut(index >> per_byte_bits) {
                *byte = *byte & !((self.max() as u8) << shift) | (count as u8) << shift;
            }
            return;
        }
        let bytes = self.bytes();
        let start = index.saturating_mul(bytes);
        if let Some(entry) = counts.get_mut(start..start.saturating_add(bytes)) {
            entry.iter_mut().rev().zip(count.to_le_bytes()).for_each(|(place, byte)| *place = byte);
        }
    }

    /// Sets all refcounts of a range of indices.
    pub fn fill(self, counts: &mut [u8], range: Range<usize>, count: u64) {
        debug_assert!(count <= self.max());
        if self.order == 4 {
            // The usual width.
            let (pairs, _) = counts.as_chunks_mut::<2>();
            pairs.get_mut(range).unwrap_or_default().fill((count as u16).to_be_bytes());
            return;
        }
        range.for_each(|index| self.set(counts, index, count));
    }

    /// The first index in `from..end` whose refcount is zero, or not zero if `zero` is false; else `end`.
    pub fn find(self, counts: &[u8], from: usize, end: usize, zero: bool) -> usize {
        if self.order == 4 {
            // The usual width, and what every allocation searches.
            let (pairs, _) = counts.as_chunks::<2>();
            let searched = pairs.get(from..end).unwrap_or_default();
            let passed = searched.iter().take_while(|pair| (**pair == [0, 0]) != zero).count();
            return from.saturating_add(passed);
        }
        (from..end).find(|index| (self.get(counts, *index) == 0) == zero).unwrap_or(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_keeps_its_neighbours() {
        for order in 0..=6 {
            let width = RefcountWidth::new(order);
            let mut counts = vec![0; 64];
            let entries = 64 * 8 / width.bits() as usize;
            for index in 0..entries {
                width.set(&mut counts, index, (index as u64 * 7 + 1) & width.max());
            }
            for index in 0..entries {
                assert_eq!(
                    width.get(&counts, index),
                    (index as u64 * 7 + 1) & width.max(),
                    "{order} {index}"
                );
            }
            assert_eq!(width.get(&counts, entries), 0);
            width.set(&mut counts, entries, 1);
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let set = |order, index, count| {
            let mut counts = [0; 8];
            RefcountWidth::new(order).set(&mut counts, index, count);
            counts
        };
        assert_eq!(set(0, 9, 1), [0, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(set(2, 1, 0xa), [0xa0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(set(4, 1, 0x0102), [0, 0, 1, 2, 0, 0, 0, 0]);
        assert_eq!(set(6, 0, 0x0102), [0, 0, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn runs_are_found_at_every_width() {
        for order in 0..=6 {
            let width = RefcountWidth::new(order);
            let mut counts = vec![0; 128];
            width.fill(&mut counts, 3..6, 1);
            assert_eq!(width.find(&counts, 0, 16, false), 3, "{order}");
            assert_eq!(width.find(&counts, 3, 16, true), 6);
            assert_eq!(width.find(&counts, 6, 16, false), 16);
            assert_eq!(width.find(&counts, 3, 5, true), 5);
        }
    }
}
