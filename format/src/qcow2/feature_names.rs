//! The feature name table: what programs that do not know a feature can call it.

use super::header::{Header, extension};

/// The type of a feature, its bit, its name.
const NAMES: [(u8, u8, &str); 8] = [
    (INCOMPATIBLE, 0, "dirty bit"),
    (INCOMPATIBLE, 1, "corrupt bit"),
    (INCOMPATIBLE, 2, "external data file"),
    (INCOMPATIBLE, 3, "compression type"),
    (INCOMPATIBLE, 4, "extended L2 entries"),
    (COMPATIBLE, 0, "lazy refcounts"),
    (AUTOCLEAR, 0, "bitmaps"),
    (AUTOCLEAR, 1, "raw external data"),
];
const INCOMPATIBLE: u8 = 0;
const COMPATIBLE: u8 = 1;
const AUTOCLEAR: u8 = 2;

/// Bytes of an entry: type, bit, and the name filled up with zeroes.
const ENTRY: usize = 48;
const TABLE: usize = NAMES.len() * ENTRY;

/// Smaller clusters keep their room for longer names of backing files.
const SMALLEST_CLUSTER: u64 = 4096;

impl Header {
    /// Adds the names of all features that the format has, if the image is one that can name features and has room.
    pub(super) fn add_feature_names(&mut self) {
        if self.version >= 3 && self.cluster_size() >= SMALLEST_CLUSTER {
            let mut table = vec![0; TABLE];
            for (entry, (kind, bit, name)) in table.chunks_exact_mut(ENTRY).zip(NAMES) {
                let bytes = [kind, bit].into_iter().chain(name.bytes());
                entry.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
            }
            self.set_extension(extension::FEATURE_NAMES, table);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_known_by_the_names_of_the_table() {
        let mut header = Header::new(3, 16, 1 << 20);
        header.add_feature_names();
        let table = header.extension(extension::FEATURE_NAMES).unwrap();
        assert_eq!(table.len(), 384);
        assert_eq!(header.feature_name(4), "extended L2 entries");
        assert!(table.chunks_exact(ENTRY).all(|entry| entry[ENTRY - 1] == 0));
        for (version, bits) in [(2, 16), (3, 9), (3, 11)] {
            let mut header = Header::new(version, bits, 1 << 20);
            header.add_feature_names();
            assert!(header.extension(extension::FEATURE_NAMES).is_none());
        }
    }
}
