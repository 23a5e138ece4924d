//! What the guest's disk is mapped to: L2 entries and the runs that they form.

use super::geometry::*;
use super::state::{Missing, State, Stop};
use crate::byte_range::range_at;
use std::ops::Range;

/// Where the data of a compressed cluster lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CompressedData {
    /// First byte in the file; any, not only a sector's first.
    pub offset: u64,
    /// Bytes from there to the end of the last sector that it touches.
    pub bytes: u64,
}

impl CompressedData {
    /// Where it lies in the file.
    pub fn range(self) -> Range<u64> {
        range_at(self.offset, self.bytes)
    }
}

/// What a run of the guest's disk is mapped to. Offsets are those of its first byte in the file of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: what lies below shows through.
    Absent,
    /// Zeroes; with extended L2 entries the cluster may have a host cluster nevertheless.
    Zero,
    /// Zeroes, with host clusters in reserve.
    ZeroAllocated { offset: u64, copied: bool },
    /// Data; `copied`: nobody else refers to it.
    Data { offset: u64, copied: bool },
    /// One compressed cluster.
    Compressed(CompressedData),
}

impl Kind {
    /// What a run that began as this one must be `bytes` later to go on.
    fn advanced(self, bytes: u64) -> Option<Kind> {
        Some(match self {
            Kind::Absent | Kind::Zero => self,
            Kind::ZeroAllocated { offset, copied } => {
                Kind::ZeroAllocated { offset: offset.saturating_add(bytes), copied }
            }
            Kind::Data { offset, copied } => Kind::Data { offset: offset.saturating_add(bytes), copied },
            Kind::Compressed(_) => return None,
        })
    }
}

/// The longest run of one kind at the start of a range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub kind: Kind,
    pub end: Subcluster,
}

/// An L2 entry; the bitmap is zero in images without subclusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct L2Entry {
    pub word: u64,
    /// One bit a subcluster: allocated in the lower half, reads as zeroes in the upper one.
    pub bitmap: u64,
}

/// Binary logarithm of the bytes of a sector, in which compressed data is measured.
const SECTOR_BITS: u32 = 9;

/// All subclusters are allocated.
pub(crate) const ALL_ALLOCATED: u64 = 0xffff_ffff;
/// All subclusters read as zeroes.
pub(crate) const ALL_ZERO: u64 = 0xffff_ffff << 32;

impl L2Entry {
    pub fn is_compressed(self) -> bool {
        self.word & COMPRESSED != 0
    }

    pub fn is_copied(self) -> bool {
        self.word & COPIED != 0
    }

    /// Where the host cluster begins in the file; 0 mostly means none.
    pub fn offset(self) -> u64 {
        self.word & OFFSET_MASK
    }

    /// Whether there is a host cluster. In an external data file it may be the first one.
    pub fn has_host(self, data_file: bool) -> bool {
        self.offset() != 0 || (data_file && self.is_copied())
    }

    pub fn compressed_data(self, cluster_bits: u32) -> CompressedData {
        let sector_shift = sector_shift(cluster_bits);
        let offset = self.word & lowest(sector_shift);
        let sectors = ((self.word & lowest(62)) >> sector_shift).saturating_add(1);
        CompressedData { offset, bytes: (sectors << SECTOR_BITS).saturating_sub(offset % 512) }
    }

    /// The entry of a compressed cluster.
    pub fn of_compressed(data: CompressedData, cluster_bits: u32) -> Self {
        let last_sector = data.range().end.saturating_sub(1) >> SECTOR_BITS;
        let further_sectors = last_sector.saturating_sub(data.offset >> SECTOR_BITS);
        let word = COMPRESSED | data.offset | further_sectors << sector_shift(cluster_bits);
        L2Entry { word, bitmap: 0 }
    }

    /// The host clusters of the image's own file to which the entry refers.
    pub fn references(self, geometry: &Geometry, data_file: bool) -> HostRun {
        if self.is_compressed() {
            let data = self.compressed_data(geometry.cluster_bits);
            return geometry.host_clusters(&data.range());
        }
        let cluster = geometry.host_cluster(self.word);
        match self.offset() == 0 || data_file {
            true => HostCluster(0)..HostCluster(0),
            false => cluster..cluster + 1,
        }
    }

