//! A bounded cache of slices of on-disk tables.

use super::pieces::Pieces;
use super::slice_index::Index;

/// An entry of an on-disk table: fixed width, big-endian.
pub(crate) trait Entry: Copy + Default {
    /// All entries of a table or a part of one, in order.
    fn decode(bytes: &[u8]) -> impl ExactSizeIterator<Item = Self>;
    /// Adds the entries as they stand in a table.
    fn encode_to(entries: &[Self], bytes: &mut Vec<u8>);
    fn encode(entries: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size_of_val(entries));
        Self::encode_to(entries, &mut bytes);
        bytes
    }
}

macro_rules! big_endian_entry {
    ($width:ty) => {
        impl Entry for $width {
            fn decode(bytes: &[u8]) -> impl ExactSizeIterator<Item = Self> {
                let (entries, _) = bytes.as_chunks::<{ size_of::<$width>() }>();
                entries.iter().map(|entry| <$width>::from_be_bytes(*entry))
            }

            fn encode_to(entries: &[Self], bytes: &mut Vec<u8>) {
                let start = bytes.len();
                bytes.resize(start.saturating_add(size_of_val(entries)), 0);
                let added = bytes.get_mut(start..).unwrap_or_default();
                let (places, _) = added.as_chunks_mut::<{ size_of::<$width>() }>();
                places.iter_mut().zip(entries).for_each(|(place, entry)| *place = entry.to_be_bytes());
            }
        }
    };
}

big_endian_entry!(u64);
// Refcounts stay as they stand in the file: their width differs from image to image.
big_endian_entry!(u8);

/// Bytes of dirty slices of which a copy is no matter.
const MANY_DIRTY_BYTES: usize = 8 << 20;

#[derive(Debug)]
struct Slot {
    key: u64,
    /// Differs from the storage.
    dirty: bool,
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
    /// A bit a slot: used since the clock's hand passed last. Apart from the slots, since every lookup sets it.
    referenced: Vec<u64>,
    free: Vec<usize>,
    index: Index,
    /// How many slices there are in all, held or not.
    numbers: u64,
    capacity: usize,
    hand: usize,
    dirty: usize,
    /// Slices that are dirty or pinned.
    held: usize,
    entries_per_slice: usize,
}

impl<E: Entry> SliceCache<E> {
    /// A cache of at most `bytes` bytes (but at least 16 slices), with slices of `entries_per_slice`, numbered below
    /// `numbers`.
    pub fn new(bytes: u64, entries_per_slice: usize, numbers: u64) -> Self {
        let slice_bytes = entries_per_slice.saturating_mul(size_of::<E>());
        let capacity = (bytes as usize).checked_div(slice_bytes).unwrap_or(0).max(16);
        SliceCache {
            entries: vec![],
            slots: vec![],
            referenced: vec![],
            free: vec![],
            index: Index::new(numbers, capacity),
            numbers,
            capacity,
            hand: 0,
            dirty: 0,
            held: 0,
            entries_per_slice,
        }
    }

    /// Whether so many slices are dirty that little room is left for others, or that a copy of them would take much
    /// memory.
    pub fn is_crowded(&self) -> bool {
        let bytes = self.dirty.saturating_mul(self.entries_per_slice).saturating_mul(size_of::<E>());
        let leaves_room = self.numbers <= self.capacity as u64 && bytes <= MANY_DIRTY_BYTES;
        self.dirty > self.capacity / 2 && !leaves_room
    }

    pub fn dirty(&self) -> usize {
        self.dirty
    }

    pub fn contains(&self, key: u64) -> bool {
        self.index.get(key).is_some()
    }

    #[inline]
    pub fn get(&mut self, key: u64) -> Option<&[E]> {
        let place = self.index.get(key)?;
        self.set_referenced(place);
        self.entries_at(place)
    }

