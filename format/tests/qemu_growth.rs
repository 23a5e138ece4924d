//! The refcount table of a stock image is one cluster, and so is that of ours: with 512-byte clusters it counts 8 MiB of
//! file. What goes beyond makes the table move.

mod common;

use bytes::Bytes;
use common::storages::Delaying;
use common::{Random, assert_same, qemu, reference, seeds};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use tempfile::TempDir;
use vmicache_format::Result;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::header::Header;
use vmicache_format::qcow2::{CreateOptions, Image, ImageOptions, Mode, create, read_header};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Memory;

const DISK: u64 = 24 << 20;
/// What the first refcount table can count.
const COUNTED: u64 = 8 << 20;

fn stock_image() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    qemu::img(
        folder.path(),
        &["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "image", &DISK.to_string()],
    );
    std::fs::read(folder.path().join("image")).expect("qemu-img wrote it")
}

fn new_image(options: &CreateOptions) -> Vec<u8> {
    let memory = Memory::default();
    LocalRuntime::new().block_on(create(&memory, "image", options)).expect("the image can be made");
    memory.to_vec()
}

fn our_image() -> Vec<u8> {
    new_image(&CreateOptions { cluster_size: 512, ..CreateOptions::new(DISK) })
}

async fn open(storage: Delaying<Memory>, runtime: &Rc<LocalRuntime>) -> Result<Disk<Delaying<Memory>>> {
    let options = ImageOptions { metadata_cache: Some(0), batch_bytes: 1 << 20, ..ImageOptions::default() };
    let image = Image::open(storage, "image", Mode::Write, options, runtime.clone()).await?;
    Disk::new(vec![Rc::new(Layer::Qcow2(image))], Filling::Beside, runtime.clone())
}

fn header(memory: &Memory) -> Header {
    LocalRuntime::new().block_on(read_header(memory, "image")).expect("there is a header")
}

/// Writes `image` to a file that QEMU finds without fault, and returns the disk that it sees.
fn content_for_qemu(memory: &Memory, may_leak: bool) -> (TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("image"), memory.to_vec()).expect("the image can be written");
    match may_leak {
        true => qemu::check_but_for_leaks(folder.path(), "image"),
        false => qemu::check(folder.path(), "image"),
    }
    let content = qemu::content(folder.path(), "image");
    (folder, content)
}

/// A write of pseudo-random bytes.
fn write(
    disk: &Disk<Delaying<Memory>>,
    random: &mut Random,
    offset: u64,
    len: u64,
) -> (Bytes, impl Future<Output = Result<()>>) {
    let data = Bytes::from(random.bytes(len));
    let (disk, copy) = (disk.clone(), data.clone());
    (data, async move { disk.write(offset, copy).await })
}

fn put(model: &mut [u8], offset: u64, data: &[u8]) {
    model[offset as usize..offset as usize + data.len()].copy_from_slice(data);
}

#[test]
fn the_refcount_table_of_a_new_image_is_as_long_as_qemu_makes_it() {
    for cluster_size in [512, 1024, 4096, 65536, 2 << 20] {
        for (refcount_bits, size) in
            [(1, 1 << 20), (16, 1 << 20), (16, 1 << 30), (64, 1 << 30), (16, 1 << 33)]
        {
            let options = CreateOptions { cluster_size, refcount_bits, ..CreateOptions::new(size) };
            let folder = tempfile::tempdir().expect("a folder");
            let stock = format!("cluster_size={cluster_size},refcount_bits={refcount_bits}");
            let size = size.to_string();
            qemu::img(folder.path(), &["create", "-q", "-f", "qcow2", "-o", &stock, "image", &size]);
            let stock = Memory::new(std::fs::read(folder.path().join("image")).expect("qemu-img wrote it"));
            let ours = new_image(&options);
            assert_eq!(reference::check(&ours), Ok(0), "{options:?}");
            let clusters = header(&Memory::new(ours)).refcount_table_clusters;
            assert_eq!(clusters, header(&stock).refcount_table_clusters, "{options:?}");
        }
    }
}

