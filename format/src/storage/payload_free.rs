//! A byte store in memory that keeps metadata and no guest payload.

use super::{DataKind, Holes, MetadataKind, Payload, Storage};
use crate::byte_range::length_of;
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
        Hollow(length_of(&range))
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

/// How many of `len` bytes from `position` on lie in its page.
fn rest_of_page(position: u64, len: usize) -> usize {
    len.min(PAGE.saturating_sub(position % PAGE) as usize)
}

/// The non-zero metadata pages among 64: one bit of `present` a page, the pages themselves in order.
#[derive(Clone, Debug, Default)]
struct Chunk {
    present: u64,
    pages: Vec<Page>,
}

impl Chunk {
    fn rank(&self, page: u64) -> usize {
        (self.present & !(u64::MAX << page)).count_ones() as usize
    }

    fn get(&self, page: u64) -> Option<&Page> {
        if self.present >> page & 1 == 1 { self.pages.get(self.rank(page)) } else { None }
    }

    fn get_or_insert(&mut self, page: u64) -> Option<&mut Page> {
        let rank = self.rank(page);
        if self.present >> page & 1 == 0 {
            // Most chunks hold one or two pages for ever: growing by doubling would waste most of the memory.
            self.pages.reserve_exact(1);
            self.pages.insert(rank, [0; PAGE as usize]);
            self.present |= 1 << page;
        }
        self.pages.get_mut(rank)
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
    /// `None`: without metadata. Forks share a chunk until one of them changes it.
    chunks: Vec<Option<Rc<Chunk>>>,
    len: u64,
    holes: Holes,
}

impl Contents {
    /// Forgets metadata in a range that now belongs to guest data.
    fn forget(&mut self, range: Range<u64>) {
        let first = range.start / CHUNK;
        let last = range.end.div_ceil(CHUNK).min(self.chunks.len() as u64);
        for number in first..last {
            let Some(Some(chunk)) = self.chunks.get_mut(number as usize) else { continue };
            let within = |at: u64| at.saturating_sub(number.saturating_mul(CHUNK));
            let whole = within(range.start).div_ceil(PAGE)..(within(range.end) / PAGE).min(PAGES_PER_CHUNK);
            for page in whole {
                if chunk.get(page).is_some() {
                    Rc::make_mut(chunk).remove(page);
                }
            }
        }
    }

    fn write_page(&mut self, offset: u64, bytes: &[u8]) {
        let (number, page) = (offset / CHUNK, offset % CHUNK / PAGE);
        let within = (offset % PAGE) as usize;
        let zero = bytes.iter().all(|byte| *byte == 0);
        if zero && self.page(number, page).is_none() {
            return;
        }
        if self.chunks.len() as u64 <= number {
            self.chunks.resize_with((number as usize).saturating_add(1), || None);
        }
        let Some(chunk) = self.chunks.get_mut(number as usize) else { return };
        let chunk = Rc::make_mut(chunk.get_or_insert_default());
        let place = within..within.saturating_add(bytes.len());
        if let Some(place) = chunk.get_or_insert(page).and_then(|page| page.get_mut(place)) {
            place.copy_from_slice(bytes);
        }
        if zero && chunk.get(page).is_some_and(|page| page.iter().all(|byte| *byte == 0)) {
            chunk.remove(page);
        }
    }

    fn page(&self, number: u64, page: u64) -> Option<&Page> {
        self.chunks.get(number as usize)?.as_ref()?.get(page)
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

    /// A store of `len` bytes that is only read, with `holes`.
    pub fn with_holes(len: u64, holes: Holes) -> Self {
        let store = Self::of_len(len);
        store.contents.borrow_mut().holes = holes;
        store
    }

    /// A store of the same content that goes its own way from here. What neither changes takes memory once.
    pub fn fork(&self) -> Self {
        PayloadFree { contents: Rc::new(RefCell::new(self.contents.borrow().clone())) }
    }

    /// Length of the store in bytes.
    pub fn bytes(&self) -> u64 {
        self.contents.borrow().len
    }

    /// Bytes of memory that the content takes, with what is shared with forks.
    pub fn memory(&self) -> u64 {
        let contents = self.contents.borrow();
        let chunk_memory = |chunk: &Rc<Chunk>| {
            chunk.pages.capacity().saturating_mul(size_of::<Page>()).saturating_add(size_of::<Chunk>())
        };
        let chunks: usize = contents.chunks.iter().flatten().map(chunk_memory).sum();
        let table = contents.chunks.capacity().saturating_mul(size_of::<Option<Rc<Chunk>>>());
        chunks.saturating_add(table) as u64
    }
}

impl Storage for PayloadFree {
    type Payload = Hollow;

    async fn read(&self, _kind: DataKind, _offset: u64, len: u64) -> io::Result<Hollow> {
        Ok(Hollow(len))
    }

    async fn write(&self, offset: u64, parts: &[Hollow]) -> io::Result<()> {
        let end = offset.saturating_add(Hollow::concat(parts).len());
        let mut contents = self.contents.borrow_mut();
        if !contents.holes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a store with holes is only read"));
        }
        contents.forget(offset..end);
        contents.len = contents.len.max(end);
        Ok(())
    }

    async fn read_metadata(&self, _kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let contents = self.contents.borrow();
        let mut bytes = vec![0; len as usize];
        let mut position = offset;
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let (within, count) = ((position % PAGE) as usize, rest_of_page(position, rest.len()));
            let (now, later) = rest.split_at_mut(count);
            let page = contents.page(position / CHUNK, position % CHUNK / PAGE);
            if let Some(held) = page.and_then(|page| page.get(within..within.saturating_add(count))) {
                now.copy_from_slice(held);
            }
            position = position.saturating_add(now.len() as u64);
            rest = later;
        }
        Ok(bytes)
    }

    async fn write_metadata(&self, _kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut contents = self.contents.borrow_mut();
        let mut position = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest_of_page(position, rest.len()));
            contents.write_page(position, now);
            position = position.saturating_add(now.len() as u64);
            rest = later;
        }
        contents.len = contents.len.max(position);
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn hole(&self, range: &Range<u64>) -> io::Result<(bool, u64)> {
        Ok(self.contents.borrow().holes.at(range))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::LocalRuntime;

    #[test]
    fn forks_share_what_neither_changes_and_see_nothing_of_each_other() {
        let runtime = LocalRuntime::new();
        let kind = MetadataKind::L2Table;
        let store = PayloadFree::new();
        runtime
            .block_on(async {
                store.write_metadata(kind, 0, &[1; 512]).await?;
                store.write_metadata(kind, 10 * CHUNK, &[2; 512]).await?;
                let fork = store.fork();
                fork.write_metadata(kind, 0, &[3; 512]).await?;
                store.write(10 * CHUNK, &[Hollow::zeroed(512)]).await?;
                assert_eq!(store.read_metadata(kind, 0, 1).await?, [1]);
                assert_eq!(fork.read_metadata(kind, 0, 1).await?, [3]);
                assert_eq!(store.read_metadata(kind, 10 * CHUNK, 1).await?, [0]);
                assert_eq!(fork.read_metadata(kind, 10 * CHUNK, 1).await?, [2]);
                assert_eq!((store.len().await?, fork.len().await?), (10 * CHUNK + 512, 10 * CHUNK + 512));
                io::Result::Ok(())
            })
            .unwrap();
    }
}
