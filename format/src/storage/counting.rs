//! Counts what passes through a storage.

use super::{DataKind, MetadataKind, Storage};
use crate::byte_range::length_of;
use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::rc::Rc;

/// Requests and bytes of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that succeeded.
    pub requests: u64,
    /// Bytes they moved.
    pub bytes: u64,
}

/// What has passed through a [`Counting`] storage. Guest data that lies beyond the store's end costs no
/// traffic and is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Guest data read for guests.
    pub guest_reads: Totals,
    /// Guest data read to recognise a base image.
    pub identity_reads: Totals,
    /// Guest data written.
    pub guest_writes: Totals,
    /// Metadata read.
    pub metadata_reads: Totals,
    /// Metadata written.
    pub metadata_writes: Totals,
    /// Flushes; they move no bytes.
    pub flushes: u64,
}

/// A storage that counts the requests to another one. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Counting<S> {
    inner: S,
    counts: Rc<Cell<Counts>>,
}

impl<S> Counting<S> {
    /// Counts from zero what goes to `inner`.
    pub fn new(inner: S) -> Self {
        Counting { inner, counts: Rc::default() }
    }

    /// What has passed so far.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// The storage that is counted.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn count(&self, which: impl FnOnce(&mut Counts) -> &mut Totals, bytes: u64) {
        let mut counts = self.counts.get();
        let totals = which(&mut counts);
        totals.requests = totals.requests.saturating_add(1);
        totals.bytes = totals.bytes.saturating_add(bytes);
        self.counts.set(counts);
    }
}

impl<S: Storage> Storage for Counting<S> {
    type Payload = S::Payload;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<S::Payload> {
        let payload = self.inner.read(kind, offset, len).await?;
        let moved = len.min(self.inner.len().await?.saturating_sub(offset));
        self.count(
            |counts| match kind {
                DataKind::Guest => &mut counts.guest_reads,
                DataKind::Identity => &mut counts.identity_reads,
            },
            moved,
        );
        Ok(payload)
    }

    async fn write(&self, offset: u64, parts: &[S::Payload]) -> io::Result<()> {
        use super::Payload;
        self.inner.write(offset, parts).await?;
        self.count(|counts| &mut counts.guest_writes, parts.iter().map(Payload::len).sum());
        Ok(())
    }

    async fn copy_from(&self, source: &Self, from: &Range<u64>, to: u64) -> bool {
        let is_copied = self.inner.copy_from(&source.inner, from, to).await;
        if is_copied {
            source.count(|counts| &mut counts.guest_reads, length_of(from));
            self.count(|counts| &mut counts.guest_writes, length_of(from));
        }
        is_copied
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let bytes = self.inner.read_metadata(kind, offset, len).await?;
        self.count(|counts| &mut counts.metadata_reads, len);
        Ok(bytes)
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_metadata(kind, offset, bytes).await?;
        self.count(|counts| &mut counts.metadata_writes, bytes.len() as u64);
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        self.inner.flush().await?;
        let mut counts = self.counts.get();
        counts.flushes = counts.flushes.saturating_add(1);
        self.counts.set(counts);
        Ok(())
    }

    async fn hole(&self, range: &Range<u64>) -> io::Result<(bool, u64)> {
        self.inner.hole(range).await
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
