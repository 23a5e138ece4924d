//! How the clusters of an image are laid out, as one value.

use super::geometry::SUBCLUSTER_BITS;
use super::header::{CLUSTER_BITS, EXTENDED_L2_CLUSTER_BITS, Header};
use std::fmt;

/// The size of an image's clusters, and whether each has subclusters. Smaller clusters come first, and of equal ones
/// those without subclusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterLayout {
    /// Bytes of a cluster.
    pub size: u64,
    /// Extended L2 entries: each maps the 32 subclusters of its cluster by themselves.
    pub extended_l2: bool,
}

impl ClusterLayout {
    /// Clusters of `size` bytes, each mapped as a whole.
    pub const fn standard(size: u64) -> Self {
        ClusterLayout { size, extended_l2: false }
    }

    /// Clusters of `size` bytes with 32 subclusters each.
    pub const fn extended(size: u64) -> Self {
        ClusterLayout { size, extended_l2: true }
    }

    /// That of the image with this header.
    pub fn of(header: &Header) -> Self {
        ClusterLayout { size: header.cluster_size(), extended_l2: header.has_extended_l2() }
    }

    /// Whether the format has such clusters.
    pub fn is_allowed(self) -> bool {
        let bits = if self.extended_l2 { EXTENDED_L2_CLUSTER_BITS } else { CLUSTER_BITS };
        self.size.is_power_of_two() && bits.contains(&self.size.trailing_zeros())
    }

    /// Bytes of the smallest part that is mapped by itself, and so copied into a cache by itself: a subcluster, or a
    /// cluster that has none.
    pub fn mapped_size(self) -> u64 {
        if self.extended_l2 { self.size >> SUBCLUSTER_BITS } else { self.size }
    }
}

/// `64 KiB`, `64 KiB with subclusters of 2 KiB`.
impl fmt::Display for ClusterLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_size(f, self.size)?;
        if self.extended_l2 {
            f.write_str(" with subclusters of ")?;
            write_size(f, self.mapped_size())?;
        }
        Ok(())
    }
}

/// A size in the largest unit that it is a whole number of.
fn write_size(f: &mut fmt::Formatter<'_>, bytes: u64) -> fmt::Result {
    match bytes.trailing_zeros() {
        20.. if bytes > 0 => write!(f, "{} MiB", bytes >> 20),
        10.. if bytes > 0 => write!(f, "{} KiB", bytes >> 10),
        _ => write!(f, "{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_written_as_people_say_it_and_small_clusters_come_first() {
        let written = [
            (ClusterLayout::standard(512), "512 B", 512),
            (ClusterLayout::standard(65_536), "64 KiB", 65_536),
            (ClusterLayout::extended(65_536), "64 KiB with subclusters of 2 KiB", 2048),
            (ClusterLayout::extended(2 << 20), "2 MiB with subclusters of 64 KiB", 65_536),
        ];
        for (layout, text, mapped) in written {
            assert_eq!((layout.to_string(), layout.mapped_size()), (text.to_owned(), mapped));
        }
        assert!(written.is_sorted_by_key(|(layout, ..)| *layout));
    }

    #[test]
    fn subclusters_need_clusters_of_16_kib() {
        for (size, standard, extended) in [
            (256, false, false),
            (512, true, false),
            (1000, false, false),
            (8192, true, false),
            (16_384, true, true),
            (2 << 20, true, true),
            (4 << 20, false, false),
        ] {
            assert_eq!(ClusterLayout::standard(size).is_allowed(), standard, "{size}");
            assert_eq!(ClusterLayout::extended(size).is_allowed(), extended, "{size}");
        }
    }
}
