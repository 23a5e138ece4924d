//! Storages that watch or disturb what passes through them.

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use vmicache_format::storage::{DataKind, MetadataKind, Storage};

/// Completes requests late and out of order, and lets some of them fail. A request takes effect some time
/// after it was made and some time before it completes. Clones share content and moods.
#[derive(Clone)]
pub struct Delaying<S> {
    inner: S,
    moods: Rc<Moods>,
}

struct Moods {
    random: RefCell<Pcg64Mcg>,
    longest_delay: u64,
    /// Of how many requests one fails; 0: none does.
    failing_one_in: Cell<u64>,
}

impl<S> Delaying<S> {
    pub fn new(inner: S, seed: u64, longest_delay: u64) -> Self {
        let random = RefCell::new(Pcg64Mcg::seed_from_u64(seed));
        Delaying { inner, moods: Rc::new(Moods { random, longest_delay, failing_one_in: Cell::new(0) }) }
    }

    pub fn inner(&self) -> &S {
        &self.inner
    }

    pub fn fail_one_in(&self, requests: u64) {
        self.moods.failing_one_in.set(requests);
    }

    async fn delay(&self) {
        if self.moods.longest_delay == 0 {
            return;
        }
        let polls = self.moods.random.borrow_mut().random_range(0..=self.moods.longest_delay);
        super::turns(polls).await;
    }

    fn is_to_fail(&self) -> bool {
        let one_in = self.moods.failing_one_in.get();
        one_in != 0 && self.moods.random.borrow_mut().random_range(0..one_in) == 0
    }

    /// A request that fails may or may not have taken effect.
    async fn disturb<T>(&self, request: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        self.delay().await;
        let failure = || Err(io::Error::other("a failure that the test ordered"));
        let fails = self.is_to_fail();
        if fails && self.moods.random.borrow_mut().random_bool(0.5) {
            return failure();
        }
        let result = request.await;
        self.delay().await;
        if fails { failure() } else { result }
    }
}

impl<S: Storage> Storage for Delaying<S> {
    type Payload = S::Payload;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<S::Payload> {
        self.disturb(self.inner.read(kind, offset, len)).await
    }

    async fn write(&self, offset: u64, parts: &[S::Payload]) -> io::Result<()> {
        self.disturb(self.inner.write(offset, parts)).await
    }

    async fn copy_from(&self, source: &Self, from: &Range<u64>, to: u64) -> bool {
        let copy = async || Ok(self.inner.copy_from(&source.inner, from, to).await);
        self.disturb(copy()).await.unwrap_or(false)
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.disturb(self.inner.read_metadata(kind, offset, len)).await
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disturb(self.inner.write_metadata(kind, offset, bytes)).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.disturb(self.inner.flush()).await
    }

    async fn len(&self) -> io::Result<u64> {
        self.inner.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len).await
    }

    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.discard(offset, len).await
    }
}

/// Remembers which guest data is read.
#[derive(Clone)]
pub struct Recording<S> {
    inner: S,
    reads: Rc<RefCell<Vec<Range<u64>>>>,
}

impl<S> Recording<S> {
    pub fn new(inner: S) -> Self {
        Recording { inner, reads: Rc::default() }
    }

    /// What has been read since the last call.
    pub fn take_reads(&self) -> Vec<Range<u64>> {
        self.reads.take()
    }
}

impl<S: Storage<Payload = Bytes>> Storage for Recording<S> {
    type Payload = Bytes;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        if kind == DataKind::Guest {
            self.reads.borrow_mut().push(offset..offset + len);
        }
        self.inner.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.inner.write(offset, parts).await
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.inner.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_metadata(kind, offset, bytes).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.inner.flush().await
    }

    async fn len(&self) -> io::Result<u64> {
        self.inner.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len).await
    }

    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.discard(offset, len).await
    }
}
