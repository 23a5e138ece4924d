//! A bounded cache of slices of on-disk tables.

use rustc_hash::FxHashMap;

/// An entry of an on-disk table: fixed width, big-endian.
pub(crate) trait Entry: Copy + Default {
    /// All entries of a table or a part of one, in order.
    fn decode(bytes: &[u8]) -> impl ExactSizeIterator<Item = Self>;
    fn encode(entries: &[Self]) -> Vec<u8>;
}

macro_rules! big_endian_entry {
    ($width:ty) => {
        impl Entry for $width {
            fn decode(bytes: &[u8]) -> impl ExactSizeIterator<Item = Self> {
                let (entries, _) = bytes.as_chunks::<{ size_of::<$width>() }>();
                entries.iter().map(|entry| <$width>::from_be_bytes(*entry))
            }

            fn encode(entries: &[Self]) -> Vec<u8> {
                let mut bytes = vec![0; size_of_val(entries)];
                let (places, _) = bytes.as_chunks_mut::<{ size_of::<$width>() }>();
                places.iter_mut().zip(entries).for_each(|(place, entry)| *place = entry.to_be_bytes());
                bytes
            }
        }
    };
}

big_endian_entry!(u64);
// Refcounts stay as they stand in the file: their width differs from image to image.
big_endian_entry!(u8);

#[derive(Debug)]
struct Slot {
    key: u64,
    /// Differs from the storage.
    dirty: bool,
    /// Used since the clock's hand passed last.
    referenced: bool,
    /// Users that need it to stay: reservations to be committed, publications under way.
    pins: u32,
}

/// Slices by number. Dirty and pinned slices stay; of the others as many as the capacity allows, the least
/// recently used going first (clock).
#[derive(Debug)]
pub(crate) struct SliceCache<E> {
    /// The slices' entries, a slot's behind each other: slices come and go with every request.
    entries: Vec<E>,
    /// `None`: free.
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    index: FxHashMap<u64, usize>,
    capacity: usize,
    hand: usize,
    dirty: usize,
    /// Slices that are dirty or pinned.
    held: usize,
    entries_per_slice: usize,
}

impl<E: Entry> SliceCache<E> {
    /// A cache of at most `bytes` bytes (but at least 16 slices), with slices of `entries_per_slice`.
    pub fn new(bytes: u64, entries_per_slice: usize) -> Self {
        SliceCache {
            entries: vec![],
            slots: vec![],
            free: vec![],
            index: FxHashMap::default(),
            capacity: (bytes as usize / (entries_per_slice * size_of::<E>())).max(16),
            hand: 0,
            dirty: 0,
            held: 0,
            entries_per_slice,
        }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn dirty(&self) -> usize {
        self.dirty
    }

    pub fn contains(&self, key: u64) -> bool {
        self.index.contains_key(&key)
    }

    pub fn get(&mut self, key: u64) -> Option<&[E]> {
        let place = *self.index.get(&key)?;
        self.slots[place].as_mut()?.referenced = true;
        Some(&self.entries[place * self.entries_per_slice..][..self.entries_per_slice])
    }

    /// The slice to be changed: it becomes dirty.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut [E]> {
        let place = *self.index.get(&key)?;
        let slot = self.slots[place].as_mut()?;
        slot.referenced = true;
        self.held += usize::from(!slot.dirty && slot.pins == 0);
        self.dirty += usize::from(!slot.dirty);
        slot.dirty = true;
        Some(&mut self.entries[place * self.entries_per_slice..][..self.entries_per_slice])
    }

    /// Adds a slice as it stands in the storage; one that is here already is newer and stays. Nothing is
    /// evicted: a step may rely on every slice that it has seen.
    pub fn insert_clean(&mut self, key: u64, entries: impl ExactSizeIterator<Item = E>) {
        debug_assert_eq!(entries.len(), self.entries_per_slice);
        if self.contains(key) {
            return;
        }
        let slot = Some(Slot { key, dirty: false, referenced: true, pins: 0 });
        match self.free.pop() {
            Some(place) => {
                let start = place * self.entries_per_slice;
                let places = &mut self.entries[start..start + self.entries_per_slice];
                places.iter_mut().zip(entries).for_each(|(place, entry)| *place = entry);
                self.slots[place] = slot;
                self.index.insert(key, place);
            }
            None => {
                self.index.insert(key, self.slots.len());
                self.slots.push(slot);
                // A third at a time: doubling would waste up to half of the memory.
                if self.entries.capacity() < self.entries.len() + self.entries_per_slice {
                    self.entries.reserve_exact((self.slots.len() / 3).max(16) * self.entries_per_slice);
                }
                self.entries.extend(entries);
            }
        }
    }

    /// Adds the slice of a new table: all zero, and dirty.
    pub fn insert_zeroed(&mut self, key: u64) {
        self.insert_clean(key, std::iter::repeat_n(E::default(), self.entries_per_slice));
        self.get_mut(key);
    }

    /// Evicts slices above the capacity, as far as a bounded search finds some that were not used lately.
    pub fn trim(&mut self) {
        let mut excess = (self.index.len() - self.held).saturating_sub(self.capacity);
        let mut steps = 64 + 2 * excess;
        while excess > 0 && steps > 0 {
            steps -= 1;
            self.hand = (self.hand + 1) % self.slots.len();
            match &mut self.slots[self.hand] {
                Some(slot) if slot.dirty || slot.pins > 0 => {}
                Some(slot) if slot.referenced => slot.referenced = false,
                place => {
                    if let Some(evicted) = place.take() {
                        self.index.remove(&evicted.key);
                        self.free.push(self.hand);
                        excess -= 1;
                    }
                }
            }
        }
    }

    pub fn pin(&mut self, key: u64) {
        if let Some(slot) = self.slot(key) {
            slot.pins += 1;
            let newly_held = slot.pins == 1 && !slot.dirty;
            self.held += usize::from(newly_held);
        }
    }

    pub fn unpin(&mut self, key: u64) {
        if let Some(slot) = self.slot(key).filter(|slot| slot.pins > 0) {
            slot.pins -= 1;
            let released = slot.pins == 0 && !slot.dirty;
            self.held -= usize::from(released);
        }
    }

    /// The dirty slices in order, encoded; they become clean and pinned, so that nobody loads them from the
    /// storage before they are there.
    pub fn take_dirty(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut taken = Vec::with_capacity(self.dirty);
        for (place, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot.as_mut().filter(|slot| slot.dirty) else { continue };
            slot.dirty = false;
            slot.pins += 1;
            let entries = &self.entries[place * self.entries_per_slice..][..self.entries_per_slice];
            taken.push((slot.key, E::encode(entries)));
        }
        self.dirty = 0;
        taken.sort_unstable_by_key(|(key, _)| *key);
        taken
    }

    /// Says that a slice did not reach the storage after all.
    pub fn mark_dirty(&mut self, key: u64) {
        self.get_mut(key);
    }

    /// Bytes of memory in use.
    pub fn memory(&self) -> u64 {
        let places =
            self.slots.capacity() * size_of::<Option<Slot>>() + self.free.capacity() * size_of::<usize>();
        let index = self.index.capacity() * size_of::<(u64, usize)>();
        (self.entries.capacity() * size_of::<E>() + places + index) as u64
    }

    fn slot(&mut self, key: u64) -> Option<&mut Slot> {
        self.slots[*self.index.get(&key)?].as_mut()
    }
}
