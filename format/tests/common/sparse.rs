//! A store that is as long as one likes.

use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use vmicache_format::storage::{DataKind, MetadataKind, Storage};

const BLOCK: u64 = 512;

/// Keeps metadata alone: guest data reads as zeroes. Counts what is asked of it. Clones share everything.
#[derive(Clone, Default)]
pub struct Sparse {
    blocks: Rc<RefCell<BTreeMap<u64, [u8; BLOCK as usize]>>>,
    length: Rc<Cell<u64>>,
    pub reads: Rc<Cell<u64>>,
    pub writes: Rc<Cell<u64>>,
    /// Guest data from here on can be neither read nor written.
    pub broken_from: Rc<Cell<Option<u64>>>,
    /// Holes and data take turns, each of so many bytes; 0: all is data.
    pub holes: Rc<Cell<u64>>,
}

impl Sparse {
    pub fn new(length: u64) -> Self {
        let store = Sparse::default();
        store.length.set(length);
        store
    }

    fn count(&self, counter: &Cell<u64>, offset: u64, len: u64) -> io::Result<()> {
        counter.set(counter.get() + 1);
        match self.broken_from.get() {
            Some(broken) if offset + len > broken => Err(io::Error::other("a failure that the test ordered")),
            _ => Ok(()),
        }
    }
}

impl Storage for Sparse {
    type Payload = Bytes;

    async fn read(&self, _kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        self.count(&self.reads, offset, len)?;
        Ok(Bytes::from(vec![0; len as usize]))
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let len = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        self.length.set(self.length.get().max(offset + len));
        self.count(&self.writes, offset, len)
    }

    async fn read_metadata(&self, _kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let blocks = self.blocks.borrow();
        let byte = |at: u64| blocks.get(&(at / BLOCK)).map_or(0, |block| block[(at % BLOCK) as usize]);
        Ok((offset..offset + len).map(byte).collect())
    }

    async fn write_metadata(&self, _kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut blocks = self.blocks.borrow_mut();
        for (at, byte) in (offset..).zip(bytes) {
            blocks.entry(at / BLOCK).or_insert([0; BLOCK as usize])[(at % BLOCK) as usize] = *byte;
        }
        self.length.set(self.length.get().max(offset + bytes.len() as u64));
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn hole(&self, range: &Range<u64>) -> io::Result<(bool, u64)> {
        match self.holes.get() {
            0 => Ok((false, range.end)),
            bytes => Ok((
                (range.start / bytes).is_multiple_of(2),
                range.end.min((range.start / bytes + 1) * bytes),
            )),
        }
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.length.get())
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.length.set(len);
        Ok(())
    }

    async fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
