//! Random requests, several of them in flight, against an array of bytes: through one, two and three layers,
//! over storages that complete requests in any order, with callers that go away, storages that fail, and
//! processes that are killed.

mod common;

use bytes::Bytes;
use common::qemu;
use common::storages::Delaying;
use common::{Random, assert_same, seeds};
use futures_util::future::{LocalBoxFuture, join_all, select};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use vmicache_format::cache::BaseIdentity;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{self, CacheOptions, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Memory;
use vmicache_format::{RawImage, Result};

type Store = Delaying<Memory>;

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

#[derive(Clone)]
struct Overlay {
    store: Store,
    size: u64,
}

#[derive(Clone)]
struct Cache {
    store: Store,
    quota: u64,
}

#[derive(Clone)]
struct Base {
    store: Store,
    is_raw: bool,
    /// The disk that it describes.
    content: Rc<Vec<u8>>,
}

/// The images of a case, from the top.
struct Images {
    overlay: Overlay,
    cache: Option<Cache>,
    base: Option<Base>,
    options: ImageOptions,
    filling: Filling,
}

impl Images {
    async fn open(&self, runtime: &Rc<LocalRuntime>) -> Result<Disk<Store>> {
        let image = |store: &Store, name, mode| {
            Image::open(store.clone(), name, mode, self.options.clone(), runtime.clone())
        };
        let mut layers = vec![Layer::Qcow2(image(&self.overlay.store, "overlay", Mode::Write).await?)];
        if let Some(cache) = &self.cache {
            layers.push(Layer::Qcow2(image(&cache.store, "cache", Mode::Fill).await?));
        }
        if let Some(base) = &self.base {
            layers.push(match base.is_raw {
                true => Layer::Raw(RawImage::open(base.store.clone(), "base", false).await?),
                false => Layer::Qcow2(image(&base.store, "base", Mode::Read).await?),
            });
        }
        Disk::new(layers.into_iter().map(Rc::new).collect(), self.filling, runtime.clone())
    }

    fn stores(&self) -> impl Iterator<Item = &Store> {
        let cache = self.cache.iter().map(|cache| &cache.store);
        cache.chain(self.base.iter().map(|base| &base.store)).chain([&self.overlay.store])
    }

    fn fail_one_in(&self, requests: u64) {
        self.stores().for_each(|store| store.fail_one_in(requests));
    }
}

const CLUSTER_SIZES: [u64; 6] = [512, 512, 1024, 4096, 65536, 2 << 20];

/// A size that is seldom a multiple of anything; of 512 bytes if QEMU is to read it, which knows no others.
fn disk_size(random: &mut Random, cluster_size: u64) -> u64 {
    let clusters = random.pick(&[3, 12, 700]);
    let most = (clusters * cluster_size).clamp(40_000, 3 << 20);
    random.within(20_000..most) / 512 * 512
}

fn store(random: &mut Random, memory: Memory) -> Store {
    let longest_delay = random.pick(&[0, 1, 5]);
    Delaying::new(memory, random.below(u64::MAX), longest_delay)
}

async fn new_base(random: &mut Random, size: u64, runtime: &Rc<LocalRuntime>) -> Result<Base> {
    let mut content = random.bytes(size);
    if random.chance(0.5) {
        // Raw images end anywhere.
        let cut = random.below(512).min(size - 1);
        content.truncate((size - cut) as usize);
        let memory = Memory::new(content.clone());
        return Ok(Base { store: store(random, memory), is_raw: true, content: Rc::new(content) });
    }
    let memory = Memory::default();
    let cluster_size = random.pick(&CLUSTER_SIZES);
    let version = random.pick(&[2, 3]);
    qcow2::create(&memory, "base", &CreateOptions { cluster_size, version, ..CreateOptions::new(size) })
        .await?;
    let image =
        Image::open(memory.clone(), "base", Mode::Write, ImageOptions::default(), runtime.clone()).await?;
    let disk = Disk::new(vec![Rc::new(Layer::Qcow2(image))], Filling::Beside, runtime.clone())?;
    content.fill(0);
    for _ in 0..random.below(20) {
        let piece = random.piece(size, size);
        let data = random.bytes(piece.end - piece.start);
        content[piece.start as usize..piece.end as usize].copy_from_slice(&data);
        disk.write(piece.start, data.into()).await?;
    }
    disk.close().await?;
    Ok(Base { store: store(random, memory), is_raw: false, content: Rc::new(content) })
}

async fn new_cache(random: &mut Random, size: u64) -> Result<Cache> {
    let cluster_size = random.pick(&CLUSTER_SIZES);
    let mut options = CreateOptions {
        cluster_size,
        version: random.pick(&[2, 3]),
        backing: Some(("base".into(), "raw".into())),
        cache: Some(CacheOptions { quota: u64::MAX, base: Some(BaseIdentity::Version("1".into())) }),
        ..CreateOptions::new(size)
    };
    let quota = match random.chance(0.5) {
        true => qcow2::empty_file_bytes(&options)? + random.below(size + 2 * cluster_size),
        false => u64::MAX,
    };
    options.cache.iter_mut().for_each(|cache| cache.quota = quota);
    let memory = Memory::default();
    qcow2::create(&memory, "cache", &options).await?;
    Ok(Cache { store: store(random, memory), quota })
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
        let made: Result<_> = runtime.block_on(async {
            let cluster_size = random.pick(&CLUSTER_SIZES);
            let size = disk_size(&mut random, cluster_size);
            // Shorter, longer, and as long as the overlay.
            let other_size = |random: &mut Random| match random.below(3) {
                0 => size,
                1 => random.within(size / 2..size).max(512) / 512 * 512,
                _ => size + random.below(200_000) / 512 * 512,
            };
            let base = match layers > 1 {
                true => {
                    let size = other_size(&mut random);
                    Some(new_base(&mut random, size, &runtime).await?)
                }
                false => None,
            };
            let mut below = base.as_ref().map_or(vec![], |base| base.content.to_vec());
            let cache = match layers > 2 {
                true => {
                    let size = other_size(&mut random);
                    below.truncate(size as usize);
                    Some(new_cache(&mut random, size).await?)
                }
                false => None,
            };
            below.resize(size as usize, 0);
            let format =
                if layers == 3 || base.as_ref().is_some_and(|base| !base.is_raw) { "qcow2" } else { "raw" };
            let name = if layers == 3 { "cache" } else { "base" };
            let options = CreateOptions {
                cluster_size,
                version: random.pick(&[2, 3, 3]),
                backing: (layers > 1).then(|| (name.into(), format.into())),
                ..CreateOptions::new(size)
            };
            let memory = Memory::default();
            qcow2::create(&memory, "overlay", &options).await?;
            let overlay = Overlay { store: store(&mut random, memory), size };
            let options = ImageOptions {
                metadata_cache: random.pick(&[None, Some(0)]),
                batch_bytes: random.pick(&[1, 100_000, 16 << 20]),
                batch_time: Duration::from_micros(random.pick(&[1, 10_000_000])),
            };
            let filling = random.pick(&[Filling::Beside, Filling::InPath]);
            Ok((Images { overlay, cache, base, options, filling }, below))
        });
        let (images, below) = made.expect("the images can be made");
        let disk = runtime.block_on(images.open(&runtime)).expect("the images can be opened");
        World { random, troubles, runtime, images, disk, model: Model::new(below), may_leak: false }
    }

    /// A few requests at once, no two of which collide.
    fn batch(&mut self) {
        let size = self.images.overlay.size;
        let mut ops: Vec<Op> = Vec::new();
        for _ in 0..self.random.within(1..10) {
            let op = Op::random(&mut self.random, size, size);
            if !ops.iter().any(|other| op.collides_with(other)) {
                ops.push(op);
            }
        }
        let departures: Vec<Option<u64>> = ops
            .iter()
            .map(|_| (self.troubles.departures && self.random.chance(0.2)).then(|| self.random.below(60)))
            .collect();
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
                        Some(polls) => drop(select(pin!(future), pin!(departure(polls))).await),
                    }
                }) as LocalBoxFuture<'_, ()>
            })
            .collect();
        self.runtime.block_on(join_all(futures));
        let alone = ops.len() == 1;
        for (op, outcome) in ops.iter().zip(outcomes.into_inner()) {
            self.judge(op, outcome, alone);
        }
        self.check_quota();
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

    fn check_quota(&self) {
        if let Some(cache) = &self.images.cache {
            let len = cache.store.inner().to_vec().len() as u64;
            assert!(len <= cache.quota, "the cache's file has {len} bytes, its quota is {}", cache.quota);
        }
    }

    /// Closes the disk and opens it again.
    fn reopen(&mut self) {
        self.images.fail_one_in(0);
        let images = &self.images;
        let opened = self.runtime.block_on(async {
            self.disk.close().await?;
            images.open(&self.runtime).await
        });
        self.disk = opened.expect("the disk can be closed and opened");
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
                _ => self.batch(),
            }
        }
        self.troubles.failing_one_in = 0;
        self.reopen();
        self.read_all();
        self.runtime.block_on(self.disk.close()).expect("the disk can be closed");
    }

    /// What the cache counts is what its tables reach, and what it holds equals its base.
    fn check_cache(&self) {
        let (Some(cache), Some(base)) = (&self.images.cache, &self.images.base) else { return };
        let runtime = &self.runtime;
        let checked: Result<()> = runtime.block_on(async {
            let open = || {
                Image::open(
                    cache.store.clone(),
                    "cache",
                    Mode::Read,
                    ImageOptions::default(),
                    runtime.clone(),
                )
            };
            let Layer::Qcow2(filled) = &*self.disk.layers()[1] else {
                panic!("the second layer is the cache")
            };
            let usage = filled.usage().await?;
            assert_eq!(filled.bytes_in_use(), usage.bytes_in_use);
            assert_eq!(filled.data_bytes(), usage.data_bytes);
            assert_eq!(filled.header().cache().map(|cache| cache.in_use), Some(usage.bytes_in_use));

            // What differs over two other bases is not in the cache.
            let mut views = Vec::new();
            for filler in [0x55, 0xaa] {
                let image = open().await?;
                let size = image.size();
                let other = Delaying::new(Memory::new(vec![filler; size as usize]), 0, 0);
                let layers = [Layer::Qcow2(image), Layer::Raw(RawImage::open(other, "other", false).await?)];
                let disk = Disk::new(layers.map(Rc::new).into(), Filling::Beside, runtime.clone())?;
                views.push(disk.read(0, size).await?);
            }
            let right = base.content.iter().copied().chain(std::iter::repeat(0));
            for (offset, ((a, b), right)) in views[0].iter().zip(&views[1]).zip(right).enumerate() {
                assert!(
                    a != b || *a == right,
                    "byte {offset} of the cache is {a:#x}, that of its base {right:#x}"
                );
            }
            Ok(())
        });
        checked.expect("the cache can be read");
    }

    /// What QEMU says about the files.
    fn check_with_qemu(&self) {
        let folder = tempfile::tempdir().expect("a folder");
        let files = [("overlay", Some(&self.images.overlay.store))].into_iter().chain([
            ("cache", self.images.cache.as_ref().map(|cache| &cache.store)),
            ("base", self.images.base.as_ref().map(|base| &base.store)),
        ]);
        for (name, store) in files {
            if let Some(store) = store {
                std::fs::write(folder.path().join(name), store.inner().to_vec())
                    .expect("a file can be written");
            }
        }
        match self.may_leak {
            true => qemu::check_but_for_leaks(folder.path(), "overlay"),
            false => qemu::check(folder.path(), "overlay"),
        }
        if self.images.cache.is_none() {
            assert_same(&qemu::content(folder.path(), "overlay"), &self.model.bytes, "what QEMU reads");
            return;
        }
        // Killed or not: when it was opened to be filled, the cache was freed of what a crash had left.
        let backing = if self.images.base.as_ref().is_some_and(|base| base.is_raw) { "raw" } else { "qcow2" };
        qemu::img(
            folder.path(),
            &["rebase", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", backing, "cache"],
        );
        qemu::check(folder.path(), "cache");
        assert_same(&qemu::content(folder.path(), "overlay"), &self.model.bytes, "what QEMU reads");
    }
}

fn cases(first: u64, count: u64, layers: u32, troubles: Troubles, qemu_one_in: u64) {
    for seed in seeds(first, count) {
        let mut world = World::new(seed, layers, troubles);
        world.run();
        world.check_cache();
        if seed % qemu_one_in == 0 {
            world.check_with_qemu();
        }
    }
}

#[test]
fn one_layer() {
    cases(1000, 300, 1, Troubles::default(), 5);
}

#[test]
fn two_layers() {
    cases(2000, 300, 2, Troubles::default(), 5);
}

#[test]
fn three_layers() {
    cases(3000, 400, 3, Troubles::default(), 5);
}

#[test]
fn callers_that_go_away() {
    cases(4000, 300, 3, Troubles { departures: true, ..Troubles::default() }, 5);
}

#[test]
fn storages_that_fail() {
    cases(5000, 300, 3, Troubles { failing_one_in: 40, ..Troubles::default() }, 5);
}

#[test]
fn processes_that_are_killed() {
    cases(6000, 300, 3, Troubles { kills: true, ..Troubles::default() }, 5);
}

#[test]
fn everything_at_once() {
    cases(7000, 300, 3, Troubles { departures: true, failing_one_in: 60, kills: true }, 5);
}
