//! What a header says of its image, in names.

use super::header::{Header, LAZY_REFCOUNTS, RAW_DATA_FILE, extension, incompatible};

impl Header {
    /// Bits of a refcount.
    pub fn refcount_bits(&self) -> u64 {
        1 << self.refcount_order
    }

    /// Refcounts may be written late: compatible feature bit 0.
    pub fn lazy_refcounts(&self) -> bool {
        self.compatible_features & LAZY_REFCOUNTS != 0
    }

    /// Refcounts may be wrong: the image was not closed.
    pub fn is_dirty(&self) -> bool {
        self.has(incompatible::DIRTY)
    }

    /// Somebody found the image damaged.
    pub fn is_corrupt(&self) -> bool {
        self.has(incompatible::CORRUPT)
    }

    /// L2 entries have subclusters.
    pub fn has_extended_l2(&self) -> bool {
        self.has(incompatible::EXTENDED_L2)
    }

    /// The method of compressed clusters: byte 104.
    pub fn compression(&self) -> String {
        match self.further_fields.first().copied().unwrap_or(0) {
            0 => "zlib".to_owned(),
            1 => "zstd".to_owned(),
            other => format!("unknown ({other})"),
        }
    }

    /// The encryption of the data, if there is one.
    pub fn encryption(&self) -> Option<String> {
        match self.crypt_method {
            0 => None,
            1 => Some("aes".to_owned()),
            2 => Some("luks".to_owned()),
            other => Some(format!("unknown ({other})")),
        }
    }

    /// The name of the external data file, if the image has one; empty if it does not state it.
    pub fn data_file(&self) -> Option<String> {
        let name = self.extension(extension::EXTERNAL_DATA_FILE).unwrap_or_default();
        self.has(incompatible::EXTERNAL_DATA_FILE).then(|| String::from_utf8_lossy(name).into_owned())
    }

    /// The external data file is a raw image of its own: autoclear feature bit 1.
    pub fn data_file_is_raw(&self) -> bool {
        self.autoclear_features & RAW_DATA_FILE != 0
    }

    /// The incompatible features that the format did not have when this was written, by the names that the
    /// image gives them.
    pub fn unknown_features(&self) -> Vec<String> {
        bits(self.incompatible_features & !incompatible::KNOWN).map(|bit| self.feature_name(bit)).collect()
    }

    fn has(&self, feature: u64) -> bool {
        self.incompatible_features & feature != 0
    }

    /// The name of an incompatible feature bit, from the image's own table or from the format.
    pub fn feature_name(&self, bit: u32) -> String {
        let table = self.extension(extension::FEATURE_NAMES).unwrap_or_default();
        // The last entry may be cut short; a name ends with its first zero.
        let names = table.chunks(48).filter_map(|entry| match entry {
            [0, of, name @ ..] if u32::from(*of) == bit => name.split(|byte| *byte == 0).next(),
            _ => None,
        });
        match names.into_iter().find(|name| !name.is_empty()) {
            Some(name) => String::from_utf8_lossy(name).into_owned(),
            None => format!("incompatible feature bit {bit}"),
        }
    }
}

/// The numbers of the bits that are set.
pub(super) fn bits(features: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |bit| features >> bit & 1 == 1)
}
