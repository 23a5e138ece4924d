//! Byte stores below images: host files, memory, and memory without guest payload.
//!
//! A [`Storage`] moves two kinds of content, and is always told which: *guest data*, whose representation
//! ([`Payload`]) the storage chooses (bytes in reality, a mere length in simulation), and *metadata*, which
//! steers the code above and therefore is always real bytes. The code above is generic over one storage,
//! so that the same instructions run on a host file and in a simulator.
//!
//! Images belong to one thread: nothing here is `Send`, and parallelism is across images.

mod buffers;
mod counting;
mod file;
mod holes;
mod memory;
mod payload_free;

pub use counting::{Counting, Counts, Totals};
pub use file::{Access, HostFile};
pub use holes::Holes;
pub use memory::Memory;
pub use payload_free::{Hollow, PayloadFree};

use bytes::Bytes;
use std::fmt::Debug;
use std::io;
use std::ops::Range;

/// Why guest data is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataKind {
    /// On behalf of a guest: its own requests, the copied rest of a cluster, the filling of a cache.
    Guest,
    /// To recognise a base image when a cache is made or opened; never counted as the guest's.
    Identity,
}

/// Which structure of an image a metadata request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetadataKind {
    /// Header, its extensions, and the backing file's name.
    Header,
    /// The active L1 table.
    L1Table,
    /// An L2 table or a slice of one.
    L2Table,
    /// The refcount table.
    RefcountTable,
    /// A refcount block or a slice of one.
    RefcountBlock,
}

/// Guest data on its way: immutable, cheap to clone and to slice. Lengths are in bytes.
pub trait Payload: Clone + Debug + 'static {
    /// `len` zero bytes.
    fn zeroed(len: u64) -> Self;
    /// A copy of `bytes`.
    fn copy_from(bytes: &[u8]) -> Self;
    /// Bytes held.
    fn len(&self) -> u64;
    /// Whether no byte is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The bytes of `range`, relative to the start; must lie within the payload.
    fn slice(&self, range: Range<u64>) -> Self;
    /// All `parts`, one after the other.
    fn concat(parts: &[Self]) -> Self;
    /// The bytes themselves, where the storage keeps any.
    fn bytes(&self) -> Option<&[u8]>;
}

/// What fills a cluster of the usual size is nobody's memory.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

impl Payload for Bytes {
    fn zeroed(len: u64) -> Self {
        match ZEROES.get(..len as usize) {
            Some(zeroes) => Bytes::from_static(zeroes),
            None => Bytes::from(vec![0; len as usize]),
        }
    }

    fn copy_from(bytes: &[u8]) -> Self {
        Bytes::copy_from_slice(bytes)
    }

    fn len(&self) -> u64 {
        Bytes::len(self) as u64
    }

    fn slice(&self, range: Range<u64>) -> Self {
        Bytes::slice(self, range.start as usize..range.end as usize)
    }

    fn concat(parts: &[Self]) -> Self {
        match parts {
            [single] => single.clone(),
            parts => Bytes::from(parts.concat()),
        }
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }
}

/// A byte store with positional, asynchronous input and output. Offsets and lengths are in bytes.
///
/// Requests may be in flight together; nothing orders them but [`flush`](Storage::flush), which makes
/// every write that completed before it was called durable. Writes are atomic in units of 512 aligned bytes.
// Futures of a storage stay on its thread, so that the missing `Send` bound is the intention.
#[expect(async_fn_in_trait)]
// A length costs a request here; whether it is zero is nobody's question.
#[expect(clippy::len_without_is_empty)]
pub trait Storage: 'static {
    /// How guest data is represented.
    type Payload: Payload;

    /// Reads guest data; bytes beyond the end read as zeroes.
    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Self::Payload>;

    /// Writes `parts` of guest data one after the other from `offset` on, growing the store as needed.
    async fn write(&self, offset: u64, parts: &[Self::Payload]) -> io::Result<()>;

    /// Copies guest data of `source` to offset `to`, growing the store as needed, without anybody seeing it. What those
    /// bytes hold is unknown if it returns false: such a store cannot do it, or something failed, and whoever then
    /// reads and writes them is told what.
    async fn copy_from(&self, source: &Self, from: &Range<u64>, to: u64) -> bool {
        let _ = (source, from, to);
        false
    }

    /// Reads metadata; bytes beyond the end read as zeroes.
    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>>;

    /// Writes metadata, growing the store as needed.
    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes every write that has completed durable. Should that fail, a later flush makes up for it; a store that
    /// cannot promise so much lets all later ones fail too.
    async fn flush(&self) -> io::Result<()>;

    /// Whether the bytes at the start of a range, which is not empty, are a hole that reads as zeroes, and
    /// where that ends, at most at the end of the range. Saying that all is data is right.
    async fn hole(&self, range: &Range<u64>) -> io::Result<(bool, u64)> {
        Ok((false, range.end))
    }

    /// The length of the store.
    async fn len(&self) -> io::Result<u64>;

    /// Cuts the store off at `len`, or grows it with zeroes.
    async fn set_len(&self, len: u64) -> io::Result<()>;

    /// Tells that a range is no longer needed; its content is undefined afterwards. Doing nothing is right.
    async fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
}
