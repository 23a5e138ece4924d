//! A request that its client gives up, at whatever moment, leaves an image that can go on.

mod common;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::process::Command;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use common::turns;
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
async fn polled<T>(future: impl Future<Output = T> + 'static, mut polls: usize) -> Option<T> {
    let mut future: Option<Pin<Box<dyn Future<Output = T>>>> = Some(Box::pin(future));
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
