//! Raw images: the disk's bytes, and nothing else.

use crate::error::{Blame, Result};
use crate::storage::{DataKind, Payload, Storage};
use std::ops::Range;
use std::sync::Arc;

/// A raw image that is open. Its length never changes.
#[derive(Debug)]
pub struct RawImage<S> {
    storage: S,
    blame: Blame,
    size: u64,
    writable: bool,
}

impl<S: Storage> RawImage<S> {
    /// Opens the raw image in `storage`; its size is the storage's length.
    ///
    /// # Errors
    /// If the storage cannot tell its length.
    pub async fn open(storage: S, name: &str, writable: bool) -> Result<Self> {
        let blame = Blame(Arc::from(name));
        let size = storage.len().await.map_err(blame.io("reading the length", 0))?;
        Ok(RawImage { storage, blame, size, writable })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The name by which errors speak of the image.
    pub fn name(&self) -> Arc<str> {
        self.blame.0.clone()
    }

    /// The storage that holds the image.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    pub(crate) async fn read(&self, kind: DataKind, range: &Range<u64>) -> Result<S::Payload> {
        let read = self.storage.read(kind, range.start, range.end - range.start).await;
        read.map_err(self.blame.io("reading data", range.start))
    }

    /// Whether the bytes at the start of a range are a hole, and where that ends.
    pub(crate) async fn hole(&self, range: &Range<u64>) -> Result<(bool, u64)> {
        self.storage.hole(range).await.map_err(self.blame.io("looking for holes", range.start))
    }

    pub(crate) async fn write(&self, offset: u64, data: S::Payload) -> Result<()> {
        if !self.writable {
            return Err(self.blame.refused("the image is open for reading only"));
        }
        debug_assert!(offset + data.len() <= self.size);
        self.storage.write(offset, &[data]).await.map_err(self.blame.io("writing data", offset))
    }

    pub(crate) async fn flush(&self) -> Result<()> {
        self.storage.flush().await.map_err(self.blame.io("flushing", 0))
    }
}