/// Where the L1 table alone needs more refcount blocks than a table of one cluster has entries for.
#[test]
fn the_refcount_table_of_a_new_image_counts_the_image() {
    for size in [1 << 33, 1 << 36, (1 << 37) - (1 << 20)] {
        for refcount_bits in [16, 64] {
            let options = CreateOptions { cluster_size: 512, refcount_bits, ..CreateOptions::new(size) };
            let image = new_image(&options);
            assert_eq!(reference::check(&image), Ok(0), "{options:?}");
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("image"), image).expect("the image can be written");
            qemu::check(folder.path(), "image");
        }
    }
}

/// The refcount table has to move while a place for an L1 table of several megabytes is looked for.
#[test]
fn a_much_larger_l1_table_is_counted() {
    for size in [1 << 33, 1 << 36, (1 << 37) - (1 << 20)] {
        let memory = Memory::new(our_image());
        let runtime = LocalRuntime::new();
        runtime.block_on(async {
            let disk = open(Delaying::new(memory.clone(), 1, 0), &runtime).await.expect("it opens");
            disk.resize(size).await.expect("it can become larger");
            disk.write(size - 700, Bytes::from(vec![5; 700])).await.expect("it can be written");
            disk.close().await.expect("it closes");
        });
        assert_eq!(reference::check(&memory.to_vec()), Ok(0), "{size}");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("image"), memory.to_vec()).expect("the image can be written");
        qemu::check(folder.path(), "image");
        let read = format!("read -q -P 5 {} 700", size - 700);
        qemu::io(folder.path(), &["-f", "qcow2"], "image", &[read]);
    }
}

#[test]
fn a_full_refcount_table_is_moved() {
    let templates = [stock_image(), our_image()];
    for seed in seeds(0, 6) {
        let template = &templates[seed as usize % 2];
        let mut random = Random::new(seed);
        let memory = Memory::new(template.clone());
        let before = header(&memory);
        assert_eq!(before.refcount_table_clusters, 1);
        let runtime = LocalRuntime::new();
        let mut model = vec![0; DISK as usize];
        runtime.block_on(async {
            let delay = random.below(4);
            let disk = open(Delaying::new(memory.clone(), seed, delay), &runtime).await.expect("it opens");
            let longest = random.pick(&[100_000, 3 << 20]);
            let mut written = 0;
            while written < 18 << 20 {
                let len = random.within(1..longest);
                let offset = random.below(DISK - len);
                let (data, done) = write(&disk, &mut random, offset, len);
                done.await.expect("it can be written");
                put(&mut model, offset, &data);
                written += len;
            }
            disk.close().await.expect("it closes");
        });
        let after = header(&memory);
        assert!(after.refcount_table_clusters > 1, "the table has not grown");
        assert_eq!(
            Header { refcount_table_offset: 0, refcount_table_clusters: 0, ..after },
            Header { refcount_table_offset: 0, refcount_table_clusters: 0, ..before }
        );

        let (folder, content) = content_for_qemu(&memory, false);
        assert_same(&content, &model, "what QEMU reads");
        // QEMU goes on where we stopped.
        qemu::io(folder.path(), &["-f", "qcow2"], "image", &["write -q -P 7 100 24000000".into()]);
        model[100..24_000_100].fill(7);
        qemu::check(folder.path(), "image");
        assert_same(&qemu::content(folder.path(), "image"), &model, "what QEMU wrote");
    }
}

/// An image whose file reaches almost to the end of what its refcount table counts.
fn almost_full(random: &mut Random) -> (Memory, Vec<u8>) {
    let memory = Memory::new(stock_image());
    let mut model = vec![0; DISK as usize];
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let disk = open(Delaying::new(memory.clone(), 0, 0), &runtime).await.expect("it opens");
        let mut offset = 0;
        while (memory.to_vec().len() as u64) < COUNTED - (64 << 10) {
            let (data, done) = write(&disk, random, offset, 32 << 10);
            done.await.expect("it can be written");
            put(&mut model, offset, &data);
            offset += 32 << 10;
        }
        disk.close().await.expect("it closes");
    });
    assert_eq!(header(&memory).refcount_table_clusters, 1);
    (memory, model)
}

