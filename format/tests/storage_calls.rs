//! The same workload makes the same calls on storage that keeps payload and on storage that does not.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{CacheOptions, CreateOptions, Image, ImageOptions, Mode, create};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{DataKind, Memory, MetadataKind, Payload, PayloadFree, Storage};
use vmicache_format::trace::{Op, Trace};

type Calls = Rc<RefCell<Vec<String>>>;

/// Writes down every call, with the name of the image that it is made for.
struct Noted<S> {
    inner: S,
    name: &'static str,
    calls: Calls,
}

impl<S> Noted<S> {
    fn note(&self, call: &str, details: String) {
        self.calls.borrow_mut().push(format!("{} {call} {details}", self.name));
    }
}

impl<S: Storage> Storage for Noted<S> {
    type Payload = S::Payload;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<S::Payload> {
        self.note("read", format!("{kind:?} {offset} {len}"));
        self.inner.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[S::Payload]) -> io::Result<()> {
        let lengths: Vec<u64> = parts.iter().map(Payload::len).collect();
        self.note("write", format!("{offset} {lengths:?}"));
        self.inner.write(offset, parts).await
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let bytes = self.inner.read_metadata(kind, offset, len).await?;
        self.note("read_metadata", format!("{kind:?} {offset} {bytes:x?}"));
        Ok(bytes)
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.note("write_metadata", format!("{kind:?} {offset} {bytes:x?}"));
        self.inner.write_metadata(kind, offset, bytes).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.note("flush", String::new());
        self.inner.flush().await
    }

    async fn len(&self) -> io::Result<u64> {
        let len = self.inner.len().await?;
        self.note("len", len.to_string());
        Ok(len)
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.note("set_len", len.to_string());
        self.inner.set_len(len).await
    }

    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.note("discard", format!("{offset} {len}"));
        self.inner.discard(offset, len).await
    }
}

#[derive(Clone, Copy)]
struct Shape {
    disk: u64,
    cache_cluster: u64,
    overlay_cluster: u64,
    quota: u64,
    filling: Filling,
}

/// All calls of two boots through one cache, each with an overlay of its own.
fn calls_of<S: Storage + Clone + Default>(shape: Shape, requests: &[(Op, u64, u64)]) -> Vec<String> {
    let runtime = LocalRuntime::new();
    let calls = Calls::default();
    let noted = |inner: &S, name| Noted { inner: inner.clone(), name, calls: calls.clone() };
    runtime.block_on(async {
        let (base, cache) = (S::default(), S::default());
        // The base is shorter than the disk, and no multiple of a cluster.
        base.set_len(shape.disk - 77_777).await.unwrap();
        let options = CreateOptions {
            cluster_size: shape.cache_cluster,
            backing: Some(("base".into(), "raw".into())),
            cache: Some(CacheOptions { quota: shape.quota, base: None }),
            ..CreateOptions::new(shape.disk)
        };
        create(&noted(&cache, "cache"), "cache", &options).await.unwrap();
        for _ in 0..2 {
            let overlay = S::default();
            let options = CreateOptions {
                cluster_size: shape.overlay_cluster,
                backing: Some(("cache".into(), "qcow2".into())),
                ..CreateOptions::new(shape.disk)
            };
            create(&noted(&overlay, "overlay"), "overlay", &options).await.unwrap();
            let image = |storage: &S, name, mode| {
                let options = ImageOptions { batch_bytes: 1 << 20, ..ImageOptions::default() };
                Image::open(noted(storage, name), name, mode, options, runtime.clone())
            };
            let layers = vec![
                Rc::new(Layer::Qcow2(image(&overlay, "overlay", Mode::Write).await.unwrap())),
                Rc::new(Layer::Qcow2(image(&cache, "cache", Mode::Fill).await.unwrap())),
                Rc::new(Layer::Raw(RawImage::open(noted(&base, "base"), "base", false).await.unwrap())),
            ];
            let disk = Disk::new(layers, shape.filling, runtime.clone()).unwrap();
            for chunk in requests.chunks(3) {
                futures_util::future::join_all(chunk.iter().map(|request| issue(&disk, *request))).await;
            }
            disk.close().await.unwrap();
        }
    });
    drop(runtime);
    calls.take()
}

fn issue<'a, S: Storage>(disk: &'a Disk<S>, request: (Op, u64, u64)) -> impl Future<Output = ()> + 'a {
    let (op, offset, len) = request;
    async move {
        match op {
            Op::Read => drop(disk.read(offset, len).await.unwrap()),
            Op::Write => disk.write(offset, S::Payload::zeroed(len)).await.unwrap(),
            Op::Zero => disk.write_zeroes(offset, len).await.unwrap(),
            Op::Flush => disk.flush().await.unwrap(),
            Op::Trim => {}
        }
    }
}

fn assert_same_calls(shape: Shape, requests: &[(Op, u64, u64)]) {
    let (kept, free) = (calls_of::<Memory>(shape, requests), calls_of::<PayloadFree>(shape, requests));
    assert!(kept.len() > requests.len());
    for (number, (kept, free)) in kept.iter().zip(&free).enumerate() {
        assert_eq!(kept, free, "call {number}");
    }
    assert_eq!(kept.len(), free.len());
}

#[test]
fn random_requests_make_the_same_calls() {
    for seed in 0..60 {
        let mut dice = Pcg64Mcg::seed_from_u64(seed);
        let disk = dice.random_range(200_000..3_000_000);
        let cache_cluster = 512 << dice.random_range(0..8);
        let shape = Shape {
            disk,
            cache_cluster,
            overlay_cluster: 512 << dice.random_range(0..8),
            quota: cache_cluster * 16 + disk * dice.random_range(1..20) / 10,
            filling: if dice.random() { Filling::Beside } else { Filling::InPath },
        };
        let requests: Vec<_> = (0..120)
            .map(|_| {
                let offset = dice.random_range(0..disk);
                let len = dice.random_range(1..=(disk - offset).min(90_000));
                match dice.random_range(0..10) {
                    0..6 => (Op::Read, offset, len),
                    6..8 => (Op::Write, offset, len),
                    8 => (Op::Zero, offset, len),
                    _ => (Op::Flush, 0, 0),
                }
            })
            .collect();
        assert_same_calls(shape, &requests);
    }
}

#[test]
fn a_recorded_boot_makes_the_same_calls() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/traces/debian-12-extlinux-1.csv.gz");
    let boot = Trace::open(&path).unwrap();
    // The first requests, moved together so that the memory of a test is enough.
    let requests: Vec<_> =
        boot.requests.iter().take(700).map(|r| (r.op, r.offset % (48 << 20), r.length)).collect();
    let shape = Shape {
        disk: 64 << 20,
        cache_cluster: 512,
        overlay_cluster: 65536,
        quota: 40 << 20,
        filling: Filling::Beside,
    };
    assert_same_calls(shape, &requests);
}
