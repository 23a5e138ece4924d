//! Files of the host and memory in one chain.

use std::io;
use std::ops::Range;
use vmicache_format::storage::{DataKind, HostFile, Memory, MetadataKind, Storage};

/// A byte store of either kind; all layers of a disk have storages of one type.
#[derive(Clone)]
pub enum Store {
    /// A file of the host.
    File(HostFile),
    /// Memory.
    Memory(Memory),
}

/// Asks the store, whichever it is.
macro_rules! ask {
    ($store:expr, $call:ident($($argument:expr),*)) => {
        match $store {
            Store::File(file) => file.$call($($argument),*).await,
            Store::Memory(memory) => memory.$call($($argument),*).await,
        }
    };
}

impl Storage for Store {
    type Payload = <HostFile as Storage>::Payload;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Self::Payload> {
        ask!(self, read(kind, offset, len))
    }

    async fn write(&self, offset: u64, parts: &[Self::Payload]) -> io::Result<()> {
        ask!(self, write(offset, parts))
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        ask!(self, read_metadata(kind, offset, len))
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        ask!(self, write_metadata(kind, offset, bytes))
    }

    async fn flush(&self) -> io::Result<()> {
        ask!(self, flush())
    }

    async fn hole(&self, range: &Range<u64>) -> io::Result<(bool, u64)> {
        ask!(self, hole(range))
    }

    async fn len(&self) -> io::Result<u64> {
        ask!(self, len())
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        ask!(self, set_len(len))
    }

    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        ask!(self, discard(offset, len))
    }
}
