//! Chains of images of all kinds, over storages that disturb.

use super::storages::Delaying;
use super::{Random, assert_same, qemu};
use std::rc::Rc;
use std::time::Duration;
use vmicache_format::cache::BaseIdentity;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{self, CacheOptions, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Memory;
use vmicache_format::{RawImage, Result};

/// Where an image of a case lies.
pub type Store = Delaying<Memory>;

#[derive(Clone)]
pub struct Overlay {
    pub store: Store,
    pub size: u64,
}

#[derive(Clone)]
pub struct Cache {
    pub store: Store,
    pub quota: u64,
}

#[derive(Clone)]
pub struct Base {
    pub store: Store,
    pub is_raw: bool,
    /// The disk that it describes.
    pub content: Rc<Vec<u8>>,
}

/// The images of a case, from the top.
pub struct Images {
    pub overlay: Overlay,
    pub cache: Option<Cache>,
    pub base: Option<Base>,
    pub options: ImageOptions,
    pub filling: Filling,
}

impl Images {
    /// Images of all kinds in `layers` layers, and what the disk that they make holds.
    pub async fn random(
        random: &mut Random,
        layers: u32,
        runtime: &Rc<LocalRuntime>,
    ) -> Result<(Self, Vec<u8>)> {
        let cluster_size = random.pick(&CLUSTER_SIZES);
        let size = disk_size(random, cluster_size);
        // Shorter, longer, and as long as the overlay.
        let other_size = |random: &mut Random| match random.below(3) {
            0 => size,
            1 => random.within(size / 2..size).max(512) / 512 * 512,
            _ => size + random.below(200_000) / 512 * 512,
        };
        let base = match layers > 1 {
            true => {
                let size = other_size(random);
                Some(new_base(random, size, runtime).await?)
            }
            false => None,
        };
        let mut below = base.as_ref().map_or(vec![], |base| base.content.to_vec());
        let cache = match layers > 2 {
            true => {
                let size = other_size(random);
                below.truncate(size as usize);
                Some(new_cache(random, size).await?)
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
        let overlay = Overlay { store: store(random, memory), size };
        let options = ImageOptions {
            metadata_cache: random.pick(&[None, Some(0)]),
            batch_bytes: random.pick(&[1, 100_000, 16 << 20]),
            batch_time: Duration::from_micros(random.pick(&[1, 10_000_000])),
            ..ImageOptions::default()
        };
        let filling = random.pick(&[Filling::Beside, Filling::InPath]);
        Ok((Images { overlay, cache, base, options, filling }, below))
    }

    pub async fn open(&self, runtime: &Rc<LocalRuntime>) -> Result<Disk<Store>> {
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

    /// The files' content.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        self.stores().map(|store| store.inner().to_vec()).collect()
    }

    /// Lets one in so many requests to the storages fail; 0: none.
    pub fn fail_one_in(&self, requests: u64) {
        self.stores().for_each(|store| store.fail_one_in(requests));
    }

    /// The cache's file is never longer than its quota.
    pub fn check_quota(&self) {
        if let Some(cache) = &self.cache {
            let len = cache.store.inner().to_vec().len() as u64;
            assert!(len <= cache.quota, "the cache's file has {len} bytes, its quota is {}", cache.quota);
        }
    }

    /// What the cache counts is what its tables reach, and what it holds equals its base.
    pub fn check_cache(&self, disk: &Disk<Store>, runtime: &Rc<LocalRuntime>) {
        let (Some(cache), Some(base)) = (&self.cache, &self.base) else { return };
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
            let Layer::Qcow2(filled) = &*disk.layers()[1] else { panic!("the second layer is the cache") };
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

    /// QEMU finds no fault in the files, and the same disk; clusters of the overlay that nothing points at only
    /// if it may have leaked some.
    pub fn check_with_qemu(&self, content: &[u8], may_leak: bool) {
        let folder = tempfile::tempdir().expect("a folder");
        let files = [("overlay", Some(&self.overlay.store))].into_iter().chain([
            ("cache", self.cache.as_ref().map(|cache| &cache.store)),
            ("base", self.base.as_ref().map(|base| &base.store)),
        ]);
        for (name, store) in files {
            if let Some(store) = store {
                std::fs::write(folder.path().join(name), store.inner().to_vec())
                    .expect("a file can be written");
            }
        }
        match may_leak {
            true => qemu::check_but_for_leaks(folder.path(), "overlay"),
            false => qemu::check(folder.path(), "overlay"),
        }
        if self.cache.is_none() {
            assert_same(&qemu::content(folder.path(), "overlay"), content, "what QEMU reads");
            return;
        }
        // Killed or not: when it was opened to be filled, the cache was freed of what a crash had left.
        let backing = if self.base.as_ref().is_some_and(|base| base.is_raw) { "raw" } else { "qcow2" };
        qemu::img(
            folder.path(),
            &["rebase", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", backing, "cache"],
        );
        qemu::check(folder.path(), "cache");
        assert_same(&qemu::content(folder.path(), "overlay"), content, "what QEMU reads");
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