    /// Whether bits are set that must not be.
    fn is_malformed(self, geometry: &Geometry, version: u32) -> bool {
        let reserved = if geometry.has_subclusters() { EXTENDED_L2_RESERVED } else { L2_RESERVED };
        self.word & reserved != 0
            || !geometry.is_aligned(self.offset())
            || (self.word & ZERO != 0 && version < 3)
    }

    /// The kind of one subcluster, and how many from it to the end of the cluster at most are alike.
    fn kind_of(self, within: u32, geometry: &Geometry, data_file: bool) -> Result<(Kind, u32), String> {
        let rest = (1u32 << geometry.subcluster_bits).saturating_sub(within);
        if self.is_compressed() {
            return Ok((Kind::Compressed(self.compressed_data(geometry.cluster_bits)), rest));
        }
        let (allocated, zero) = (self.bitmap as u32, (self.bitmap >> 32) as u32);
        if allocated & zero != 0 {
            return Err(format!(
                "bitmap {:#018x}: a subcluster is allocated and reads as zeroes",
                self.bitmap
            ));
        }
        if allocated != 0 && !self.has_host(data_file) {
            return Err(format!("entry {:#018x}: subclusters are allocated, but no cluster is", self.word));
        }
        let (allocated, zero) = (allocated >> within, zero >> within);
        let offset = self.offset().saturating_add(geometry.guest_offset(Subcluster(within.into())));
        Ok(if allocated & 1 == 1 {
            (Kind::Data { offset, copied: self.is_copied() }, allocated.trailing_ones())
        } else if zero & 1 == 1 {
            (Kind::Zero, zero.trailing_ones())
        } else {
            (Kind::Absent, (allocated | zero).trailing_zeros().min(rest))
        })
    }
}

impl State {
    /// Maps the first subclusters of a range that is not empty and lies within the disk.
    pub fn map(&mut self, range: &GuestRun) -> Result<Run, Stop> {
        let geometry = self.geometry;
        let mut at = range.start;
        let mut run: Option<Kind> = None;
        while at < range.end {
            let l1_index = geometry.l1_index(geometry.cluster_of(at));
            let table = self.l2_table(l1_index)?;
            let (kind, end) = match table {
                0 => (Kind::Absent, geometry.end_of_table(l1_index)),
                table if geometry.has_subclusters() => self.map_subclusters(table, at)?,
                table => self.map_clusters(table, &(at..range.end))?,
            };
            match run {
                None => run = Some(kind),
                Some(sofar) if sofar.advanced(geometry.guest_length(&(range.start..at))) == Some(kind) => {}
                Some(_) => break,
            }
            at = end.min(range.end);
        }
        Ok(Run { kind: run.unwrap_or(Kind::Absent), end: at })
    }

    /// The kind of the first of some clusters, all of one L2 table, and where those of the same slice that are alike
    /// end.
    fn map_clusters(&mut self, table: u64, range: &GuestRun) -> Result<(Kind, Subcluster), Stop> {
        let (geometry, version, data_file) = (self.geometry, self.version, self.data_file);
        let cluster = geometry.cluster_of(range.start);
        let slice = geometry.slice_of(cluster);
        let entries = self.l2.get(slice).ok_or(Missing::L2Slice(slice))?;
        let wanted = (range.end - range.start) as usize;
        let entries = entries.get(geometry.index_in_slice(cluster)..).unwrap_or_default();
        let entries = entries.get(..wanted).unwrap_or(entries);
        let entry = L2Entry { word: entries.first().copied().unwrap_or(0), bitmap: 0 };
        if entry.is_compressed() {
            let data = entry.compressed_data(geometry.cluster_bits);
            return Ok((Kind::Compressed(data), range.start + 1));
        }
        if entry.is_malformed(&geometry, version) {
            return Err(self.malformed_entry(table, cluster, entry));
        }
        let (offset, copied) = (entry.offset(), entry.is_copied());
        let has_host = entry.has_host(data_file);
        let kind = match (entry.word & ZERO != 0, has_host) {
            (true, false) => Kind::Zero,
            (true, true) => Kind::ZeroAllocated { offset, copied },
            (false, false) => Kind::Absent,
            (false, true) => Kind::Data { offset, copied },
        };
        let step = if has_host { geometry.cluster_size() } else { 0 };
        Ok((kind, range.start + count_alike(entries, step) as u64))
    }

