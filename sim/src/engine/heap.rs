//! A heap of numbered entries that can be moved and removed.

/// Bits of an entry's key that hold its number.
const ID_BITS: u32 = 24;

/// Numbers of entries are below this.
pub(super) const MAX_ENTRIES: u32 = 1 << ID_BITS;

const ABSENT: u32 = u32::MAX;

/// Where an entry belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    value: u64,
    /// When it was set, and below that its number.
    order: u64,
}

impl Key {
    fn id(self) -> u32 {
        self.order as u32 & (MAX_ENTRIES - 1)
    }
}

/// Entries ordered by a value, and among equal values by when they were set: a heap of four children a node. The
/// position of every number is kept, so that nothing dead ever stays in the heap.
#[derive(Debug, Default)]
pub(super) struct Heap {
    keys: Vec<Key>,
    /// By number.
    positions: Vec<u32>,
    order: u64,
    /// The first key is of an entry that was taken: whoever comes next saves a removal by replacing it.
    hole: bool,
}

impl Heap {
    /// Entries in the heap, a hole included.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The number and the value of the first entry, if there is no hole.
    #[inline]
    pub(super) fn first(&self) -> Option<(u32, u64)> {
        self.keys.first().map(|key| (key.id(), key.value))
    }

    /// Whether the entry is the first, if there is no hole.
    #[inline]
    pub(super) fn is_first(&self, id: u32) -> bool {
        self.keys.first().is_some_and(|key| key.id() == id)
    }

    /// Puts the entry in, or moves it: behind all others of the same value.
    #[inline]
    pub(super) fn set(&mut self, id: u32, value: u64) {
        debug_assert!(id < MAX_ENTRIES);
        // Overflow would be a panic: after 2^40 calls.
        self.order += 1 << ID_BITS;
        let key = Key { value, order: self.order | u64::from(id) };
        if self.positions.len() <= id as usize {
            self.positions.resize(id as usize + 1, ABSENT);
        }
        match self.positions[id as usize] {
            ABSENT if self.hole => {
                self.hole = false;
                self.sift_down(0, key);
            }
            ABSENT => {
                self.keys.push(key);
                self.sift_up(self.keys.len() - 1, key);
            }
            position => self.put(position as usize, key),
        }
    }

    /// Takes the entry out, if it is in.
    #[inline]
    pub(super) fn remove(&mut self, id: u32) {
        let Some(position) = self.positions.get_mut(id as usize) else { return };
        let position = std::mem::replace(position, ABSENT) as usize;
        if position >= self.keys.len() {
            return;
        }
        self.keys.swap_remove(position);
        // What was last lies there now.
        if let Some(&moved) = self.keys.get(position) {
            self.settle(position, moved);
        }
    }

    /// Takes the first entry out, and leaves a hole in its place.
    #[inline]
    pub(super) fn take_first(&mut self) -> Option<(u32, u64)> {
        self.close_hole();
        let first = self.first()?;
        self.positions[first.0 as usize] = ABSENT;
        self.hole = true;
        Some(first)
    }

    /// Removes the hole that the last [`Heap::take_first`] left, unless it was filled since.
    #[inline]
    pub(super) fn close_hole(&mut self) {
        if !std::mem::take(&mut self.hole) {
            return;
        }
        let last = self.keys.pop();
        if let Some(last) = last
            && !self.keys.is_empty()
        {
            self.sift_down(0, last);
        }
    }

    /// Numbers of all entries, in no order that means anything; not while there is a hole.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.keys.iter().map(|key| key.id())
    }

    fn put(&mut self, position: usize, key: Key) {
        self.keys[position] = key;
        self.settle(position, key);
    }

    fn settle(&mut self, position: usize, key: Key) {
        if position > 0 && key < self.keys[(position - 1) >> 2] {
            self.sift_up(position, key);
        } else {
            self.sift_down(position, key);
        }
    }

    #[inline]
    fn place(&mut self, position: usize, key: Key) {
        self.keys[position] = key;
        self.positions[key.id() as usize] = position as u32;
    }

    #[inline]
    fn sift_up(&mut self, mut position: usize, key: Key) {
        while position > 0 {
            let parent = (position - 1) >> 2;
            let above = self.keys[parent];
            if above < key {
                break;
            }
            self.place(position, above);
            position = parent;
        }
        self.place(position, key);
    }

    #[inline]
    fn sift_down(&mut self, mut position: usize, key: Key) {
        let (keys, positions) = (self.keys.as_mut_slice(), self.positions.as_mut_slice());
        loop {
            let first = (position << 2) + 1;
            let child = match keys.get(first..).and_then(<[Key]>::first_chunk::<4>) {
                Some(children) => first + least_of(children),
                None if first < keys.len() => (first + 1..keys.len())
                    .fold(first, |least, next| if keys[next] < keys[least] { next } else { least }),
                None => break,
            };
            let least = keys[child];
            if key < least {
                break;
            }
            keys[position] = least;
            positions[least.id() as usize] = position as u32;
            position = child;
        }
        keys[position] = key;
        positions[key.id() as usize] = position as u32;
    }
}

/// Which of four siblings is first.
#[inline]
fn least_of(keys: &[Key; 4]) -> usize {
    // By value alone, without branches, which could not be predicted.
    let [a, b, c, d] = keys.map(|key| key.value);
    let (left, left_value) = if b < a { (1, b) } else { (0, a) };
    let (right, right_value) = if d < c { (3, d) } else { (2, c) };
    let (least, value) = if right_value < left_value { (right, right_value) } else { (left, left_value) };
    let equal = [a, b, c, d].map(|other| u32::from(other == value));
    if equal[0] + equal[1] + equal[2] + equal[3] > 1 { first_of_equals(keys) } else { least }
}

#[cold]
fn first_of_equals(keys: &[Key; 4]) -> usize {
    (1..4).fold(0, |least, next| if keys[next] < keys[least] { next } else { least })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, u64),
        Remove(u32),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..40_u32, 0..30_u64).prop_map(|(id, value)| Step::Set(id, value)),
            1 => (0..40_u32).prop_map(Step::Remove),
            2 => Just(Step::Take),
        ]
    }

    proptest! {
        #[test]
        fn a_heap_is_a_sorted_list(steps in prop::collection::vec(step(), 0..300)) {
            let mut heap = Heap::default();
            let mut list: BTreeMap<u32, (u64, usize)> = BTreeMap::new();
            // Nothing may be set before what was last taken, as nothing is set before now.
            let mut now = 0;
            for (order, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Set(id, value) => {
                        heap.set(id, now + value);
                        list.insert(id, (now + value, order));
                    }
                    Step::Remove(id) => {
                        heap.remove(id);
                        list.remove(&id);
                    }
                    Step::Take => {
                        let first = list.iter().min_by_key(|(_, key)| **key).map(|(&id, &(value, _))| (id, value));
                        prop_assert_eq!(heap.take_first(), first);
                        if let Some((id, value)) = first {
                            list.remove(&id);
                            now = value;
                        }
                    }
                }
                prop_assert_eq!(heap.len() - usize::from(heap.hole), list.len());
            }
        }
    }
}