/// Polls a future again and again, at most `polls` times; whether it completed.
async fn give_up_after(polls: u64, future: impl Future<Output = Result<()>>) -> bool {
    let (mut future, left) = (pin!(future), Cell::new(polls));
    poll_fn(|context| {
        if left.get() == 0 {
            return Poll::Ready(false);
        }
        left.set(left.get() - 1);
        context.waker().wake_by_ref();
        future.as_mut().poll(context).map(|written| {
            written.expect("it can be written");
            true
        })
    })
    .await
}

/// Lets everything else go on for a while.
async fn breathe() {
    let mut left = 200;
    poll_fn(|context| match left {
        0 => Poll::Ready(()),
        _ => {
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

#[test]
fn a_caller_that_goes_away_while_the_table_moves_breaks_nothing() {
    let mut random = Random::new(1);
    let (template, model) = almost_full(&mut random);
    let (first, second, len) = (12 << 20, 16 << 20, 200 << 10);
    for polls in 1.. {
        let memory = Memory::new(template.to_vec());
        let mut model = model.clone();
        let runtime = LocalRuntime::new();
        let completed = runtime.block_on(async {
            let disk = open(Delaying::new(memory.clone(), 1, 1), &runtime).await.expect("it opens");
            // Changes that are pending when the table moves must not be lost with the caller.
            let (data, done) = write(&disk, &mut random, 100, 40_000);
            done.await.expect("it can be written");
            put(&mut model, 100, &data);
            let (data, done) = write(&disk, &mut random, 20 << 20, 10_000);
            done.await.expect("it can be written");
            put(&mut model, 20 << 20, &data);

            let (_, given_up) = write(&disk, &mut random, first, len);
            let completed = give_up_after(polls, given_up).await;
            breathe().await;
            let (data, done) = write(&disk, &mut random, second, len);
            done.await.expect("it can be written");
            put(&mut model, second, &data);
            disk.close().await.expect("it closes");
            completed
        });
        let (_folder, mut content) = content_for_qemu(&memory, false);
        // Of what was given up anything may be there.
        let uncertain = first as usize..(first + len) as usize;
        content[uncertain.clone()].copy_from_slice(&model[uncertain]);
        assert_same(&content, &model, &format!("given up at poll {polls}: what QEMU reads"));
        if completed {
            assert!(polls > 10, "the write was over after {polls} polls");
            return;
        }
    }
}

#[test]
fn a_storage_that_fails_while_the_table_moves_breaks_nothing() {
    let mut random = Random::new(2);
    let (template, model) = almost_full(&mut random);
    let (first, second, len) = (12 << 20, 16 << 20, 200 << 10);
    for seed in seeds(0, 40) {
        let mut random = Random::new(seed);
        let memory = Memory::new(template.to_vec());
        let mut model = model.clone();
        let runtime = LocalRuntime::new();
        runtime.block_on(async {
            let storage = Delaying::new(memory.clone(), seed, 1);
            let disk = open(storage.clone(), &runtime).await.expect("it opens");
            let (data, done) = write(&disk, &mut random, 20 << 20, 10_000);
            done.await.expect("it can be written");
            put(&mut model, 20 << 20, &data);
            storage.fail_one_in(6);
            for _ in 0..5 {
                let (_, may_fail) = write(&disk, &mut random, first, len);
                drop(may_fail.await);
            }
            storage.fail_one_in(0);
            let (data, done) = write(&disk, &mut random, first, len);
            done.await.expect("it can be written");
            put(&mut model, first, &data);
            for number in 0..20 {
                let (data, done) = write(&disk, &mut random, second + number * len, len);
                done.await.expect("it can be written");
                put(&mut model, second + number * len, &data);
            }
            disk.close().await.expect("it closes");
        });
        let (_folder, content) = content_for_qemu(&memory, true);
        assert_same(&content, &model, "what QEMU reads");
    }
}
