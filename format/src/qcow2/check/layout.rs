//! Cluster arithmetic for every refcount width and both sizes of L2 entries.

use crate::qcow2::header::{Header, incompatible};
use crate::qcow2::refcount_width::RefcountWidth;

/// How an image's structures are laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub cluster_bits: u32,
    pub version: u32,
    pub width: RefcountWidth,
    /// L2 entries have a second word, which tells of subclusters.
    pub is_extended: bool,
    /// Guest data lies in another file.
    pub has_data_file: bool,
    /// Bytes of the image's file.
    pub file_len: u64,
}

impl Layout {
    pub fn new(header: &Header, file_len: u64) -> Self {
        let has = |feature| header.incompatible_features & feature != 0;
        Layout {
            cluster_bits: header.cluster_bits,
            version: header.version,
            width: RefcountWidth::new(header.refcount_order),
            is_extended: has(incompatible::EXTENDED_L2),
            has_data_file: has(incompatible::EXTERNAL_DATA_FILE),
            file_len,
        }
    }

    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters of the file; the last one may end beyond it.
    pub fn file_clusters(&self) -> u64 {
        self.file_len.div_ceil(self.cluster_size())
    }

    /// Bytes of so many clusters.
    pub fn bytes_of(&self, clusters: u64) -> u64 {
        clusters.saturating_mul(self.cluster_size())
    }

    pub fn is_aligned(&self, offset: u64) -> bool {
        offset.is_multiple_of(self.cluster_size())
    }

    /// Binary logarithm of the refcounts in a block.
    fn block_bits(&self) -> u32 {
        self.cluster_bits.saturating_add(3).saturating_sub(self.width.bits().ilog2())
    }

    /// Refcounts in a block.
    pub fn block_entries(&self) -> u64 {
        1 << self.block_bits()
    }

    /// The index of the refcount block that counts a cluster.
    pub fn block_of(&self, cluster: u64) -> u64 {
        cluster >> self.block_bits()
    }

    /// The cluster that the refcount with index `entry` of the block with index `block` counts.
    pub fn counted(&self, block: u64, entry: u64) -> u64 {
        block.saturating_mul(self.block_entries()).saturating_add(entry)
    }

    pub fn l2_entry_bytes(&self) -> u64 {
        if self.is_extended { 16 } else { 8 }
    }

    /// The byte of an L2 table at which the entry with index `index` begins.
    pub fn l2_entry_at(&self, index: u64) -> u64 {
        index.saturating_mul(self.l2_entry_bytes())
    }

    /// Entries of an L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster_size() >> self.l2_entry_bytes().ilog2()
    }

    /// The byte of the disk at which the cluster with index `entry` of the L2 table with index `l1_index` begins.
    pub fn guest_offset(&self, l1_index: u64, entry: u64) -> u64 {
        l1_index.saturating_mul(self.l2_entries()).saturating_add(entry).saturating_mul(self.cluster_size())
    }
}
