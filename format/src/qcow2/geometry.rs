//! Cluster arithmetic and table entries.

use super::header::Header;
use super::refcount_width::RefcountWidth;
use smallvec::SmallVec;
use std::ops::{Add, AddAssign, Range, Sub};

/// Bits 9 to 55 of an L1 or L2 entry: a host offset in bytes.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Offsets in an image's file lie below.
pub(crate) const OFFSET_END: u64 = 1 << 56;
/// The refcount of what the entry points at is exactly one.
pub(crate) const COPIED: u64 = 1 << 63;
/// An L2 entry describes compressed data.
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// An L2 entry (version 3): the cluster reads as zeroes.
pub(crate) const ZERO: u64 = 1;
/// Bits of a standard L2 entry that must be zero, beside bit 0.
pub(crate) const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Bits of an extended L2 entry that must be zero: bit 0 has no meaning beside subclusters.
pub(crate) const EXTENDED_L2_RESERVED: u64 = L2_RESERVED | ZERO;
/// Binary logarithm of the subclusters of a cluster with extended L2 entries.
pub(crate) const SUBCLUSTER_BITS: u32 = 5;
/// Bits of an L1 entry that must be zero.
pub(crate) const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Bits of a refcount table entry that must be zero.
pub(crate) const REFCOUNT_TABLE_RESERVED: u64 = 0x1ff;

/// A slice of a table is at most this many bytes.
const MAX_SLICE_BITS: u32 = 12;

// Sums and differences of cluster numbers are total, so that they need no other form than those of numbers. The numbers
// of an image come nowhere near the end: offsets in its file have 61 bits at most, and its disk is bounded by its L1
// table. One that did would stay there, beyond everything that it is compared with, and not begin anew at cluster 0.
macro_rules! cluster_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(pub u64);

        impl Add<u64> for $name {
            type Output = $name;

            fn add(self, clusters: u64) -> $name {
                $name(self.0.saturating_add(clusters))
            }
        }

        impl AddAssign<u64> for $name {
            fn add_assign(&mut self, clusters: u64) {
                *self = *self + clusters;
            }
        }

        impl Sub for $name {
            type Output = u64;

            fn sub(self, other: $name) -> u64 {
                self.0.saturating_sub(other.0)
            }
        }
    };
}

cluster_number!(
    /// The number of a cluster on the guest's disk: of an L2 entry.
    GuestCluster
);
cluster_number!(
    /// The number of a subcluster on the guest's disk: the smallest part that is mapped by itself. A cluster has 32
    /// with extended L2 entries, otherwise it is its own only one.
    Subcluster
);
cluster_number!(
    /// The number of a cluster in the image's file.
    HostCluster
);

/// A run of subclusters on the guest's disk.
pub(crate) type GuestRun = Range<Subcluster>;
/// A run of clusters in the image's file.
pub(crate) type HostRun = Range<HostCluster>;
/// Runs of clusters in the image's file; mostly there is one.
pub(crate) type HostRuns = SmallVec<[HostRun; 1]>;

/// Clusters of a run.
pub(crate) fn length<C: Copy + Sub<Output = u64>>(run: &Range<C>) -> u64 {
    run.end.sub(run.start)
}

/// A mask of the lowest `bits` bits, at most 63.
pub(crate) fn lowest(bits: u32) -> u64 {
    !(u64::MAX << bits)
}

/// Shifts that follow from the cluster size, the kind of L2 entries and the width of refcounts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub cluster_bits: u32,
    /// Binary logarithm of the subclusters of a cluster: 5 with extended L2 entries, else 0.
    pub subcluster_bits: u32,
    /// Binary logarithm of the entries of an L2 table.
    pub l2_bits: u32,
    /// Binary logarithm of the entries of a slice of an L2 table.
    pub slice_bits: u32,
    /// Binary logarithm of the entries of a refcount block.
    pub block_bits: u32,
    /// Binary logarithm of the entries of a slice of a refcount block.
    pub block_slice_bits: u32,
    /// How wide refcounts are.
    pub width: RefcountWidth,
}

impl Geometry {
    pub fn new(cluster_bits: u32, extended_l2: bool, refcount_order: u32) -> Self {
        let slice_bytes = cluster_bits.min(MAX_SLICE_BITS);
        let (subcluster_bits, entry_bits) = if extended_l2 { (SUBCLUSTER_BITS, 4) } else { (0, 3) };
        Geometry {
            cluster_bits,
            subcluster_bits,
            l2_bits: cluster_bits.saturating_sub(entry_bits),
            slice_bits: slice_bytes.saturating_sub(entry_bits),
            block_bits: cluster_bits.saturating_add(3).saturating_sub(refcount_order),
            block_slice_bits: slice_bytes.saturating_add(3).saturating_sub(refcount_order),
            width: RefcountWidth::new(refcount_order),
        }
    }