    /// The kind of a subcluster, and where those of its cluster that are alike end.
    fn map_subclusters(&mut self, table: u64, at: Subcluster) -> Result<(Kind, Subcluster), Stop> {
        let (geometry, data_file) = (self.geometry, self.data_file);
        let cluster = geometry.cluster_of(at);
        let entry = self.entry(cluster)?;
        if !entry.is_compressed() && entry.is_malformed(&geometry, self.version) {
            return Err(self.malformed_entry(table, cluster, entry));
        }
        match entry.kind_of(geometry.within_cluster(at), &geometry, data_file) {
            Ok((kind, alike)) => Ok((kind, at + u64::from(alike))),
            Err(problem) => Err(self.invalid_entry(table, cluster, problem)),
        }
    }

    /// The L2 entry of a cluster whose table exists.
    pub(super) fn entry(&mut self, cluster: GuestCluster) -> Result<L2Entry, Stop> {
        let geometry = self.geometry;
        let slice = geometry.slice_of(cluster);
        let words = self.l2.get(slice).ok_or(Missing::L2Slice(slice))?;
        let index = geometry.index_in_slice(cluster);
        if geometry.has_subclusters() {
            let [word, bitmap] = words.as_chunks().0.get(index).copied().unwrap_or_default();
            return Ok(L2Entry { word, bitmap });
        }
        Ok(L2Entry { word: words.get(index).copied().unwrap_or(0), bitmap: 0 })
    }

    /// Changes the L2 entry of a cluster whose slice is in memory.
    pub(super) fn set_entry(&mut self, cluster: GuestCluster, entry: L2Entry) {
        let geometry = self.geometry;
        let index = geometry.index_in_slice(cluster);
        let Some(words) = self.l2.get_mut(geometry.slice_of(cluster)) else { return };
        match geometry.has_subclusters() {
            true => {
                if let Some([word, bitmap]) = words.as_chunks_mut().0.get_mut(index) {
                    (*word, *bitmap) = (entry.word, entry.bitmap);
                }
            }
            false => {
                if let Some(word) = words.get_mut(index) {
                    *word = entry.word;
                }
            }
        }
    }

    fn malformed_entry(&self, table: u64, cluster: GuestCluster, entry: L2Entry) -> Stop {
        let problem =
            format!("entry {:#018x}: reserved bits are set, or it points into a cluster", entry.word);
        self.invalid_entry(table, cluster, problem)
    }

    pub(super) fn invalid_entry(&self, table: u64, cluster: GuestCluster, problem: String) -> Stop {
        let geometry = self.geometry;
        let index = cluster - geometry.first_of_table(geometry.l1_index(cluster));
        let entry_bytes = if geometry.has_subclusters() { 16 } else { 8 };
        let offset = table.saturating_add(index.saturating_mul(entry_bytes));
        Stop::Invalid { structure: "L2 table", offset, problem }
    }
}

/// How far to the left the number of further sectors stands in the entry of a compressed cluster.
fn sector_shift(cluster_bits: u32) -> u32 {
    70u32.saturating_sub(cluster_bits)
}

/// How many entries go on as the first one begins: the same, or pointing `step` bytes further each.
fn count_alike(entries: &[u64], step: u64) -> usize {
    let Some(mut expected) = entries.first().copied() else { return 0 };
    entries
        .iter()
        .take_while(|entry| {
            let alike = **entry == expected;
            expected = expected.wrapping_add(step);
            alike
        })
        .count()
}
