//! A guest's disk whose blocks can be told apart, and what each of them may hold.
//!
//! A block is a sector of 512 bytes. It is filled with its own number and the number of the request that wrote it,
//! so that what a block shows tells where it comes from.

use super::Random;
use std::collections::BTreeMap;
use std::ops::Range;

pub const BLOCK: u64 = 512;
/// A request to a disk.
pub type RequestId = u32;
/// Stands for what was there before the first request.
const BEFORE: RequestId = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Zero,
    /// Written by a request; 0: by whoever made the base image.
    Version(RequestId),
}

/// What the base image holds.
pub const BASE: Content = Content::Version(BEFORE);

impl Content {
    pub fn bytes(self, block: u64) -> [u8; BLOCK as usize] {
        let word = match self {
            Content::Zero => 0,
            Content::Version(request) => (block + 1) << 32 | u64::from(request),
        };
        let mut bytes = [0; BLOCK as usize];
        bytes.chunks_exact_mut(8).for_each(|place| place.copy_from_slice(&word.to_be_bytes()));
        bytes
    }

    /// What a block holds.
    ///
    /// # Errors
    /// If that is no content of this block.
    pub fn of(block: u64, bytes: &[u8]) -> Result<Self, String> {
        let word = u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
        if bytes[..bytes.len() - 8] != bytes[8..] {
            return Err(format!("a mixture that begins with {:02x?}", &bytes[..16]));
        }
        match word {
            0 => Ok(Content::Zero),
            word if word >> 32 == block + 1 => Ok(Content::Version(word as u32)),
            word => Err(format!("word {word:#018x}, which is of another block, if of any")),
        }
    }
}

/// The bytes of some blocks with one content.
pub fn bytes_of(blocks: Range<u64>, content: Content) -> Vec<u8> {
    blocks.flat_map(|block| content.bytes(block)).collect()
}

pub fn blocks_of(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / BLOCK..bytes.end / BLOCK
}

/// What a request does to the disk.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Some blocks get another content.
    Content(Range<u64>, Content),
    Flush,
    /// From so many bytes to so many.
    Resize(u64, u64),
    Nothing,
}

#[derive(Clone, Debug)]
pub enum Event {
    Began(RequestId, Effect),
    /// It ended well.
    Ended(RequestId),
    /// It ended with an error, and may have had its effect or not.
    Failed(RequestId),
}

/// Requests that have ended: which was the last to have begun by then, and whether they ended well.
type Done = BTreeMap<RequestId, (RequestId, bool)>;

/// The last request of those that are done to have begun.
fn last_of(block: &[(RequestId, Content)], done: &Done) -> RequestId {
    let requests = block.iter().map(|(request, _)| *request);
    requests.filter(|request| done.get(request).is_some_and(|(_, well)| *well)).max().unwrap_or(BEFORE)
}

/// Whether a content may still be there: all but those that were written before another request began that is done.
fn may_be((request, _): &(RequestId, Content), last: RequestId, done: &Done) -> bool {
    done.get(request).is_none_or(|(end, _)| *end >= last)
}

/// What each block may hold.
#[derive(Clone)]
pub struct History {
    /// What was written to each block, from the last content on that is known to be durable, by whom.
    blocks: Vec<Vec<(RequestId, Content)>>,
    /// What the base holds of each block.
    base: Vec<Content>,
    effects: BTreeMap<RequestId, Effect>,
    done: Done,
    /// What had ended when a flush began.
    flushes: BTreeMap<RequestId, Done>,
    /// The sizes in bytes that the disk may have.
    sizes: Vec<u64>,
    last_request: RequestId,
    last_begun: RequestId,
}

impl History {
    /// Of a disk of `size` bytes over a base of which `base_bytes` bytes hold something. It never becomes larger than
    /// `largest` bytes.
    pub fn new(size: u64, base_bytes: u64, largest: u64) -> Self {
        let base: Vec<Content> = (0..largest.div_ceil(BLOCK))
            .map(|block| if block * BLOCK < base_bytes { BASE } else { Content::Zero })
            .collect();
        History {
            blocks: base.iter().map(|content| vec![(BEFORE, *content)]).collect(),
            base,
            effects: BTreeMap::new(),
            done: Done::from([(BEFORE, (BEFORE, true))]),
            flushes: BTreeMap::new(),
            sizes: vec![size],
            last_request: BEFORE,
            last_begun: BEFORE,
        }
    }