    /// The geometry of the image with this header.
    pub fn of(header: &Header) -> Self {
        Self::new(header.cluster_bits, header.has_extended_l2(), header.refcount_order)
    }

    /// Whether L2 entries have a bitmap of subclusters each.
    pub fn has_subclusters(&self) -> bool {
        self.subcluster_bits != 0
    }

    /// Binary logarithm of the bytes of a subcluster.
    fn subcluster_size_bits(&self) -> u32 {
        self.cluster_bits.saturating_sub(self.subcluster_bits)
    }

    /// Binary logarithm of the slices of an L2 table.
    fn table_slices_bits(&self) -> u32 {
        self.l2_bits.saturating_sub(self.slice_bits)
    }

    /// Binary logarithm of the slices of a refcount block.
    fn block_slices_bits(&self) -> u32 {
        self.block_bits.saturating_sub(self.block_slice_bits)
    }

    /// Bytes of a subcluster.
    pub fn subcluster_size(&self) -> u64 {
        1 << self.subcluster_size_bits()
    }

    /// How far into its subcluster a byte of the disk lies.
    pub fn within_subcluster(&self, at: u64) -> u64 {
        at & lowest(self.subcluster_size_bits())
    }

    /// Bytes of some subclusters.
    pub fn guest_length(&self, run: &GuestRun) -> u64 {
        length(run) << self.subcluster_size_bits()
    }

    /// The subclusters that a range of bytes of the disk touches.
    pub fn subclusters(&self, bytes: &Range<u64>) -> GuestRun {
        let bits = self.subcluster_size_bits();
        Subcluster(bytes.start >> bits)..Subcluster(bytes.end.div_ceil(1 << bits))
    }

    /// Where a subcluster begins on the disk, in bytes.
    pub fn guest_offset(&self, subcluster: Subcluster) -> u64 {
        subcluster.0 << self.subcluster_size_bits()
    }

    /// The cluster to which a subcluster belongs.
    pub fn cluster_of(&self, subcluster: Subcluster) -> GuestCluster {
        GuestCluster(subcluster.0 >> self.subcluster_bits)
    }

    /// The first subcluster of a cluster.
    pub fn first_of_cluster(&self, cluster: GuestCluster) -> Subcluster {
        Subcluster(cluster.0 << self.subcluster_bits)
    }

    /// The position of a subcluster within its cluster.
    pub fn within_cluster(&self, subcluster: Subcluster) -> u32 {
        (subcluster.0 & lowest(self.subcluster_bits)) as u32
    }

    /// The clusters that a run of subclusters touches.
    pub fn clusters_of(&self, run: &GuestRun) -> Range<GuestCluster> {
        self.cluster_of(run.start)..GuestCluster(run.end.0.div_ceil(1 << self.subcluster_bits))
    }

    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether an offset is that of a cluster in the file.
    pub fn is_aligned(&self, offset: u64) -> bool {
        offset & lowest(self.cluster_bits) == 0
    }

    /// The host cluster in which a byte of the file lies.
    pub fn host_cluster_at(&self, offset: u64) -> HostCluster {
        HostCluster(offset >> self.cluster_bits)
    }

    /// The host clusters that a range of bytes of the file touches.
    pub fn host_clusters(&self, bytes: &Range<u64>) -> HostRun {
        self.host_cluster_at(bytes.start)..HostCluster(bytes.end.div_ceil(self.cluster_size()))
    }

    /// The first host cluster to which no table entry can point.
    pub fn limit(&self) -> HostCluster {
        self.host_cluster_at(OFFSET_END)
    }

    /// Where a cluster begins in the file, in bytes.
    pub fn host_offset(&self, cluster: HostCluster) -> u64 {
        cluster.0 << self.cluster_bits
    }

    /// The host cluster that an L1 or L2 entry points at; cluster 0 means none.
    pub fn host_cluster(&self, entry: u64) -> HostCluster {
        self.host_cluster_at(entry & OFFSET_MASK)
    }

    pub fn l1_index(&self, cluster: GuestCluster) -> u64 {
        cluster.0 >> self.l2_bits
    }

    /// The number of the L2 slice, counted over the whole disk, that maps a guest cluster.
    pub fn slice_of(&self, cluster: GuestCluster) -> u64 {
        cluster.0 >> self.slice_bits
    }

