//! Ranges of bytes.

use std::ops::Range;

/// Bytes of a range.
pub(crate) fn length_of(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// `length` bytes from `offset` on, as far as there are numbers for them.
pub(crate) fn range_at(offset: u64, length: u64) -> Range<u64> {
    offset..offset.saturating_add(length)
}

/// The last multiple of `unit`, a power of two, that is not beyond `offset`.
pub(crate) fn round_down(offset: u64, unit: u64) -> u64 {
    offset & unit.wrapping_neg()
}