    /// A number for the next request.
    pub fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        self.last_request
    }

    pub fn happened(&mut self, event: &Event) {
        match event {
            Event::Began(request, effect) => self.began(*request, effect),
            Event::Ended(request) => self.ended(*request),
            Event::Failed(request) => {
                self.effects.remove(request);
                self.flushes.remove(request);
                self.done.insert(*request, (self.last_begun, false));
            }
        }
    }

    fn began(&mut self, request: RequestId, effect: &Effect) {
        self.last_begun = request;
        match effect {
            Effect::Content(blocks, content) => {
                let range = blocks.start as usize..blocks.end as usize;
                self.blocks[range].iter_mut().for_each(|block| block.push((request, *content)));
            }
            Effect::Flush => {
                self.flushes.insert(request, self.done.clone());
            }
            Effect::Resize(old, new) => {
                self.sizes.push(*new);
                for block in new / BLOCK..old / BLOCK {
                    // Unmapped before the disk is smaller.
                    let contents =
                        [Content::Zero, self.base[block as usize]].map(|content| (request, content));
                    self.blocks[block as usize].extend(contents);
                }
                for block in old / BLOCK..new / BLOCK {
                    self.blocks[block as usize] = vec![(BEFORE, Content::Zero)];
                }
            }
            Effect::Nothing => {}
        }
        self.effects.insert(request, effect.clone());
    }

    fn ended(&mut self, request: RequestId) {
        match self.effects.remove(&request) {
            Some(Effect::Flush) => {
                let covered = self.flushes.remove(&request).expect("it began");
                for block in &mut self.blocks {
                    let last = last_of(block, &covered);
                    block.retain(|written| may_be(written, last, &covered));
                }
            }
            Some(Effect::Resize(_, new)) => self.sizes = vec![new],
            _ => {}
        }
        self.done.insert(request, (self.last_begun, true));
    }

    /// Compares a disk with what may be there after a power cut, or after the death of the process.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_after_cut(&self, disk: &[u8]) -> Result<(), String> {
        let size = disk.len() as u64;
        if !self.sizes.contains(&size) {
            return Err(format!("the disk has {size} bytes, allowed are {:?}", self.sizes));
        }
        self.compare(0, disk, |_| |_: &(RequestId, Content)| true)
    }

    /// Compares a part of a disk with what a reader must see while no request to it is under way: what was written
    /// last, or what a request wrote since that failed.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        self.compare(offset, bytes, |block| {
            let last = last_of(block, &self.done);
            move |written: &(RequestId, Content)| may_be(written, last, &self.done)
        })
    }

    fn compare<F: Fn(&(RequestId, Content)) -> bool>(
        &self,
        offset: u64,
        bytes: &[u8],
        is_allowed: impl Fn(&[(RequestId, Content)]) -> F,
    ) -> Result<(), String> {
        for (block, found) in (offset / BLOCK..).zip(bytes.chunks(BLOCK as usize)) {
            let written = &self.blocks[block as usize];
            let is_allowed = is_allowed(written);
            let content = Content::of(block, found);
            let is_right = |allowed: &Content| content.as_ref() == Ok(allowed);
            if !written.iter().any(|written| is_right(&written.1) && is_allowed(written)) {
                let allowed: Vec<_> = written.iter().filter(|written| is_allowed(written)).collect();
                return Err(format!("block {block} shows {content:?}, allowed are {allowed:?}"));
            }
        }
        Ok(())
    }

    /// Nothing is under way, and what the disk holds is durable.
    pub fn settle(&mut self, disk: &[u8]) {
        self.sizes = vec![disk.len() as u64];
        self.effects.clear();
        self.flushes.clear();
        self.done = Done::from([(BEFORE, (BEFORE, true))]);
        for (block, found) in disk.chunks(BLOCK as usize).enumerate() {
            let content = Content::of(block as u64, found).expect("the disk has been checked");
            self.blocks[block] = vec![(BEFORE, content)];
        }
        // What a larger disk has more reads as zeroes.
        let end = disk.len() / BLOCK as usize;
        self.blocks[end..].iter_mut().for_each(|block| *block = vec![(BEFORE, Content::Zero)]);
    }

    /// A range of whole blocks within `size` bytes, mostly short.
    pub fn some_blocks(random: &mut Random, size: u64, longest: u64) -> Range<u64> {
        let blocks = size / BLOCK;
        let longest = match random.below(4) {
            0 => longest / BLOCK,
            1 => 64,
            _ => 12,
        };
        let start = random.below(blocks);
        let end = (start + 1 + random.below(longest.max(1))).min(blocks);
        start * BLOCK..end * BLOCK
    }
}
