//! A guest that does to its disk whatever can be done to one, and remembers it.

use super::Random;
use super::blocks::{BLOCK, Content, Effect, Event, History, RequestId, blocks_of, bytes_of};
use super::kinds::Kind;
use bytes::Bytes;
use futures_util::future::join_all;
use std::cell::RefCell;
use std::ops::Range;
use vmicache_format::Result;
use vmicache_format::disk::Disk;
use vmicache_format::storage::Storage;

#[derive(Clone, Debug)]
pub enum Request {
    Read(Range<u64>),
    Write(Range<u64>),
    /// Of one cluster.
    Compressed(Range<u64>),
    Zeroes(Range<u64>),
    ZeroesUnmapped(Range<u64>),
    Discard(Range<u64>),
    Flush,
    /// To so many bytes.
    Resize(u64),
}

use Request::*;

impl Request {
    /// On a part of a disk of `size` bytes.
    fn random(kind: &Kind, random: &mut Random, size: u64, part: &Range<u64>) -> Self {
        let range = History::some_blocks(random, part, 3 * kind.cluster_size);
        let is_crowded = part.end - part.start < size;
        match random.below(if is_crowded { 32 } else { 20 }) {
            0..3 | 28.. => Read(range),
            3..10 => Write(range),
            10..12 if kind.compresses() => Compressed(cluster_at(kind, range.start, size)),
            10..14 => Zeroes(around(kind, random, range, size)),
            14..16 => ZeroesUnmapped(around(kind, random, range, size)),
            // Clusters that are taken away are free only after a flush.
            16..18 | 20..24 => Discard(around(kind, random, range, size)),
            _ => Flush,
        }
    }

    fn range(&self) -> Range<u64> {
        match self {
            Read(range)
            | Write(range)
            | Compressed(range)
            | Zeroes(range)
            | ZeroesUnmapped(range)
            | Discard(range) => range.clone(),
            Flush | Resize(_) => 0..0,
        }
    }

    pub fn effect(&self, kind: &Kind, size: u64, id: RequestId) -> Effect {
        match self {
            Write(range) | Compressed(range) => Effect::Content(blocks_of(range), Content::Version(id)),
            Zeroes(range) | ZeroesUnmapped(range) => Effect::Content(blocks_of(range), Content::Zero),
            Discard(range) => {
                let unit = kind.cluster_size;
                let end = if range.end == size { size } else { range.end / unit * unit };
                let whole = range.start.next_multiple_of(unit)..end;
                match kind.discards() && whole.start < whole.end {
                    true => Effect::Content(blocks_of(&whole), Content::Zero),
                    false => Effect::Nothing,
                }
            }
            Flush => Effect::Flush,
            Resize(new) => Effect::Resize(size, *new),
            Read(_) => Effect::Nothing,
        }
    }

    async fn perform<S>(&self, disk: &Disk<S>, id: RequestId) -> Result<Option<Bytes>>
    where
        S: Storage<Payload = Bytes>,
    {
        let (start, len) = (self.range().start, self.range().end - self.range().start);
        let data = || Bytes::from(bytes_of(blocks_of(&self.range()), Content::Version(id)));
        match self {
            Read(_) => return disk.read(start, len).await.map(Some),
            Write(_) => disk.write(start, data()).await?,
            Compressed(_) => disk.write_compressed(start, data()).await?,
            Zeroes(_) => disk.write_zeroes(start, len).await?,
            ZeroesUnmapped(_) => disk.write_zeroes_unmapped(start, len).await?,
            Discard(_) => disk.discard(start, len).await?,
            Flush => disk.flush().await?,
            Resize(new) => disk.resize(*new).await?,
        }
        Ok(None)
    }
}

pub fn cluster_at(kind: &Kind, offset: u64, size: u64) -> Range<u64> {
    let start = offset / kind.cluster_size * kind.cluster_size;
    start..(start + kind.cluster_size).min(size)
}

/// Often the whole clusters that a range touches.
fn around(kind: &Kind, random: &mut Random, range: Range<u64>, size: u64) -> Range<u64> {
    match random.chance(0.6) {
        true => cluster_at(kind, range.start, size).start..cluster_at(kind, range.end - 1, size).end,
        false => range,
    }
}

