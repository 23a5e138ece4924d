//! Headers that lie, chains that never end, and data that poses as an image.

use crate::common::assert_same;
use crate::common::qemu;
use crate::common::steered::Steered;
use crate::tables::{field, set_u32, set_u64};
use crate::{folder_with, new_image, open, with_clusters};
use bytes::Bytes;
use std::path::Path;
use std::rc::Rc;
use vmicache_format::disk::Disk;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, create_image, open_chain};
use vmicache_format::qcow2::check::{CheckOptions, check};
use vmicache_format::qcow2::{CreateOptions, Mode, read_header};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile, Memory, Storage};
use vmicache_format::{Error, Result};

const DISK: u64 = 1 << 20;

fn image(version: u32) -> Vec<u8> {
    new_image(&CreateOptions { version, ..with_clusters(4096, DISK) }).to_vec()
}

/// An image with a field that says `number` is refused with an error that points at the field, and little is read.
#[track_caller]
fn assert_field_is_refused(version: u32, at: u64, number: u32) {
    let mut bytes = image(version);
    set_u32(&mut bytes, at, number);
    for mode in [Mode::Read, Mode::Write] {
        let storage = Steered::new(Memory::new(bytes.clone()));
        let runtime = LocalRuntime::new();
        let error = runtime.block_on(open(storage.clone(), mode, &runtime)).err().expect("that is wrong");
        let Error::Invalid { structure, offset, .. } = &error else { panic!("{error:?}") };
        assert_eq!((*structure, *offset), ("header", at), "{error}");
        let read: u64 = storage.take_requests().iter().map(|(_, range)| range.end - range.start).sum();
        assert!(read <= 3 * 4096, "{read} bytes were read of an image whose header is wrong");
        assert_same(&storage.memory().to_vec(), &bytes, "the image");
    }
}

#[test]
fn an_l1_size_of_ffffffff_is_refused() {
    assert_field_is_refused(2, field::L1_SIZE, u32::MAX);
    assert_field_is_refused(3, field::L1_SIZE, u32::MAX);
}

#[test]
fn a_refcount_order_of_63_is_refused() {
    assert_field_is_refused(3, field::REFCOUNT_ORDER, 63);
    assert_field_is_refused(3, field::REFCOUNT_ORDER, 7);
    assert_field_is_refused(3, field::REFCOUNT_ORDER, u32::MAX);
}

#[test]
fn a_refcount_table_of_no_clusters_is_refused() {
    for version in [2, 3] {
        assert_field_is_refused(version, field::REFCOUNT_TABLE_CLUSTERS, 0);
        assert_field_is_refused(version, field::REFCOUNT_TABLE_CLUSTERS, u32::MAX);
    }
}

/// Tables that begin so late that their end is no number are said to be wrong, wherever the image is stored.
#[test]
fn a_snapshot_table_that_ends_beyond_all_numbers_is_refused() {
    for (version, cluster_size) in [(2, 4096), (3, 512), (3, 65536)] {
        let options = CreateOptions { version, ..with_clusters(cluster_size, DISK) };
        let mut bytes = new_image(&options).to_vec();
        set_u32(&mut bytes, field::NB_SNAPSHOTS, 1);
        for offset in [cluster_size.wrapping_neg(), 1 << 63, 1 << 56] {
            set_u64(&mut bytes, field::SNAPSHOTS, offset);
            let folder = folder_with(&bytes);
            let file = HostFile::open(&folder.path().join("image"), Access::Read).expect("a file");
            assert_snapshots_are_refused(&Memory::new(bytes.clone()));
            assert_snapshots_are_refused(&file);
        }
    }
}

fn assert_snapshots_are_refused<S: Storage>(storage: &S) {
    let checked = LocalRuntime::new().block_on(check(storage, "image", &CheckOptions::default()));
    let error = checked.expect_err("that is wrong");
    let Error::Invalid { structure, offset, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*structure, *offset), ("header", field::NB_SNAPSHOTS), "{error}");
}

/// Nothing is read, nothing is written; what the image is can be said.
fn assert_only_described(bytes: &[u8], method: &str) {
    for mode in [Mode::Read, Mode::Write] {
        let memory = Memory::new(bytes.to_vec());
        let runtime = LocalRuntime::new();
        let error = runtime.block_on(open(memory.clone(), mode, &runtime)).err().expect("that is encrypted");
        let Error::Unsupported { feature, .. } = &error else { panic!("{error:?}") };
        assert!(feature.contains("encryption") && feature.contains(method), "{error}");
        assert_same(&memory.to_vec(), bytes, "the image");
        let header = runtime.block_on(read_header(&memory, "image")).expect("it can be described");
        assert_eq!(header.encryption().as_deref(), Some(method));
        assert_eq!(header.size, DISK);
    }
}

#[test]
fn crypt_method_1_is_never_written_as_plain_text() {
    for version in [2, 3] {
        let mut bytes = image(version);
        set_u32(&mut bytes, field::CRYPT_METHOD, 1);
        assert_only_described(&bytes, "aes");
    }
}

#[test]
fn crypt_method_2_is_never_written_as_plain_text() {
    let mut bytes = image(3);
    set_u32(&mut bytes, field::CRYPT_METHOD, 2);
    assert_only_described(&bytes, "luks");
}

