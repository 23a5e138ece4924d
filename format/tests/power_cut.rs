//! A power cut while a cache fills: whatever the cache claims to hold afterwards equals the base.
//!
//! The cache lies on a storage that records when each write was issued and completed, and when each flush
//! began and ended. A cut is a moment of that record: writes that had completed before a flush began that had
//! ended are there; of all others each 512-byte sector is there or not, independently.

mod common;

use std::cell::RefCell;
use std::io;
use std::process::Command;
use std::rc::Rc;

use bytes::Bytes;
use common::turns;
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{CacheOptions, CreateOptions, Image, ImageOptions, Mode, create};
use vmicache_format::runtime::{LocalRuntime, Runtime};
use vmicache_format::storage::{DataKind, Memory, MetadataKind, Storage};

const DISK: u64 = 1 << 20;

enum Moment {
    Issued { id: usize, offset: u64, bytes: Vec<u8> },
    Completed { id: usize },
    FlushBegan { id: usize },
    FlushEnded { id: usize },
    Truncated { len: u64 },
}

/// Memory that writes a record of what happened to it, and that takes a random number of turns for everything.
#[derive(Clone)]
struct Recorded {
    memory: Memory,
    moments: Rc<RefCell<Vec<Moment>>>,
    dice: Rc<RefCell<Pcg64Mcg>>,
}

impl Recorded {
    fn new(memory: Memory, seed: u64) -> Self {
        let dice = Rc::new(RefCell::new(Pcg64Mcg::seed_from_u64(seed)));
        Recorded { memory, moments: Rc::default(), dice }
    }

    async fn some_turns(&self) {
        let count = self.dice.borrow_mut().random_range(0..4);
        turns(count).await;
    }

    fn note(&self, moment: impl FnOnce(usize) -> Moment) -> usize {
        let mut moments = self.moments.borrow_mut();
        let id = moments.len();
        moments.push(moment(id));
        id
    }

    async fn record_write(&self, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        let id = self.note(|id| Moment::Issued { id, offset, bytes: bytes.clone() });
        self.some_turns().await;
        self.memory.write_metadata(MetadataKind::Header, offset, &bytes).await?;
        self.note(|_| Moment::Completed { id });
        Ok(())
    }
}

impl Storage for Recorded {
    type Payload = Bytes;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        self.some_turns().await;
        self.memory.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.record_write(offset, parts.concat()).await
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.some_turns().await;
        self.memory.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, _kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.record_write(offset, bytes.to_vec()).await
    }

    async fn flush(&self) -> io::Result<()> {
        let id = self.note(|id| Moment::FlushBegan { id });
        self.some_turns().await;
        self.note(|_| Moment::FlushEnded { id });
        Ok(())
    }

    async fn len(&self) -> io::Result<u64> {
        self.memory.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(|_| Moment::Truncated { len });
        self.memory.set_len(len).await
    }

    async fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

/// What the storage may hold at the moments of a record, one after the other.
struct Replayed {
    /// Durable content.
    durable: Vec<u8>,
    /// Issued, and not known to be durable, in order: (id, offset, bytes, completed).
    volatile: Vec<(usize, u64, Vec<u8>, bool)>,
    /// Flushes that have begun, with the writes that they cover.
    flushes: Vec<(usize, Vec<usize>)>,
}

fn apply(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset as usize..end].copy_from_slice(bytes);
}

impl Replayed {
    fn advance(&mut self, moment: &Moment) {
        match moment {
            Moment::Issued { id, offset, bytes } => self.volatile.push((*id, *offset, bytes.clone(), false)),
            Moment::Completed { id } => {
                self.volatile.iter_mut().filter(|write| write.0 == *id).for_each(|write| write.3 = true);
            }
            Moment::FlushBegan { id } => {
                let covered = self.volatile.iter().filter(|write| write.3).map(|write| write.0).collect();
                self.flushes.push((*id, covered));
            }
            Moment::FlushEnded { id } => {
                let position = self.flushes.iter().position(|flush| flush.0 == *id).unwrap();
                let (_, covered) = self.flushes.remove(position);
                let durable = &mut self.durable;
                self.volatile.retain(|(id, offset, bytes, _)| {
                    let is_covered = covered.contains(id);
                    if is_covered {
                        apply(durable, *offset, bytes);
                    }
                    !is_covered
                });
            }
            Moment::Truncated { len } => self.durable.truncate(*len as usize),
        }
    }

