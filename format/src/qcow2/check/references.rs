//! How often each host cluster is referenced, and how often the refcounts say so.

use rustc_hash::{FxHashMap, FxHashSet};
use std::ops::Range;

/// Clusters whose counts lie together.
pub(super) const GROUP: u64 = 32;
/// From here on the rest of a count stands in a map of large counts.
const LARGE: u8 = u8::MAX;

/// A count for each cluster of a group.
type Counts = [u8; GROUP as usize];

#[derive(Clone)]
struct Group {
    number: u64,
    references: Counts,
    refcounts: Counts,
    /// Bit by bit, which clusters hold metadata.
    metadata: u32,
}

/// A cluster's two counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub cluster: u64,
    pub references: u64,
    pub refcount: u64,
}

/// The counts of all clusters that are referenced or counted. It takes no memory for others.
#[derive(Default)]
pub(super) struct References {
    groups: Vec<Group>,
    places: FxHashMap<u64, u32>,
    last: Option<(u64, u32)>,
    /// What goes beyond [`LARGE`].
    large_references: FxHashMap<u64, u64>,
    large_refcounts: FxHashMap<u64, u64>,
    /// Clusters of metadata that something else uses, too.
    pub overlaps: FxHashSet<u64>,
}

/// The cluster with this index in a group.
fn cluster_of(group: u64, index: usize) -> u64 {
    group.saturating_mul(GROUP).saturating_add(index as u64)
}

/// The part of a run that lies in the group where it begins: the index of the first cluster, and how many there are.
fn within_group(run: &Range<u64>) -> (usize, usize) {
    let first = run.start % GROUP;
    let count = GROUP.saturating_sub(first).min(run.end.saturating_sub(run.start));
    (first as usize, count as usize)
}

impl References {
    fn place(&mut self, number: u64) -> usize {
        if let Some((last, place)) = self.last
            && last == number
        {
            return place as usize;
        }
        let groups = &mut self.groups;
        let place = *self.places.entry(number).or_insert_with(|| {
            let (place, empty) = (groups.len() as u32, [0; GROUP as usize]);
            groups.push(Group { number, references: empty, refcounts: empty, metadata: 0 });
            place
        });
        self.last = Some((number, place));
        place as usize
    }

    fn group(&self, cluster: u64) -> Option<(&Group, usize)> {
        let place = *self.places.get(&(cluster / GROUP))?;
        Some((self.groups.get(place as usize)?, (cluster % GROUP) as usize))
    }

    /// Bytes of memory that the counts take, roughly.
    pub fn memory(&self) -> u64 {
        let [large_references, large_refcounts] =
            [&self.large_references, &self.large_refcounts].map(|counts| (counts.capacity(), 17));
        let sizes = [
            (self.groups.capacity(), size_of::<Group>()),
            (self.places.capacity(), 17),
            large_references,
            large_refcounts,
            (self.overlaps.capacity(), 9),
        ];
        sizes.into_iter().map(|(entries, bytes)| entries.saturating_mul(bytes) as u64).sum()
    }

    /// Counts `times` more references of each cluster of a run; says whether metadata lies there that was added
    /// before. Metadata is added before data.
    pub fn add(&mut self, run: Range<u64>, times: u64, is_metadata: bool) -> bool {
        let (mut at, mut overlaps) = (run.start, false);
        while at < run.end {
            let (first, count) = within_group(&(at..run.end));
            let place = self.place(at / GROUP);
            let Some(group) = self.groups.get_mut(place) else { break };
            let mask = (u32::MAX >> (GROUP as usize).saturating_sub(count)) << first;
            let mut overlapping = group.metadata & mask;
            overlaps |= overlapping != 0;
            while overlapping != 0 {
                self.overlaps.insert(cluster_of(group.number, overlapping.trailing_zeros() as usize));
                overlapping &= overlapping.wrapping_sub(1);
            }
            if is_metadata {
                group.metadata |= mask;
            }
            for (index, counted) in group.references.iter_mut().enumerate().skip(first).take(count) {
                let sum = u64::from(*counted).saturating_add(times);
                if sum < u64::from(LARGE) {
                    *counted = sum as u8;
                    continue;
                }
                let excess = self.large_references.entry(cluster_of(group.number, index)).or_default();
                *excess = excess.saturating_add(sum.saturating_sub(u64::from(LARGE)));
                *counted = LARGE;
            }
            at = at.saturating_add(count as u64);
        }
        overlaps
    }

    /// Takes back what was added to one cluster of metadata that nothing else uses any more.
    pub fn remove(&mut self, cluster: u64) {
        let place = self.place(cluster / GROUP);
        let Some(group) = self.groups.get_mut(place) else { return };
        let Some(counted) = group.references.get_mut((cluster % GROUP) as usize) else { return };
        match self.large_references.get_mut(&cluster) {
            Some(excess) if *counted == LARGE && *excess > 0 => *excess = excess.saturating_sub(1),
            _ => *counted = counted.saturating_sub(1),
        }
    }

