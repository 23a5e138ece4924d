//! A request that its client gives up, at whatever moment, leaves an image that can go on.

mod common;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::process::Command;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use common::blocks::{BLOCK, History};
use common::failing::{Failing, Fault, Faults};
use common::kinds::{self, Backing, Files, Kind, Stores};
use common::{Random, guest, reference, turns};
use futures_util::future::{join, join_all};
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{CacheOptions, CreateOptions, Image, ImageOptions, Mode, create};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{DataKind, Memory, MetadataKind, Storage};

/// Memory that is never ready at once.
#[derive(Clone, Default)]
struct Slow(Memory);

impl Storage for Slow {
    type Payload = Bytes;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        turns(2).await;
        self.0.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        turns(2).await;
        self.0.write(offset, parts).await
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        turns(2).await;
        self.0.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        turns(2).await;
        self.0.write_metadata(kind, offset, bytes).await
    }

    async fn flush(&self) -> io::Result<()> {
        turns(2).await;
        self.0.flush().await
    }

    async fn len(&self) -> io::Result<u64> {
        self.0.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).await
    }

    async fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

const DISK: usize = 300_000;

#[derive(Clone, Copy, Debug)]
enum Request {
    Read { offset: usize, len: usize },
    Write { offset: usize, len: usize, fill: u8 },
    Zero { offset: usize, len: usize },
    Flush,
}

use Request::*;

/// New clusters, old ones, cluster parts, several tables, misses and hits of the cache.
const REQUESTS: [Request; 14] = [
    Read { offset: 700, len: 5000 },
    Write { offset: 1000, len: 3000, fill: 1 },
    Write { offset: 1500, len: 100, fill: 2 },
    Flush,
    Read { offset: 60_000, len: 70_000 },
    Write { offset: 64_000, len: 40_000, fill: 3 },
    Zero { offset: 65_000, len: 20_000 },
    Write { offset: 70_000, len: 1000, fill: 4 },
    Read { offset: 0, len: 150_000 },
    Flush,
    Zero { offset: 200_000, len: 60_000 },
    Write { offset: 299_000, len: 1000, fill: 5 },
    Write { offset: 250_000, len: 20_000, fill: 6 },
    Read { offset: 100_000, len: 200_000 },
];

/// What the disk may hold: of each byte, the values that are right.
struct Model(Vec<Vec<u8>>);

impl Model {
    /// A request changes bytes for sure, or perhaps.
    fn change(&mut self, request: Request, for_sure: bool) {
        let (offset, len, value) = match request {
            Write { offset, len, fill } => (offset, len, fill),
            Zero { offset, len } => (offset, len, 0),
            Read { .. } | Flush => return,
        };
        for byte in &mut self.0[offset..offset + len] {
            if for_sure {
                byte.clear();
            }
            byte.push(value);
        }
    }

    fn assert_holds(&self, offset: usize, read: &[u8], context: &str) {
        for (at, byte) in read.iter().enumerate() {
            assert!(self.0[offset + at].contains(byte), "{context}: byte {} is {byte}", offset + at);
        }
    }
}

async fn issue(disk: &Disk<Slow>, request: Request) -> Option<(usize, Bytes)> {
    match request {
        Read { offset, len } => return Some((offset, disk.read(offset as u64, len as u64).await.unwrap())),
        Write { offset, len, fill } => disk.write(offset as u64, Bytes::from(vec![fill; len])).await.unwrap(),
        Zero { offset, len } => disk.write_zeroes(offset as u64, len as u64).await.unwrap(),
        Flush => disk.flush().await.unwrap(),
    }
    None
}

/// Polls a future at most so many times, then drops it.
async fn polled<'a, T>(future: impl Future<Output = T> + 'a, mut polls: usize) -> Option<T> {
    let mut future: Option<Pin<Box<dyn Future<Output = T> + 'a>>> = Some(Box::pin(future));
    poll_fn(|context| {
        if polls == 0 {
            future = None;
            return Poll::Ready(None);
        }
        polls -= 1;
        match &mut future {
            Some(future) => future.as_mut().poll(context).map(Some),
            None => Poll::Ready(None),
        }
    })
    .await
}

struct Chain {
    base: Vec<u8>,
    cache: Slow,
    overlay: Slow,
}

