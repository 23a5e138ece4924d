//! A bounded cache of slices of on-disk tables.

use rustc_hash::FxHashMap;

/// An entry of an on-disk table: fixed width, big-endian.
pub(crate) trait Entry: Copy + Default {
    /// All entries of a table or a part of one.
    fn decode(bytes: &[u8]) -> Box<[Self]>;
    fn encode(entries: &[Self]) -> Vec<u8>;
}

macro_rules! big_endian_entry {
    ($width:ty) => {
        impl Entry for $width {
            fn decode(bytes: &[u8]) -> Box<[Self]> {
                let (entries, _) = bytes.as_chunks::<{ size_of::<$width>() }>();
                entries.iter().map(|entry| <$width>::from_be_bytes(*entry)).collect()
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
big_endian_entry!(u16);

#[derive(Debug)]
struct Slot<E> {
    key: u64,
    entries: Box<[E]>,
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
    slots: Vec<Slot<E>>,
    index: FxHashMap<u64, u32>,
    capacity: usize,
    hand: usize,
    dirty: usize,
    entries_per_slice: usize,
}

impl<E: Entry> SliceCache<E> {
    /// A cache of at most `bytes` bytes (but at least 16 slices), with slices of `entries_per_slice`.
    pub fn new(bytes: u64, entries_per_slice: usize) -> Self {
        let capacity = (bytes as usize / (entries_per_slice * size_of::<E>())).max(16);
        SliceCache {
            slots: vec![],
            index: FxHashMap::default(),
            capacity,
            hand: 0,
            dirty: 0,
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
        let slot = &mut self.slots[*self.index.get(&key)? as usize];
        slot.referenced = true;
        Some(&slot.entries)
    }

    /// The slice to be changed: it becomes dirty.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut [E]> {
        let slot = &mut self.slots[*self.index.get(&key)? as usize];
        slot.referenced = true;
        self.dirty += usize::from(!slot.dirty);
        slot.dirty = true;
        Some(&mut slot.entries)
    }

    /// Adds a slice as it stands in the storage; one that is here already is newer and stays. Nothing is
    /// evicted: a step may rely on every slice that it has seen.
    pub fn insert_clean(&mut self, key: u64, entries: Box<[E]>) {
        debug_assert_eq!(entries.len(), self.entries_per_slice);
        if !self.contains(key) {
            self.index.insert(key, self.slots.len() as u32);
            self.slots.push(Slot { key, entries, dirty: false, referenced: true, pins: 0 });
        }
    }

    /// Evicts slices above the capacity, as far as a bounded search finds some that are clean, unpinned and
    /// not used lately.
    pub fn trim(&mut self) {
        if self.slots.len() <= self.capacity || self.dirty >= self.slots.len() {
            return;
        }
        let mut steps = 64 + 2 * (self.slots.len() - self.capacity);
        while self.slots.len() > self.capacity && steps > 0 {
            steps -= 1;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            if slot.dirty || slot.pins > 0 {
                continue;
            }
            if slot.referenced {
                slot.referenced = false;
                continue;
            }
            let evicted = self.slots.swap_remove(self.hand);
            self.index.remove(&evicted.key);
            if let Some(moved) = self.slots.get(self.hand) {
                self.index.insert(moved.key, self.hand as u32);
            }
        }
    }

    /// Adds the slice of a new table: all zero, and dirty.
    pub fn insert_zeroed(&mut self, key: u64) {
        self.insert_clean(key, vec![E::default(); self.entries_per_slice].into());
        self.get_mut(key);
    }

    pub fn pin(&mut self, key: u64) {
        if let Some(slot) = self.index.get(&key) {
            self.slots[*slot as usize].pins += 1;
        }
    }

    pub fn unpin(&mut self, key: u64) {
        if let Some(slot) = self.index.get(&key) {
            let pins = &mut self.slots[*slot as usize].pins;
            *pins = pins.saturating_sub(1);
        }
    }

    /// The dirty slices in order, encoded; they become clean and pinned, so that nobody loads them from the
    /// storage before they are there.
    pub fn take_dirty(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut taken = Vec::with_capacity(self.dirty);
        for slot in self.slots.iter_mut().filter(|slot| slot.dirty) {
            slot.dirty = false;
            slot.pins += 1;
            taken.push((slot.key, E::encode(&slot.entries)));
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
        let slice = size_of::<Slot<E>>() + self.entries_per_slice * size_of::<E>();
        (self.slots.len() * slice + self.index.capacity() * size_of::<(u64, u32)>()) as u64
    }
}
