//! A byte store in memory that counts what is asked of it, and refuses to grow without limits.

use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use vmicache_format::storage::{DataKind, MetadataKind, Storage};

const PAGE: u64 = 4096;
/// The store becomes at most so much longer than it was: behind that, the host has no room.
pub const ROOM: u64 = 128 << 20;
/// Nothing asks for more bytes at once: L1 tables end at 32 MiB.
const LARGEST_REQUEST: u64 = 32 << 20;

/// What the host does for the whole of an input at most.
const MOST_REQUESTS: u64 = 400_000;
const MOST_BYTES: u64 = 2 << 30;

struct Inner {
    /// What the store held when it was made; many stores share it.
    base: Rc<Vec<u8>>,
    /// What was written since.
    pages: RefCell<BTreeMap<u64, Box<[u8; PAGE as usize]>>>,
    length: Cell<u64>,
    longest: u64,
    requests: Cell<u64>,
    bytes: Cell<u64>,
    writes: Cell<u64>,
}

/// A store. Clones are the same one.
#[derive(Clone)]
pub struct Store(Rc<Inner>);

impl Store {
    /// A store that holds `base`.
    pub fn new(base: Rc<Vec<u8>>) -> Self {
        let length = base.len() as u64;
        Store(Rc::new(Inner {
            base,
            pages: RefCell::default(),
            length: Cell::new(length),
            longest: length + ROOM,
            requests: Cell::new(0),
            bytes: Cell::new(0),
            writes: Cell::new(0),
        }))
    }

    /// Another store that holds the same.
    pub fn copy(&self) -> Self {
        let copy = Store::new(self.0.base.clone());
        *copy.0.pages.borrow_mut() = self.0.pages.borrow().clone();
        copy.0.length.set(self.length());
        copy
    }

    /// Bytes that it holds.
    pub fn length(&self) -> u64 {
        self.0.length.get()
    }

    /// Requests that have changed it.
    pub fn writes(&self) -> u64 {
        self.0.writes.get()
    }

    /// A copy of a range; zeroes behind the end.
    pub fn get(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut copy = vec![0; len as usize];
        let range = offset..offset.saturating_add(len).min(self.length()).max(offset);
        if range.is_empty() {
            return copy;
        }
        let base_end = range.end.min(self.0.base.len() as u64);
        if range.start < base_end {
            let bytes = &self.0.base[range.start as usize..base_end as usize];
            copy[..bytes.len()].copy_from_slice(bytes);
        }
        let pages = self.0.pages.borrow();
        for (number, page) in pages.range(range.start / PAGE..range.end.div_ceil(PAGE)) {
            let common = range.start.max(number * PAGE)..range.end.min((number + 1) * PAGE);
            if !common.is_empty() {
                copy[(common.start - offset) as usize..(common.end - offset) as usize].copy_from_slice(
                    &page[(common.start - number * PAGE) as usize..(common.end - number * PAGE) as usize],
                );
            }
        }
        copy
    }

    /// Puts bytes in place.
    pub fn put(&self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        let length = self.length();
        self.0.length.set(length.max(end));
        let mut at = offset;
        while at < end {
            let number = at / PAGE;
            let part = at..end.min((number + 1) * PAGE);
            let new = &bytes[(part.start - offset) as usize..(part.end - offset) as usize];
            at = part.end;
            let is_known =
                number * PAGE < self.0.base.len() as u64 || self.0.pages.borrow().contains_key(&number);
            if !is_known && new.iter().all(|byte| *byte == 0) {
                continue;
            }
            if !self.0.pages.borrow().contains_key(&number) {
                let page: Vec<u8> = self.get(number * PAGE, PAGE);
                let page = page.into_boxed_slice().try_into().expect("a page has its length");
                self.0.pages.borrow_mut().insert(number, page);
            }
            let mut pages = self.0.pages.borrow_mut();
            let page = pages.get_mut(&number).expect("it is there now");
            page[(part.start - number * PAGE) as usize..][..new.len()].copy_from_slice(new);
        }
    }

    /// Cuts it off, or makes it longer with zeroes.
    pub fn cut(&self, length: u64) {
        let old = self.length();
        let wiped = length..old.min(length.next_multiple_of(PAGE));
        if !wiped.is_empty() {
            self.put(wiped.start, &vec![0; (wiped.end - wiped.start) as usize]);
        }
        // What the base held behind the end must not come back.
        for number in length.div_ceil(PAGE)..old.min(self.0.base.len() as u64).div_ceil(PAGE) {
            self.0.pages.borrow_mut().insert(number, Box::new([0; PAGE as usize]));
        }
        self.0.pages.borrow_mut().retain(|number, page| {
            let is_behind = number * PAGE >= length.next_multiple_of(PAGE);
            if is_behind {
                page.fill(0);
            }
            !is_behind || number * PAGE < self.0.base.len() as u64
        });
        self.0.length.set(length);
    }

    /// Counts a request.
    ///
    /// # Panics
    /// If it is larger than any has to be, or the requests are more than any input justifies.
    fn count(&self, len: u64) {
        assert!(len <= LARGEST_REQUEST, "a request of {len} bytes");
        self.0.requests.set(self.0.requests.get() + 1);
        self.0.bytes.set(self.0.bytes.get() + len);
        assert!(self.0.requests.get() <= MOST_REQUESTS, "more requests than any input justifies");
        assert!(self.0.bytes.get() <= MOST_BYTES, "more bytes are moved than any input justifies");
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.count(bytes.len() as u64);
        self.0.writes.set(self.0.writes.get() + 1);
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.0.longest) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.put(offset, bytes);
        Ok(())
    }
}

impl Storage for Store {
    type Payload = Bytes;

    async fn read(&self, _kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        self.count(len);
        Ok(Bytes::from(self.get(offset, len)))
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut at = offset;
        for part in parts {
            self.write_at(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    async fn read_metadata(&self, _kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.count(len);
        Ok(self.get(offset, len))
    }

    async fn write_metadata(&self, _kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_at(offset, bytes)
    }

    async fn flush(&self) -> io::Result<()> {
        self.count(0);
        Ok(())
    }

    async fn hole(&self, range: &Range<u64>) -> io::Result<(bool, u64)> {
        self.count(0);
        let known = self.length().max(self.0.base.len() as u64);
        match range.start >= known {
            true => Ok((true, range.end)),
            false => Ok((false, range.end.min(known))),
        }
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.length())
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.count(0);
        self.0.writes.set(self.0.writes.get() + 1);
        if len > self.0.longest {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.cut(len);
        Ok(())
    }

    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.count(0);
        // What the host does with the room is its affair; this one keeps nothing of it.
        let end = offset.saturating_add(len).min(self.length());
        let mut at = offset;
        while at < end {
            let part = end.min(at + PAGE);
            self.put(at, &vec![0; (part - at) as usize]);
            at = part;
        }
        Ok(())
    }
}