#[test]
fn a_luks_image_of_the_stock_tool_is_refused_and_described() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10,cluster_size=4096";
    let arguments = ["create", "-q", "--object", "secret,id=key,data=secret", "-f", "qcow2", "-o", options];
    qemu::img(folder.path(), &[arguments.as_slice(), &["image", &DISK.to_string()]].concat());
    let bytes = std::fs::read(folder.path().join("image")).expect("qemu-img wrote it");
    assert_only_described(&bytes, "luks");
}

/// Images may name other files.
fn all_named() -> ChainOptions {
    ChainOptions { named_files: NamedFiles::Allow, ..ChainOptions::default() }
}

fn open_file(path: &Path, options: &ChainOptions, runtime: &Rc<LocalRuntime>) -> Result<Disk<HostFile>> {
    let _alone = qemu::no_process_starts();
    runtime.block_on(open_chain(path, Format::Qcow2, options, runtime.clone()))
}

fn create(folder: &Path, name: &str, backing: &str) {
    let options =
        CreateOptions { backing: Some((backing.into(), "qcow2".into())), ..with_clusters(4096, DISK) };
    LocalRuntime::new().block_on(create_image(&folder.join(name), &options)).expect("it can be made");
}

#[test]
fn a_chain_that_backs_itself_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    create(path, "itself", "itself");
    for (name, backing) in [("a", "b"), ("b", "c"), ("c", "a")] {
        create(path, name, backing);
    }
    // By other names of the same file.
    create(path, "linked", "symbolic");
    std::os::unix::fs::symlink("linked", path.join("symbolic")).expect("a link");
    create(path, "hard", "other");
    std::fs::hard_link(path.join("hard"), path.join("other")).expect("a link");
    create(path, "roundabout", "../roundabout-folder/roundabout");
    std::os::unix::fs::symlink(path, path.with_file_name("roundabout-folder")).expect("a link");
    for name in ["itself", "a", "b", "c", "linked", "hard", "roundabout"] {
        for writable in [false, true] {
            let options = ChainOptions { writable, ..all_named() };
            let error =
                open_file(&path.join(name), &options, &LocalRuntime::new()).err().expect("that never ends");
            assert!(matches!(error, Error::Refused { .. }), "{name}: {error:?}");
            assert!(error.to_string().contains("backs itself"), "{name}: {error}");
        }
    }
    std::fs::remove_file(path.with_file_name("roundabout-folder")).expect("there is a link");
}

/// A guest can write whatever it likes to the start of its raw disk, a header that names a backing file for one.
#[test]
fn guest_data_in_a_raw_base_names_no_backing_file() {
    let folder = folder_with(&[]);
    let path = folder.path();
    std::fs::write(path.join("secret"), [0x55; 4096]).expect("a file");
    let posing =
        CreateOptions { backing: Some(("secret".into(), "raw".into())), ..with_clusters(4096, DISK) };
    let base = new_image(&posing).to_vec();
    std::fs::write(path.join("base"), &base).expect("a file");
    let overlay = |backing_format: &str| CreateOptions {
        backing: Some(("base".into(), backing_format.into())),
        ..with_clusters(4096, base.len() as u64 / 512 * 512)
    };
    let runtime = LocalRuntime::new();
    runtime.block_on(create_image(&path.join("image"), &overlay("raw"))).expect("it can be made");
    let disk = open_file(&path.join("image"), &all_named(), &runtime).expect("it opens");
    let read = runtime.block_on(disk.read(0, disk.size())).expect("it can be read");
    assert_same(&read, &base[..read.len()], "the raw base");
    drop(disk);

    // An overlay that does not say what its base is: nobody guesses.
    qemu::img(path, &["rebase", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", "raw", "image"]);
    let mut bytes = std::fs::read(path.join("image")).expect("the overlay");
    let kind = 0xe279_2aca_u32.to_be_bytes();
    let at = bytes.windows(4).position(|window| window == kind).expect("it states the format");
    bytes[at..at + 4].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    std::fs::write(path.join("image"), &bytes).expect("a file");
    for writable in [false, true] {
        let options = ChainOptions { writable, ..all_named() };
        let error = open_file(&path.join("image"), &options, &runtime).err().expect("nothing is guessed");
        assert!(error.to_string().contains("format of the backing file"), "{error}");
    }
}

/// What a guest writes to the first sector of its own disk is data, too, when the overlay is opened again.
#[test]
fn a_guest_that_writes_a_header_changes_no_chain() {
    let folder = folder_with(&[]);
    let path = folder.path().join("image");
    let runtime = LocalRuntime::new();
    runtime.block_on(create_image(&path, &with_clusters(512, DISK))).expect("it can be made");
    let posing = new_image(&CreateOptions {
        backing: Some(("secret".into(), "raw".into())),
        ..with_clusters(512, DISK)
    });
    let header = Bytes::from(posing.to_vec()[..512].to_vec());
    let writable = ChainOptions { writable: true, ..all_named() };
    let disk = open_file(&path, &writable, &runtime).expect("it opens");
    runtime.block_on(async {
        disk.write(0, header.clone()).await.expect("it can be written");
        disk.close().await.expect("it closes");
    });
    drop(disk);
    let disk = open_file(&path, &all_named(), &runtime).expect("it opens");
    assert_eq!(disk.layers().len(), 1);
    assert_same(&runtime.block_on(disk.read(0, 512)).expect("it can be read"), &header, "the guest's header");
}
