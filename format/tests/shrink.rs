//! A disk that becomes smaller: the file gives back what was only there for its end, whatever happens meanwhile.

mod common;

use bytes::Bytes;
use common::failing::{Done, Failing, Fault, Faults};
use common::recorded::{Record, Recorded, Replayed};
use common::{Random, assert_same, qemu, reference};
use std::rc::Rc;
use tempfile::TempDir;
use vmicache_format::Result;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{self, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Memory, Storage};

const SMALL: u64 = 200 << 10;

/// Clusters of so many bytes, refcounts of so many bits, and the size of the disk before it becomes smaller.
const SHAPES: [(u64, u32, u64); 6] = [
    (512, 64, 1536 << 10),
    (512, 16, 3 << 20),
    (512, 1, 3 << 20),
    (1024, 32, 5 << 20),
    (4096, 64, 8 << 20),
    (65536, 16, 8 << 20),
];

async fn open<S: Storage<Payload = Bytes>>(storage: S, runtime: &Rc<LocalRuntime>) -> Result<Disk<S>> {
    let options = ImageOptions { metadata_cache: Some(0), ..ImageOptions::default() };
    let image = Image::open(storage, "image", Mode::Write, options, runtime.clone()).await?;
    Disk::new(vec![Rc::new(Layer::Qcow2(image))], Filling::Beside, runtime.clone())
}

/// An image of which everything is written, and its content.
fn full_image((cluster_size, refcount_bits, size): (u64, u32, u64), seed: u64) -> (Vec<u8>, Vec<u8>) {
    let memory = Memory::default();
    let mut random = Random::new(seed);
    let content = random.bytes(size);
    let runtime = LocalRuntime::new();
    let made: Result<()> = runtime.block_on(async {
        let options = CreateOptions { cluster_size, refcount_bits, ..CreateOptions::new(size) };
        qcow2::create(&memory, "image", &options).await?;
        let disk = open(memory.clone(), &runtime).await?;
        // The end of the disk comes first in the file: what stays has to be at its end.
        for piece in (0..size / (64 << 10)).rev() {
            let start = piece * (64 << 10);
            let end = (start + (64 << 10)).min(size);
            let data = content[start as usize..end as usize].to_vec();
            disk.write(start, data.into()).await?;
        }
        disk.close().await
    });
    made.expect("the image can be made");
    (memory.to_vec(), content)
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The content of the refcount blocks of an image.
fn blocks(image: &[u8]) -> Vec<&[u8]> {
    let cluster = 1 << big_endian(&image[20..24]);
    let table = big_endian(&image[48..56]) as usize;
    let entries = big_endian(&image[56..60]) as usize * cluster / 8;
    let offsets = (0..entries).map(|entry| big_endian(&image[table + 8 * entry..][..8]) as usize);
    offsets.filter(|offset| *offset != 0).map(|offset| &image[offset..offset + cluster]).collect()
}

fn folder_with(image: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("image"), image).expect("the image can be written");
    folder
}

fn read_all(image: &[u8]) -> Bytes {
    let runtime = LocalRuntime::new();
    let read = runtime.block_on(async {
        let disk = open(Memory::new(image.to_vec()), &runtime).await?;
        disk.read(0, disk.size()).await
    });
    read.expect("the image can be read")
}

#[test]
fn what_nothing_needs_any_more_leaves_the_file() {
    for shape in SHAPES {
        let (image, content) = full_image(shape, 1);
        let memory = Memory::new(image.clone());
        let runtime = LocalRuntime::new();
        runtime.block_on(async {
            let disk = open(memory.clone(), &runtime).await.expect("it opens");
            disk.resize(SMALL).await.expect("it can become smaller");
            disk.close().await.expect("it closes");
        });
        let smaller = memory.to_vec();
        assert_eq!(reference::check(&smaller), Ok(0), "{shape:?}");
        let zero = blocks(&smaller).iter().filter(|block| block.iter().all(|byte| *byte == 0)).count();
        assert_eq!(zero, 0, "{shape:?}: {zero} refcount blocks count nothing");
        // What stays lies at the end of the file, and its tables where they were.
        let (cluster_size, refcount_bits, _) = shape;
        let counted = SMALL * 6 / 5 / cluster_size * u64::from(refcount_bits) / 8;
        let (most, found) = (4 + counted / cluster_size, blocks(&smaller).len() as u64);
        assert!(found <= most, "{shape:?}: {found} refcount blocks, {most} are enough");
        assert!(smaller.len() <= image.len(), "{shape:?}: the file has grown");
        let folder = folder_with(&smaller);
        qemu::check(folder.path(), "image");
        assert_same(&qemu::content(folder.path(), "image"), &content[..SMALL as usize], "what QEMU reads");
    }
}

#[test]
fn a_file_ends_behind_the_last_cluster_in_use() {
    for shape in SHAPES {
        let memory = Memory::default();
        let runtime = LocalRuntime::new();
        let (cluster_size, refcount_bits, size) = shape;
        runtime.block_on(async {
            let options = CreateOptions { cluster_size, refcount_bits, ..CreateOptions::new(size) };
            qcow2::create(&memory, "image", &options).await.expect("the image can be made");
            let disk = open(memory.clone(), &runtime).await.expect("it opens");
            disk.write(0, vec![1; SMALL as usize].into()).await.expect("it can be written");
            let needed = memory.to_vec().len();
            disk.write(SMALL, vec![2; (size - SMALL) as usize].into()).await.expect("it can be written");
            disk.resize(SMALL).await.expect("it can become smaller");
            let cut_off = memory.to_vec();
            let some_tables = 8 * cluster_size as usize;
            assert!(
                cut_off.len() < needed + some_tables,
                "{shape:?}: {} bytes, {needed} needed",
                cut_off.len()
            );
            assert_eq!(reference::check(&cut_off), Ok(0), "{shape:?}");
            // The same image goes on.
            disk.resize(size).await.expect("it can become larger");
            disk.write(SMALL, vec![3; (size - SMALL) as usize].into()).await.expect("it can be written");
            disk.close().await.expect("it closes");
        });
        let mut content = vec![1; size as usize];
        content[SMALL as usize..].fill(3);
        let folder = folder_with(&memory.to_vec());
        qemu::check(folder.path(), "image");
        assert_same(&qemu::content(folder.path(), "image"), &content, "what QEMU reads");
    }
}