/// The disk of one life, and what is known of its content over all of them.
pub struct Guest<'a, S: Storage> {
    pub kind: &'a Kind,
    pub disk: Disk<S>,
    pub history: &'a RefCell<History>,
    /// Is told what happens.
    pub note: &'a dyn Fn(Event),
}

impl<S: Storage<Payload = Bytes>> Guest<'_, S> {
    fn happened(&self, event: Event) {
        self.history.borrow_mut().happened(&event);
        (self.note)(event);
    }

    /// One request; what is read is compared.
    pub async fn issue(&self, request: &Request) -> Result<()> {
        let id = self.history.borrow_mut().next_request();
        self.happened(Event::Began(id, request.effect(self.kind, self.disk.size(), id)));
        let visible = match request {
            Read(range) => self.history.borrow().visible(blocks_of(range)),
            _ => (0, vec![]),
        };
        let outcome = request.perform(&self.disk, id).await;
        self.happened(if outcome.is_ok() { Event::Ended(id) } else { Event::Failed(id) });
        let read = outcome?;
        if let (Read(range), Some(bytes)) = (request, read) {
            let checked = self.history.borrow().check(range, &bytes, visible);
            checked.unwrap_or_else(|problem| panic!("{:?}: {request:?}: {problem}", self.kind));
        }
        Ok(())
    }

    /// Some requests, several at once; returns how each ended. Mostly no two at once touch the same blocks; otherwise
    /// all of them are in a small part of the disk.
    pub async fn issue_some(&self, random: &mut Random, most: u64) -> Vec<(Request, Result<()>)> {
        let size = self.disk.size();
        let is_crowded = random.chance(0.4);
        let part = match is_crowded {
            true => {
                let start = random.below(size) / BLOCK * BLOCK;
                let clusters = random.pick(&[1, 2, 5]);
                start..(start + clusters * self.kind.cluster_size).min(size)
            }
            false => 0..size,
        };
        // Those of a row follow each other.
        let mut rows: Vec<Vec<Request>> = vec![vec![]; random.within(1..5) as usize];
        for _ in 0..random.within(1..most + 1) {
            let request = Request::random(self.kind, random, size, &part);
            let row = random.below(rows.len() as u64) as usize;
            let is_discard = matches!(request, Discard(_));
            let range = request.range();
            let overlaps =
                |other: &Request| other.range().start < range.end && range.start < other.range().end;
            let others = rows.iter().enumerate().filter(|(number, _)| *number != row);
            if is_crowded || !others.flat_map(|(_, row)| row).any(overlaps) {
                rows[row].push(request);
                if is_crowded && is_discard {
                    // What was discarded is free after a flush, and soon in use again.
                    rows[row].extend([Flush, Request::random(self.kind, random, size, &part)]);
                }
            }
        }
        let outcomes = join_all(rows.into_iter().map(async |row| {
            let mut outcomes = Vec::new();
            for request in row {
                let outcome = self.issue(&request).await;
                outcomes.push((request, outcome));
            }
            outcomes
        }));
        outcomes.await.into_iter().flatten().collect()
    }

    /// Another size for the disk, if it is of such a kind.
    pub async fn resize(&self, random: &mut Random) -> Result<()> {
        let most = self.kind.largest() / BLOCK;
        let new = match random.below(3) {
            0 => self.disk.size() / BLOCK + random.below(40),
            1 => (self.disk.size() / BLOCK).saturating_sub(random.below(200)),
            _ => random.below(most),
        };
        self.issue(&Resize(new.clamp(64, most) * BLOCK)).await
    }

    /// The end of a life: everything is durable.
    pub async fn close(&self) -> Result<()> {
        let id = self.history.borrow_mut().next_request();
        self.happened(Event::Began(id, Effect::Flush));
        let outcome = self.disk.close().await;
        self.happened(if outcome.is_ok() { Event::Ended(id) } else { Event::Failed(id) });
        outcome
    }
}
