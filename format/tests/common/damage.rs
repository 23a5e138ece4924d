//! Damage to the structures of qcow2 images.

use super::Random;

/// An image in memory, with the fields that damage needs.
pub struct Victim {
    pub bytes: Vec<u8>,
    /// What was done.
    pub story: Vec<String>,
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

impl Victim {
    pub fn new(bytes: Vec<u8>) -> Self {
        Victim { bytes, story: vec![] }
    }

    pub fn u32(&self, at: u64) -> u64 {
        let at = at as usize;
        u64::from(u32::from_be_bytes(self.bytes[at..at + 4].try_into().unwrap()))
    }

    pub fn word(&self, at: u64) -> u64 {
        let at = at as usize;
        self.bytes.get(at..at + 8).map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
    }

    pub fn set_word(&mut self, at: u64, value: u64) {
        let what = format!("word at {at:#x}: {:#x} becomes {value:#x}", self.word(at));
        self.story.push(what);
        if let Some(place) = self.bytes.get_mut(at as usize..at as usize + 8) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    pub fn cluster(&self) -> u64 {
        1 << self.u32(20)
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn clusters(&self) -> u64 {
        self.len().div_ceil(self.cluster())
    }

    fn is_v3(&self) -> bool {
        self.u32(4) == 3
    }

    pub fn refcount_bits(&self) -> u64 {
        if self.is_v3() { 1 << self.u32(96) } else { 16 }
    }

    pub fn l2_entry_bytes(&self) -> u64 {
        if self.is_v3() && self.word(72) & 16 != 0 { 16 } else { 8 }
    }

    /// Where the entries of the active L1 table stand that point at something.
    pub fn l1_places(&self) -> Vec<u64> {
        let (offset, entries) = (self.word(40), self.u32(36));
        (0..entries).map(|index| offset + index * 8).filter(|at| self.word(*at) & OFFSET != 0).collect()
    }

    /// The same of the first snapshot's L1 table.
    pub fn snapshot_l1_places(&self) -> Vec<u64> {
        if self.u32(60) == 0 {
            return vec![];
        }
        let entry = self.word(64);
        let (offset, entries) = (self.word(entry), self.u32(entry + 8));
        (0..entries).map(|index| offset + index * 8).filter(|at| self.word(*at) & OFFSET != 0).collect()
    }

    /// Where the L2 entries stand that are not empty.
    pub fn l2_places(&self) -> Vec<u64> {
        let step = self.l2_entry_bytes();
        let table = |at: u64| {
            let start = self.word(at) & OFFSET;
            (0..self.cluster() / step).map(move |index| start + index * step)
        };
        self.l1_places().into_iter().flat_map(table).filter(|at| self.word(*at) != 0).collect()
    }

    /// Where the entries of the refcount table stand that point at something.
    pub fn refcount_table_places(&self) -> Vec<u64> {
        let (offset, bytes) = (self.word(48), self.u32(56) * self.cluster());
        (0..bytes / 8).map(|index| offset + index * 8).filter(|at| self.word(*at) != 0).collect()
    }

    /// Sets the refcount of a cluster, if a block counts it.
    pub fn set_refcount(&mut self, cluster: u64, count: u64) {
        let bits = self.refcount_bits();
        let entries = self.cluster() * 8 / bits;
        let block = self.word(self.word(48) + cluster / entries * 8);
        if block == 0 || block + self.cluster() > self.len() {
            return;
        }
        let index = cluster % entries;
        self.story.push(format!("refcount of cluster {cluster} becomes {count}"));
        if bits < 8 {
            let at = (block + index * bits / 8) as usize;
            let shift = index * bits % 8;
            let mask = ((1u64 << bits) - 1) as u8;
            self.bytes[at] = self.bytes[at] & !(mask << shift) | (count as u8 & mask) << shift;
            return;
        }
        let width = (bits / 8) as usize;
        let at = (block + index * bits / 8) as usize;
        self.bytes[at..at + width].copy_from_slice(&count.to_be_bytes()[8 - width..]);
    }

    /// A random word of those at `places` becomes what `change` makes of it.
    fn change(&mut self, random: &mut Random, places: Vec<u64>, change: impl FnOnce(u64) -> u64) {
        if !places.is_empty() {
            let at = random.pick(&places);
            self.set_word(at, change(self.word(at)));
        }
    }

    /// Damages something, anything.
    pub fn damage(&mut self, random: &mut Random) {
        let (cluster, clusters) = (self.cluster(), self.clusters());
        let elsewhere = random.below(clusters) * cluster;
        let outside = (clusters + random.below(1000)) * cluster;
        let unaligned = 512 * (1 + random.below((cluster / 512).max(2) - 1));
        let bit = 1u64 << random.below(64);
        let places = match random.below(5) {
            0 => self.l1_places(),
            1 => self.snapshot_l1_places(),
            _ => self.l2_places(),
        };
        match random.below(14) {
            0..3 => {
                let count = random.below(4);
                self.set_refcount(random.below(clusters), count);
            }
            3 => self.change(random, places, |word| word ^ 1 << 63),
            4 => self.change(random, places, |word| word & !OFFSET | elsewhere),
            5 => self.change(random, places, |word| word & !OFFSET | outside),
            6 => self.change(random, places, |word| word + unaligned),
            7 => self.change(random, places, |_| 0),
            8 => self.change(random, places, |word| word ^ bit),
            9 => {
                let places = self.refcount_table_places();
                let value = [0, outside, elsewhere, unaligned, bit][random.below(5) as usize];
                self.change(random, places, |_| value);
            }
            10 => {
                let length = self.len() - random.below(self.len() / 8);
                self.story.push(format!("the file ends at {length:#x}"));
                self.bytes.truncate(length as usize);
            }
            11 => {
                let more = random.below(5 * cluster);
                self.story.push(format!("{more} more bytes in the file"));
                self.bytes.extend(random.bytes(more));
            }
            12 if self.l2_entry_bytes() == 16 => {
                let places = self.l2_places().into_iter().map(|at| at + 8).collect();
                self.change(random, places, |word| word ^ bit);
            }
            _ => {
                // Any entry becomes a preallocated zero cluster, or an empty one with an offset.
                let flag = random.below(2);
                self.change(random, places, |word| word & !(1 << 62) | flag);
            }
        }
    }
}
