//! Images of the storage node, read over the network by NFS.
//!
//! A read is cut into pieces of rsize, which wait for one of the client's slots, cross the network, wait for a
//! thread of the server, are read there through its page cache or from its memory, and share the storage
//! node's port with everything else that leaves it. Requests themselves are so small that only their
//! latency counts.

use super::device::{Device, Direction};
use super::page_cache::{Backing, CachedFile};
use crate::engine::{Link, Semaphore, Simulation, Span, Usage, Violation};
use crate::hardware::{Network, Nfs};
use crate::storm::Recorder;
use futures_util::future::join_all;
use std::cell::Cell;
use std::rc::Rc;

/// A file at a stated place of a device.
#[derive(Clone)]
pub struct PlacedFile {
    /// The device.
    pub device: Device,
    /// Where on it the file begins, in bytes.
    pub start: u64,
    /// Keeps what happened when.
    pub recorder: Recorder,
}

impl PlacedFile {
    async fn access(&self, direction: Direction, offset: u64, bytes: u64) {
        let name = match direction {
            Direction::Read => "read",
            Direction::Write => "write",
        };
        let span = self.recorder.begin(name, bytes);
        self.device.access(direction, self.start + offset, bytes).await;
        span.end();
    }
}

impl Backing for PlacedFile {
    async fn read(&self, offset: u64, bytes: u64) {
        self.access(Direction::Read, offset, bytes).await;
    }

    async fn write(&self, offset: u64, bytes: u64) {
        self.access(Direction::Write, offset, bytes).await;
    }
}

/// A file as the server has it.
#[derive(Clone)]
pub enum ServerFile {
    /// On the disk, behind the page cache.
    Cached(CachedFile<PlacedFile>),
    /// In memory.
    InMemory(PlacedFile),
}

impl ServerFile {
    async fn read(&self, offset: u64, bytes: u64, end_of_file: u64) {
        match self {
            ServerFile::Cached(file) => file.read(offset, bytes, end_of_file).await,
            ServerFile::InMemory(file) => file.read(offset, bytes).await,
        }
    }
}

/// The server's threads, and the port that everything leaves through.
#[derive(Clone)]
pub struct NfsServer {
    sim: Simulation,
    threads: Semaphore,
    cpu: Span,
    port: Link,
    recorder: Recorder,
}

impl NfsServer {
    /// A server whose port is on `network`.
    pub fn new(sim: &Simulation, nfs: &Nfs, network: &Network, recorder: Recorder) -> Self {
        NfsServer {
            sim: sim.clone(),
            threads: Semaphore::new(sim, "NFS server threads", nfs.server_threads as usize),
            cpu: nfs.server_cpu,
            port: Link::new(sim, "storage node network port", network.payload_bytes_per_s()),
            recorder,
        }
    }

    /// What the port has carried.
    pub fn port_usage(&self) -> Usage {
        self.port.usage()
    }

    /// Checks the port's accounts.
    ///
    /// # Errors
    /// If they do not agree with each other.
    pub fn check(&self) -> Result<(), Violation> {
        self.port.check()
    }
}

struct Client {
    sim: Simulation,
    server: NfsServer,
    slots: Semaphore,
    rsize: u64,
    one_way: Span,
    bytes_per_s: f64,
    received: Cell<u64>,
}

/// The NFS client of one compute node.
#[derive(Clone)]
pub struct NfsClient(Rc<Client>);

impl NfsClient {
    /// A client of `server`, on the same network.
    pub fn new(sim: &Simulation, name: &str, nfs: &Nfs, network: &Network, server: &NfsServer) -> Self {
        NfsClient(Rc::new(Client {
            sim: sim.clone(),
            server: server.clone(),
            slots: Semaphore::new(sim, format!("NFS slots of {name}"), nfs.slots as usize),
            rsize: nfs.rsize_bytes,
            one_way: Span::from_picoseconds(network.round_trip.picoseconds() / 2),
            bytes_per_s: network.payload_bytes_per_s(),
            received: Cell::new(0),
        }))
    }

    /// Bytes that have arrived here.
    pub fn received_bytes(&self) -> u64 {
        self.0.received.get()
    }

    /// A file of the server, of `bytes`, as this client sees it.
    pub fn open(&self, file: ServerFile, bytes: u64) -> NfsFile {
        NfsFile { client: self.clone(), file, bytes }
    }

    async fn read_piece(&self, file: &ServerFile, offset: u64, bytes: u64, end_of_file: u64) {
        let client = &*self.0;
        let _slot = client.slots.acquire().await;
        client.sim.sleep(client.one_way).await;
        {
            let _thread = client.server.threads.acquire().await;
            client.server.sim.sleep(client.server.cpu).await;
            file.read(offset, bytes, end_of_file).await;
        }
        let span = client.server.recorder.begin("transfer", bytes);
        client.server.port.transfer(bytes, client.bytes_per_s).await;
        span.end();
        client.sim.sleep(client.one_way).await;
        client.received.set(client.received.get() + bytes);
    }
}

/// A file of the server, opened by a client.
#[derive(Clone)]
pub struct NfsFile {
    client: NfsClient,
    file: ServerFile,
    bytes: u64,
}

impl Backing for NfsFile {
    async fn read(&self, offset: u64, bytes: u64) {
        // Nothing beyond the end is sent.
        let end = (offset + bytes).min(self.bytes);
        let rsize = self.client.0.rsize;
        if end <= offset {
            return;
        }
        if end - offset <= rsize {
            return self.client.read_piece(&self.file, offset, end - offset, self.bytes).await;
        }
        let starts = (offset..end).step_by(rsize as usize);
        let piece = |at| self.client.read_piece(&self.file, at, rsize.min(end - at), self.bytes);
        join_all(starts.map(piece)).await;
    }

    /// A page cache asks for pieces of rsize, and has each as soon as it is there.
    fn largest_request(&self) -> u64 {
        self.client.0.rsize
    }

    /// Images of the storage node are only read.
    async fn write(&self, _offset: u64, _bytes: u64) {
        debug_assert!(false, "the storage node's images are not written");
    }
}
