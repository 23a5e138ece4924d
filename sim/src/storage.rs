//! Simulated image files: what they hold is what storage without payload holds; each access takes the time of the
//! device, page cache or network that it goes through.

use crate::hardware::CacheMode;
use crate::models::{Backing, CachedFile, Device, Direction, NfsFile, PlacedFile};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use vmicache_format::storage::{Counting, Counts, DataKind, Hollow, MetadataKind, PayloadFree, Storage};

/// Where a file lies, as the compute node that opens it sees it.
#[derive(Clone)]
pub enum Origin {
    /// On the node's disk.
    Disk(PlacedFile),
    /// At the storage node.
    Nfs(NfsFile),
}

impl Backing for Origin {
    async fn read(&self, offset: u64, bytes: u64) {
        match self {
            Origin::Disk(file) => file.read(offset, bytes).await,
            Origin::Nfs(file) => file.read(offset, bytes).await,
        }
    }

    async fn write(&self, offset: u64, bytes: u64) {
        match self {
            Origin::Disk(file) => file.write(offset, bytes).await,
            Origin::Nfs(file) => file.write(offset, bytes).await,
        }
    }

    fn largest_request(&self) -> u64 {
        match self {
            Origin::Disk(file) => file.largest_request(),
            Origin::Nfs(file) => file.largest_request(),
        }
    }
}

/// The way from a file to its device.
#[derive(Clone)]
pub enum Route {
    /// Through the node's page cache; writes wait for nothing.
    Writeback(CachedFile<Origin>),
    /// Through the node's page cache; writes wait for the device.
    Writethrough(CachedFile<Origin>),
    /// Straight to the device.
    Direct(Origin),
    /// In the node's memory.
    Memory(Device),
}

impl Route {
    /// The way of a file that is opened in `cache_mode`; `cached` opens it through the page cache.
    pub fn new(
        cache_mode: CacheMode,
        origin: Origin,
        cached: impl FnOnce(Origin) -> CachedFile<Origin>,
    ) -> Self {
        match cache_mode {
            CacheMode::Writeback => Route::Writeback(cached(origin)),
            CacheMode::Writethrough => Route::Writethrough(cached(origin)),
            CacheMode::None => Route::Direct(origin),
        }
    }

    async fn read(&self, offset: u64, bytes: u64, end_of_file: u64) {
        match self {
            Route::Writeback(file) | Route::Writethrough(file) => file.read(offset, bytes, end_of_file).await,
            Route::Direct(origin) => origin.read(offset, bytes).await,
            Route::Memory(memory) => memory.access(Direction::Read, offset, bytes).await,
        }
    }

    async fn write(&self, offset: u64, bytes: u64, end_of_file: u64) {
        match self {
            Route::Writeback(file) => file.write(offset, bytes, end_of_file).await,
            Route::Writethrough(file) => {
                file.write(offset, bytes, end_of_file).await;
                file.flush().await;
            }
            Route::Direct(origin) => origin.write(offset, bytes).await,
            Route::Memory(memory) => memory.access(Direction::Write, offset, bytes).await,
        }
    }

    async fn flush(&self) {
        match self {
            Route::Writeback(file) | Route::Writethrough(file) => file.flush().await,
            // What was written is on the device.
            Route::Direct(_) | Route::Memory(_) => {}
        }
    }
}

struct File {
    contents: Counting<PayloadFree>,
    route: Route,
    timed: Cell<bool>,
}

/// An image file in simulated time. Clones are the same file. It begins *untimed*: what is read while images are
/// made and opened takes no time, until [`start_time`](Self::start_time) is called.
#[derive(Clone)]
pub struct SimFile(Rc<File>);

impl SimFile {
    /// A file with these contents.
    pub fn new(contents: PayloadFree, route: Route) -> Self {
        SimFile(Rc::new(File { contents: Counting::new(contents), route, timed: Cell::new(false) }))
    }

    /// From now on, what is done takes its time.
    pub fn start_time(&self) {
        self.0.timed.set(true);
    }

    /// What has been asked of the file, above page cache and device.
    pub fn counts(&self) -> Counts {
        self.0.contents.counts()
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.0.contents.inner().bytes()
    }

    async fn read_time(&self, offset: u64, bytes: u64) {
        if self.0.timed.get() {
            self.0.route.read(offset, bytes, self.bytes()).await;
        }
    }

    async fn write_time(&self, offset: u64, bytes: u64) {
        if self.0.timed.get() {
            self.0.route.write(offset, bytes, self.bytes()).await;
        }
    }
}

impl Storage for SimFile {
    type Payload = Hollow;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Hollow> {
        self.read_time(offset, len).await;
        self.0.contents.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Hollow]) -> io::Result<()> {
        use vmicache_format::storage::Payload;
        self.write_time(offset, parts.iter().map(Payload::len).sum()).await;
        self.0.contents.write(offset, parts).await
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.read_time(offset, len).await;
        self.0.contents.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_time(offset, bytes.len() as u64).await;
        self.0.contents.write_metadata(kind, offset, bytes).await
    }

    async fn flush(&self) -> io::Result<()> {
        if self.0.timed.get() {
            self.0.route.flush().await;
        }
        self.0.contents.flush().await
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.bytes())
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.contents.set_len(len).await
    }

    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.contents.discard(offset, len).await
    }
}
