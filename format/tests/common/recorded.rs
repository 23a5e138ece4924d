//! Storages that write a record of what happens to them, and what a power cut leaves of them.
//!
//! A record tells when each change was issued and completed, and when each flush began and ended; several files
//! may share one. A cut is a moment of it: changes that had completed before a flush of their file began that had
//! ended are there; of all others each 512-byte sector is there or not.

use super::blocks::Event;
use super::{Random, turns};
use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use vmicache_format::storage::{DataKind, Memory, MetadataKind, Storage};

const SECTOR: usize = 512;

/// What is done to a file.
#[derive(Clone, Debug)]
pub enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => write(content, *offset as usize, bytes),
            Change::Length(len) => content.resize(*len as usize, 0),
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

pub enum Moment {
    Issued {
        id: usize,
        file: usize,
        change: Change,
    },
    Completed {
        id: usize,
    },
    FlushBegan {
        id: usize,
        file: usize,
    },
    FlushEnded {
        id: usize,
    },
    /// Something that happened to the guest's disk.
    Guest(Event),
}

/// What happened to some files, in its order.
pub struct Record {
    moments: RefCell<Vec<Moment>>,
    dice: RefCell<Pcg64Mcg>,
}

impl Record {
    pub fn new(seed: u64) -> Rc<Self> {
        Rc::new(Record { moments: RefCell::default(), dice: RefCell::new(Pcg64Mcg::seed_from_u64(seed)) })
    }

    pub fn take(&self) -> Vec<Moment> {
        self.moments.take()
    }

    pub fn note(&self, event: Event) {
        self.add(|_| Moment::Guest(event));
    }

    fn add(&self, moment: impl FnOnce(usize) -> Moment) -> usize {
        let mut moments = self.moments.borrow_mut();
        let id = moments.len();
        moments.push(moment(id));
        id
    }

    async fn some_turns(&self) {
        let count = {
            let mut dice = self.dice.borrow_mut();
            // Seldom one takes so long that much happens meanwhile.
            let most = if dice.random_ratio(1, 8) { 150 } else { 4 };
            dice.random_range(0..most)
        };
        turns(count).await;
    }
}

/// Memory that takes part in a record, and takes a random number of turns for everything.
#[derive(Clone)]
pub struct Recorded {
    pub memory: Memory,
    file: usize,
    record: Rc<Record>,
}

impl Recorded {
    /// The file of this number in a record.
    pub fn new(memory: Memory, file: usize, record: &Rc<Record>) -> Self {
        Recorded { memory, file, record: record.clone() }
    }

    async fn change(&self, change: Change) -> io::Result<()> {
        let id = self.record.add(|id| Moment::Issued { id, file: self.file, change: change.clone() });
        self.record.some_turns().await;
        match change {
            Change::Write { offset, bytes } => {
                self.memory.write_metadata(MetadataKind::Header, offset, &bytes).await?;
            }
            Change::Length(len) => self.memory.set_len(len).await?,
        }
        self.record.add(|_| Moment::Completed { id });
        Ok(())
    }
}

impl Storage for Recorded {
    type Payload = Bytes;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        self.record.some_turns().await;
        self.memory.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.change(Change::Write { offset, bytes: parts.concat() }).await
    }

    async fn copy_from(&self, source: &Self, from: &Range<u64>, to: u64) -> bool {
        let copied = source.read(DataKind::Guest, from.start, from.end - from.start).await;
        self.write(to, &[copied.expect("memory")]).await.is_ok()
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.record.some_turns().await;
        self.memory.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, _kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write { offset, bytes: bytes.to_vec() }).await
    }

    async fn flush(&self) -> io::Result<()> {
        let id = self.record.add(|id| Moment::FlushBegan { id, file: self.file });
        self.record.some_turns().await;
        self.record.add(|_| Moment::FlushEnded { id });
        Ok(())
    }

    async fn len(&self) -> io::Result<u64> {
        self.memory.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len)).await
    }

    /// What was discarded holds nothing that anybody could take for data or a table.
    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = (offset + len).min(self.memory.len().await?);
        let bytes = vec![0xdb; end.saturating_sub(offset) as usize];
        self.change(Change::Write { offset, bytes }).await
    }
}

