//! Whether a cache holds what its base holds: found out, counted and placed.

mod common;

use common::{Random, qemu};
use std::path::Path;
use tempfile::TempDir;
use vmicache_format::cache::{BaseIdentity, Description, IdentityCheck, describe};
use vmicache_format::disk::Verification;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, create_image, describe_base, open_chain};
use vmicache_format::qcow2::{CacheOptions, CreateOptions};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};
use vmicache_format::{Error, Result};

const MIB: u64 = 1 << 20;
const DISK: u64 = 8 * MIB + 1536;

/// A folder with a base of random bytes with a hole, and a cache that holds the parts given.
fn cached(parts: &[(u64, u64)], cluster_size: u64, base_format: Format) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut content = Random::new(7).bytes(DISK);
    content[2 * MIB as usize..4 * MIB as usize].fill(0);
    std::fs::write(folder.path().join("base"), &content).expect("the base can be written");
    if base_format == Format::Qcow2 {
        qemu::img(folder.path(), &["convert", "-f", "raw", "-O", "qcow2", "base", "base.qcow2"]);
        std::fs::rename(folder.path().join("base.qcow2"), folder.path().join("base")).expect("renamed");
    }
    let _alone = qemu::no_process_starts();
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let described =
            describe_base(&folder.path().join("base"), base_format, NamedFiles::Allow, runtime.clone()).await;
        let (size, identity) = described.expect("the base can be opened");
        let options = CreateOptions {
            cluster_size,
            backing: Some(("base".into(), base_format.to_string())),
            cache: Some(CacheOptions { quota: 64 * MIB, base: Some(identity) }),
            ..CreateOptions::new(size)
        };
        let cache = folder.path().join("cache");
        create_image(&cache, &options).await.expect("the cache can be made");
        let options = ChainOptions { fill: true, named_files: NamedFiles::Allow, ..ChainOptions::default() };
        let disk =
            open_chain(&cache, Format::Qcow2, &options, runtime.clone()).await.expect("the chain opens");
        for &(offset, length) in parts {
            disk.read(offset, length).await.expect("it can be read");
        }
        disk.close().await.expect("it closes");
    });
    folder
}

fn verify_with(folder: &Path, identity: IdentityCheck) -> Result<Verification> {
    let _alone = qemu::no_process_starts();
    let runtime = LocalRuntime::new();
    let options = ChainOptions { identity, named_files: NamedFiles::Allow, ..ChainOptions::default() };
    runtime.block_on(async {
        let disk = open_chain(&folder.join("cache"), Format::Qcow2, &options, runtime.clone()).await?;
        let mut last = 0;
        let verification = disk
            .verify(|position| {
                assert!(last < position && position <= DISK);
                last = position;
            })
            .await;
        disk.close().await?;
        verification
    })
}

fn verify(folder: &Path) -> Result<Verification> {
    verify_with(folder, IdentityCheck::Sample)
}

fn description(folder: &Path, name: &str) -> Result<Description> {
    let runtime = LocalRuntime::new();
    let file = HostFile::open(&folder.join(name), Access::Inspect).expect("the file is there");
    runtime.block_on(describe(file, name, runtime.clone()))
}

#[test]
fn a_cache_that_only_reads_have_filled_is_right() {
    for (cluster_size, format) in
        [(512, Format::Raw), (4096, Format::Qcow2), (65536, Format::Raw), (2 * MIB, Format::Qcow2)]
    {
        let folder = cached(&[(0, 3 * MIB), (5 * MIB, 100), (DISK - 512, 512)], cluster_size, format);
        let verification = verify(folder.path()).expect("it can be verified");
        let description = description(folder.path(), "cache").expect("it can be described");
        assert!(verification.is_right() && verification.wrong.is_empty());
        assert!(verification.compared_bytes >= 3 * MIB + 612, "{verification:?}");
        assert_eq!(verification.compared_bytes, description.cached_bytes);
        assert_eq!(verification.zero_bytes, description.zero_bytes);
        // Zeroes that were written to a raw base are no hole; conversion to qcow2 leaves them out.
        let expected = if format == Format::Raw { 0 } else { MIB };
        assert!(verification.zero_bytes >= expected, "{verification:?}");
        assert_eq!(description.bytes_in_use, description.bytes_in_use_hint);
    }
}

