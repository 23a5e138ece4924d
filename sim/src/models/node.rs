//! Compute nodes and the storage node: devices, page cache and network of each, and the files they open.

use super::device::Device;
use super::nfs::{NfsClient, NfsServer, PlacedFile, ServerFile};
use super::page_cache::PageCache;
use crate::engine::{Simulation, Streams, Violation};
use crate::hardware::{CacheMode, DeviceProfile, MemoryProfile, Network, Profile};
use crate::storage::{Origin, Route, SimFile};
use crate::storm::Recorder;
use std::cell::Cell;
use vmicache_format::storage::PayloadFree;

/// Images on a disk begin at multiples of this many bytes.
const PLACE_ALIGNMENT: u64 = 1 << 20;

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

/// What every node has: a disk, memory, and a page cache over the disk.
pub struct Local {
    disk: Device,
    memory: Device,
    page_cache: PageCache,
    readahead_bytes: u64,
    /// Files lie on the disk one after the other, from the outer edge on, each with the room that it may need.
    next_place: Cell<u64>,
    recorder: Recorder,
}

impl Local {
    fn new(
        build: &Build<'_>,
        name: &str,
        disk: &DeviceProfile,
        memory: &MemoryProfile,
        page_cache_bytes: u64,
        readahead_bytes: u64,
    ) -> Self {
        let Build { sim, streams, .. } = build;
        let memory = DeviceProfile::Memory(memory.clone());
        Local {
            disk: Device::new(sim, &format!("{name} disk"), disk, streams),
            memory: Device::new(sim, &format!("{name} memory"), &memory, streams),
            page_cache: PageCache::new(sim, &format!("{name} page cache"), page_cache_bytes),
            readahead_bytes,
            next_place: Cell::new(0),
            recorder: build.recorder.track(name, "disk"),
        }
    }

    /// A place on the disk for a file of at most so many bytes.
    fn place(&self, bytes: u64) -> PlacedFile {
        let start = self.next_place.get();
        self.next_place.set(start.saturating_add(bytes).next_multiple_of(PLACE_ALIGNMENT));
        PlacedFile { device: self.disk.clone(), start, recorder: self.recorder.clone() }
    }

    /// The disk.
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

    fn check(&self) -> Result<(), Violation> {
        self.disk.check()?;
        self.memory.check()?;
        self.page_cache.check()
    }
}

/// The node that the base images lie on.
pub struct StorageNode {
    local: Local,
    server: NfsServer,
}

impl StorageNode {
    /// A storage node; `reserved_bytes` of its memory are no page cache.
    pub fn new(build: &Build<'_>, reserved_bytes: u64) -> Self {
        let Build { sim, hardware, network, recorder, .. } = build;
        let (node, name) = (&hardware.storage_node, "storage node");
        let port = recorder.track(name, "network port");
        let page_cache = node.memory_bytes.saturating_sub(reserved_bytes);
        StorageNode {
            local: Local::new(build, name, &node.disk, &node.memory, page_cache, node.readahead_bytes),
            server: NfsServer::new(sim, &hardware.nfs, network, port),
        }
    }

    /// A file of `bytes` on the disk, behind the page cache.
    pub fn file_on_disk(&self, bytes: u64) -> ServerFile {
        let file = self.local.place(bytes);
        ServerFile::Cached(self.local.page_cache.file(file, self.local.readahead_bytes))
    }

    /// A file in memory.
    pub fn file_in_memory(&self) -> ServerFile {
        let (device, recorder) = (self.local.memory.clone(), Recorder::default());
        ServerFile::InMemory(PlacedFile { device, start: 0, recorder })
    }

    /// Its disk, memory and page cache.
    pub fn local(&self) -> &Local {
        &self.local
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
        self.local.check()?;
        self.server.check()
    }
}

/// A node that virtual machines run on.
pub struct ComputeNode {
    local: Local,
    nfs: NfsClient,
    cache_mode: CacheMode,
    nfs_readahead_bytes: u64,
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
        let Build { sim, hardware, network, .. } = build;
        let (node, name) = (&hardware.compute_node, format!("compute node {number}"));
        let page_cache = node.memory_bytes.saturating_sub(load.reserved_bytes);
        ComputeNode {
            local: Local::new(build, &name, &node.disk, &node.memory, page_cache, node.readahead_bytes),
            nfs: NfsClient::new(sim, &name, &hardware.nfs, network, storage.server()),
            cache_mode: load.cache_mode,
            nfs_readahead_bytes: hardware.nfs.client_readahead_bytes,
        }
    }

    /// A file with `contents` on the node's disk, which may grow to `most_bytes`.
    pub fn file_on_disk(&self, contents: PayloadFree, most_bytes: u64) -> SimFile {
        self.file(contents, Origin::Disk(self.local.place(most_bytes)), self.local.readahead_bytes)
    }

    /// A file with `contents` in the node's memory.
    pub fn file_in_memory(&self, contents: PayloadFree) -> SimFile {
        SimFile::new(contents, Route::Memory(self.local.memory.clone()))
    }

    /// A file of the storage node, with `contents`.
    pub fn file_by_nfs(&self, contents: PayloadFree, file: &ServerFile) -> SimFile {
        let file = self.nfs.open(file.clone(), contents.bytes());
        self.file(contents, Origin::Nfs(file), self.nfs_readahead_bytes)
    }

    fn file(&self, contents: PayloadFree, origin: Origin, readahead_bytes: u64) -> SimFile {
        let cached = |origin| self.local.page_cache.file(origin, readahead_bytes);
        SimFile::new(contents, Route::new(self.cache_mode, origin, cached))
    }

    /// Its disk, memory and page cache.
    pub fn local(&self) -> &Local {
        &self.local
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
        self.local.check()
    }
}