impl Chain {
    async fn new(cluster_size: u64) -> Self {
        let base: Vec<u8> = (0..DISK).map(|at| (at / 512 % 97 + 100) as u8).collect();
        let (cache, overlay) = (Slow::default(), Slow::default());
        let make = |cluster_size, backing: (&str, &str), cache| CreateOptions {
            cluster_size,
            backing: Some((backing.0.into(), backing.1.into())),
            cache,
            ..CreateOptions::new(DISK as u64)
        };
        let quota = Some(CacheOptions { quota: 450_000, base: None });
        create(&cache, "cache", &make(cluster_size, ("base", "raw"), quota)).await.unwrap();
        create(&overlay, "overlay", &make(4096, ("cache", "qcow2"), None)).await.unwrap();
        Chain { base, cache, overlay }
    }

    async fn open(&self, runtime: &Rc<LocalRuntime>) -> Disk<Slow> {
        let image = |storage: &Slow, name, mode| {
            let options =
                ImageOptions { metadata_cache: Some(0), batch_bytes: 8192, ..ImageOptions::default() };
            Image::open(storage.clone(), name, mode, options, runtime.clone())
        };
        let base = RawImage::open(Slow(Memory::new(self.base.clone())), "base", false).await.unwrap();
        let layers = vec![
            Rc::new(Layer::Qcow2(image(&self.overlay, "overlay", Mode::Write).await.unwrap())),
            Rc::new(Layer::Qcow2(image(&self.cache, "cache", Mode::Fill).await.unwrap())),
            Rc::new(Layer::Raw(base)),
        ];
        Disk::new(layers, Filling::Beside, runtime.clone()).unwrap()
    }

    fn check_with_qemu(&self, context: &str) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("base"), &self.base).unwrap();
        for (name, storage) in [("cache", &self.cache), ("overlay", &self.overlay)] {
            std::fs::write(folder.path().join(name), storage.0.to_vec()).unwrap();
            let check =
                Command::new("qemu-img").args(["check", "-f", "qcow2", name]).current_dir(&folder).output();
            let check = check.expect("qemu-img runs");
            assert!(check.status.success(), "{context}: {name}: {}", String::from_utf8_lossy(&check.stdout));
        }
    }
}

/// Gives request `dropped` up after so many polls; `false` once it completes by then.
fn drop_one(dropped: usize, polls: usize, cluster_size: u64) -> bool {
    let runtime = LocalRuntime::new();
    let context = format!("request {dropped} of {cluster_size}-byte clusters dropped after {polls} polls");
    let (was_dropped, chain) = runtime.block_on(async {
        let chain = Chain::new(cluster_size).await;
        let disk = chain.open(&runtime).await;
        let mut model = Model(chain.base.iter().map(|byte| vec![*byte]).collect());
        let mut was_dropped = false;
        for (number, request) in REQUESTS.into_iter().enumerate() {
            let read = if number == dropped {
                let disk = disk.clone();
                let outcome = polled(async move { issue(&disk, request).await }, polls).await;
                was_dropped = outcome.is_none();
                // What was begun ends by itself, and only then may the next write to the same bytes count on it.
                for _ in 0..400 {
                    turns(2).await;
                }
                outcome.flatten()
            } else {
                issue(&disk, request).await
            };
            model.change(request, !(number == dropped && was_dropped));
            if let Some((offset, read)) = read {
                model.assert_holds(offset, &read, &context);
            }
        }
        disk.close().await.unwrap();
        let disk = chain.open(&runtime).await;
        model.assert_holds(0, &disk.read(0, DISK as u64).await.unwrap(), &context);
        disk.close().await.unwrap();
        (was_dropped, chain)
    });
    chain.check_with_qemu(&context);
    was_dropped
}

#[test]
fn every_request_dropped_at_every_poll_leaves_an_image_that_goes_on() {
    let mut dropped = 0;
    for cluster_size in [512, 4096] {
        for request in 0..REQUESTS.len() {
            let polls = (0..).take_while(|polls| drop_one(request, *polls, cluster_size)).count();
            assert!(polls >= 2, "request {request} was never in the middle of anything");
            dropped += polls;
        }
    }
    println!("{dropped} futures dropped");
}

