//! Compute nodes and the storage node: devices, page cache and network of each, and the files they open.

use super::device::Device;
use super::nfs::{NfsClient, NfsServer, PlacedFile, ServerFile};
use super::page_cache::PageCache;
use crate::engine::{Simulation, Streams, Violation};
use crate::hardware::{CacheMode, DeviceProfile, Network, Profile};
use crate::storage::{Origin, Route, SimFile};
use crate::storm::Recorder;
use std::cell::Cell;
use vmicache_format::storage::PayloadFree;

/// Images on a disk begin at multiples of this many bytes.
const PLACE_ALIGNMENT: u64 = 1 << 20;

/// Places on a disk, one file after the other from the outer edge on, each with the room that it may need.
struct Places {
    next: Cell<u64>,
}

impl Places {
    fn take(&self, bytes: u64) -> u64 {
        let start = self.next.get();
        self.next.set(start.saturating_add(bytes).next_multiple_of(PLACE_ALIGNMENT));
        start
    }
}

/// What nodes are made from, and belong to.
pub struct Build<'a> {
    /// The simulation that they run in.
    pub sim: &'a Simulation,
    /// What they have.
    pub hardware: &'a Profile,
    /// What connects them.
    pub network: &'a Network,
    /// Random numbers of their devices.
    pub streams: &'a Streams,
    /// Keeps what happens when.
    pub recorder: &'a Recorder,
}

/// The node that the base images lie on.
pub struct StorageNode {
    disk: Device,
    memory: Device,
    page_cache: PageCache,
    server: NfsServer,
    places: Places,
    readahead_bytes: u64,
    disk_recorder: Recorder,
}

impl StorageNode {
    /// A storage node; `reserved_bytes` of its memory are no page cache.
    pub fn new(build: &Build<'_>, reserved_bytes: u64) -> Self {
        let Build { sim, hardware, network, streams, recorder } = build;
        let node = &hardware.storage_node;
        let track = |name: &str| recorder.track("storage node", name);
        let memory = DeviceProfile::Memory(node.memory.clone());
        let cache_bytes = node.memory_bytes.saturating_sub(reserved_bytes);
        StorageNode {
            disk: Device::new(sim, "storage node disk", &node.disk, streams),
            memory: Device::new(sim, "storage node memory", &memory, streams),
            page_cache: PageCache::new(sim, "storage node page cache", cache_bytes),
            server: NfsServer::new(sim, &hardware.nfs, network, track("network port")),
            places: Places { next: Cell::new(0) },
            readahead_bytes: node.readahead_bytes,
            disk_recorder: track("disk"),
        }
    }

    /// A file of `bytes` on the disk, behind the page cache.
    pub fn file_on_disk(&self, bytes: u64) -> ServerFile {
        let start = self.places.take(bytes);
        let file = PlacedFile { device: self.disk.clone(), start, recorder: self.disk_recorder.clone() };
        ServerFile::Cached(self.page_cache.file(file, self.readahead_bytes))
    }

    /// A file in memory.
    pub fn file_in_memory(&self) -> ServerFile {
        ServerFile::InMemory(PlacedFile {
            device: self.memory.clone(),
            start: 0,
            recorder: Recorder::default(),
        })
    }

    /// The disk that holds the base images.
    pub fn disk(&self) -> &Device {
        &self.disk
    }

    /// The memory, as a place for images.
    pub fn memory(&self) -> &Device {
        &self.memory
    }

    /// The page cache.
    pub fn page_cache(&self) -> &PageCache {
        &self.page_cache
    }

    /// The NFS server.
    pub fn server(&self) -> &NfsServer {
        &self.server
    }

    /// Checks the accounts of everything in the node.
    ///
    /// # Errors
    /// If some do not agree with each other.
    pub fn check(&self) -> Result<(), Violation> {
        self.disk.check()?;
        self.memory.check()?;
        self.page_cache.check()?;
        self.server.check()
    }
}

/// A node that virtual machines run on.
pub struct ComputeNode {
    disk: Device,
    memory: Device,
    page_cache: PageCache,
    nfs: NfsClient,
    places: Places,
    cache_mode: CacheMode,
    readahead_bytes: u64,
    nfs_readahead_bytes: u64,
    disk_recorder: Recorder,
}

/// What a compute node is made for.
pub struct Load {
    /// How virtual machines open their images.
    pub cache_mode: CacheMode,
    /// Bytes of memory that are no page cache.
    pub reserved_bytes: u64,
}

impl ComputeNode {
    /// Compute node `number`, which reads images from `storage`.
    pub fn new(build: &Build<'_>, number: u32, load: &Load, storage: &StorageNode) -> Self {
        let Build { sim, hardware, network, streams, recorder } = build;
        let node = &hardware.compute_node;
        let name = format!("compute node {number}");
        let memory = DeviceProfile::Memory(node.memory.clone());
        let cache_bytes = node.memory_bytes.saturating_sub(load.reserved_bytes);
        ComputeNode {
            disk: Device::new(sim, &format!("{name} disk"), &node.disk, streams),
            memory: Device::new(sim, &format!("{name} memory"), &memory, streams),
            page_cache: PageCache::new(sim, &format!("{name} page cache"), cache_bytes),
            nfs: NfsClient::new(sim, &name, &hardware.nfs, network, storage.server()),
            places: Places { next: Cell::new(0) },
            cache_mode: load.cache_mode,
            readahead_bytes: node.readahead_bytes,
            nfs_readahead_bytes: hardware.nfs.client_readahead_bytes,
            disk_recorder: recorder.track(&name, "disk"),
        }
    }

    /// A file with `contents` on the node's disk, which may grow to `most_bytes`.
    pub fn file_on_disk(&self, contents: PayloadFree, most_bytes: u64) -> SimFile {
        let start = self.places.take(most_bytes);
        let file = PlacedFile { device: self.disk.clone(), start, recorder: self.disk_recorder.clone() };
        self.file(contents, Origin::Disk(file), self.readahead_bytes)
    }

    /// A file with `contents` in the node's memory.
    pub fn file_in_memory(&self, contents: PayloadFree) -> SimFile {
        SimFile::new(contents, Route::Memory(self.memory.clone()))
    }

    /// A file of the storage node, with `contents`.
    pub fn file_by_nfs(&self, contents: PayloadFree, file: &ServerFile) -> SimFile {
        let file = self.nfs.open(file.clone(), contents.bytes());
        self.file(contents, Origin::Nfs(file), self.nfs_readahead_bytes)
    }

    fn file(&self, contents: PayloadFree, origin: Origin, readahead_bytes: u64) -> SimFile {
        let cached = |origin| self.page_cache.file(origin, readahead_bytes);
        SimFile::new(contents, Route::new(self.cache_mode, origin, cached))
    }

    /// The local disk.
    pub fn disk(&self) -> &Device {
        &self.disk
    }

    /// The memory, as a place for images.
    pub fn memory(&self) -> &Device {
        &self.memory
    }

    /// The page cache.
    pub fn page_cache(&self) -> &PageCache {
        &self.page_cache
    }

    /// The NFS client.
    pub fn nfs(&self) -> &NfsClient {
        &self.nfs
    }

    /// Checks the accounts of everything in the node.
    ///
    /// # Errors
    /// If some do not agree with each other.
    pub fn check(&self) -> Result<(), Violation> {
        self.disk.check()?;
        self.memory.check()?;
        self.page_cache.check()
    }
}
