//! Power cuts while a cache fills: whatever the cache claims to hold afterwards equals the base.

use crate::common::recorded::{Moment, Record, Recorded, Replayed};
use crate::common::{Random, assert_same, qemu, reference};
use crate::{KINDS_OF_CACHES, cuts_of_a_kind, setting};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::rc::Rc;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{CacheOptions, CreateOptions, Image, ImageOptions, Mode, create};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Memory, Storage};

const DISK: u64 = 1 << 20;
/// What the base has no data of.
const HOLE: std::ops::Range<usize> = 300_000..500_000;

#[derive(Clone, Copy, Debug)]
struct Kind {
    cluster_size: u64,
    version: u32,
    extended_l2: bool,
    refcount_bits: u32,
    quota: u64,
}

const fn cache(cluster_size: u64, quota: u64) -> Kind {
    Kind { cluster_size, version: 3, extended_l2: false, refcount_bits: 16, quota }
}

const KINDS: [Kind; KINDS_OF_CACHES] = [
    cache(512, 2 << 20),
    Kind { refcount_bits: 1, ..cache(512, 700 << 10) },
    Kind { version: 2, ..cache(4096, 2 << 20) },
    cache(4096, 700 << 10),
    cache(65536, 2 << 20),
    Kind { extended_l2: true, ..cache(16384, 2 << 20) },
    Kind { extended_l2: true, refcount_bits: 64, ..cache(16384, 700 << 10) },
    Kind { extended_l2: true, ..cache(65536, 2 << 20) },
];

const CUTS_OF_A_LIFE: u64 = 100;
/// Each life begins with what a cut left of the one before: its leaks are used again.
const LIVES: u64 = 4;
/// One in so many caches that a cut left goes on, and is shown to stock QEMU.
const GOES_ON_ONE_IN: u64 = 20;

/// A base and its opposite: a disk that differs from it everywhere.
struct Bases {
    base: Vec<u8>,
    opposite: Vec<u8>,
    /// The base as a qcow2 image without data where the base has none.
    qcow2: Memory,
}

impl Bases {
    fn new() -> Self {
        let mut base = vec![0; DISK as usize];
        Pcg64Mcg::seed_from_u64(7).fill_bytes(&mut base);
        base.chunks_exact_mut(8).for_each(|word| word[0] |= 1);
        base[HOLE].fill(0);
        let opposite = base.iter().map(|byte| !byte).collect();
        let qcow2 = Memory::default();
        let runtime = LocalRuntime::new();
        runtime.block_on(async {
            let options = CreateOptions { cluster_size: 4096, ..CreateOptions::new(DISK) };
            create(&qcow2, "base", &options).await.unwrap();
            let options = ImageOptions::default();
            let image =
                Image::open(qcow2.clone(), "base", Mode::Write, options, runtime.clone()).await.unwrap();
            let disk = disk_of(vec![Layer::Qcow2(image)], &runtime);
            disk.write(0, Bytes::copy_from_slice(&base[..HOLE.start])).await.unwrap();
            disk.write(HOLE.end as u64, Bytes::copy_from_slice(&base[HOLE.end..])).await.unwrap();
            disk.close().await.unwrap();
        });
        Bases { base, opposite, qcow2 }
    }
}

fn disk_of<S: Storage>(layers: Vec<Layer<S>>, runtime: &Rc<LocalRuntime>) -> Disk<S> {
    Disk::new(layers.into_iter().map(Rc::new).collect(), Filling::Beside, runtime.clone()).unwrap()
}

async fn empty(kind: &Kind) -> Vec<u8> {
    let memory = Memory::default();
    let options = CreateOptions {
        cluster_size: kind.cluster_size,
        version: kind.version,
        extended_l2: kind.extended_l2,
        refcount_bits: kind.refcount_bits,
        backing: Some(("base".into(), "raw".into())),
        cache: Some(CacheOptions { quota: kind.quota, base: None }),
        ..CreateOptions::new(DISK)
    };
    create(&memory, "cache", &options).await.unwrap();
    memory.to_vec()
}

/// A cache with this content is opened, fills from several readers at once, and is closed.
fn record(kind: &Kind, content: &[u8], random: &mut Random, bases: &Bases) -> Vec<Moment> {
    let runtime = LocalRuntime::new();
    let record = Record::new(random.below(u64::MAX));
    let cache = Recorded::new(Memory::new(content.to_vec()), 0, &record);
    let base = Recorded::new(bases.qcow2.clone(), 1, &record);
    runtime.block_on(async {
        let batch_bytes = random.pick(&[1, 16 << 10, 16 << 20]);
        let options = ImageOptions { batch_bytes, metadata_cache: Some(0), ..ImageOptions::default() };
        let image = Image::open(cache.clone(), "cache", Mode::Fill, options.clone(), runtime.clone()).await;
        let base = Image::open(base, "base", Mode::Read, options, runtime.clone()).await;
        let disk = disk_of(vec![Layer::Qcow2(image.unwrap()), Layer::Qcow2(base.unwrap())], &runtime);
        for _ in 0..10 {
            let pieces: Vec<_> = (0..6).map(|_| random.piece(DISK, 20_000)).collect();
            let reads = pieces.iter().map(|piece| {
                let disk = disk.clone();
                async move {
                    let read = disk.read(piece.start, piece.end - piece.start).await.unwrap();
                    let right = &bases.base[piece.start as usize..piece.end as usize];
                    assert_same(&read, right, "what is read through a cache");
                }
            });
            futures_util::future::join_all(reads).await;
            if random.chance(0.2) {
                disk.flush().await.unwrap();
            }
        }
        disk.close().await.unwrap();
    });
    assert!(cache.memory.to_vec().len() as u64 <= kind.quota);
    record.take()
}