    /// The slice to be changed: it becomes dirty.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut [E]> {
        let place = self.index.get(key)?;
        self.set_referenced(place);
        let slot = self.slots.get_mut(place)?.as_mut()?;
        self.held = self.held.saturating_add(usize::from(!slot.dirty && slot.pins == 0));
        self.dirty = self.dirty.saturating_add(usize::from(!slot.dirty));
        slot.dirty = true;
        self.entries_at_mut(place)
    }

    fn entries_at(&self, place: usize) -> Option<&[E]> {
        self.entries.get(self.start_of(place)..)?.get(..self.entries_per_slice)
    }

    fn entries_at_mut(&mut self, place: usize) -> Option<&mut [E]> {
        let start = self.start_of(place);
        self.entries.get_mut(start..)?.get_mut(..self.entries_per_slice)
    }

    /// Where the entries of a slot begin. They are all in memory, so that this cannot wrap.
    fn start_of(&self, place: usize) -> usize {
        place.wrapping_mul(self.entries_per_slice)
    }

    fn set_referenced(&mut self, place: usize) {
        let (word, bit) = (place / 64, 1 << (place % 64));
        // Mostly it is: then nothing is written.
        if let Some(word) = self.referenced.get_mut(word).filter(|word| **word & bit == 0) {
            *word |= bit;
        }
    }

    /// Takes the mark of use off a slot; whether there was one.
    fn take_referenced(&mut self, place: usize) -> bool {
        let Some(word) = self.referenced.get_mut(place / 64) else { return false };
        let bit = 1 << (place % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    /// Adds a slice as it stands in the storage; one that is here already is newer and stays. Nothing is
    /// evicted: a step may rely on every slice that it has seen.
    pub fn insert_clean(&mut self, key: u64, entries: impl ExactSizeIterator<Item = E>) {
        debug_assert_eq!(entries.len(), self.entries_per_slice);
        if self.contains(key) {
            return;
        }
        // The disk may have grown.
        self.numbers = self.numbers.max(key.saturating_add(1));
        let slot = Slot { key, dirty: false, pins: 0 };
        let place = match self.free.pop() {
            Some(place) => {
                let places = self.entries_at_mut(place).unwrap_or_default();
                places.iter_mut().zip(entries).for_each(|(place, entry)| *place = entry);
                if let Some(free) = self.slots.get_mut(place) {
                    *free = Some(slot);
                }
                place
            }
            None => self.add_place(slot, entries),
        };
        self.index.insert(key, place);
        self.set_referenced(place);
    }

    /// Adds a slot behind the others.
    fn add_place(&mut self, slot: Slot, entries: impl Iterator<Item = E>) -> usize {
        let place = self.slots.len();
        self.slots.push(Some(slot));
        self.referenced.resize(self.slots.len().div_ceil(64), 0);
        // A third at a time: doubling would waste up to half of the memory.
        if self.entries.capacity().saturating_sub(self.entries.len()) < self.entries_per_slice {
            let places = (self.slots.len() / 3).max(16);
            self.entries.reserve_exact(places.saturating_mul(self.entries_per_slice));
        }
        self.entries.extend(entries);
        place
    }

    /// Adds the slice of a new table: all zero, and dirty.
    pub fn insert_zeroed(&mut self, key: u64) {
        self.insert_clean(key, std::iter::repeat_n(E::default(), self.entries_per_slice));
        self.get_mut(key);
    }

    /// Evicts slices above the capacity, as far as a bounded search finds some that were not used lately.
    #[inline]
    pub fn trim(&mut self) {
        let kept = self.capacity.saturating_add(self.held).saturating_add(self.free.len());
        let excess = self.slots.len().saturating_sub(kept);
        if excess > 0 {
            self.evict(excess);
        }
    }

    fn evict(&mut self, excess: usize) {
        let steps = excess.saturating_mul(2).saturating_add(64);
        (0..steps).filter(|_| self.evict_next()).take(excess).for_each(drop);
    }

    /// Moves the clock's hand on by a slot, and evicts the slice there if it may go and was not used lately.
    fn evict_next(&mut self) -> bool {
        let next = self.hand.wrapping_add(1);
        self.hand = if next < self.slots.len() { next } else { 0 };
        let place = self.hand;
        let slot = self.slots.get(place).and_then(Option::as_ref);
        let is_free_to_go = slot.is_some_and(|slot| !slot.dirty && slot.pins == 0);
        if !is_free_to_go || self.take_referenced(place) {
            return false;
        }
        self.vacate(place).is_some()
    }

    /// Makes a slot free; what it held.
    fn vacate(&mut self, place: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(place)?.take()?;
        self.index.remove(slot.key);
        self.free.push(place);
        Some(slot)
    }

    /// Removes a slice of a table that there is no more.
    pub fn remove(&mut self, key: u64) {
        if let Some(slot) = self.index.get(key).and_then(|place| self.vacate(place)) {
            self.held = self.held.saturating_sub(usize::from(slot.dirty || slot.pins > 0));
            self.dirty = self.dirty.saturating_sub(usize::from(slot.dirty));
        }
    }

    pub fn pin(&mut self, key: u64) {
        if let Some(slot) = self.slot(key) {
            let newly_held = slot.pins == 0 && !slot.dirty;
            slot.pins = slot.pins.saturating_add(1);
            self.held = self.held.saturating_add(usize::from(newly_held));
        }
    }

    pub fn unpin(&mut self, key: u64) {
        if let Some(slot) = self.slot(key).filter(|slot| slot.pins > 0) {
            slot.pins = slot.pins.saturating_sub(1);
            let released = slot.pins == 0 && !slot.dirty;
            self.held = self.held.saturating_sub(usize::from(released));
        }
    }

    /// The dirty slices, each at the offset that it has in the file; they become clean and pinned, so that nobody
    /// loads them from the storage before they are there.
    pub fn take_dirty(&mut self, offset_of: impl Fn(u64) -> u64) -> Pieces {
        let mut taken = Vec::with_capacity(self.dirty);
        for (place, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot.as_mut().filter(|slot| slot.dirty) else { continue };
            slot.dirty = false;
            slot.pins = slot.pins.saturating_add(1);
            taken.push((offset_of(slot.key), slot.key, place));
        }
        self.dirty = 0;
        taken.sort_unstable();
        let mut pieces =
            Pieces::for_slices(taken.len(), self.entries_per_slice.saturating_mul(size_of::<E>()));
        for (offset, key, place) in taken {
            pieces.push(key, offset, self.entries_at(place).unwrap_or_default());
        }
        pieces
    }

    /// Says that a slice did not reach the storage after all.
    pub fn mark_dirty(&mut self, key: u64) {
        self.get_mut(key);
    }

    /// Bytes of memory in use.
    pub fn memory(&self) -> u64 {
        let vectors = [
            allocated(&self.entries),
            allocated(&self.slots),
            allocated(&self.free),
            allocated(&self.referenced),
        ];
        vectors.into_iter().sum::<usize>().saturating_add(self.index.memory()) as u64
    }

    fn slot(&mut self, key: u64) -> Option<&mut Slot> {
        self.slots.get_mut(self.index.get(key)?)?.as_mut()
    }
}

/// Bytes that a vector has for its elements.
fn allocated<T>(elements: &Vec<T>) -> usize {
    elements.capacity().saturating_mul(size_of::<T>())
}
