//! Cache images in the hands of stock tools.

mod common;

use common::{Random, assert_same, qemu, seeds};
use std::path::Path;
use tempfile::TempDir;
use vmicache_format::cache::IdentityCheck;
use vmicache_format::disk::Disk;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, create_image, describe_base, open_chain};
use vmicache_format::qcow2::header::{Header, extension};
use vmicache_format::qcow2::{CacheOptions, CreateOptions, ImageOptions, empty_file_bytes, read_header};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};

const CLUSTER_SIZES: [u64; 4] = [512, 4096, 65536, 2 << 20];
const DISK: u64 = (5 << 20) + 1536;

fn header(path: &Path) -> Header {
    let file = HostFile::open(path, Access::Inspect).expect("the image is there");
    LocalRuntime::new().block_on(read_header(&file, "image")).expect("it has a header")
}

fn file_len(path: &Path) -> u64 {
    std::fs::metadata(path).expect("the file is there").len()
}

/// A base with random bytes, raw or qcow2.
fn new_base(folder: &TempDir, random: &mut Random, format: Format) -> Vec<u8> {
    let content = random.bytes(DISK);
    std::fs::write(folder.path().join("base"), &content).expect("the base can be written");
    if format == Format::Qcow2 {
        qemu::img(folder.path(), &["convert", "-f", "raw", "-O", "qcow2", "base", "base.qcow2"]);
        std::fs::rename(folder.path().join("base.qcow2"), folder.path().join("base"))
            .expect("it can be renamed");
    }
    content
}

/// A cache over `base`, and an overlay over the cache.
fn new_chain(
    folder: &TempDir,
    format: Format,
    cluster_size: u64,
    version: u32,
    quota: impl FnOnce(u64) -> u64,
) {
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let base =
            describe_base(&folder.path().join("base"), format, NamedFiles::Allow, runtime.clone()).await;
        let (size, identity) = base.expect("the base can be opened");
        assert_eq!(size, DISK);
        let mut options = CreateOptions {
            cluster_size,
            version,
            backing: Some(("base".into(), format.to_string())),
            cache: Some(CacheOptions { quota: u64::MAX, base: Some(identity) }),
            ..CreateOptions::new(size)
        };
        let empty = empty_file_bytes(&options).expect("there can be such an image");
        let quota = quota(empty);
        options.cache.iter_mut().for_each(|cache| cache.quota = quota);
        create_image(&folder.path().join("cache"), &options).await.expect("the cache can be made");
        let backing = Some(("cache".into(), "qcow2".into()));
        let overlay = CreateOptions { backing, ..CreateOptions::new(size) };
        create_image(&folder.path().join("overlay"), &overlay).await.expect("the overlay can be made");
    });
}

/// Opens the overlay, uses its disk, and closes it.
fn with_disk<T>(folder: &TempDir, use_it: impl AsyncFnOnce(&Disk<HostFile>) -> T) -> T {
    let options = ChainOptions {
        writable: true,
        fill: true,
        named_files: NamedFiles::Allow,
        ..ChainOptions::default()
    };
    let runtime = LocalRuntime::new();
    let disk = {
        let _alone = qemu::no_process_starts();
        let overlay = folder.path().join("overlay");
        runtime
            .block_on(open_chain(&overlay, Format::Qcow2, &options, runtime.clone()))
            .expect("the chain opens")
    };
    runtime.block_on(async {
        let value = use_it(&disk).await;
        disk.close().await.expect("the chain closes");
        value
    })
}

