//! A store that a power cut may hit at any moment, for code that makes one request after the other.

use super::Random;
use bytes::Bytes;
use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use vmicache_format::storage::{DataKind, Memory, MetadataKind, Storage};

const SECTOR: u64 = 512;

enum Step {
    Write { offset: u64, bytes: Vec<u8> },
    Flush,
    Length(u64),
}

/// Memory that keeps a record of its changes.
#[derive(Clone)]
pub struct Recorded {
    before: Rc<Vec<u8>>,
    memory: Memory,
    steps: Rc<RefCell<Vec<Step>>>,
}

impl Recorded {
    pub fn new(bytes: &[u8]) -> Self {
        Recorded {
            before: Rc::new(bytes.to_vec()),
            memory: Memory::new(bytes.to_vec()),
            steps: Rc::default(),
        }
    }

    /// How many moments there are to cut at.
    pub fn moments(&self) -> usize {
        self.steps.borrow().len() + 1
    }

    /// What may be left after a cut at a moment: what was flushed, and any of the sectors written since.
    pub fn cut_at(&self, moment: usize, random: &mut Random) -> Vec<u8> {
        let steps = self.steps.borrow();
        let done = &steps[..moment];
        let flushed = done.iter().rposition(|step| matches!(step, Step::Flush)).unwrap_or(0);
        let luck = random.pick(&[0.0, 0.5, 0.5, 1.0]);
        let mut bytes = (*self.before).clone();
        for (index, step) in done.iter().enumerate() {
            let is_there = |random: &mut Random| index < flushed || random.chance(luck);
            match step {
                Step::Flush => {}
                Step::Length(length) if is_there(random) => bytes.resize(*length as usize, 0),
                Step::Length(_) => {}
                Step::Write { offset, bytes: written } => {
                    for (sector, at) in written.chunks(SECTOR as usize).zip((*offset..).step_by(512)) {
                        if is_there(random) {
                            let end = at as usize + sector.len();
                            let length = bytes.len().max(end);
                            bytes.resize(length, 0);
                            bytes[at as usize..end].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        bytes
    }
}

impl Storage for Recorded {
    type Payload = Bytes;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        self.memory.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.steps.borrow_mut().push(Step::Write { offset, bytes: parts.concat() });
        self.memory.write(offset, parts).await
    }

    async fn copy_from(&self, source: &Self, from: &Range<u64>, to: u64) -> bool {
        let copied = source.read(DataKind::Guest, from.start, from.end - from.start).await;
        self.write(to, &[copied.expect("memory")]).await.is_ok()
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.memory.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(SECTOR), "a write at {offset} tears a sector");
        self.steps.borrow_mut().push(Step::Write { offset, bytes: bytes.to_vec() });
        self.memory.write_metadata(kind, offset, bytes).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.steps.borrow_mut().push(Step::Flush);
        Ok(())
    }

    async fn len(&self) -> io::Result<u64> {
        self.memory.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.steps.borrow_mut().push(Step::Length(len));
        self.memory.set_len(len).await
    }

    async fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
