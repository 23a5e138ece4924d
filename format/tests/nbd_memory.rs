//! How much memory greedy clients of the NBD server can make it take: a mebibyte each.

mod common;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../fuzz/src/nbd/mod.rs"]
mod nbd;

use common::heap::{Counting, Watch};
use common::sparse::Sparse;
use nbd::client::{Client, turns, until};
use nbd::seeds::{negotiation, option, request};
use std::rc::Rc;
use std::time::Duration;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::nbd::{Export, Server, Statistics};
use vmicache_format::qcow2::{self, CacheOptions, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CLIENTS: usize = 16;
const MIB: usize = 1 << 20;
/// More than a server begins at once.
const MANY: u64 = 400;

async fn raw(store: &Sparse) -> Layer<Sparse> {
    Layer::Raw(RawImage::open(store.clone(), "raw", true).await.unwrap())
}

/// A new image on a base, opened in `mode`.
async fn image(size: u64, cluster_size: u64, mode: Mode, runtime: &Rc<LocalRuntime>) -> Layer<Sparse> {
    let store = Sparse::default();
    let cache = (mode == Mode::Fill).then_some(CacheOptions { quota: u64::MAX, base: None });
    let backing = Some(("base".into(), "raw".into()));
    let options = CreateOptions { cluster_size, backing, cache, ..CreateOptions::new(size) };
    qcow2::create(&store, "new", &options).await.unwrap();
    let options = ImageOptions { batch_time: Duration::from_secs(1 << 20), ..ImageOptions::default() };
    Layer::Qcow2(Image::open(store, "new", mode, options, runtime.clone()).await.unwrap())
}

/// What clients that send `sent` after `greeting`, and take no answers, make the server take at most, each.
async fn taken_by_each(
    layers: Vec<Layer<Sparse>>,
    delay_read: Duration,
    greeting: &[u8],
    sent: &[u8],
    runtime: &Rc<LocalRuntime>,
) -> usize {
    let layers = layers.into_iter().map(Rc::new).collect();
    let disk = Disk::new(layers, Filling::Beside, runtime.clone()).unwrap();
    let export = Export {
        name: "rw".into(),
        description: "of a test".into(),
        disk,
        writable: true,
        delay_read,
        statistics: Statistics::default(),
        recorder: None,
    };
    let server = Server::new(vec![Rc::new(export)], runtime.clone());
    // What the first one needs is there for all.
    drop(greedy(&server, greeting, sent).await);
    until(|| server.connections() == 0 || !delay_read.is_zero(), "the connection goes on").await;
    let watch = Watch::begin();
    let mut clients = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        clients.push(greedy(&server, greeting, sent).await);
    }
    turns(100_000).await;
    watch.most().unsigned_abs() / CLIENTS
}

async fn greedy(server: &Rc<Server<Sparse>>, greeting: &[u8], sent: &[u8]) -> Client {
    let mut client = Client::connect(server);
    client.send(greeting).await;
    turns(1000).await;
    client.take(usize::MAX);
    client.send(sent).await;
    client
}

fn requests(command: u16, length: u32, distance: u64) -> Vec<u8> {
    (0..MANY).flat_map(|number| request(command, 0, number * distance, length)).collect()
}

#[track_caller]
fn check(taken: usize, what: &str) {
    println!("{what}: {} KiB a connection", taken >> 10);
    assert!(taken > 16 << 10, "{what}: nothing was asked of the server");
    assert!(taken <= MIB, "{what}: {taken} bytes a connection");
}

fn run(what: &str, test: impl AsyncFnOnce(&Rc<LocalRuntime>) -> usize) {
    let runtime = LocalRuntime::new();
    check(runtime.block_on(test(&runtime)), what);
}

#[test]
fn large_reads_whose_data_is_not_taken() {
    run("reads of 32 MiB", async |runtime| {
        let layers = vec![raw(&Sparse::new(16 << 30)).await];
        let sent = requests(0, 32 << 20, 4096);
        taken_by_each(layers, Duration::ZERO, &negotiation("rw"), &sent, runtime).await
    });
}

#[test]
fn large_reads_of_scattered_clusters() {
    run("reads of 32 MiB in pieces of 512 bytes", async |runtime| {
        let size = 2 << 20;
        let layers = vec![image(size, 512, Mode::Write, runtime).await, raw(&Sparse::new(size)).await];
        let layers: Vec<_> = layers.into_iter().map(Rc::new).collect();
        let disk = Disk::new(layers.clone(), Filling::Beside, runtime.clone()).unwrap();
        for cluster in (0..size / 512).step_by(2) {
            disk.write(cluster * 512, vec![1; 512].into()).await.unwrap();
        }
        disk.close().await.unwrap();
        drop(disk);
        let layers = layers.into_iter().map(|layer| Rc::into_inner(layer).expect("nobody else has it"));
        let sent = requests(0, 700 << 10, 0);
        taken_by_each(layers.collect(), Duration::ZERO, &negotiation("rw"), &sent, runtime).await
    });
}

#[test]
fn small_reads_that_fill_large_clusters() {
    run("small reads of a cold cache", async |runtime| {
        let size = 1 << 30;
        let layers = vec![image(size, 65536, Mode::Fill, runtime).await, raw(&Sparse::new(size)).await];
        let sent = requests(0, 4096, 65536);
        taken_by_each(layers, Duration::ZERO, &negotiation("rw"), &sent, runtime).await
    });
}

#[test]
fn reads_that_are_delayed() {
    run("delayed reads", async |runtime| {
        let layers = vec![raw(&Sparse::new(1 << 30)).await];
        let sent = requests(0, 4096, 4096);
        let delay = Duration::from_secs(1 << 20);
        taken_by_each(layers, delay, &negotiation("rw"), &sent, runtime).await
    });
}

#[test]
fn large_writes_whose_data_does_not_come() {
    run("writes of 32 MiB", async |runtime| {
        let layers = vec![raw(&Sparse::new(16 << 30)).await];
        let sent = [request(1, 0, 0, 32 << 20), vec![1; 3 * MIB + 100_000]].concat();
        taken_by_each(layers, Duration::ZERO, &negotiation("rw"), &sent, runtime).await
    });
}

#[test]
fn descriptions_of_many_extents() {
    run("block status", async |runtime| {
        let store = Sparse::new(16 << 30);
        store.holes.set(4096);
        let sent = requests(7, u32::MAX, 4096);
        taken_by_each(vec![raw(&store).await], Duration::ZERO, &negotiation("rw"), &sent, runtime).await
    });
}

#[test]
fn options_whose_answers_are_not_taken() {
    run("options", async |runtime| {
        let layers = vec![raw(&Sparse::new(1 << 30)).await];
        let longest = [&[0; 4][..], &20_000_u16.to_be_bytes(), &[0, 3].repeat(20_000)].concat();
        let sent = [3_u32.to_be_bytes().to_vec(), option(6, &longest), option(3, &[]).repeat(4000)].concat();
        taken_by_each(layers, Duration::ZERO, &[], &sent, runtime).await
    });
}
