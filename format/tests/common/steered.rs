//! A storage whose requests pass, wait or fail as a test decides.

use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use vmicache_format::runtime::Event;
use vmicache_format::storage::{DataKind, Memory, MetadataKind, Storage};

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    ReadMetadata(MetadataKind),
    WriteMetadata(MetadataKind),
    Discard,
    Flush,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// It takes effect when it is let go, also if whoever made it has gone away by then.
    Hold,
    /// It takes no effect.
    Fail,
    /// It takes effect and is reported as failed.
    FailLate,
}

#[derive(Clone, Debug)]
struct Effect {
    kind: Kind,
    range: Range<u64>,
    bytes: Vec<u8>,
}

type Rule = Box<dyn FnMut(Kind, &Range<u64>) -> Fate>;
type Witness = Box<dyn FnMut(Kind, &Range<u64>, &[u8])>;

struct Steering {
    rule: RefCell<Rule>,
    witness: RefCell<Witness>,
    held: RefCell<Vec<Effect>>,
    /// How often what was held was let go.
    released: Cell<u64>,
    let_go: Event,
    requests: RefCell<Vec<(Kind, Range<u64>)>>,
}

/// Memory whose requests a test steers. Clones are the same storage.
#[derive(Clone)]
pub struct Steered {
    memory: Memory,
    steering: Rc<Steering>,
}

impl Steered {
    /// At first, everything passes.
    pub fn new(memory: Memory) -> Self {
        let steering = Steering {
            rule: RefCell::new(Box::new(|_, _| Fate::Pass)),
            witness: RefCell::new(Box::new(|_, _, _| {})),
            held: RefCell::default(),
            released: Cell::new(0),
            let_go: Event::new(),
            requests: RefCell::default(),
        };
        Steered { memory, steering: Rc::new(steering) }
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Decides about every request from now on: its kind and its bytes in the file.
    pub fn rule(&self, rule: impl FnMut(Kind, &Range<u64>) -> Fate + 'static) {
        *self.steering.rule.borrow_mut() = Box::new(rule);
    }

    /// Sees every write, discard and flush when it takes effect, and what the memory holds just before.
    pub fn witness(&self, witness: impl FnMut(Kind, &Range<u64>, &[u8]) + 'static) {
        *self.steering.witness.borrow_mut() = Box::new(witness);
    }

    /// The requests since the last call.
    pub fn take_requests(&self) -> Vec<(Kind, Range<u64>)> {
        self.steering.requests.take()
    }

    /// What is being held.
    pub fn held(&self) -> Vec<(Kind, Range<u64>)> {
        let held = self.steering.held.borrow();
        held.iter().map(|effect| (effect.kind, effect.range.clone())).collect()
    }

    /// Everything passes from now on; what was held takes effect.
    pub async fn let_go(&self) {
        self.rule(|_, _| Fate::Pass);
        for effect in self.steering.held.take() {
            self.take_effect(&effect).await;
        }
        self.steering.released.set(self.steering.released.get() + 1);
        self.steering.let_go.notify();
    }

    async fn take_effect(&self, effect: &Effect) {
        let Effect { kind, range, bytes } = effect;
        (self.steering.witness.borrow_mut())(*kind, range, &self.memory.to_vec());
        let zeroes;
        let bytes = match kind {
            Kind::Write | Kind::WriteMetadata(_) => bytes,
            Kind::Discard => {
                // Nothing but the file's own bytes goes.
                let end = range.end.min(self.memory.to_vec().len() as u64);
                zeroes = vec![0; end.saturating_sub(range.start) as usize];
                &zeroes
            }
            Kind::Read | Kind::ReadMetadata(_) | Kind::Flush => return,
        };
        let written = self.memory.write_metadata(MetadataKind::Header, range.start, bytes).await;
        written.expect("memory does not fail");
    }

    async fn request(&self, kind: Kind, range: Range<u64>, bytes: Vec<u8>) -> io::Result<()> {
        self.steering.requests.borrow_mut().push((kind, range.clone()));
        let fate = (self.steering.rule.borrow_mut())(kind, &range);
        let effect = Effect { kind, range, bytes };
        let failure = || Err(io::Error::other("a failure that the test ordered"));
        match fate {
            Fate::Pass => self.take_effect(&effect).await,
            Fate::Fail => return failure(),
            Fate::FailLate => {
                self.take_effect(&effect).await;
                return failure();
            }
            Fate::Hold => {
                self.steering.held.borrow_mut().push(effect);
                let released = self.steering.released.get();
                while self.steering.released.get() == released {
                    self.steering.let_go.listen().await;
                }
            }
        }
        Ok(())
    }
}

impl Storage for Steered {
    type Payload = Bytes;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        self.request(Kind::Read, offset..offset + len, vec![]).await?;
        self.memory.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let bytes = parts.concat();
        self.request(Kind::Write, offset..offset + bytes.len() as u64, bytes).await
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.request(Kind::ReadMetadata(kind), offset..offset + len, vec![]).await?;
        self.memory.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let range = offset..offset + bytes.len() as u64;
        self.request(Kind::WriteMetadata(kind), range, bytes.to_vec()).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.request(Kind::Flush, 0..0, vec![]).await
    }

    async fn len(&self) -> io::Result<u64> {
        self.memory.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len).await
    }

    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.request(Kind::Discard, offset..offset + len, vec![]).await
    }
}
