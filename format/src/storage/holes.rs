//! Where a store holds nothing but zeroes.

use std::ops::Range;
use std::sync::Arc;

/// The holes of a store: ranges of bytes that read as zeroes and cost nothing to read. Clones share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes(Arc<[Range<u64>]>);

impl Holes {
    /// These ranges, whatever their order; those that touch are one.
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut ranges: Vec<Range<u64>> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, range| {
            let goes_on = next.start <= range.end;
            if goes_on {
                range.end = range.end.max(next.end);
            }
            goes_on
        });
        Holes(ranges.into())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the bytes at the start of `range`, which is not empty, are a hole, and where that ends, at most at the
    /// end of `range`.
    pub fn at(&self, range: &Range<u64>) -> (bool, u64) {
        let next = self.0.partition_point(|hole| hole.end <= range.start);
        match self.0.get(next) {
            Some(hole) if hole.start <= range.start => (true, hole.end.min(range.end)),
            Some(hole) => (false, hole.start.min(range.end)),
            None => (false, range.end),
        }
    }

    /// How many bytes of `range` are holes.
    pub fn bytes_in(&self, range: &Range<u64>) -> u64 {
        let first = self.0.partition_point(|hole| hole.end <= range.start);
        let holes = self.0.iter().skip(first).take_while(|hole| hole.start < range.end);
        holes.map(|hole| hole.end.min(range.end).saturating_sub(hole.start.max(range.start))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_found_from_any_byte_and_end_with_the_range() {
        let holes = Holes::new([8..12, 20..24, 12..14, 4..4, 9..10]);
        assert_eq!(holes, Holes::new([8..14, 20..24]));
        for (range, expected) in [
            (0..30, (false, 8)),
            (0..5, (false, 5)),
            (8..30, (true, 14)),
            (13..14, (true, 14)),
            (14..30, (false, 20)),
            (22..23, (true, 23)),
            (24..30, (false, 30)),
        ] {
            assert_eq!(holes.at(&range), expected, "{range:?}");
        }
        assert_eq!([0..30, 10..22, 14..20, 23..40].map(|range| holes.bytes_in(&range)), [10, 6, 0, 1]);
        assert_eq!(Holes::default().at(&(3..7)), (false, 7));
    }
}
