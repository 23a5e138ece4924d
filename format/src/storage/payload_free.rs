//! A byte store in memory that keeps metadata and no guest payload.

use super::{DataKind, MetadataKind, Payload, Storage};
use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;

/// Guest data of which only the length, in bytes, is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hollow(u64);

impl Payload for Hollow {
    fn zeroed(len: u64) -> Self {
        Hollow(len)
    }

    fn copy_from(bytes: &[u8]) -> Self {
        Hollow(bytes.len() as u64)
    }

    fn len(&self) -> u64 {
        self.0
    }

    fn slice(&self, range: Range<u64>) -> Self {
        Hollow(range.end - range.start)
    }

    fn concat(parts: &[Self]) -> Self {
        Hollow(parts.iter().map(|part| part.0).sum())
    }

    fn bytes(&self) -> Option<&[u8]> {
        None
    }
}

const PAGE: u64 = 512;
const PAGES_PER_CHUNK: u64 = 64;
const CHUNK: u64 = PAGE * PAGES_PER_CHUNK;

type Page = [u8; PAGE as usize];

/// The non-zero metadata pages among 64: one bit of `present` a page, the pages themselves in order.
#[derive(Clone, Debug, Default)]
struct Chunk {
    present: u64,
    pages: Vec<Page>,
}

impl Chunk {
    fn rank(&self, page: u64) -> usize {
        (self.present & ((1 << page) - 1)).count_ones() as usize
    }

    fn get(&self, page: u64) -> Option<&Page> {
        (self.present >> page & 1 == 1).then(|| &self.pages[self.rank(page)])
    }

    fn get_or_insert(&mut self, page: u64) -> &mut Page {
        let rank = self.rank(page);
        if self.present >> page & 1 == 0 {
            // Most chunks hold one or two pages for ever: growing by doubling would waste most of the memory.
            self.pages.reserve_exact(1);
            self.pages.insert(rank, [0; PAGE as usize]);
            self.present |= 1 << page;
        }
        &mut self.pages[rank]
    }

    fn remove(&mut self, page: u64) {
        if self.present >> page & 1 == 1 {
            let rank = self.rank(page);
            self.pages.remove(rank);
            self.present &= !(1 << page);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Contents {
    chunks: Vec<Chunk>,
    len: u64,
}

impl Contents {
    /// Forgets metadata in a range that now belongs to guest data.
    fn forget(&mut self, range: Range<u64>) {
        let first = range.start / CHUNK;
        let last = range.end.div_ceil(CHUNK).min(self.chunks.len() as u64);
        for number in first..last {
            let chunk = &mut self.chunks[number as usize];
            if chunk.present == 0 {
                continue;
            }
            for page in 0..PAGES_PER_CHUNK {
                let start = number * CHUNK + page * PAGE;
                if start >= range.start && start + PAGE <= range.end {
                    chunk.remove(page);
                }
            }
        }
    }

    fn write_page(&mut self, offset: u64, bytes: &[u8]) {
        let (number, page) = (offset / CHUNK, offset % CHUNK / PAGE);
        let within = (offset % PAGE) as usize;
        let zero = bytes.iter().all(|byte| *byte == 0);
        if zero && self.chunks.get(number as usize).is_none_or(|chunk| chunk.get(page).is_none()) {
            return;
        }
        if self.chunks.len() as u64 <= number {
            self.chunks.resize_with(number as usize + 1, Chunk::default);
        }
        let chunk = &mut self.chunks[number as usize];
        chunk.get_or_insert(page)[within..within + bytes.len()].copy_from_slice(bytes);
        if zero && chunk.get(page).is_some_and(|page| page.iter().all(|byte| *byte == 0)) {
            chunk.remove(page);
        }
    }
}

/// A byte store in memory that keeps metadata bytes and, of guest data, nothing but its extent: what makes
/// thousands of simulated images cheap. All-zero metadata takes no memory either. Clones share the content.
#[derive(Clone, Debug, Default)]
pub struct PayloadFree {
    contents: Rc<RefCell<Contents>>,
}

impl PayloadFree {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store of `len` bytes, such as a raw base image.
    pub fn of_len(len: u64) -> Self {
        let store = Self::default();
        store.contents.borrow_mut().len = len;
        store
    }

    /// A copy that shares nothing with this store.
    pub fn deep_clone(&self) -> Self {
        PayloadFree { contents: Rc::new(RefCell::new(self.contents.borrow().clone())) }
    }

    /// Bytes of memory that the content takes.
    pub fn memory(&self) -> u64 {
        let contents = self.contents.borrow();
        let pages: usize =
            contents.chunks.iter().map(|chunk| chunk.pages.capacity() * size_of::<Page>()).sum();
        (pages + contents.chunks.capacity() * size_of::<Chunk>()) as u64
    }
}

impl Storage for PayloadFree {
    type Payload = Hollow;

    async fn read(&self, _kind: DataKind, _offset: u64, len: u64) -> io::Result<Hollow> {
        Ok(Hollow(len))
    }

    async fn write(&self, offset: u64, parts: &[Hollow]) -> io::Result<()> {
        let end = offset + Hollow::concat(parts).len();
        let mut contents = self.contents.borrow_mut();
        contents.forget(offset..end);
        contents.len = contents.len.max(end);
        Ok(())
    }

    async fn read_metadata(&self, _kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let contents = self.contents.borrow();
        let mut bytes = vec![0; len as usize];
        let mut position = offset;
        while position < offset + len {
            let end = (position / PAGE * PAGE + PAGE).min(offset + len);
            let chunk = contents.chunks.get((position / CHUNK) as usize);
            if let Some(page) = chunk.and_then(|chunk| chunk.get(position % CHUNK / PAGE)) {
                let within = (position % PAGE) as usize;
                let copied = (end - position) as usize;
                let target = (position - offset) as usize;
                bytes[target..target + copied].copy_from_slice(&page[within..within + copied]);
            }
            position = end;
        }
        Ok(bytes)
    }

    async fn write_metadata(&self, _kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut contents = self.contents.borrow_mut();
        let mut position = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let take = rest.len().min((PAGE - position % PAGE) as usize);
            contents.write_page(position, &rest[..take]);
            position += take as u64;
            rest = &rest[take..];
        }
        contents.len = contents.len.max(position);
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.contents.borrow().len)
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        let mut contents = self.contents.borrow_mut();
        if len < contents.len {
            let end = contents.len.next_multiple_of(PAGE);
            contents.forget(len..end);
        }
        contents.len = len;
        Ok(())
    }

    async fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
