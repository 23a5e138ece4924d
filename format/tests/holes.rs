//! Holes of a base, whatever its format knows or its host's file system: they cost no traffic, and take no data
//! cluster in a cache.

mod common;

use common::{Random, qemu};
use std::cell::RefCell;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use tempfile::TempDir;
use vmicache_format::cache::{Description, describe};
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::files::{ChainOptions, Format, NamedFiles, create_image, describe_base, open_chain_in};
use vmicache_format::qcow2::{CacheOptions, CreateOptions};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, Counting, Holes, HostFile, PayloadFree, Storage};
use vmicache_format::{Error, RawImage};

const KIB: u64 = 1 << 10;
const DISK: u64 = 1 << 20;
/// Where the base has data.
const DATA: [Range<u64>; 3] = [64 * KIB..96 * KIB, 512 * KIB..516 * KIB, 1020 * KIB..DISK];

/// A folder with a raw base that has data in some places and holes between.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let base = fs::File::create(folder.path().join("base")).expect("the base can be made");
    base.set_len(DISK).expect("it can be long");
    let mut random = Random::new(5);
    for range in DATA {
        base.write_all_at(&random.bytes(range.end - range.start), range.start).expect("it can be written");
    }
    folder
}

/// The bytes that a whole read of the disk of `top` reads from the images below it.
fn read_through(folder: &Path, top: &str, fill: bool) -> u64 {
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let below = RefCell::new(Vec::new());
        let wrap = |depth, file| {
            let file = Counting::new(file);
            if depth > 0 {
                below.borrow_mut().push(file.clone());
            }
            file
        };
        let options = ChainOptions { fill, named_files: NamedFiles::Allow, ..ChainOptions::default() };
        let path = folder.join(top);
        let disk =
            open_chain_in(&path, Format::Qcow2, &options, runtime.clone(), wrap).await.expect("it opens");
        let content = disk.read(0, DISK).await.expect("it can be read");
        assert!(content == fs::read(folder.join("base")).expect("there is a base"));
        disk.close().await.expect("it closes");
        below.borrow().iter().map(|file| file.counts().guest_reads.bytes).sum()
    })
}

fn create(folder: &Path, base: &str, format: Format, cluster_size: u64, version: u32) {
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let described = describe_base(&folder.join(base), format, NamedFiles::Allow, runtime.clone()).await;
        let (size, identity) = described.expect("the base can be opened");
        let options = CreateOptions {
            cluster_size,
            version,
            backing: Some((base.into(), format.to_string())),
            cache: Some(CacheOptions { quota: 8 << 20, base: Some(identity) }),
            ..CreateOptions::new(size)
        };
        create_image(&folder.join("cache"), &options).await.expect("the cache can be made");
    });
}

fn description(folder: &Path) -> Description {
    let runtime = LocalRuntime::new();
    let file = HostFile::open(&folder.join("cache"), Access::Inspect).expect("the file is there");
    runtime.block_on(describe(file, "cache", runtime.clone())).expect("it can be described")
}

/// The data, with every part widened to whole blocks of that size.
fn widened(block: u64) -> u64 {
    DATA.map(|range| range.end.next_multiple_of(block) - range.start / block * block).iter().sum()
}

#[test]
fn a_hole_of_a_raw_base_is_not_read_and_takes_no_cluster() {
    let data: u64 = DATA.map(|range| range.end - range.start).iter().sum();
    for cluster_size in [512, 4096, 64 * KIB] {
        let folder = folder();
        let _alone = qemu::no_process_starts();
        create(folder.path(), "base", Format::Raw, cluster_size, 3);
        assert_eq!(read_through(folder.path(), "cache", true), data);
        let kept = description(folder.path());
        assert_eq!(kept.data_bytes, widened(cluster_size));
        assert_eq!((kept.cached_bytes, kept.zero_bytes), (DISK, DISK - widened(cluster_size)));
        assert_eq!(read_through(folder.path(), "cache", false), 0);
    }
}

#[test]
fn stock_tools_find_the_same_in_the_cache_as_in_the_base() {
    let folder = folder();
    {
        let _alone = qemu::no_process_starts();
        create(folder.path(), "base", Format::Raw, 4096, 3);
        read_through(folder.path(), "cache", true);
    }
    qemu::img(folder.path(), &["check", "-q", "cache"]);
    qemu::img(folder.path(), &["compare", "-q", "-f", "qcow2", "-F", "raw", "cache", "base"]);
    let map = qemu::img(folder.path(), &["map", "-f", "qcow2", "cache"]);
    // Only where there is data; its other columns are about the file.
    let starts: Vec<&str> = map.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(starts, ["0x10000", "0x80000", "0xff000"], "{map}");
}

/// Version 2 has no zero clusters: the hole is kept as data, but need not be read.
#[test]
fn a_cache_of_version_2_keeps_zeroes_as_data() {
    let folder = folder();
    let _alone = qemu::no_process_starts();
    create(folder.path(), "base", Format::Raw, 4096, 2);
    let data: u64 = DATA.map(|range| range.end - range.start).iter().sum();
    assert_eq!(read_through(folder.path(), "cache", true), data);
    assert_eq!((description(folder.path()).data_bytes, description(folder.path()).zero_bytes), (DISK, 0));
}

#[test]
fn holes_are_seen_through_a_chain_of_bases() {
    let folder = folder();
    qemu::img(folder.path(), &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "middle"]);
    let _alone = qemu::no_process_starts();
    create(folder.path(), "middle", Format::Qcow2, 4096, 3);
    let data: u64 = DATA.map(|range| range.end - range.start).iter().sum();
    assert_eq!(read_through(folder.path(), "cache", true), data);
    assert_eq!(description(folder.path()).data_bytes, widened(4096));
}

/// What a guest writes into a hole of a raw image is there, though holes had been looked for.
#[test]
fn an_image_that_is_written_is_asked_again() {
    let folder = folder();
    let _alone = qemu::no_process_starts();
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let file = HostFile::open(&folder.path().join("base"), Access::Write).expect("it opens");
        let raw = RawImage::open(file, "base", true).await.expect("it is an image");
        let disk =
            Disk::new(vec![Rc::new(Layer::Raw(raw))], Filling::Beside, runtime.clone()).expect("a disk");
        let before = disk.extents(0, DISK, 100).await.expect("extents");
        disk.write(200 * KIB, vec![7; 4096].into()).await.expect("it can be written");
        let after = disk.extents(0, DISK, 100).await.expect("extents");
        assert_eq!(after.len(), before.len() + 2, "{after:?}");
        assert_eq!(disk.read(200 * KIB, 4096).await.expect("it can be read"), vec![7; 4096]);
    });
}

#[test]
fn a_store_with_holes_takes_no_data() {
    let store = PayloadFree::with_holes(DISK, Holes::new(std::iter::once(0..DISK)));
    let runtime = LocalRuntime::new();
    let written = runtime.block_on(async {
        let raw = RawImage::open(store.clone(), "base", true).await?;
        let disk = Disk::new(vec![Rc::new(Layer::Raw(raw))], Filling::Beside, runtime.clone())?;
        disk.write_zeroes(0, 4096).await
    });
    assert!(matches!(written, Err(Error::Io { .. })), "{written:?}");
    let whole = 0..DISK;
    assert_eq!(runtime.block_on(store.hole(&whole)).expect("it can be asked"), (true, DISK));
}