#[test]
fn what_a_stock_tool_writes_to_a_cache_is_found_where_it_is() {
    let folder = cached(&[(0, 2 * MIB)], 4096, Format::Raw);
    let writes = ["write -q -P 0xab 40960 512", "write -q -P 0xab 44k 4k", "write -q -P 0xab 6M 1k"];
    qemu::io(folder.path(), &["-f", "qcow2"], "cache", &writes.map(String::from));
    let verification = verify(folder.path()).expect("it can be verified");
    // The third lay in no cached cluster; now the cache claims it.
    assert_eq!(verification.wrong, [40960..49152, 6 * MIB..6 * MIB + 4096]);
    assert_eq!((verification.wrong_ranges, verification.wrong_bytes), (2, 3 * 4096));
    assert!(!verification.is_right());
}

#[test]
fn of_many_wrong_ranges_the_first_are_kept_and_all_counted() {
    let folder = cached(&[(0, MIB)], 512, Format::Raw);
    let writes: Vec<String> = (0..100).map(|i| format!("write -q -P 0xab {} 512", i * 1024)).collect();
    qemu::io(folder.path(), &["-f", "qcow2"], "cache", &writes);
    let verification = verify(folder.path()).expect("it can be verified");
    assert_eq!((verification.wrong.len(), verification.wrong_ranges), (Verification::KEPT, 100));
    assert_eq!(verification.wrong_bytes, 100 * 512);
    assert_eq!(verification.wrong.last(), Some(&(63 * 1024..63 * 1024 + 512)));
}

#[test]
fn a_base_that_changed_is_found_by_its_identity_or_by_its_blocks() {
    use std::os::unix::fs::FileExt;
    let folder = cached(&[(0, 2 * MIB)], 4096, Format::Raw);
    let base = std::fs::OpenOptions::new().write(true).open(folder.path().join("base")).expect("it opens");
    // Between the samples: only the blocks themselves tell.
    base.write_all_at(&[0xcd; 16], 81_920).expect("it can be written");
    let found = verify(folder.path()).expect("it can be verified");
    assert_eq!((found.wrong.first(), found.wrong_ranges), (Some(&(81_920..86_016)), 1));
    base.write_all_at(&[0xcd; 16], 0).expect("it can be written");
    assert!(matches!(verify(folder.path()), Err(Error::OtherBase { .. })));
    let skipped = verify_with(folder.path(), IdentityCheck::Skip).expect("verified");
    assert_eq!(skipped.wrong, [0..4096, 81_920..86_016]);
}

#[test]
fn damaged_tables_are_an_error_that_names_them() {
    use std::os::unix::fs::FileExt;
    let folder = cached(&[(0, MIB)], 65536, Format::Raw);
    let path = folder.path().join("cache");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("it opens");
    let mut entry = [0; 8];
    file.read_exact_at(&mut entry, 40).expect("it can be read");
    let l1 = u64::from_be_bytes(entry);
    file.read_exact_at(&mut entry, l1).expect("it can be read");
    let l2 = u64::from_be_bytes(entry) & 0x00ff_ffff_ffff_fe00;
    // Two clusters of the disk in one of the file.
    file.read_exact_at(&mut entry, l2).expect("it can be read");
    file.write_all_at(&entry, l2 + 8).expect("it can be written");
    for error in [verify(folder.path()).unwrap_err(), description(folder.path(), "cache").unwrap_err()] {
        assert!(matches!(error, Error::Invalid { structure: "data cluster", .. }), "{error}");
    }
}

#[test]
fn a_description_trusts_no_hint() {
    let folder = cached(&[(0, MIB)], 4096, Format::Raw);
    let before = description(folder.path(), "cache").expect("it can be described");
    assert_eq!((before.data_bytes, before.cached_bytes, before.quota), (MIB, MIB, 64 * MIB));
    assert_eq!((before.size, before.clusters.size), (DISK, 4096));
    assert_eq!(before.backing_file.as_deref(), Some("base"));
    assert!(matches!(before.base, Some(BaseIdentity::Digest { length: DISK, .. })));
    assert!(before.bytes_in_use > MIB && before.bytes_in_use <= before.file_bytes);
    // A stock tool takes another cluster and knows nothing of the hint.
    qemu::io(folder.path(), &["-f", "qcow2"], "cache", &["write -q -P 1 5M 4k".into()]);
    let after = description(folder.path(), "cache").expect("it can be described");
    assert_eq!(after.bytes_in_use_hint, before.bytes_in_use_hint);
    assert!(after.bytes_in_use >= before.bytes_in_use + 4096);
}

#[test]
fn what_is_no_cache_is_refused() {
    let folder = cached(&[], 4096, Format::Qcow2);
    assert!(matches!(description(folder.path(), "base"), Err(Error::Refused { .. })));
}
