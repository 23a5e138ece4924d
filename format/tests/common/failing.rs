//! Storages of which one request fails, or that are full for a while.

use super::turns;
use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use vmicache_format::storage::{DataKind, Memory, MetadataKind, Storage};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Read,
    Write,
    ReadMetadata,
    WriteMetadata,
    Flush,
}

/// What a write that fails has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Nothing,
    /// Some of its sectors are there.
    Part,
    All,
}

#[derive(Clone, Debug)]
pub enum Fault {
    None,
    /// The request of this number fails, having done so much.
    One(u64, Done),
    /// While requests with these numbers are made, no file can grow.
    Full(Range<u64>),
}

/// What some storages have in common.
pub struct Faults {
    fault: RefCell<Fault>,
    count: Cell<u64>,
    /// The kinds of the requests that have failed.
    pub failed: RefCell<Vec<RequestKind>>,
    dice: RefCell<Pcg64Mcg>,
}

impl Faults {
    pub fn new(fault: Fault, seed: u64) -> Rc<Self> {
        let dice = RefCell::new(Pcg64Mcg::seed_from_u64(seed));
        Rc::new(Faults { fault: RefCell::new(fault), count: Cell::new(0), failed: RefCell::default(), dice })
    }

    /// Requests that were made.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    pub fn mend(&self) {
        self.set(Fault::None);
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.borrow_mut() = fault;
    }

    async fn some_turns(&self) {
        let count = {
            let mut dice = self.dice.borrow_mut();
            // Seldom one takes so long that much happens meanwhile.
            let most = if dice.random_ratio(1, 12) { 150 } else { 3 };
            dice.random_range(0..most)
        };
        turns(count).await;
    }

    /// Whether no file can grow now.
    fn is_full(&self) -> bool {
        matches!(&*self.fault.borrow(), Fault::Full(range) if range.contains(&self.count()))
    }

    /// What a request that fails does before.
    fn fate(&self, kind: RequestKind, grows: bool) -> Option<Done> {
        let number = self.count.replace(self.count.get() + 1);
        let done = match &*self.fault.borrow() {
            Fault::One(failing, done) if *failing == number => Some(*done),
            Fault::Full(range) if range.contains(&number) && grows => {
                let part = self.dice.borrow_mut().random_bool(0.5);
                Some(if part { Done::Part } else { Done::Nothing })
            }
            _ => None,
        };
        if done.is_some() {
            self.failed.borrow_mut().push(kind);
        }
        done
    }
}

/// Memory in which faults happen, and which takes some turns for everything.
#[derive(Clone)]
pub struct Failing {
    pub memory: Memory,
    faults: Rc<Faults>,
}

impl Failing {
    pub fn new(memory: Memory, faults: &Rc<Faults>) -> Self {
        Failing { memory, faults: faults.clone() }
    }

    fn failure() -> io::Error {
        io::Error::other("a failure that the test ordered")
    }

    async fn ask(&self, kind: RequestKind) -> io::Result<()> {
        let fate = self.faults.fate(kind, false);
        self.faults.some_turns().await;
        if fate.is_some() { Err(Self::failure()) } else { Ok(()) }
    }

    async fn change(&self, kind: RequestKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let grows = offset + bytes.len() as u64 > self.memory.len().await?;
        let fate = self.faults.fate(kind, grows);
        self.faults.some_turns().await;
        let put = async |at: usize, part: &[u8]| {
            self.memory.write_metadata(MetadataKind::Header, offset + at as u64, part).await
        };
        match fate {
            None | Some(Done::All) => put(0, bytes).await?,
            Some(Done::Nothing) => {}
            Some(Done::Part) => {
                for (number, sector) in bytes.chunks(512).enumerate() {
                    if self.faults.dice.borrow_mut().random_bool(0.5) {
                        put(number * 512, sector).await?;
                    }
                }
            }
        }
        self.faults.some_turns().await;
        if fate.is_some() { Err(Self::failure()) } else { Ok(()) }
    }
}

impl Storage for Failing {
    type Payload = Bytes;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        self.ask(RequestKind::Read).await?;
        self.memory.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.change(RequestKind::Write, offset, &parts.concat()).await
    }

    /// One in three fails, and leaves something else behind.
    async fn copy_from(&self, source: &Self, from: &Range<u64>, to: u64) -> bool {
        self.faults.some_turns().await;
        let len = (from.end - from.start) as usize;
        let grows = to + len as u64 > self.memory.to_vec().len() as u64;
        if self.faults.dice.borrow_mut().random_ratio(1, 3) || grows && self.faults.is_full() {
            let part = vec![0xdb; if grows { 0 } else { len / 2 }];
            let _ = self.memory.write_metadata(MetadataKind::Header, to, &part).await;
            return false;
        }
        self.memory.copy_from(&source.memory, from, to).await
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.ask(RequestKind::ReadMetadata).await?;
        self.memory.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, _kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(RequestKind::WriteMetadata, offset, bytes).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.ask(RequestKind::Flush).await
    }

    async fn len(&self) -> io::Result<u64> {
        self.memory.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len).await
    }

    /// What was discarded holds nothing that anybody could take for data or a table.
    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = (offset + len).min(self.memory.len().await?);
        let bytes = vec![0xdb; end.saturating_sub(offset) as usize];
        self.memory.write_metadata(MetadataKind::Header, offset, &bytes).await
    }
}