    /// The content after a cut: each volatile sector survives if `survives` says so.
    fn cut(&self, mut survives: impl FnMut() -> bool) -> Vec<u8> {
        let mut content = self.durable.clone();
        for (_, offset, bytes, _) in &self.volatile {
            let mut at = 0;
            while at < bytes.len() {
                let end = bytes.len().min(at + 512 - (*offset as usize + at) % 512);
                if survives() {
                    apply(&mut content, offset + at as u64, &bytes[at..end]);
                }
                at = end;
            }
        }
        content
    }
}

/// A base in which no two sectors are alike and none is zero, and its opposite.
fn base_and_opposite() -> (Vec<u8>, Vec<u8>) {
    let mut base = vec![0; DISK as usize];
    Pcg64Mcg::seed_from_u64(7).fill_bytes(&mut base);
    base.chunks_exact_mut(8).for_each(|word| word[0] |= 1);
    let opposite = base.iter().map(|byte| !byte).collect();
    (base, opposite)
}

async fn raw(bytes: &[u8], dice: u64) -> Rc<Layer<Recorded>> {
    let storage = Recorded::new(Memory::new(bytes.to_vec()), dice);
    Rc::new(Layer::Raw(RawImage::open(storage, "base", false).await.unwrap()))
}

async fn open(
    storage: Recorded,
    mode: Mode,
    batch_bytes: u64,
    runtime: Rc<dyn Runtime>,
) -> Rc<Image<Recorded>> {
    let options = ImageOptions { batch_bytes, metadata_cache: Some(0), ..ImageOptions::default() };
    Image::open(storage, "cache", mode, options, runtime).await.unwrap()
}

async fn empty_cache(cluster_size: u64, quota: u64) -> Vec<u8> {
    let memory = Memory::default();
    let options = CreateOptions {
        cluster_size,
        backing: Some(("base".into(), "raw".into())),
        cache: Some(CacheOptions { quota, base: None }),
        ..CreateOptions::new(DISK)
    };
    create(&memory, "cache", &options).await.unwrap();
    memory.to_vec()
}

/// A cache with this content is opened, fills from several readers at once, and is closed.
fn record(content: &[u8], quota: u64, seed: u64, base: &[u8]) -> Recorded {
    let runtime = LocalRuntime::new();
    let cache = Recorded::new(Memory::new(content.to_vec()), seed);
    runtime.block_on(async {
        let mut dice = Pcg64Mcg::seed_from_u64(seed);
        let image = open(cache.clone(), Mode::Fill, 16 << 10, runtime.clone()).await;
        let layers = vec![Rc::new(Layer::Qcow2(image)), raw(base, seed).await];
        let disk = Disk::new(layers, Filling::Beside, runtime.clone()).unwrap();
        for _ in 0..10 {
            let reads = (0..6).map(|_| {
                let offset = dice.random_range(0..DISK - 1);
                let len = dice.random_range(1..=(DISK - offset).min(20_000));
                let disk = disk.clone();
                async move {
                    let read = disk.read(offset, len).await.unwrap();
                    assert_eq!(&read[..], &base[offset as usize..(offset + len) as usize]);
                }
            });
            futures_util::future::join_all(reads).await;
            if dice.random_ratio(1, 6) {
                disk.flush().await.unwrap();
            }
        }
        disk.close().await.unwrap();
    });
    assert!(cache.memory.to_vec().len() as u64 <= quota);
    cache
}

