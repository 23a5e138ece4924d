//! What the images of the cases are like.

use crate::common::Random;

/// What may be drawn: everything that both sides can do.
pub struct Axes {
    /// Widths of refcounts, in bits.
    pub refcount_bits: &'static [u64],
    pub extended_l2: bool,
    pub compressed_clusters: bool,
    pub snapshots: bool,
    pub bitmaps: bool,
    pub lazy_refcounts: bool,
    pub data_file: bool,
    pub discard: bool,
    pub resize: bool,
}

pub const AXES: Axes = Axes {
    refcount_bits: &[1, 2, 4, 8, 16, 16, 32, 64],
    extended_l2: true,
    compressed_clusters: true,
    snapshots: true,
    bitmaps: true,
    lazy_refcounts: true,
    data_file: true,
    discard: true,
    resize: true,
};

/// The method of compressed clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Zlib,
    Zstd,
}

/// Where guest data lies, if not in the image itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFile {
    Plain,
    /// It is a raw image of the same disk.
    Raw,
}

#[derive(Clone, Copy, Debug)]
pub struct Backing {
    pub is_raw: bool,
    pub size: u64,
    /// Of a qcow2 image.
    pub cluster_size: u64,
}

/// The image of a case, when it is made.
#[derive(Clone, Debug)]
pub struct Shape {
    pub size: u64,
    pub cluster_size: u64,
    pub version: u32,
    pub refcount_bits: u64,
    pub extended_l2: bool,
    pub compression: Compression,
    pub has_compressed: bool,
    pub lazy_refcounts: bool,
    pub data_file: Option<DataFile>,
    pub backing: Option<Backing>,
    /// As the stock tool calls it.
    pub preallocation: &'static str,
    pub has_snapshots: bool,
    pub has_bitmap: bool,
}

/// Small clusters have the most tables, large ones the most copying.
const CLUSTER_SIZES: [u64; 16] = [
    512,
    512,
    512,
    512,
    1 << 10,
    2 << 10,
    4 << 10,
    4 << 10,
    8 << 10,
    16 << 10,
    32 << 10,
    64 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    2 << 20,
];

const SMALLEST_EXTENDED: u64 = 16 << 10;

/// Bytes of a disk: often small, since what tables and clusters do does not depend on it.
fn disk_size(random: &mut Random) -> u64 {
    let most = random.pick(&[128 << 10, 256 << 10, 512 << 10, 1 << 20, 4 << 20]);
    random.within(64 << 10..most).next_multiple_of(512)
}

impl Shape {
    pub fn random(random: &mut Random) -> Self {
        let version = random.pick(&[2, 3, 3, 3]);
        let is_new = version == 3;
        let extended_l2 = is_new && AXES.extended_l2 && random.chance(0.25);
        let mut cluster_size = random.pick(&CLUSTER_SIZES);
        if extended_l2 {
            cluster_size = cluster_size.max(random.pick(&[SMALLEST_EXTENDED, 64 << 10]));
        }
        let size = disk_size(random);
        let data_file = (is_new && AXES.data_file && random.chance(0.12))
            .then(|| random.pick(&[DataFile::Plain, DataFile::Raw]));
        let backing = (data_file != Some(DataFile::Raw) && random.chance(0.5)).then(|| Backing {
            is_raw: random.chance(0.5),
            size: match random.below(3) {
                0 => size,
                1 => random.within(size / 2..size).next_multiple_of(512),
                _ => size + random.below(200_000).next_multiple_of(512),
            },
            cluster_size: random.pick(&CLUSTER_SIZES),
        });
        let preallocation = match backing {
            // The tool knows no preallocation over a backing file unless L2 entries have subclusters.
            None if !extended_l2 => random.pick(&["off", "off", "off", "metadata", "falloc", "full"]),
            _ => "off",
        };
        let refcount_bits = if is_new { random.pick(AXES.refcount_bits) } else { 16 };
        // A cluster of two users needs two bits to be counted.
        let has_snapshots = AXES.snapshots && data_file.is_none() && refcount_bits > 1 && random.chance(0.3);
        // Where several share a host cluster, small refcounts cannot count them once more for each snapshot.
        let can_compress = data_file.is_none() && (!has_snapshots || refcount_bits >= 8);
        Shape {
            size,
            cluster_size,
            version,
            refcount_bits,
            extended_l2,
            compression: match is_new && AXES.compressed_clusters && random.chance(0.4) {
                true => Compression::Zstd,
                false => Compression::Zlib,
            },
            has_compressed: AXES.compressed_clusters && can_compress && random.chance(0.7),
            lazy_refcounts: is_new && AXES.lazy_refcounts && random.chance(0.25),
            data_file,
            backing,
            preallocation,
            has_snapshots,
            // `qemu-img check -r` of QEMU 10.0 forgets the snapshots of an image whose bitmaps are out of date.
            has_bitmap: is_new && AXES.bitmaps && !has_snapshots && random.chance(0.15),
        }
    }

    /// Snapshots that the refcounts can count beside the disk itself, and once more while one is applied.
    pub fn most_snapshots(&self) -> usize {
        match self.refcount_bits {
            1 => 0,
            2 => 1,
            _ => 4,
        }
    }

    /// Whether the stock tools can change the size. Growing over a longer backing file needs zero clusters, and an
    /// image of version 2 cannot be resized once it has snapshots. Over a backing file, the tools cannot grow from within
    /// a compressed cluster that has subclusters.
    pub fn can_resize(&self) -> bool {
        let is_possible = match self.version {
            2 => self.backing.is_none() && !self.has_snapshots,
            _ => self.backing.is_none() || !self.extended_l2 || !self.has_compressed,
        };
        AXES.resize && is_possible
    }

    /// Whether the stock tools discard. With version 2 a discarded cluster would show the backing file.
    pub fn can_discard(&self) -> bool {
        AXES.discard && (self.version == 3 || self.backing.is_none())
    }

    /// The names of what is special about it, to count and to print.
    pub fn names(&self) -> Vec<String> {
        let mut names = vec![
            format!("cluster_size={}", self.cluster_size),
            format!("compat={}", if self.version == 2 { "0.10" } else { "1.1" }),
            format!("refcount_bits={}", self.refcount_bits),
            format!("preallocation={}", self.preallocation),
        ];
        let backing = self.backing.map(|backing| {
            let length = match backing.size.cmp(&self.size) {
                std::cmp::Ordering::Less => "shorter",
                std::cmp::Ordering::Equal => "equal",
                std::cmp::Ordering::Greater => "longer",
            };
            format!("{length} {} backing", if backing.is_raw { "raw" } else { "qcow2" })
        });
        names.push(backing.unwrap_or("no backing".into()));
        let flags = [
            (self.extended_l2, "extended_l2"),
            (self.has_compressed && self.compression == Compression::Zlib, "compression_type=zlib"),
            (self.has_compressed && self.compression == Compression::Zstd, "compression_type=zstd"),
            (self.lazy_refcounts, "lazy_refcounts"),
            (self.data_file == Some(DataFile::Plain), "data_file"),
            (self.data_file == Some(DataFile::Raw), "data_file_raw"),
            (self.has_snapshots, "snapshots"),
            (self.has_bitmap, "bitmap"),
        ];
        names.extend(flags.iter().filter(|(present, _)| *present).map(|(_, name)| (*name).to_owned()));
        names
    }
}
