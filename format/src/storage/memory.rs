//! A byte store in memory.

use super::{DataKind, MetadataKind, Storage};
use crate::byte_range::length_of;
use bytes::Bytes;
use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;

/// A byte store in memory. Clones share the bytes, so that an image can be closed and opened again.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl Memory {
    /// A store that holds `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Memory { bytes: Rc::new(RefCell::new(bytes)) }
    }

    /// A copy of everything held.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }

    fn copy_out(&self, offset: u64, len: u64) -> Vec<u8> {
        let bytes = self.bytes.borrow();
        let within = |at: u64| bytes.len().min(at as usize);
        let held = bytes.get(within(offset)..within(offset.saturating_add(len)));
        let mut copy = Vec::with_capacity(len as usize);
        copy.extend_from_slice(held.unwrap_or_default());
        copy.resize(len as usize, 0);
        copy
    }

    fn copy_in(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes.borrow_mut();
        let end = offset.checked_add(data.len() as u64).ok_or(io::ErrorKind::FileTooLarge)? as usize;
        let more = end.saturating_sub(bytes.len());
        bytes.try_reserve(more).map_err(|_| io::ErrorKind::StorageFull)?;
        if more > 0 {
            bytes.resize(end, 0);
        }
        if let Some(place) = bytes.get_mut(offset as usize..end) {
            place.copy_from_slice(data);
        }
        Ok(())
    }
}

impl Storage for Memory {
    type Payload = Bytes;

    async fn read(&self, _kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        Ok(Bytes::from(self.copy_out(offset, len)))
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut position = offset;
        for part in parts {
            self.copy_in(position, part)?;
            position = position.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    async fn copy_from(&self, source: &Self, from: &Range<u64>, to: u64) -> bool {
        self.copy_in(to, &source.copy_out(from.start, length_of(from))).is_ok()
    }

    async fn read_metadata(&self, _kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        Ok(self.copy_out(offset, len))
    }

    async fn write_metadata(&self, _kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.copy_in(offset, bytes)
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.borrow().len() as u64)
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.borrow_mut().resize(len as usize, 0);
        Ok(())
    }

    async fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
