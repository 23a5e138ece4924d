//! A check of qcow2 files that shares nothing with the one of the product: every reference is counted.

use std::collections::BTreeMap;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

struct Checker<'a> {
    bytes: &'a [u8],
    cluster_bits: u32,
    version: u32,
    extended_l2: bool,
    data_file: bool,
    /// References to each host cluster, and what makes them.
    references: Vec<u64>,
    tables: BTreeMap<u64, &'static str>,
    /// Clusters that hold data.
    data: Vec<bool>,
    /// Entries of the active disk, by the cluster that they point at: whether they say that it is nobody else's.
    active: Vec<(u64, bool)>,
}

type Found<T = ()> = Result<T, String>;

/// Checks an image's file.
///
/// # Errors
/// What is wrong with it beyond clusters that are counted although nothing points at them.
pub fn check(bytes: &[u8]) -> Found {
    let field = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from(field(at)) << 32 | u64::from(field(at + 4));
    if bytes.len() < 512 || field(0) != 0x5146_49fb {
        return Err("there is no header".into());
    }
    let version = field(4);
    let (incompatible, refcount_order) = if version == 2 { (0, 4) } else { (long(72), field(96)) };
    let cluster_bits = field(20);
    let clusters = (bytes.len() >> cluster_bits) + 2;
    let mut checker = Checker {
        bytes,
        cluster_bits,
        version,
        extended_l2: incompatible >> 4 & 1 == 1,
        data_file: incompatible >> 2 & 1 == 1,
        references: vec![0; clusters],
        tables: BTreeMap::new(),
        data: vec![false; clusters],
        active: vec![],
    };
    if incompatible & 3 != 0 {
        return Err("the dirty or the corrupt bit is set".into());
    }
    checker.table("header", 0, 1 << cluster_bits)?;
    let refcount_table = (long(48), u64::from(field(56)) << cluster_bits);
    checker.table("refcount table", refcount_table.0, refcount_table.1)?;
    for block in checker.words(refcount_table.0, refcount_table.1)? {
        if block != 0 {
            checker.table("refcount block", block, 1 << cluster_bits)?;
        }
    }
    checker.disk(long(40), u64::from(field(36)), true)?;
    for (l1, entries) in checker.snapshots(long(64), field(60))? {
        checker.disk(l1, entries, false)?;
    }
    checker.compare(refcount_table, refcount_order)
}

/// The image as it was when its snapshot of this number was taken.
pub fn snapshot(bytes: &[u8], number: usize) -> Vec<u8> {
    let mut image = bytes.to_vec();
    let long = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let mut at = long(64) as usize;
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    for _ in 0..number {
        at += snapshot_length(bytes, at).next_multiple_of(8) as usize;
    }
    image[40..48].copy_from_slice(&bytes[at..at + 8]);
    image[36..40].copy_from_slice(&bytes[at + 8..at + 12]);
    if word(at + 36) >= 16 {
        // The size that the disk had then.
        image[24..32].copy_from_slice(&bytes[at + 48..at + 56]);
    }
    image
}

fn snapshot_length(bytes: &[u8], at: usize) -> u64 {
    let half = |at: usize| u16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes")) as usize;
    let extra = u32::from_be_bytes(bytes[at + 36..at + 40].try_into().expect("four bytes")) as usize;
    (40 + extra + half(at + 12) + half(at + 14)) as u64
}