/// What changes whole clusters, or the disk.
fn victims(kind: &Kind) -> Vec<guest::Request> {
    use guest::Request::*;
    let unit = kind.cluster_size;
    let cluster = 3 * unit..4 * unit;
    let mut victims = vec![
        Discard(cluster.clone()),
        Discard(2 * unit..5 * unit),
        Zeroes(cluster.start..cluster.start + unit / 2 / BLOCK * BLOCK + BLOCK),
        ZeroesUnmapped(cluster.clone()),
        Write(cluster.start + BLOCK..cluster.end + BLOCK),
    ];
    if kind.compresses() {
        victims.push(Compressed(cluster));
    }
    if kind.resized {
        victims.extend([Resize(kind.size / 2 / BLOCK * BLOCK), Resize(kind.largest() / BLOCK * BLOCK)]);
    }
    victims
}

/// Drops a request after so many polls, beside others in its cluster and in those around; `false` once it completes by
/// then.
fn drop_beside_others(kind: &Kind, files: &Files, victim: &guest::Request, polls: usize, seed: u64) -> bool {
    use guest::Request::{Flush, Read, Write, Zeroes};
    let context = format!("{kind:?}: {victim:?} dropped after {polls} polls, seed {seed}");
    let runtime = LocalRuntime::new();
    let faults = Faults::new(Fault::None, seed);
    let memory = files.stores();
    let stores = Stores {
        image: Failing::new(memory.image.clone(), &faults),
        data: memory.data.as_ref().map(|data| Failing::new(data.clone(), &faults)),
        base: Failing::new(memory.base.clone(), &faults),
    };
    let history = RefCell::new(History::new(kind.size, kind.base_size, kind.largest()));
    let options = ImageOptions { metadata_cache: Some(0), batch_bytes: 8192, ..ImageOptions::default() };
    let disk = runtime.block_on(stores.open(kind, Mode::Write, options, &runtime)).unwrap();
    let guest = guest::Guest { kind, disk, history: &history, note: &|_| {} };
    let unit = kind.cluster_size;
    let others = match victim {
        guest::Request::Resize(_) => vec![],
        _ => vec![
            Write(4 * unit - BLOCK..4 * unit + 2 * BLOCK),
            Zeroes(3 * unit - unit / 2 / BLOCK * BLOCK - BLOCK..3 * unit),
            Flush,
            Write(8 * unit..8 * unit + BLOCK),
        ],
    };
    let was_dropped = runtime.block_on(async {
        let others = join_all(others.iter().map(|other| guest.issue(other)));
        let (others, outcome) = join(others, polled(guest.issue(victim), polls)).await;
        others.into_iter().chain(outcome.clone()).for_each(|outcome| outcome.expect(&context));
        outcome.is_none()
    });
    // What was begun ends by itself.
    runtime.run_until_idle();
    let mut random = Random::new(polls as u64);
    runtime.block_on(async {
        guest.issue(&Read(0..guest.disk.size())).await.expect(&context);
        for _ in 0..3 {
            guest
                .issue_some(&mut random, 8)
                .await
                .into_iter()
                .for_each(|(_, outcome)| outcome.expect(&context));
        }
        guest.issue(&Read(0..guest.disk.size())).await.expect(&context);
        guest.close().await.expect(&context);
        let disk = memory.open(kind, Mode::Read, ImageOptions::default(), &runtime).await.expect(&context);
        let read = disk.read(0, disk.size()).await.expect(&context);
        history.borrow().check_after_cut(&read).unwrap_or_else(|problem| panic!("{context}: {problem}"));
    });
    assert_eq!(reference::check(&memory.image.to_vec()), Ok(0), "{context}: what is wrong, or leaks");
    was_dropped
}

#[test]
fn what_changes_clusters_dropped_at_every_poll_beside_others_does_no_harm() {
    let kinds = [
        kinds::clusters(512).over(Backing::Raw).resized(),
        kinds::clusters(4096).version_2(),
        kinds::clusters(4096).over(Backing::Qcow2).snapshot(),
        kinds::clusters(16384).extended(),
        kinds::clusters(16384).over(Backing::Raw).extended().resized(),
        kinds::clusters(4096).data_file(true),
    ];
    let mut dropped = 0;
    for (seed, kind) in (1..).zip(&kinds) {
        let files = Files::new(kind, &mut Random::new(seed), &LocalRuntime::new());
        for (victim, seed) in victims(kind).iter().flat_map(|victim| (1..6).map(move |seed| (victim, seed))) {
            let drops = (0..).take_while(|polls| drop_beside_others(kind, &files, victim, *polls, seed));
            dropped += drops.count();
        }
    }
    assert!(dropped >= 400, "only {dropped} requests were in the middle of anything");
    println!("{dropped} futures dropped");
}
