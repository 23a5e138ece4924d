//! Filling a cache: what is copied, once, and what happens when it cannot be.

mod common;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::turns;
use futures_util::future::join_all;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{
    CacheOptions, CreateOptions, Image, ImageOptions, Mode, create, empty_file_bytes,
};
use vmicache_format::runtime::{LocalRuntime, Runtime};
use vmicache_format::storage::{Counting, DataKind, Memory, MetadataKind, Storage};
use vmicache_format::{Error, RawImage};

const DISK: u64 = 1 << 20;

/// Memory that takes a turn for every request, and whose writes of guest data can be made to fail.
#[derive(Clone, Default)]
struct Stubborn {
    memory: Memory,
    refuses_data: Rc<Cell<bool>>,
}

impl Storage for Stubborn {
    type Payload = Bytes;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        turns(1).await;
        self.memory.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        turns(1).await;
        if self.refuses_data.get() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.memory.write(offset, parts).await
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        turns(1).await;
        self.memory.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        turns(1).await;
        self.memory.write_metadata(kind, offset, bytes).await
    }

    async fn flush(&self) -> io::Result<()> {
        turns(1).await;
        Ok(())
    }

    async fn len(&self) -> io::Result<u64> {
        self.memory.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len).await
    }

    async fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

type Counted = Counting<Stubborn>;

/// A cache over a raw base, open to be filled.
struct Setup {
    runtime: Rc<LocalRuntime>,
    content: Vec<u8>,
    base: Counted,
    cache: Stubborn,
    image: Rc<Image<Counted>>,
    base_layer: Rc<Layer<Counted>>,
}

fn cache_options(cluster_size: u64, quota: u64) -> CreateOptions {
    CreateOptions {
        cluster_size,
        backing: Some(("base".into(), "raw".into())),
        cache: Some(CacheOptions { quota, base: None }),
        ..CreateOptions::new(DISK)
    }
}

async fn reopen(cache: &Stubborn, mode: Mode, runtime: Rc<dyn Runtime>) -> Result<Rc<Image<Counted>>, Error> {
    let options = ImageOptions { batch_time: Duration::from_millis(5), ..ImageOptions::default() };
    Image::open(Counting::new(cache.clone()), "cache", mode, options, runtime).await
}

impl Setup {
    fn new(cluster_size: u64, quota: u64) -> Self {
        let runtime = LocalRuntime::new();
        let content: Vec<u8> = (0..DISK).map(|at| (at / 512 % 251 + 1) as u8).collect();
        let base = Counting::new(Stubborn { memory: Memory::new(content.clone()), ..Stubborn::default() });
        let cache = Stubborn::default();
        let (image, base_layer) = runtime.block_on(async {
            create(&cache, "cache", &cache_options(cluster_size, quota)).await.unwrap();
            let image = reopen(&cache, Mode::Fill, runtime.clone()).await.unwrap();
            let base = RawImage::open(base.clone(), "base", false).await.unwrap();
            (image, Rc::new(Layer::Raw(base)))
        });
        Setup { runtime, content, base, cache, image, base_layer }
    }

    /// Another disk over the same cache, as of another guest of the node.
    fn disk(&self, filling: Filling) -> Disk<Counted> {
        let layers = vec![Rc::new(Layer::Qcow2(self.image.clone())), self.base_layer.clone()];
        Disk::new(layers, filling, self.runtime.clone()).unwrap()
    }

    async fn read(&self, disk: &Disk<Counted>, offset: u64, len: u64) {
        let read = disk.read(offset, len).await.unwrap();
        assert_eq!(&read[..], &self.content[offset as usize..(offset + len) as usize]);
    }

    fn base_bytes(&self) -> u64 {
        self.base.counts().guest_reads.bytes
    }
}

#[test]
fn what_several_guests_miss_at_once_is_fetched_once() {
    for filling in [Filling::Beside, Filling::InPath] {
        let setup = Setup::new(4096, 4 << 20);
        setup.runtime.block_on(async {
            let disks: Vec<_> = (0..8).map(|_| setup.disk(filling)).collect();
            join_all(disks.iter().map(|disk| setup.read(disk, 10_000, 100_000))).await;
            // From 8192, where the first cluster begins, to 110 592, where the last one ends.
            assert_eq!(setup.base_bytes(), 102_400);
            setup.read(&disks[0], 8192, 102_400).await;
            assert_eq!(setup.base_bytes(), 102_400);
        });
    }
}

#[test]
fn what_guests_miss_in_different_places_at_once_is_all_kept() {
    let setup = Setup::new(512, 4 << 20);
    setup.runtime.block_on(async {
        let disk = setup.disk(Filling::Beside);
        join_all((0..20).map(|place| setup.read(&disk, place * 50_000, 20_000))).await;
        disk.close().await.unwrap();
        let read_so_far = setup.base_bytes();
        join_all((0..20).map(|place| setup.read(&disk, place * 50_000, 20_000))).await;
        assert_eq!(setup.base_bytes(), read_so_far);
    });
}