/// Whatever a cache with this content claims to hold equals the base; returns how many clusters that are.
fn verify(content: &[u8], base: &[u8], opposite: &[u8], cluster_size: usize) -> usize {
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let cache =
            open(Recorded::new(Memory::new(content.to_vec()), 1), Mode::Read, 0, runtime.clone()).await;
        let layers = vec![Rc::new(Layer::Qcow2(cache)), raw(opposite, 1).await];
        let disk = Disk::new(layers, Filling::Beside, runtime.clone()).unwrap();
        let read = disk.read(0, DISK).await.unwrap();
        let clusters =
            read.chunks(cluster_size).zip(base.chunks(cluster_size)).zip(opposite.chunks(cluster_size));
        let held = clusters.enumerate().filter(|(number, ((read, base), opposite))| {
            assert!(read == base || read == opposite, "cluster {number} is neither the base's nor absent");
            read == base
        });
        held.count()
    })
}

/// Opened to be filled, the cache loses its leaks and goes on; stock QEMU finds nothing wrong with it.
fn goes_on(content: &[u8], base: &[u8], quota: u64) {
    let runtime = LocalRuntime::new();
    let memory = Memory::new(content.to_vec());
    runtime.block_on(async {
        let cache = open(Recorded::new(memory.clone(), 3), Mode::Fill, 1 << 20, runtime.clone()).await;
        let layers = vec![Rc::new(Layer::Qcow2(cache)), raw(base, 3).await];
        let disk = Disk::new(layers, Filling::InPath, runtime.clone()).unwrap();
        assert_eq!(&disk.read(0, DISK).await.unwrap()[..], base);
        disk.close().await.unwrap();
    });
    assert!(memory.to_vec().len() as u64 <= quota);
    for (content, codes) in [(content.to_vec(), &[0, 3][..]), (memory.to_vec(), &[0])] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("base"), base).unwrap();
        std::fs::write(folder.path().join("cache"), content).unwrap();
        let check =
            Command::new("qemu-img").args(["check", "-f", "qcow2", "cache"]).current_dir(&folder).output();
        let check = check.expect("qemu-img runs");
        let code = check.status.code().unwrap();
        assert!(codes.contains(&code), "{}", String::from_utf8_lossy(&[check.stdout, check.stderr].concat()));
    }
}

#[test]
fn whatever_a_cache_claims_to_hold_after_a_power_cut_equals_the_base() {
    let (base, opposite) = base_and_opposite();
    let mut cuts = 0;
    let mut most_held = 0;
    for (round, cluster_size) in [512u64, 4096, 65536].into_iter().enumerate() {
        for (quota, seed) in [(2 << 20, 11), (700 << 10, 12)] {
            let mut dice = Pcg64Mcg::seed_from_u64(seed + round as u64);
            let mut content = LocalRuntime::new().block_on(empty_cache(cluster_size, quota));
            // Each life begins with what a cut left of the one before: its leaks are reused.
            for life in 0..4 {
                let cache = record(&content, quota, seed + 10 * life, &base);
                let moments = cache.moments.borrow();
                let mut replayed = Replayed { durable: content.clone(), volatile: vec![], flushes: vec![] };
                let last = dice.random_range(moments.len() / 2..moments.len());
                for (number, moment) in moments.iter().enumerate() {
                    replayed.advance(moment);
                    let random = replayed.cut(|| dice.random_ratio(1, 2));
                    for cut in [&replayed.cut(|| true), &random] {
                        let held = verify(cut, &base, &opposite, cluster_size as usize);
                        most_held = most_held.max(held as u64 * cluster_size);
                        cuts += 1;
                        if number % 50 == 0 {
                            goes_on(cut, &base, quota);
                        }
                    }
                    if number == last {
                        content = random;
                    }
                }
            }
        }
    }
    assert!(cuts >= 2000, "only {cuts} cut points");
    assert!(most_held > DISK / 2, "the caches never held more than {most_held} bytes");
    println!("{cuts} cut points");
}
