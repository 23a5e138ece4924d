//! Sets of bytes of a disk, kept as ranges.

use crate::byte_range::length_of;
use std::collections::BTreeMap;
use std::ops::Range;

/// A set of bytes: disjoint ranges that do not touch, so that a boot's thousands of requests cost thousands
/// of entries at any granularity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// First byte of each range, and the byte after its last.
    ends: BTreeMap<u64, u64>,
}

impl Ranges {
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ends.iter().map(|(&start, &end)| start..end)
    }

    /// How many bytes are in the set.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|range| length_of(&range)).sum()
    }

    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Every range that starts no later than the new one ends, from the last: all that touch it.
        while let Some((&other_start, &other_end)) = self.ends.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.ends.remove(&other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.ends.insert(start, end);
    }

    /// The parts of `range` that are not in the set.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        let mut from = range.start;
        let before = self.ends.range(..range.start).next_back();
        for (&start, &end) in before.into_iter().chain(self.ends.range(range.clone())) {
            if start > from {
                parts.push(from..start);
            }
            from = from.max(end);
        }
        if from < range.end {
            parts.push(from..range.end);
        }
        parts
    }

    /// The set with every range widened to whole blocks of `granularity` bytes.
    pub fn rounded_out(&self, granularity: u64) -> Ranges {
        let mut rounded = Ranges::default();
        for range in self.iter() {
            let start = range.start.saturating_sub(range.start.checked_rem(granularity).unwrap_or(0));
            let end = range.end.div_ceil(granularity).saturating_mul(granularity);
            rounded.insert(start..end);
        }
        rounded
    }

    pub fn union(&self, other: &Ranges) -> Ranges {
        let mut union = self.clone();
        other.iter().for_each(|range| union.insert(range));
        union
    }

    pub fn intersection(&self, other: &Ranges) -> Ranges {
        let mut common = Ranges::default();
        for range in self.iter() {
            let mut from = range.start;
            for hole in other.missing(range.clone()) {
                common.insert(from..hole.start);
                from = hole.end;
            }
            common.insert(from..range.end);
        }
        common
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const DISK: u64 = 96;

    fn spans() -> impl Strategy<Value = Vec<Range<u64>>> {
        prop::collection::vec((0..DISK, 0..16u64).prop_map(|(start, length)| start..start + length), 0..24)
    }

    fn both(spans: &[Range<u64>]) -> (Ranges, BTreeSet<u64>) {
        let mut ranges = Ranges::default();
        spans.iter().for_each(|span| ranges.insert(span.clone()));
        (ranges, spans.iter().cloned().flatten().collect())
    }

    fn bytes(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flatten().collect()
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_bytes(a in spans(), b in spans(), probe in spans(), granularity in 1..9u64) {
            let (a, a_bytes) = both(&a);
            let (b, b_bytes) = both(&b);
            prop_assert_eq!(bytes(&a), a_bytes.clone());
            prop_assert_eq!(a.bytes(), a_bytes.len() as u64);
            prop_assert_eq!(bytes(&a.union(&b)), &a_bytes | &b_bytes);
            prop_assert_eq!(bytes(&a.intersection(&b)), &a_bytes & &b_bytes);
            let rounded = a_bytes.iter().flat_map(|byte| {
                let start = byte - byte % granularity;
                start..start + granularity
            });
            prop_assert_eq!(bytes(&a.rounded_out(granularity)), rounded.collect::<BTreeSet<_>>());
            for span in probe {
                let missing: BTreeSet<u64> = a.missing(span.clone()).into_iter().flatten().collect();
                prop_assert_eq!(missing, span.filter(|byte| !a_bytes.contains(byte)).collect::<BTreeSet<_>>());
            }
        }

        #[test]
        fn ranges_never_touch(spans in spans()) {
            let (ranges, _) = both(&spans);
            let list: Vec<_> = ranges.iter().collect();
            prop_assert!(list.iter().all(|range| !range.is_empty()));
            prop_assert!(list.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
