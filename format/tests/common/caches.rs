//! Caches of every kind over a base, and what they claim to hold.

use super::reference;
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::rc::Rc;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{CacheOptions, CreateOptions, Image, ImageOptions, Mode, create};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Memory, Storage};

pub const DISK: u64 = 1 << 20;
/// What the base has no data of.
const HOLE: std::ops::Range<usize> = 300_000..500_000;

#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub cluster_size: u64,
    pub version: u32,
    pub extended_l2: bool,
    pub refcount_bits: u32,
    pub quota: u64,
}

const fn cache(cluster_size: u64, quota: u64) -> Kind {
    Kind { cluster_size, version: 3, extended_l2: false, refcount_bits: 16, quota }
}

pub const KINDS: [Kind; 8] = [
    cache(512, 2 << 20),
    Kind { refcount_bits: 1, ..cache(512, 700 << 10) },
    Kind { version: 2, ..cache(4096, 2 << 20) },
    cache(4096, 700 << 10),
    cache(65536, 2 << 20),
    Kind { extended_l2: true, ..cache(16384, 2 << 20) },
    Kind { extended_l2: true, refcount_bits: 64, ..cache(16384, 700 << 10) },
    Kind { extended_l2: true, ..cache(65536, 2 << 20) },
];

/// A base and its opposite: a disk that differs from it everywhere.
pub struct Bases {
    pub base: Vec<u8>,
    pub opposite: Vec<u8>,
    /// The base as a qcow2 image without data where the base has none.
    pub qcow2: Memory,
}

impl Bases {
    pub fn new() -> Self {
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

pub fn disk_of<S: Storage>(layers: Vec<Layer<S>>, runtime: &Rc<LocalRuntime>) -> Disk<S> {
    Disk::new(layers.into_iter().map(Rc::new).collect(), Filling::Beside, runtime.clone()).unwrap()
}

pub async fn empty(kind: &Kind) -> Vec<u8> {
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

/// Whatever a cache with this content claims to hold equals the base; returns how many bytes that are.
pub fn verify(content: &[u8], bases: &Bases) -> u64 {
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
