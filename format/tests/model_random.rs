//! Random requests, several of them in flight, against an array of bytes: through one, two and three layers,
//! over storages that complete requests in any order, with callers that go away, storages that fail, and
//! processes that are killed.

mod common;

use bytes::Bytes;
use common::images::{Images, Store};
use common::{Random, assert_same, seeds};
use futures_util::future::{LocalBoxFuture, join_all, select};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use vmicache_format::Result;
use vmicache_format::disk::Disk;
use vmicache_format::runtime::LocalRuntime;

/// What may happen to the requests of a case.
#[derive(Clone, Copy, Default)]
struct Troubles {
    /// Callers go away before their request is done.
    departures: bool,
    /// One in so many requests to a storage fails; 0: none.
    failing_one_in: u64,
    /// The process is killed; the storages keep what has reached them.
    kills: bool,
}

/// What is known of the overlay's disk.
struct Model {
    bytes: Vec<u8>,
    /// A write there failed or was given up: any of the old and new bytes may be there.
    uncertain: Vec<bool>,
    /// What a kill may lose.
    unflushed: Vec<bool>,
}

fn indices(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

impl Model {
    fn new(bytes: Vec<u8>) -> Self {
        let none = vec![false; bytes.len()];
        Model { bytes, uncertain: none.clone(), unflushed: none }
    }

    fn written(&mut self, range: &Range<u64>, data: &[u8]) {
        self.bytes[indices(range)].copy_from_slice(data);
        self.uncertain[indices(range)].fill(false);
        self.unflushed[indices(range)].fill(true);
    }

    fn given_up(&mut self, range: &Range<u64>) {
        self.uncertain[indices(range)].fill(true);
        self.unflushed[indices(range)].fill(true);
    }

    fn flushed(&mut self) {
        self.unflushed.fill(false);
    }

    fn killed(&mut self) {
        let unflushed = self.unflushed.iter();
        self.uncertain.iter_mut().zip(unflushed).for_each(|(uncertain, unflushed)| *uncertain |= *unflushed);
        self.unflushed.fill(false);
    }

    #[track_caller]
    fn check(&self, range: &Range<u64>, found: &[u8], what: &str) {
        let mut expected = self.bytes[indices(range)].to_vec();
        assert_eq!(found.len(), expected.len(), "{what}: lengths differ");
        let doubts = self.uncertain[indices(range)].iter();
        expected
            .iter_mut()
            .zip(doubts)
            .zip(found)
            .filter(|((_, doubt), _)| **doubt)
            .for_each(|((e, _), f)| *e = *f);
        assert_same(found, &expected, &format!("{what} of {range:?}"));
    }

    /// What was read of the whole disk while nothing was in flight is what is there.
    fn settle(&mut self, found: &[u8]) {
        self.check(&(0..found.len() as u64), found, "reading");
        self.bytes.copy_from_slice(found);
        self.uncertain.fill(false);
    }
}

enum Op {
    Read(Range<u64>),
    Write(Range<u64>, Bytes),
    WriteZeroes(Range<u64>),
    Flush,
}

impl Op {
    fn random(random: &mut Random, size: u64, longest: u64) -> Self {
        let piece = random.piece(size, longest);
        match random.below(20) {
            0..9 => Op::Read(piece),
            9..16 => {
                let data = random.bytes(piece.end - piece.start).into();
                Op::Write(piece, data)
            }
            16..19 => Op::WriteZeroes(piece),
            _ => Op::Flush,
        }
    }

    fn range(&self) -> Range<u64> {
        match self {
            Op::Read(range) | Op::Write(range, _) | Op::WriteZeroes(range) => range.clone(),
            Op::Flush => 0..0,
        }
    }

    fn is_change(&self) -> bool {
        matches!(self, Op::Write(..) | Op::WriteZeroes(_))
    }

    /// Whether the order of the two decides what they do.
    fn collides_with(&self, other: &Op) -> bool {
        let (a, b) = (self.range(), other.range());
        (self.is_change() || other.is_change()) && a.start < b.end && b.start < a.end
    }

    async fn perform(&self, disk: &Disk<Store>) -> Result<Option<Bytes>> {
        match self {
            Op::Read(range) => disk.read(range.start, range.end - range.start).await.map(Some),
            Op::Write(range, data) => disk.write(range.start, data.clone()).await.map(|()| None),
            Op::WriteZeroes(range) => {
                disk.write_zeroes(range.start, range.end - range.start).await.map(|()| None)
            }
            Op::Flush => disk.flush().await.map(|()| None),
        }
    }
}

/// Completes at the poll of this number.
fn departure(mut polls: u64) -> impl Future<Output = ()> {
    poll_fn(move |_| match polls {
        0 => Poll::Ready(()),
        _ => {
            polls -= 1;
            Poll::Pending
        }
    })
}

struct World {
    random: Random,
    troubles: Troubles,
    runtime: Rc<LocalRuntime>,
    images: Images,
    disk: Disk<Store>,
    model: Model,
    /// Clusters may be counted that nothing points at.
    may_leak: bool,
}

impl World {
    fn new(seed: u64, layers: u32, troubles: Troubles) -> Self {
        let mut random = Random::new(seed);
        let runtime = LocalRuntime::new();
        let made = runtime.block_on(Images::random(&mut random, layers, &runtime));
        let (images, below) = made.expect("the images can be made");
        let disk = runtime.block_on(images.open(&runtime)).expect("the images can be opened");
        World { random, troubles, runtime, images, disk, model: Model::new(below), may_leak: false }
    }

    /// A few requests at once, no two of which collide, and of whose callers some go away.
    fn batch(&mut self, most: u64, departing: f64) {
        let size = self.images.overlay.size;
        let mut ops: Vec<Op> = Vec::new();
        for _ in 0..self.random.within(1..most + 1) {
            let op = Op::random(&mut self.random, size, size);
            if !ops.iter().any(|other| op.collides_with(other)) {
                ops.push(op);
            }
        }
        let departures: Vec<Option<u64>> =
            ops.iter().map(|_| self.random.chance(departing).then(|| self.random.below(5))).collect();
        let outcomes = RefCell::new(vec![None; ops.len()]);
        let disk = &self.disk;
        let futures: Vec<LocalBoxFuture<'_, ()>> = ops
            .iter()
            .zip(departures)
            .enumerate()
            .map(|(number, (op, departure_poll))| {
                let outcomes = &outcomes;
                let future = async move {
                    let outcome = op.perform(disk).await;
                    outcomes.borrow_mut()[number] = Some(outcome);
                };
                Box::pin(async move {
                    match departure_poll {
                        None => future.await,
                        Some(polls) => {
                            select(pin!(future), pin!(departure(polls))).await;
                        }
                    }
                }) as LocalBoxFuture<'_, ()>
            })
            .collect();
        self.runtime.block_on(join_all(futures));
        let alone = ops.len() == 1;
        for (op, outcome) in ops.iter().zip(outcomes.into_inner()) {
            self.judge(op, outcome, alone);
        }
        self.images.check_quota();
    }

    fn judge(&mut self, op: &Op, outcome: Option<Result<Option<Bytes>>>, alone: bool) {
        if let Some(Err(error)) = &outcome {
            assert!(self.troubles.failing_one_in > 0, "request to {:?}: {error}", op.range());
        }
        match (op, outcome) {
            (Op::Read(range), Some(Ok(Some(found)))) => self.model.check(range, &found, "reading"),
            (Op::Write(range, data), Some(Ok(_))) => self.model.written(range, data),
            (Op::WriteZeroes(range), Some(Ok(_))) => {
                self.model.written(range, &vec![0; (range.end - range.start) as usize]);
            }
            (Op::Flush, Some(Ok(_))) if alone => self.model.flushed(),
            (op, _) if op.is_change() => self.model.given_up(&op.range()),
            _ => {}
        }
    }

    /// Closes the disk and opens it again.
    fn reopen(&mut self) {
        self.images.fail_one_in(0);
        self.runtime.block_on(self.disk.close()).expect("the disk can be closed");
        // Nothing goes on behind a disk that is closed, whoever has gone away before.
        let closed = self.images.bytes();
        self.runtime.run_until_idle();
        assert!(self.images.bytes() == closed, "a file has changed after the disk was closed");
        let opened = self.runtime.block_on(self.images.open(&self.runtime));
        self.disk = opened.expect("the disk can be opened again");
        self.model.flushed();
        self.images.fail_one_in(self.troubles.failing_one_in);
    }

    /// What was in flight never happens, and what was in memory is gone.
    fn kill(&mut self) {
        self.images.fail_one_in(0);
        self.runtime = LocalRuntime::new();
        let opened = self.runtime.block_on(self.images.open(&self.runtime));
        self.disk = opened.expect("the disk can be opened after the process was killed");
        self.model.killed();
        self.may_leak = true;
        self.read_all();
        self.images.fail_one_in(self.troubles.failing_one_in);
    }

    fn read_all(&mut self) {
        let found = self.runtime.block_on(self.disk.read(0, self.images.overlay.size));
        self.model.settle(&found.expect("the disk can be read"));
    }

    fn run(&mut self) {
        self.images.fail_one_in(self.troubles.failing_one_in);
        for _ in 0..self.random.within(5..25) {
            match self.random.below(16) {
                0 => self.reopen(),
                1 if self.troubles.kills => self.kill(),
                2 if self.troubles.departures => {
                    self.batch(1, 1.0);
                    self.reopen();
                }
                _ => self.batch(10, if self.troubles.departures { 0.2 } else { 0.0 }),
            }
        }
        self.images.fail_one_in(0);
        self.troubles.failing_one_in = 0;
        self.reopen();
        self.read_all();
        self.runtime.block_on(self.disk.close()).expect("the disk can be closed");
    }
}

fn cases(first: u64, count: u64, layers: u32, troubles: Troubles, qemu_one_in: u64) {
    for seed in seeds(first, count) {
        let mut world = World::new(seed, layers, troubles);
        world.run();
        world.images.check_cache(&world.disk, &world.runtime);
        if seed % qemu_one_in == 0 {
            world.images.check_with_qemu(&world.model.bytes, world.may_leak);
        }
    }
}

#[test]
fn one_layer() {
    cases(1000, 150, 1, Troubles::default(), 5);
}

#[test]
fn two_layers() {
    cases(2000, 150, 2, Troubles::default(), 5);
}

#[test]
fn three_layers() {
    cases(3000, 200, 3, Troubles::default(), 5);
}

#[test]
fn callers_that_go_away() {
    cases(4000, 200, 3, Troubles { departures: true, ..Troubles::default() }, 5);
}

#[test]
fn storages_that_fail() {
    cases(5000, 150, 3, Troubles { failing_one_in: 40, ..Troubles::default() }, 5);
}

#[test]
fn processes_that_are_killed() {
    cases(6000, 150, 3, Troubles { kills: true, ..Troubles::default() }, 5);
}

#[test]
fn everything_at_once() {
    cases(7000, 200, 3, Troubles { departures: true, failing_one_in: 60, kills: true }, 5);
}

/// The first request to new images is given up at once: what it began may reach the cache only while the disk
/// is already being closed.
#[test]
fn closing_waits_for_what_was_given_up() {
    for seed in seeds(8000, 300) {
        let mut world = World::new(seed, 3, Troubles { departures: true, ..Troubles::default() });
        world.batch(1, 1.0);
        world.reopen();
    }
}
