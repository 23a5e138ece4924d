//! The tables of an image as they stand in its bytes, read here once more: the tests shall not believe the code
//! that they test. For refcounts of 16 bits and L2 entries of 64.

use std::collections::BTreeMap;

pub const COPIED: u64 = 1 << 63;
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

pub fn number(bytes: &[u8], at: u64, width: usize) -> u64 {
    let read = bytes.get(at as usize..at as usize + width).unwrap_or_default();
    read.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

pub fn set_u64(bytes: &mut [u8], at: u64, number: u64) {
    bytes[at as usize..at as usize + 8].copy_from_slice(&number.to_be_bytes());
}

pub fn set_u32(bytes: &mut [u8], at: u64, number: u32) {
    bytes[at as usize..at as usize + 4].copy_from_slice(&number.to_be_bytes());
}

/// Offsets in the header.
pub mod field {
    pub const CRYPT_METHOD: u64 = 32;
    pub const L1_SIZE: u64 = 36;
    pub const L1_TABLE: u64 = 40;
    pub const REFCOUNT_TABLE: u64 = 48;
    pub const REFCOUNT_TABLE_CLUSTERS: u64 = 56;
    pub const NB_SNAPSHOTS: u64 = 60;
    pub const SNAPSHOTS: u64 = 64;
    pub const REFCOUNT_ORDER: u64 = 96;
}

/// An entry of an L1 or L2 table, and where it stands in the file.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub at: u64,
    pub value: u64,
}

impl Entry {
    pub fn offset(&self) -> u64 {
        self.value & OFFSET
    }
}

pub struct Tables<'a> {
    bytes: &'a [u8],
    pub cluster_size: u64,
}

impl<'a> Tables<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Tables { bytes, cluster_size: 1 << number(bytes, 20, 4) }
    }

    fn entries(&self, table: u64, count: u64) -> impl Iterator<Item = Entry> {
        let ats = (0..count).map(move |index| table + index * 8);
        ats.map(|at| Entry { at, value: number(self.bytes, at, 8) }).filter(|entry| entry.value != 0)
    }

    pub fn l1(&self) -> impl Iterator<Item = Entry> {
        self.entries(number(self.bytes, field::L1_TABLE, 8), number(self.bytes, field::L1_SIZE, 4))
    }

    pub fn l2(&self) -> impl Iterator<Item = Entry> {
        self.l1().flat_map(|table| self.entries(table.offset(), self.cluster_size / 8))
    }

    /// Where the L2 entry of a guest offset stands, if there is a table for it.
    pub fn l2_entry_at(&self, guest: u64) -> Option<Entry> {
        let per_table = self.cluster_size / 8;
        let cluster = guest / self.cluster_size;
        let l1 = number(self.bytes, field::L1_TABLE, 8) + cluster / per_table * 8;
        let table = number(self.bytes, l1, 8) & OFFSET;
        let at = table + cluster % per_table * 8;
        (table != 0).then(|| Entry { at, value: number(self.bytes, at, 8) })
    }

    /// Entries of the refcount table: each is a refcount block.
    pub fn refcount_table(&self) -> impl Iterator<Item = Entry> {
        let bytes = number(self.bytes, field::REFCOUNT_TABLE_CLUSTERS, 4) * self.cluster_size;
        self.entries(number(self.bytes, field::REFCOUNT_TABLE, 8), bytes / 8)
    }

    /// Where the refcount of the cluster at a host offset stands, if a block counts it.
    pub fn refcount_at(&self, host: u64) -> Option<u64> {
        let per_block = self.cluster_size / 2;
        let cluster = host / self.cluster_size;
        let entry = number(self.bytes, field::REFCOUNT_TABLE, 8) + cluster / per_block * 8;
        let block = number(self.bytes, entry, 8) & OFFSET;
        (block != 0).then_some(block + cluster % per_block * 2)
    }

    pub fn refcount(&self, host: u64) -> u64 {
        self.refcount_at(host).map_or(0, |at| number(self.bytes, at, 2))
    }

    /// How often the active tables refer to each host cluster, the header and the tables themselves included.
    pub fn references(&self) -> BTreeMap<u64, u64> {
        let mut references = BTreeMap::new();
        let mut refer = |start: u64, bytes: u64| {
            (start..start + bytes).step_by(self.cluster_size as usize).for_each(|cluster| {
                *references.entry(cluster).or_default() += 1;
            });
        };
        refer(0, self.cluster_size);
        refer(number(self.bytes, field::L1_TABLE, 8), number(self.bytes, field::L1_SIZE, 4) * 8);
        let table_clusters = number(self.bytes, field::REFCOUNT_TABLE_CLUSTERS, 4);
        refer(number(self.bytes, field::REFCOUNT_TABLE, 8), table_clusters * self.cluster_size);
        let tables = self.refcount_table().chain(self.l1()).chain(self.l2());
        tables.filter(|entry| entry.offset() != 0).for_each(|entry| refer(entry.offset(), self.cluster_size));
        references
    }
}