    /// The first guest cluster that an L2 slice maps.
    pub fn first_of_slice(&self, slice: u64) -> GuestCluster {
        GuestCluster(slice << self.slice_bits)
    }

    /// The guest clusters that an L2 slice maps.
    pub fn clusters_of_slice(&self, slice: u64) -> Range<GuestCluster> {
        self.first_of_slice(slice)..self.first_of_slice(slice.saturating_add(1))
    }

    /// The first guest cluster that the L2 table with this index maps.
    pub fn first_of_table(&self, l1_index: u64) -> GuestCluster {
        GuestCluster(l1_index << self.l2_bits)
    }

    /// The guest clusters that the L2 table with this index maps.
    pub fn clusters_of_table(&self, l1_index: u64) -> Range<GuestCluster> {
        self.first_of_table(l1_index)..self.first_of_table(l1_index.saturating_add(1))
    }

    /// Behind the last subcluster that the L2 table with this index maps.
    pub fn end_of_table(&self, l1_index: u64) -> Subcluster {
        self.first_of_cluster(self.clusters_of_table(l1_index).end)
    }

    /// The indices of the L2 tables that map some guest clusters.
    pub fn l1_indices(&self, clusters: &Range<GuestCluster>) -> Range<u64> {
        self.l1_index(clusters.start)..clusters.end.0.div_ceil(1 << self.l2_bits)
    }

    /// The numbers of the L2 slices that map some guest clusters.
    pub fn slices_of(&self, clusters: &Range<GuestCluster>) -> Range<u64> {
        self.slice_of(clusters.start)..clusters.end.0.div_ceil(1 << self.slice_bits)
    }

    /// The position of a guest cluster within its L2 slice.
    pub fn index_in_slice(&self, cluster: GuestCluster) -> usize {
        (cluster.0 & lowest(self.slice_bits)) as usize
    }

    /// Bytes of a slice, of an L2 table as of a refcount block.
    pub fn slice_bytes(&self) -> u64 {
        1 << self.slice_bytes_bits()
    }

    fn slice_bytes_bits(&self) -> u32 {
        self.cluster_bits.min(MAX_SLICE_BITS)
    }

    /// The L2 table to which a slice belongs, as an index into the L1 table, and where in it the slice lies.
    pub fn slice_position(&self, slice: u64) -> (usize, u64) {
        let bits = self.table_slices_bits();
        ((slice >> bits) as usize, (slice & lowest(bits)) << self.slice_bytes_bits())
    }

    /// The numbers of the slices of one L2 table.
    pub fn slices_of_table(&self, l1_index: u64) -> Range<u64> {
        let bits = self.table_slices_bits();
        l1_index << bits..l1_index.saturating_add(1) << bits
    }

    /// The refcount block, as an index into the refcount table, that counts a host cluster.
    pub fn block_of(&self, cluster: HostCluster) -> u64 {
        cluster.0 >> self.block_bits
    }

    /// The first host cluster that a refcount block counts.
    pub fn first_of_block(&self, block: u64) -> HostCluster {
        HostCluster(block << self.block_bits)
    }

    /// The host clusters that a refcount block counts.
    pub fn clusters_of_block(&self, block: u64) -> HostRun {
        self.first_of_block(block)..self.first_of_block(block.saturating_add(1))
    }

    /// The number of the refcount slice, counted over the whole file, that counts a host cluster.
    pub fn block_slice_of(&self, cluster: HostCluster) -> u64 {
        cluster.0 >> self.block_slice_bits
    }

    /// The first host cluster that a refcount slice counts.
    pub fn first_of_block_slice(&self, slice: u64) -> HostCluster {
        HostCluster(slice << self.block_slice_bits)
    }

    /// The host clusters that a refcount slice counts.
    pub fn clusters_of_block_slice(&self, slice: u64) -> HostRun {
        self.first_of_block_slice(slice)..self.first_of_block_slice(slice.saturating_add(1))
    }

    /// The refcount block to which a slice belongs, and where in it the slice lies.
    pub fn block_slice_position(&self, slice: u64) -> (usize, u64) {
        let bits = self.block_slices_bits();
        ((slice >> bits) as usize, (slice & lowest(bits)) << self.slice_bytes_bits())
    }

    /// The numbers of the slices of one refcount block.
    pub fn slices_of_block(&self, block: u64) -> Range<u64> {
        let bits = self.block_slices_bits();
        block << bits..block.saturating_add(1) << bits
    }
}