#[test]
fn a_copy_that_fails_does_not_fail_the_guest() {
    let setup = Setup::new(4096, 4 << 20);
    setup.runtime.block_on(async {
        for filling in [Filling::Beside, Filling::InPath] {
            let disk = setup.disk(filling);
            setup.cache.refuses_data.set(true);
            setup.read(&disk, 0, 50_000).await;
            disk.close().await.unwrap();
            setup.cache.refuses_data.set(false);
        }
        assert_eq!(setup.image.failed_fills(), 2);
        assert_eq!(setup.image.data_bytes(), 0);
        let disk = setup.disk(Filling::InPath);
        setup.read(&disk, 0, 50_000).await;
        disk.close().await.unwrap();
        // The clusters of the failed copies were free again.
        assert_eq!(setup.image.data_bytes(), 53_248);
        assert_eq!(setup.cache.memory.len().await.unwrap(), setup.image.bytes_in_use());
    });
}

#[test]
fn a_full_cache_serves_what_it_has_and_passes_the_rest_through_unrounded() {
    let options = cache_options(65536, u64::MAX);
    // Room for an L2 table and three clusters.
    let quota = empty_file_bytes(&options).unwrap() + 4 * 65536;
    let setup = Setup::new(65536, quota);
    setup.runtime.block_on(async {
        let disk = setup.disk(Filling::InPath);
        setup.read(&disk, 0, 5 * 65536).await;
        disk.close().await.unwrap();
        assert_eq!(setup.cache.memory.len().await.unwrap(), quota);
        assert_eq!(setup.image.data_bytes(), 3 * 65536);
        let before = setup.base_bytes();
        setup.read(&disk, 0, 3 * 65536).await;
        assert_eq!(setup.base_bytes(), before);
        setup.read(&disk, 600_000, 1000).await;
        assert_eq!(setup.base_bytes(), before + 1000);
    });
}

#[test]
fn a_batch_is_published_after_its_time_without_anyone_asking() {
    let setup = Setup::new(4096, 4 << 20);
    setup.runtime.block_on(async {
        let disk = setup.disk(Filling::InPath);
        setup.read(&disk, 0, 40_960).await;
        assert_eq!(setup.image.storage().counts().flushes, 0, "nobody waited for a barrier");
        setup.runtime.sleep(Duration::from_millis(50)).await;
        let reader = reopen(&setup.cache, Mode::Read, setup.runtime.clone()).await.unwrap();
        assert_eq!(reader.usage().await.unwrap().data_bytes, 40_960);
    });
}

#[test]
fn in_use_is_counted_anew_when_a_cache_is_opened() {
    let setup = Setup::new(512, 4 << 20);
    setup.runtime.block_on(async {
        let disk = setup.disk(Filling::Beside);
        setup.read(&disk, 3000, 200_000).await;
        disk.close().await.unwrap();
        let recorded = setup.image.header().cache().unwrap().in_use;
        assert_eq!(recorded, setup.image.bytes_in_use());
        assert_eq!(setup.image.usage().await.unwrap().bytes_in_use, recorded);
        // A header that says otherwise is not believed.
        let mut bytes = setup.cache.memory.to_vec();
        let place = bytes.windows(4).position(|window| window == 0x3139_3834u32.to_be_bytes()).unwrap();
        bytes[place + 8..place + 16].fill(0);
        let forged = Stubborn { memory: Memory::new(bytes), ..Stubborn::default() };
        let image = reopen(&forged, Mode::Fill, setup.runtime.clone()).await.unwrap();
        assert_eq!(image.header().cache().unwrap().in_use, 0);
        assert_eq!(image.bytes_in_use(), recorded);
        image.close().await.unwrap();
        assert_eq!(image.header().cache().unwrap().in_use, recorded);
    });
}

#[test]
fn nobody_but_the_filler_writes_a_cache() {
    let setup = Setup::new(4096, 4 << 20);
    setup.runtime.block_on(async {
        let error = reopen(&setup.cache, Mode::Write, setup.runtime.clone()).await.unwrap_err();
        assert!(error.to_string().contains("cache image"), "{error}");
        let disk = setup.disk(Filling::Beside);
        let error = disk.write(0, Bytes::from_static(b"guest")).await.unwrap_err();
        assert!(error.to_string().contains("no guest's writes"), "{error}");
        assert!(disk.write_zeroes(0, 4096).await.is_err());
        let mut plain = CreateOptions::new(DISK);
        plain.cluster_size = 4096;
        let storage = Stubborn::default();
        create(&storage, "plain", &plain).await.unwrap();
        let error = reopen(&storage, Mode::Fill, setup.runtime.clone()).await.unwrap_err();
        assert!(error.to_string().contains("no cache image"), "{error}");
    });
}