/// A change that was issued and is not known to be durable.
struct Volatile {
    id: usize,
    file: usize,
    change: Change,
    is_complete: bool,
}

/// What the files hold at the moments of a record, one after the other.
pub struct Replayed {
    /// The durable content of each file.
    durable: Vec<Vec<u8>>,
    /// In the order in which they were issued.
    volatile: Vec<Volatile>,
    /// Flushes under way, with the changes that they cover.
    flushes: Vec<(usize, Vec<usize>)>,
}

/// Which of the volatile changes a cut leaves.
#[derive(Clone, Copy, Debug)]
enum Survivors {
    All,
    None,
    /// Each sector with this probability.
    Sectors(f64),
    /// Each change as a whole with this probability.
    Changes(f64),
    /// Those issued last.
    Newest(usize),
    /// Those that are complete.
    Complete,
}

impl Replayed {
    pub fn new(contents: Vec<Vec<u8>>) -> Self {
        Replayed { durable: contents, volatile: vec![], flushes: vec![] }
    }

    pub fn advance(&mut self, moment: &Moment) {
        match moment {
            Moment::Issued { id, file, change } => {
                let (id, file, change) = (*id, *file, change.clone());
                self.volatile.push(Volatile { id, file, change, is_complete: false });
            }
            Moment::Completed { id } => {
                self.volatile.iter_mut().filter(|change| change.id == *id).for_each(|c| c.is_complete = true);
            }
            Moment::FlushBegan { id, file } => {
                let covered =
                    self.volatile.iter().filter(|change| change.is_complete && change.file == *file);
                self.flushes.push((*id, covered.map(|change| change.id).collect()));
            }
            Moment::FlushEnded { id } => {
                let ended = self.flushes.iter().position(|flush| flush.0 == *id).expect("it began");
                let (_, covered) = self.flushes.remove(ended);
                let durable = &mut self.durable;
                self.volatile.retain(|change| {
                    let is_covered = covered.contains(&change.id);
                    if is_covered {
                        change.change.apply(&mut durable[change.file]);
                    }
                    !is_covered
                });
            }
            Moment::Guest(_) => {}
        }
    }

    /// Whether the start of the first file, where an image has its header, is being written.
    pub fn is_header_volatile(&self) -> bool {
        let is_header = |change: &Volatile| matches!(change.change, Change::Write { offset: 0, .. });
        self.volatile.iter().any(|change| change.file == 0 && is_header(change))
    }

    /// The content of the files after a cut, and what survived.
    pub fn cut(&self, random: &mut Random) -> (Vec<Vec<u8>>, String) {
        let newest = self.volatile.len().saturating_sub(1 + random.below(4) as usize);
        let survivors = match random.below(10) {
            0 => Survivors::All,
            1 => Survivors::None,
            2 => Survivors::Complete,
            3 => Survivors::Newest(newest),
            4..7 => Survivors::Changes(random.pick(&[0.2, 0.5, 0.8])),
            _ => Survivors::Sectors(random.pick(&[0.1, 0.5, 0.9])),
        };
        let mut contents = self.durable.clone();
        for (number, change) in self.volatile.iter().enumerate() {
            let content = &mut contents[change.file];
            let survives = match survivors {
                Survivors::All => true,
                Survivors::None => false,
                Survivors::Complete => change.is_complete,
                Survivors::Newest(first) => number >= first,
                Survivors::Changes(probability) => random.chance(probability),
                Survivors::Sectors(probability) => {
                    if let Change::Write { offset, bytes } = &change.change {
                        write_some(content, *offset as usize, bytes, || random.chance(probability));
                        continue;
                    }
                    random.chance(probability)
                }
            };
            if survives {
                change.change.apply(content);
            }
        }
        (contents, format!("{survivors:?} of {} changes", self.volatile.len()))
    }
}

/// Writes those sectors for which `survives` holds.
fn write_some(content: &mut Vec<u8>, offset: usize, bytes: &[u8], mut survives: impl FnMut() -> bool) {
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
        if survives() {
            write(content, offset + at, &bytes[at..end]);
        }
        at = end;
    }
}