#[test]
fn a_closed_cache_serves_stock_tools_without_its_base() {
    for seed in seeds(0, 16) {
        let mut random = Random::new(seed);
        let folder = tempfile::tempdir().expect("a folder");
        let format = random.pick(&[Format::Raw, Format::Qcow2]);
        let content = new_base(&folder, &mut random, format);
        let version = random.pick(&[2, 3]);
        new_chain(&folder, format, CLUSTER_SIZES[(seed % 4) as usize], version, |_| u64::MAX);
        with_disk(&folder, async |disk| {
            for _ in 0..20 {
                let piece = random.piece(DISK, 1 << 20);
                let found = disk.read(piece.start, piece.end - piece.start).await.expect("it can be read");
                assert_same(
                    &found,
                    &content[piece.start as usize..piece.end as usize],
                    "a read through the cache",
                );
            }
        });
        qemu::check(folder.path(), "cache");
        assert_same(&qemu::content(folder.path(), "cache"), &content, "a half-filled cache over its base");
        assert_same(&qemu::content(folder.path(), "overlay"), &content, "an overlay over it");

        // Once everything was read, the base may be anything.
        with_disk(&folder, async |disk| drop(disk.read(0, DISK).await.expect("it can be read")));
        qemu::check(folder.path(), "cache");
        let zeroes = vec![0; DISK as usize];
        std::fs::write(folder.path().join("other"), zeroes).expect("another base can be written");
        qemu::img(folder.path(), &["rebase", "-u", "-f", "qcow2", "-b", "other", "-F", "raw", "cache"]);
        assert_same(&qemu::content(folder.path(), "overlay"), &content, "a full cache over another base");
        let commands = ["write -q -P 5 1000 70000", "read -q -P 5 1000 70000"].map(String::from);
        qemu::io(folder.path(), &["-f", "qcow2"], "overlay", &commands);
        qemu::check(folder.path(), "overlay");

        // The stock tool has kept the extensions that it does not know, and we the base's identity.
        let header = header(&folder.path().join("cache"));
        assert!(header.extension(extension::CACHE).is_some() && header.base_identity().is_some());
        assert_eq!(header.cache().map(|cache| cache.in_use), Some(file_len(&folder.path().join("cache"))));
    }
}

#[test]
fn a_quota_bounds_the_file_and_leaves_no_fault() {
    for seed in seeds(100, 24) {
        let mut random = Random::new(seed);
        let folder = tempfile::tempdir().expect("a folder");
        let content = new_base(&folder, &mut random, Format::Raw);
        let mut quota = 0;
        let cluster_size = CLUSTER_SIZES[(seed % 4) as usize];
        new_chain(&folder, Format::Raw, cluster_size, 3, |empty| {
            quota = empty + random.below(6 << 20);
            quota
        });
        for _ in 0..3 {
            with_disk(&folder, async |disk| {
                for _ in 0..random.within(1..30) {
                    let piece = random.piece(DISK, 1 << 20);
                    let found =
                        disk.read(piece.start, piece.end - piece.start).await.expect("it can be read");
                    assert_same(&found, &content[piece.start as usize..piece.end as usize], "a read");
                    assert!(file_len(&folder.path().join("cache")) <= quota);
                }
            });
            assert!(file_len(&folder.path().join("cache")) <= quota);
            qemu::check(folder.path(), "cache");
        }
        assert_same(&qemu::content(folder.path(), "cache"), &content, "the cache over its base");
    }
}