/// Whatever a cache with this content claims to hold equals the base; returns how many bytes that are.
fn verify(content: &[u8], bases: &Bases) -> u64 {
    reference::check(content).unwrap_or_else(|problem| panic!("{problem}"));
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let memory = Memory::new(content.to_vec());
        let options = ImageOptions::default();
        let cache = Image::open(memory, "cache", Mode::Read, options, runtime.clone()).await.unwrap();
        let unit = cache.subcluster_size() as usize;
        let opposite = Memory::new(bases.opposite.clone());
        let opposite = RawImage::open(opposite, "base", false).await.unwrap();
        let disk = disk_of(vec![Layer::Qcow2(cache), Layer::Raw(opposite)], &runtime);
        let read = disk.read(0, DISK).await.unwrap();
        let units = read.chunks(unit).zip(bases.base.chunks(unit)).zip(bases.opposite.chunks(unit));
        let held = units.enumerate().filter(|(number, ((read, base), opposite))| {
            assert!(read == base || read == opposite, "unit {number} is neither the base's nor absent");
            read == base
        });
        held.count() as u64 * unit as u64
    })
}

/// Opened to be filled, the cache loses its leaks and goes on; stock QEMU finds nothing wrong with it.
fn goes_on(kind: &Kind, content: &[u8], bases: &Bases) {
    let runtime = LocalRuntime::new();
    let memory = Memory::new(content.to_vec());
    runtime.block_on(async {
        let options = ImageOptions::default();
        let cache = Image::open(memory.clone(), "cache", Mode::Fill, options, runtime.clone()).await.unwrap();
        let base = RawImage::open(Memory::new(bases.base.clone()), "base", false).await.unwrap();
        let disk = disk_of(vec![Layer::Qcow2(cache), Layer::Raw(base)], &runtime);
        assert_same(&disk.read(0, DISK).await.unwrap(), &bases.base, "what is read through a cache");
        disk.close().await.unwrap();
    });
    let after = memory.to_vec();
    assert!(after.len() as u64 <= kind.quota);
    verify(&after, bases);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("base"), &bases.base).unwrap();
    std::fs::write(folder.path().join("cut"), content).unwrap();
    std::fs::write(folder.path().join("cache"), after).unwrap();
    qemu::check_but_for_leaks(folder.path(), "cut");
    qemu::check(folder.path(), "cache");
}

#[test]
fn caches() {
    let bases = Bases::new();
    for (number, kind) in KINDS.iter().enumerate() {
        let wanted = cuts_of_a_kind();
        let (mut cuts, mut most_held) = (0, 0);
        let mut seed = setting("SEED", 1) + 1000 * number as u64;
        while cuts < wanted {
            let mut random = Random::new(seed);
            let mut content = LocalRuntime::new().block_on(empty(kind));
            for _ in 0..LIVES.min((wanted - cuts).div_ceil(CUTS_OF_A_LIFE)) {
                let (looked_at, held, left) = life(kind, &content, &mut random, &bases);
                cuts += looked_at;
                most_held = most_held.max(held);
                content = left;
            }
            seed += 1;
        }
        println!("{cuts} cuts of {kind:?}");
        assert!(most_held > DISK / 4, "{kind:?}: the caches never held more than {most_held} bytes");
    }
}

/// One life, cut at many moments: how many, how much the cache held at most, and what a cut left.
fn life(kind: &Kind, content: &[u8], random: &mut Random, bases: &Bases) -> (u64, u64, Vec<u8>) {
    let moments = record(kind, content, random, bases);
    let mut replayed = Replayed::new(vec![content.to_vec(), vec![]]);
    let share = CUTS_OF_A_LIFE as f64 / moments.len() as f64;
    let (mut cuts, mut most_held, mut left) = (0, 0, content.to_vec());
    for moment in &moments {
        replayed.advance(moment);
        if random.chance(share.min(1.0)) {
            let (mut cut, _) = replayed.cut(random);
            let cut = cut.swap_remove(0);
            most_held = most_held.max(verify(&cut, bases));
            cuts += 1;
            if random.below(GOES_ON_ONE_IN) == 0 {
                goes_on(kind, &cut, bases);
            }
            if left == content || random.chance(0.05) {
                left = cut;
            }
        }
    }
    (cuts, most_held, left)
}