#[test]
fn a_power_cut_at_any_moment_leaves_nothing_but_leaks() {
    for shape in [SHAPES[0], SHAPES[1], SHAPES[4]] {
        let (image, content) = full_image(shape, 2);
        let memory = Memory::new(image.clone());
        let record = Record::new(3);
        let runtime = LocalRuntime::new();
        runtime.block_on(async {
            let disk = open(Recorded::new(memory.clone(), 0, &record), &runtime).await.expect("it opens");
            disk.resize(SMALL).await.expect("it can become smaller");
            // What is free is taken again at once.
            disk.resize(SMALL * 2).await.expect("it can become larger");
            disk.write(SMALL, vec![7; SMALL as usize].into()).await.expect("it can be written");
            disk.close().await.expect("it closes");
        });
        let (mut random, mut replayed) = (Random::new(4), Replayed::new(vec![image.clone()]));
        let (mut cuts, mut fewer) = (0, 0);
        let moments = record.take();
        let every = (moments.len() / 300).max(1);
        for (number, moment) in moments.iter().enumerate() {
            replayed.advance(moment);
            if number % every != 0 && !replayed.is_header_volatile() {
                continue;
            }
            let (contents, survivors) = replayed.cut(&mut random);
            let left = &contents[0];
            let context = format!("{shape:?}: a cut at moment {number}, with {survivors}");
            reference::check(left).unwrap_or_else(|problem| panic!("{context}: {problem}"));
            let disk = read_all(left);
            let kept = SMALL as usize;
            assert_same(&disk[..kept], &content[..kept], &context);
            cuts += 1;
            fewer += u64::from(blocks(left).len() < blocks(&image).len());
            if cuts % 40 == 0 {
                qemu::check_but_for_leaks(folder_with(left).path(), "image");
            }
        }
        assert!(fewer > 0 && fewer < cuts, "{shape:?}: {fewer} of {cuts} cuts left fewer refcount blocks");
    }
}

/// Lets the request of this number fail that a smaller disk takes; whether it takes so many.
fn shrink_fails(image: &[u8], content: &[u8], number: u64, done: Done) -> bool {
    let context = format!("request {number} fails, having done {done:?}");
    let memory = Memory::new(image.to_vec());
    let faults = Faults::new(Fault::None, number);
    let mut content = content.to_vec();
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let disk = open(Failing::new(memory.clone(), &faults), &runtime).await.expect(&context);
        faults.set(Fault::One(faults.count() + number, done));
        let first = disk.resize(SMALL).await;
        faults.mend();
        // A refcount that cannot be read leaks: then nobody is told.
        assert!(first.is_ok() || !faults.failed.borrow().is_empty(), "{context}: {first:?}");
        reference::check(&memory.to_vec()).expect(&context);
        disk.resize(SMALL).await.expect(&context);
        disk.resize(2 * SMALL).await.expect(&context);
        content.truncate(SMALL as usize);
        content.resize(2 * SMALL as usize, 9);
        disk.write(SMALL, vec![9; SMALL as usize].into()).await.expect(&context);
        disk.close().await.expect(&context);
    });
    let image = memory.to_vec();
    reference::check(&image).expect(&context);
    assert_same(&read_all(&image), &content, &context);
    !faults.failed.borrow().is_empty()
}

#[test]
fn a_storage_that_fails_while_the_disk_becomes_smaller_breaks_nothing() {
    for shape in [(512, 64, 1 << 20), (512, 16, 1 << 20), (4096, 64, 4 << 20)] {
        let (image, content) = full_image(shape, 5);
        for done in [Done::Nothing, Done::Part, Done::All] {
            let faults = (0..).take_while(|number| shrink_fails(&image, &content, *number, done)).count();
            assert!(faults > 10, "{shape:?}: it takes {faults} requests only");
        }
    }
}

/// Tables that map something behind the end of the disk: what is there is no part of a disk that grows.
#[test]
fn data_behind_the_end_of_a_disk_does_not_come_back() {
    for shape in SHAPES {
        let (mut image, content) = full_image(shape, 3);
        image[24..32].copy_from_slice(&SMALL.to_be_bytes());
        let memory = Memory::new(image);
        let runtime = LocalRuntime::new();
        runtime.block_on(async {
            let disk = open(memory.clone(), &runtime).await.expect("it opens");
            disk.resize(2 * SMALL).await.expect("it can become larger");
            disk.close().await.expect("it closes");
        });
        let folder = folder_with(&memory.to_vec());
        qemu::check(folder.path(), "image");
        let mut expected = content[..SMALL as usize].to_vec();
        expected.resize(2 * SMALL as usize, 0);
        assert_same(&qemu::content(folder.path(), "image"), &expected, &format!("{shape:?}"));
    }
}
