//! The host itself copies what a guest's small write leaves of a new cluster, but never past a cache that is to have it,
//! and no holes.

mod common;

use common::Random;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::TempDir;
use vmicache_format::disk::Disk;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, create_image, open_chain_in};
use vmicache_format::qcow2::{CacheOptions, CreateOptions};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Counting, HostFile};

const KIB: u64 = 1 << 10;
const CLUSTER: u64 = 64 * KIB;
const DISK: u64 = 16 * CLUSTER;
/// The third cluster of the base has a hole.
const HOLE: u64 = 2 * CLUSTER + 16 * KIB;

/// A folder with a raw base, and the base's content.
fn folder() -> (TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut content = Random::new(5).bytes(DISK);
    content[HOLE as usize..3 * CLUSTER as usize].fill(0);
    let base = fs::File::create(folder.path().join("base")).expect("the base can be made");
    base.write_all_at(&content[..HOLE as usize], 0).expect("it can be written");
    base.write_all_at(&content[3 * CLUSTER as usize..], 3 * CLUSTER).expect("it can be written");
    (folder, content)
}

fn create(folder: &Path, name: &str, backing: (&str, Format), cache: Option<CacheOptions>) {
    let options = CreateOptions {
        cluster_size: CLUSTER,
        backing: Some((backing.0.into(), backing.1.to_string())),
        cache,
        ..CreateOptions::new(DISK)
    };
    let runtime = LocalRuntime::new();
    runtime.block_on(create_image(&folder.join(name), &options)).expect("the image can be made");
}

/// Writes 4 KiB at an offset through `top`; requests that wrote to the files, and bytes that were read from them, top first.
fn write(folder: &Path, content: &mut [u8], top: &str, offset: u64) -> (Vec<u64>, Vec<u64>) {
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let files: RefCell<BTreeMap<usize, Counting<HostFile>>> = RefCell::default();
        let wrap = |depth, file| {
            let file = Counting::new(file);
            files.borrow_mut().insert(depth, file.clone());
            file
        };
        let options = ChainOptions {
            writable: true,
            fill: true,
            named_files: NamedFiles::Allow,
            ..ChainOptions::default()
        };
        let path = folder.join(top);
        let disk: Disk<_> =
            open_chain_in(&path, Format::Qcow2, &options, runtime.clone(), wrap).await.expect("it opens");
        let data = Random::new(offset).bytes(4 * KIB);
        content[offset as usize..][..data.len()].copy_from_slice(&data);
        disk.write(offset, data.into()).await.expect("it can be written");
        disk.flush().await.expect("it can be flushed");
        let cluster = offset / CLUSTER * CLUSTER;
        let read = disk.read(cluster, CLUSTER).await.expect("it can be read");
        assert!(read == content[cluster as usize..][..CLUSTER as usize], "cluster {cluster} through {top}");
        disk.close().await.expect("it closes");
        let counts: Vec<_> = files.borrow().values().map(Counting::counts).collect();
        let writes = counts.iter().map(|counts| counts.guest_writes.requests).collect();
        (writes, counts.iter().map(|counts| counts.guest_reads.bytes).collect())
    })
}

#[test]
fn one_file_is_copied_to_another() {
    let (folder, mut content) = folder();
    create(folder.path(), "overlay", ("base", Format::Raw), None);
    let (writes, reads) = write(folder.path(), &mut content, "overlay", CLUSTER + 8 * KIB);
    assert_eq!((writes, reads), (vec![2, 0], vec![CLUSTER, CLUSTER]), "the copy, then the data");
    // At the end of a cluster, with another one before it.
    let (writes, _) = write(folder.path(), &mut content, "overlay", 8 * CLUSTER - 4 * KIB);
    assert_eq!(writes, [2, 0]);
    assert_eq!(write(folder.path(), &mut content, "overlay", CLUSTER + 9 * KIB).0, [1, 0], "it has its own");
}

#[test]
fn a_hole_is_not_copied() {
    let (folder, mut content) = folder();
    create(folder.path(), "overlay", ("base", Format::Raw), None);
    let (writes, reads) = write(folder.path(), &mut content, "overlay", HOLE + 8 * KIB);
    assert_eq!((writes, reads), (vec![1, 0], vec![CLUSTER, 16 * KIB]));
}

#[test]
fn a_cache_between_has_what_was_copied() {
    let (folder, content) = folder();
    create(folder.path(), "cache", ("base", Format::Raw), Some(CacheOptions { quota: 8 << 20, base: None }));
    let at = 5 * CLUSTER + 20 * KIB;
    // The cache takes it from the base, and the next overlay from the cache.
    for (name, writes, reads) in
        [("first", [1, 1, 0], [CLUSTER, 0, CLUSTER]), ("second", [2, 0, 0], [CLUSTER, CLUSTER, 0])]
    {
        create(folder.path(), name, ("cache", Format::Qcow2), None);
        let counted = write(folder.path(), &mut content.clone(), name, at);
        assert_eq!(counted, (writes.to_vec(), reads.to_vec()), "{name}");
    }
}