    /// Records the refcounts of a group of clusters.
    pub fn set_refcounts(&mut self, number: u64, refcounts: impl Iterator<Item = u64>) {
        let place = self.place(number);
        let Some(group) = self.groups.get_mut(place) else { return };
        for ((index, counted), refcount) in group.refcounts.iter_mut().enumerate().zip(refcounts) {
            *counted = refcount.min(u64::from(LARGE)) as u8;
            if *counted == LARGE {
                let excess = refcount.saturating_sub(u64::from(LARGE));
                self.large_refcounts.insert(cluster_of(number, index), excess);
            }
        }
    }

    fn whole(counted: u8, large: &FxHashMap<u64, u64>, cluster: u64) -> u64 {
        match counted {
            LARGE => u64::from(LARGE).saturating_add(large.get(&cluster).copied().unwrap_or(0)),
            small => u64::from(small),
        }
    }

    /// What is known of a cluster.
    pub fn tally(&self, cluster: u64) -> Tally {
        let (mut references, mut refcount) = (0, 0);
        if let Some((group, index)) = self.group(cluster) {
            let counted = |counts: &Counts| counts.get(index).copied().unwrap_or(0);
            references = Self::whole(counted(&group.references), &self.large_references, cluster);
            refcount = Self::whole(counted(&group.refcounts), &self.large_refcounts, cluster);
        }
        Tally { cluster, references, refcount }
    }

    /// The clusters of a run for which it is not `expected` that their refcount is exactly one.
    pub fn refcount_one_is_not(&mut self, run: Range<u64>, expected: bool, mut found: impl FnMut(u64, u64)) {
        let mut at = run.start;
        while at < run.end {
            let (first, count) = within_group(&(at..run.end));
            let known = self.places.get(&(at / GROUP)).and_then(|place| self.groups.get(*place as usize));
            let none = [0; GROUP as usize];
            let counts = known.map_or(&none, |group| &group.refcounts);
            for (index, counted) in counts.iter().enumerate().skip(first).take(count) {
                if (*counted == 1) != expected {
                    let cluster = cluster_of(at / GROUP, index);
                    found(cluster, Self::whole(*counted, &self.large_refcounts, cluster));
                }
            }
            at = at.saturating_add(count as u64);
        }
    }

    /// Every cluster with a count, in the order of the file.
    pub fn for_each(&self, mut visit: impl FnMut(Tally)) {
        let mut order: Vec<u32> = (0..self.groups.len() as u32).collect();
        order.sort_unstable_by_key(|place| self.groups.get(*place as usize).map(|group| group.number));
        for group in order.iter().filter_map(|place| self.groups.get(*place as usize)) {
            let counts = group.references.iter().zip(&group.refcounts).enumerate();
            for (index, (references, refcount)) in counts {
                if *references | *refcount == 0 {
                    continue;
                }
                let cluster = cluster_of(group.number, index);
                visit(Tally {
                    cluster,
                    references: Self::whole(*references, &self.large_references, cluster),
                    refcount: Self::whole(*refcount, &self.large_refcounts, cluster),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_sizes_are_kept() {
        let mut references = References::default();
        for (cluster, times) in [(0, 1), (31, 254), (32, 255), (33, 256), (34, 1 << 40), (1 << 50, 3)] {
            references.add(cluster..cluster + 1, times, false);
            assert_eq!(references.tally(cluster), Tally { cluster, references: times, refcount: 0 });
        }
        references.add(30..36, 300, false);
        let counts: Vec<u64> = (29..37).map(|cluster| references.tally(cluster).references).collect();
        assert_eq!(counts, [0, 300, 554, 555, 556, (1 << 40) + 300, 300, 0]);
        references.remove(30);
        references.remove(0);
        assert_eq!((references.tally(30).references, references.tally(0).references), (299, 0));
        references.set_refcounts(1, [1, 255, 256, 70_000].into_iter());
        let refcounts: Vec<u64> = (32..37).map(|cluster| references.tally(cluster).refcount).collect();
        assert_eq!(refcounts, [1, 255, 256, 70_000, 0]);
        let mut order = vec![];
        references.for_each(|tally| order.push(tally.cluster));
        assert_eq!(order, [30, 31, 32, 33, 34, 35, 1 << 50]);
    }

    #[test]
    fn metadata_that_is_used_twice_is_an_overlap() {
        let mut references = References::default();
        references.add(60..70, 1, true);
        references.add(80..81, 2, true);
        assert!(references.overlaps.is_empty());
        references.add(69..80, 1, false);
        references.add(60..61, 1, true);
        assert_eq!(references.overlaps.len(), 2);
        assert!(references.overlaps.contains(&60) && references.overlaps.contains(&69));
    }

    #[test]
    fn a_flag_that_contradicts_the_refcount_is_found() {
        let mut references = References::default();
        references.set_refcounts(0, [1, 1, 2, 0].into_iter());
        let mut found = vec![];
        references.refcount_one_is_not(0..40, true, |cluster, refcount| found.push((cluster, refcount)));
        assert_eq!(found[..3], [(2, 2), (3, 0), (4, 0)]);
        assert_eq!(found.len(), 38);
        found.clear();
        references.refcount_one_is_not(1..40, false, |cluster, refcount| found.push((cluster, refcount)));
        assert_eq!(found, [(1, 1)]);
    }
}