impl Checker<'_> {
    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn words(&self, offset: u64, bytes: u64) -> Found<Vec<u64>> {
        let part = self.bytes.get(offset as usize..(offset + bytes) as usize);
        let part = part.ok_or_else(|| format!("a table at {offset} lies beyond the end of the file"))?;
        Ok(part
            .chunks_exact(8)
            .map(|word| u64::from_be_bytes(word.try_into().expect("eight bytes")))
            .collect())
    }

    fn refer(&mut self, offset: u64, bytes: u64, what: &str) -> Found {
        let last = (offset + bytes - 1) >> self.cluster_bits;
        // The last cluster of a file may be cut short, but it must begin.
        if last << self.cluster_bits >= self.bytes.len() as u64 {
            return Err(format!("{what} at {offset} lies beyond the end of the file"));
        }
        (offset >> self.cluster_bits..=last).for_each(|cluster| self.references[cluster as usize] += 1);
        Ok(())
    }

    fn refer_to_data(&mut self, offset: u64, bytes: u64) -> Found {
        self.refer(offset, bytes, "data")?;
        let last = (offset + bytes - 1) >> self.cluster_bits;
        (offset >> self.cluster_bits..=last).for_each(|cluster| self.data[cluster as usize] = true);
        Ok(())
    }

    /// A table of its own, or one more reference to an L2 table.
    fn table(&mut self, what: &'static str, offset: u64, bytes: u64) -> Found {
        if !offset.is_multiple_of(self.cluster_size()) || offset + bytes > self.bytes.len() as u64 {
            let length = self.bytes.len();
            return Err(format!(
                "the {what} at {offset}, of {bytes} bytes, lies in a cluster or beyond the file's end at {length}"
            ));
        }
        self.refer(offset, bytes, what)?;
        for cluster in offset >> self.cluster_bits..(offset + bytes).div_ceil(self.cluster_size()) {
            let before = self.tables.insert(cluster, what);
            if before.is_some_and(|before| before != "L2 table" || what != "L2 table") {
                return Err(format!("cluster {cluster} is {} and {what}", before.unwrap_or_default()));
            }
        }
        Ok(())
    }

    fn snapshots(&mut self, offset: u64, count: u32) -> Found<Vec<(u64, u64)>> {
        let mut l1_tables = Vec::new();
        let mut at = offset as usize;
        let mut end = offset;
        for _ in 0..count {
            let l1 = self.words(at as u64, 8)?[0];
            let entries = (self.words(at as u64 + 8, 8)?[0]) >> 32;
            l1_tables.push((l1, entries));
            // Its last entry has no padding.
            end = at as u64 + snapshot_length(self.bytes, at);
            at = end.next_multiple_of(8) as usize;
        }
        if count > 0 {
            self.table("snapshot table", offset, end - offset)?;
        }
        Ok(l1_tables)
    }

    fn disk(&mut self, l1: u64, entries: u64, is_active: bool) -> Found {
        if entries == 0 {
            return Ok(());
        }
        self.table("L1 table", l1, entries * 8)?;
        for (index, entry) in self.words(l1, entries * 8)?.into_iter().enumerate() {
            let table = entry & OFFSET;
            if entry & !(OFFSET | COPIED) != 0 {
                return Err(format!("L1 entry {index} is {entry:#018x}"));
            }
            if table == 0 {
                continue;
            }
            self.table("L2 table", table, self.cluster_size())?;
            if is_active {
                self.active.push((table >> self.cluster_bits, entry & COPIED != 0));
            }
            let words = self.words(table, self.cluster_size())?;
            let step = if self.extended_l2 { 2 } else { 1 };
            for entry in words.chunks_exact(step) {
                self.entry(entry[0], entry.get(1).copied(), is_active)
                    .map_err(|problem| format!("L2 table {index} at {table}: {entry:#018x?}: {problem}"))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, word: u64, bitmap: Option<u64>, is_active: bool) -> Found {
        if word & COMPRESSED != 0 {
            let shift = 62 - (self.cluster_bits - 8);
            let offset = word & ((1 << shift) - 1);
            let sectors = ((word & (COMPRESSED - 1)) >> shift) + 1;
            let end = (offset / 512 + sectors) * 512;
            if word & COPIED != 0 || bitmap.is_some_and(|bitmap| bitmap != 0) {
                return Err("a compressed cluster cannot be so".into());
            }
            return self.refer_to_data(offset, end - offset);
        }
        let zero_bit = if self.version >= 3 && bitmap.is_none() { 1 } else { 0 };
        let offset = word & OFFSET;
        if word & !(OFFSET | COPIED | zero_bit) != 0 || !offset.is_multiple_of(self.cluster_size()) {
            return Err("reserved bits are set, or it points into a cluster".into());
        }
        if let Some(bitmap) = bitmap {
            let (allocated, zero) = (bitmap & 0xffff_ffff, bitmap >> 32);
            let has_host = offset != 0 || (self.data_file && word & COPIED != 0);
            if allocated & zero != 0 || (allocated != 0 && !has_host) {
                return Err("its bitmap cannot be so".into());
            }
        }
        if self.data_file || offset == 0 {
            return Ok(());
        }
        if is_active {
            self.active.push((offset >> self.cluster_bits, word & COPIED != 0));
        }
        self.refer_to_data(offset, self.cluster_size())
    }

    fn compare(&self, refcount_table: (u64, u64), order: u32) -> Found {
        let blocks = self.words(refcount_table.0, refcount_table.1)?;
        let per_block = (self.cluster_size() * 8) >> order;
        let count = |cluster: u64| -> u64 {
            let block = blocks.get((cluster / per_block) as usize).copied().unwrap_or(0) as usize;
            let index = (cluster % per_block) as usize;
            match (block, order) {
                (0, _) => 0,
                (_, 0..3) => {
                    let bits = 1 << order;
                    let byte = u64::from(self.bytes[block + index * bits / 8]);
                    byte >> (index * bits % 8) & ((1 << bits) - 1)
                }
                (_, order) => {
                    let bytes = 1usize << (order - 3);
                    let start = block + index * bytes;
                    self.bytes[start..start + bytes]
                        .iter()
                        .fold(0, |count, byte| count << 8 | u64::from(*byte))
                }
            }
        };
        for (cluster, references) in (0..).zip(&self.references) {
            let refcount = count(cluster);
            if refcount < *references {
                let what = self.tables.get(&cluster).unwrap_or(&"data");
                return Err(format!(
                    "cluster {cluster} ({what}) is counted {refcount} times, {references} references point at it"
                ));
            }
            let is_table = self.tables.get(&cluster).is_some_and(|what| *what != "L2 table");
            if is_table && *references != 1 {
                return Err(format!("{references} references point at the table in cluster {cluster}"));
            }
        }
        for (cluster, is_copied) in &self.active {
            let (refcount, references) = (count(*cluster), self.references[*cluster as usize]);
            // A reference that leaked makes a cluster look shared that is not, and then it must not be said to be
            // nobody else's: otherwise others would be written over.
            if *is_copied && refcount != 1 {
                return Err(format!(
                    "cluster {cluster} is said to be nobody else's, its refcount is {refcount}"
                ));
            }
            if !is_copied && refcount == 1 {
                return Err(format!(
                    "cluster {cluster} is said to be shared, {references} references point at it"
                ));
            }
        }
        for (cluster, what) in &self.tables {
            if self.data[*cluster as usize] {
                return Err(format!("cluster {cluster} is {what} and holds data"));
            }
            if *what == "L2 table" && self.active.iter().filter(|(other, _)| other == cluster).count() > 1 {
                return Err(format!("two entries point at the L2 table in cluster {cluster}"));
            }
        }
        Ok(())
    }
}
