//! Hardware profiles: what the nodes, disks and networks of a deployment can do, and where each value is from.

mod error;
mod read;
mod section;
mod unit;

pub use error::{KeyProblem, ProfileError};

use crate::engine::Span;

/// A complete profile. Rates are in bytes a second, sizes in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Short name, as in the name of its file.
    pub name: String,
    /// The name that people read.
    pub title: String,
    /// What every compute node has.
    pub compute_node: ComputeNode,
    /// What the storage node has.
    pub storage_node: StorageNode,
    /// Networks that the nodes can be connected by, the default first; at least one.
    pub networks: Vec<Network>,
    /// How the compute nodes reach the images of the storage node.
    pub nfs: Nfs,
    /// Every value of the file with its source, in the order of the file.
    pub facts: Vec<Fact>,
}

/// A value of a profile as its file has it, for reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Dotted key, such as `storage_node.disk.seek_average_ms`.
    pub key: String,
    /// The value as it is written.
    pub value: String,
    /// Where it is from; `assumed…` where nobody measured or published it.
    pub source: String,
}

/// A compute node.
#[derive(Clone, Debug, PartialEq)]
pub struct ComputeNode {
    /// Memory in bytes: virtual machines, caches in memory and page cache share it.
    pub memory_bytes: u64,
    /// Processor cores.
    pub cores: u32,
    /// How QEMU opens images.
    pub cache_mode: CacheMode,
    /// The local disk.
    pub disk: DeviceProfile,
    /// The memory as a place for images.
    pub memory: MemoryProfile,
    /// Most bytes that the page cache reads ahead in a file of the local disk.
    pub readahead_bytes: u64,
}

/// The storage node.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageNode {
    /// Memory in bytes: caches in memory and page cache share it.
    pub memory_bytes: u64,
    /// The disk that holds the base images.
    pub disk: DeviceProfile,
    /// The memory as a place for images.
    pub memory: MemoryProfile,
    /// Most bytes that the page cache reads ahead in a file of the disk.
    pub readahead_bytes: u64,
}

/// QEMU's cache modes, as far as they differ here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheMode {
    /// Through the host's page cache; writes wait for nothing.
    #[default]
    Writeback,
    /// Through the host's page cache; writes wait for the disk.
    Writethrough,
    /// Past the host's page cache.
    None,
}

/// A device that holds images.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceProfile {
    /// A disk with heads and platters.
    HardDisk(HardDiskProfile),
    /// Equal hard disks in RAID-0.
    Raid0 {
        /// How many.
        members: u32,
        /// Bytes on one member before the next has its turn.
        chunk_bytes: u64,
        /// Each of them.
        member: HardDiskProfile,
    },
    /// Flash.
    SolidState(SolidStateProfile),
    /// Main memory.
    Memory(MemoryProfile),
}

/// A hard disk.
#[derive(Clone, Debug, PartialEq)]
pub struct HardDiskProfile {
    /// Bytes it holds.
    pub capacity_bytes: u64,
    /// One turn of the platters.
    pub rotation: Span,
    /// What each command costs before anything moves.
    pub overhead: Span,
    /// Seek to the next track.
    pub seek_track_to_track: Span,
    /// Mean seek over the whole surface: that over a third of it.
    pub seek_average: Span,
    /// Seek from the first to the last track.
    pub seek_full_stroke: Span,
    /// Transfer rate at offset 0.
    pub outer_bytes_per_s: f64,
    /// Transfer rate at the last offset; in between it falls evenly.
    pub inner_bytes_per_s: f64,
}

/// A solid-state drive.
#[derive(Clone, Debug, PartialEq)]
pub struct SolidStateProfile {
    /// From a read command to its first byte.
    pub read_latency: Span,
    /// From a write command to its completion, transfer apart.
    pub write_latency: Span,
    /// Commands that it works on at once.
    pub channels: u32,
    /// Transfer rate of reads in all.
    pub read_bytes_per_s: f64,
    /// Transfer rate of writes in all.
    pub write_bytes_per_s: f64,
}

/// Main memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryProfile {
    /// What a request costs before anything is copied.
    pub latency: Span,
    /// Copying rate in all.
    pub bytes_per_s: f64,
}

/// A network: every node has one port, and the switch between is no bottleneck.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Short name: a key of the file.
    pub name: String,
    /// The name that people read.
    pub title: String,
    /// Line rate of a port, bits a second.
    pub bits_per_s: f64,
    /// Payload as a share of what is on the line.
    pub payload_share: f64,
    /// Round trip of an empty message.
    pub round_trip: Span,
}

/// NFS: its clients and its server.
#[derive(Clone, Debug, PartialEq)]
pub struct Nfs {
    /// A read is cut into pieces of at most this many bytes.
    pub rsize_bytes: u64,
    /// Requests that a client has under way at most.
    pub slots: u32,
    /// Requests that the server works on at once.
    pub server_threads: u32,
    /// Processor time of the server for a request.
    pub server_cpu: Span,
    /// Most bytes that a client's page cache reads ahead.
    pub client_readahead_bytes: u64,
}

impl Network {
    /// Payload bytes a second that a port carries.
    pub fn payload_bytes_per_s(&self) -> f64 {
        self.bits_per_s / 8.0 * self.payload_share
    }
}

impl DeviceProfile {
    /// Bytes that it holds, where that is known.
    pub fn capacity_bytes(&self) -> Option<u64> {
        match self {
            DeviceProfile::HardDisk(disk) => Some(disk.capacity_bytes),
            DeviceProfile::Raid0 { members, member, .. } => {
                Some(member.capacity_bytes.saturating_mul(u64::from(*members)))
            }
            DeviceProfile::SolidState(_) | DeviceProfile::Memory(_) => None,
        }
    }
}
