//! Raw images: the disk's bytes, and nothing else.

use crate::byte_range::{length_of, range_at};
use crate::error::{Blame, Error, Result};
use crate::storage::{DataKind, Payload, Storage};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// So many extents are remembered at most.
const MOST_EXTENTS: usize = 1 << 16;

/// A raw image that is open. Its length never changes.
#[derive(Debug)]
pub struct RawImage<S> {
    storage: S,
    blame: Blame,
    size: u64,
    writable: bool,
    /// The end of an extent by its start, and whether it is a hole, which it stays only where nobody writes. Asking the
    /// host costs a request over a network, or a search through the whole of a file in memory.
    extents: RefCell<BTreeMap<u64, (u64, bool)>>,
}

impl<S: Storage> RawImage<S> {
    /// Opens the raw image in `storage`; its size is the storage's length.
    ///
    /// # Errors
    /// If the storage cannot tell its length.
    pub async fn open(storage: S, name: &str, writable: bool) -> Result<Self> {
        let blame = Blame(Arc::from(name));
        let size = storage.len().await.map_err(blame.io("reading the length", 0))?;
        Ok(RawImage { storage, blame, size, writable, extents: RefCell::default() })
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
        let read = self.storage.read(kind, range.start, length_of(range)).await;
        read.map_err(self.blame.io("reading data", range.start))
    }

    /// Whether holes stay what they are while the image is open.
    pub(crate) fn keeps_its_holes(&self) -> bool {
        !self.writable
    }

    /// Whether the bytes at the start of a range are a hole, and where that ends.
    pub(crate) async fn hole(&self, range: &Range<u64>) -> Result<(bool, u64)> {
        let known = self.extents.borrow().range(..=range.start).next_back().map(|(_, extent)| *extent);
        let (end, is_hole) = match known.filter(|(end, _)| *end > range.start) {
            Some(extent) => extent,
            None => {
                let (is_hole, end) = self.look_for_hole(&(range.start..self.size)).await?;
                if !is_hole || self.keeps_its_holes() {
                    self.remember(range.start, (end, is_hole));
                }
                (end, is_hole)
            }
        };
        Ok((is_hole, end.min(range.end)))
    }

    fn remember(&self, start: u64, extent: (u64, bool)) {
        let mut extents = self.extents.borrow_mut();
        if extents.len() == MOST_EXTENTS {
            extents.clear();
        }
        extents.insert(start, extent);
    }

    async fn look_for_hole(&self, range: &Range<u64>) -> Result<(bool, u64)> {
        self.storage.hole(range).await.map_err(self.blame.io("looking for holes", range.start))
    }

    pub(crate) async fn write(&self, offset: u64, data: S::Payload) -> Result<()> {
        if !self.writable {
            return Err(self.blame.refused("the image is open for reading only"));
        }
        debug_assert!(range_at(offset, data.len()).end <= self.size);
        self.storage.write(offset, &[data]).await.map_err(self.blame.io("writing data", offset))
    }

    /// Gives the room of a range back to the host, whatever it holds afterwards.
    pub(crate) async fn discard(&self, range: &Range<u64>) -> Result<()> {
        if !self.writable {
            return Err(self.refuse("the image is open for reading only"));
        }
        let discarded = self.storage.discard(range.start, length_of(range)).await;
        discarded.map_err(self.blame.io("discarding data", range.start))
    }

    pub(crate) fn refuse(&self, problem: &str) -> Error {
        self.blame.refused(problem)
    }

    pub(crate) async fn flush(&self) -> Result<()> {
        self.storage.flush().await.map_err(self.blame.io("flushing", 0))
    }
}