/// Data that comes from the base in very many pieces is kept like any other.
#[test]
fn a_fragmented_base_is_cached() {
    let folder = tempfile::tempdir().expect("a folder");
    qemu::img(
        folder.path(),
        &["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "base", &DISK.to_string()],
    );
    let every_other: Vec<String> = (0..3000).map(|n| format!("write -q -P 7 {} 512", n * 1024)).collect();
    for commands in every_other.chunks(1000) {
        qemu::io(folder.path(), &["-t", "unsafe", "-f", "qcow2"], "base", commands);
    }
    new_chain(&folder, Format::Qcow2, 65536, 3, |_| u64::MAX);
    let read = with_disk(&folder, async |disk| disk.read(0, 3 << 20).await.expect("it can be read"));
    qemu::check(folder.path(), "cache");
    std::fs::write(folder.path().join("other"), vec![0; DISK as usize]).expect("another base can be written");
    qemu::img(folder.path(), &["rebase", "-u", "-f", "qcow2", "-b", "other", "-F", "raw", "cache"]);
    assert_same(&qemu::content(folder.path(), "cache")[..3 << 20], &read, "what the cache has kept");
}

/// A stock tool that opened the cache for writing may have changed it; we go on filling what it left.
#[test]
fn a_cache_is_filled_on_after_a_stock_tool_had_it() {
    let mut random = Random::new(7);
    for cluster_size in CLUSTER_SIZES {
        let folder = tempfile::tempdir().expect("a folder");
        let content = new_base(&folder, &mut random, Format::Raw);
        new_chain(&folder, Format::Raw, cluster_size, 3, |_| u64::MAX);
        with_disk(&folder, async |disk| drop(disk.read(100, 300_000).await.expect("it can be read")));
        // The same filter that stands above a cache here, filling the same image.
        let file = |name| format!(r#""file":{{"driver":"file","filename":"{name}"}}"#);
        let cache = format!(r#"{{"driver":"qcow2","read-only":false,{}}}"#, file("cache"));
        let filter = format!(r#"json:{{"driver":"copy-on-read","read-only":false,"file":{cache}}}"#);
        qemu::io(folder.path(), &[], &filter, &["read -q 1000000 900000".into()]);
        qemu::check(folder.path(), "cache");
        let read = with_disk(&folder, async |disk| disk.read(0, DISK).await.expect("it can be read"));
        assert_same(&read, &content, "what we read");
        qemu::check(folder.path(), "cache");
        assert_same(&qemu::content(folder.path(), "cache"), &content, "what QEMU reads");
    }
}

/// Extensions that nobody here knows stay, byte for byte, when the header is written anew.
#[test]
fn unknown_extensions_are_kept() {
    let mut random = Random::new(8);
    for cluster_size in [4096, 65536] {
        let folder = tempfile::tempdir().expect("a folder");
        new_base(&folder, &mut random, Format::Raw);
        new_chain(&folder, Format::Raw, cluster_size, 3, |_| u64::MAX);
        let path = folder.path().join("cache");
        let before = header(&path);
        // Behind the header's fields: an extension of 13 bytes, then those that were there.
        let mut bytes = std::fs::read(&path).expect("the cache can be read");
        let at = before.header_length() as usize;
        let unknown =
            [&0x1234_5678_u32.to_be_bytes()[..], &13_u32.to_be_bytes(), b"thirteen byte\0\0\0"].concat();
        let rest = bytes[at..cluster_size as usize - unknown.len()].to_vec();
        bytes[at..at + unknown.len()].copy_from_slice(&unknown);
        bytes[at + unknown.len()..cluster_size as usize].copy_from_slice(&rest);
        let name_offset =
            u64::from_be_bytes(bytes[8..16].try_into().expect("eight bytes")) + unknown.len() as u64;
        bytes[8..16].copy_from_slice(&name_offset.to_be_bytes());
        std::fs::write(&path, bytes).expect("the cache can be written");
        qemu::check(folder.path(), "cache");

        with_disk(&folder, async |disk| drop(disk.read(0, 200_000).await.expect("it can be read")));
        let after = header(&path);
        assert_eq!(after.extension(0x1234_5678), Some(&b"thirteen byte"[..]));
        assert_eq!(after.backing_file, before.backing_file);
        assert_ne!(after.cache(), before.cache(), "the header was not written");
        qemu::check(folder.path(), "cache");
    }
}

/// Another base of the same length is refused, as is a base that changed.
#[test]
fn a_cache_over_another_base_is_refused() {
    let mut random = Random::new(9);
    let folder = tempfile::tempdir().expect("a folder");
    new_base(&folder, &mut random, Format::Raw);
    new_chain(&folder, Format::Raw, 4096, 3, |_| u64::MAX);
    new_base(&folder, &mut random, Format::Raw);
    let runtime = LocalRuntime::new();
    let open = |identity| {
        let options = ChainOptions {
            identity,
            image: ImageOptions::default(),
            named_files: NamedFiles::Allow,
            ..ChainOptions::default()
        };
        let overlay = folder.path().join("overlay");
        runtime.block_on(open_chain(&overlay, Format::Qcow2, &options, runtime.clone())).map(drop)
    };
    let refusal = open(IdentityCheck::Sample).expect_err("the base is another one").to_string();
    assert!(refusal.contains("cache was made for another base image"), "{refusal}");
    assert!(open(IdentityCheck::Skip).is_ok());
}
