//! What a check finds and a repair mends, case by case.

mod common;

use common::damage::Victim;
use common::sparse::Sparse;
use common::{assert_same, qemu};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use vmicache_format::Result;
use vmicache_format::cache::BaseIdentity;
use vmicache_format::qcow2::check::{CheckOptions, FindingKind, Repair, Report, check, repair_dirty};
use vmicache_format::qcow2::{self, CacheOptions, CreateOptions, Image, ImageOptions, Mode, read_header};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Counting, Memory, MetadataKind, Storage};

const COPIED: u64 = 1 << 63;

fn run<T>(future: impl Future<Output = T>) -> T {
    LocalRuntime::new().block_on(future)
}

fn checked<S: Storage>(storage: &S, repair: Repair) -> Result<Report> {
    run(check(storage, "image", &CheckOptions { repair, ..CheckOptions::default() }))
}

/// A folder with `image`, which holds a MiB of data in clusters of 4 KiB.
fn image(options: &str) -> (TempDir, Victim) {
    let folder = tempfile::tempdir().expect("a folder");
    qemu::img(folder.path(), &["create", "-q", "-f", "qcow2", "-o", options, "image", "4M"]);
    let write = ["write -P 1 0 1M".into(), "write -P 2 3M 64k".into()];
    qemu::io(folder.path(), &["-f", "qcow2"], "image", &write);
    let bytes = fs::read(folder.path().join("image")).expect("qemu-img wrote it");
    (folder, Victim::new(bytes))
}

/// Repairs everything; afterwards QEMU finds no fault and the same disk.
fn mended(folder: &Path, victim: &Victim, before: &[u8]) -> (Report, Vec<u8>) {
    let storage = Memory::new(victim.bytes.clone());
    let report = checked(&storage, Repair::All).expect("an image");
    assert!(report.is_clean(), "{report:#?}");
    fs::write(folder.join("repaired"), storage.to_vec()).expect("a file can be written");
    qemu::check(folder, "repaired");
    assert_same(&qemu::content(folder, "repaired"), before, "the disk");
    (report, storage.to_vec())
}

#[test]
fn refcount_structures_that_cannot_be_used_are_built_anew() {
    for options in
        ["cluster_size=4k", "cluster_size=512", "cluster_size=4k,refcount_bits=1", "cluster_size=64k"]
    {
        let (folder, sound) = image(options);
        let before = qemu::content(folder.path(), "image");
        let table = sound.word(48);
        let block = sound.word(table);
        let data = sound.word(sound.l2_places()[3]) & !COPIED;
        for (entry, what) in [
            (0, "is missing"),
            (block + 512 * u64::from(sound.cluster() > 512) + 1, "is unaligned"),
            (sound.clusters() * sound.cluster() * 3, "is outside"),
            (1 << 60, "is far outside"),
            (table, "lies over the table"),
            (data, "lies over data"),
            (sound.word(40), "lies over the L1 table"),
        ] {
            let mut victim = Victim::new(sound.bytes.clone());
            victim.set_word(table, entry);
            let (report, _) = mended(folder.path(), &victim, &before);
            assert!(report.corruptions_fixed > 0, "{options}: a block that {what}: {report:#?}");
        }
        let mut victim = Victim::new(sound.bytes.clone());
        victim.set_word(48, victim.clusters() * 2 * victim.cluster());
        mended(folder.path(), &victim, &before);
    }
}

#[test]
fn a_refcount_block_that_is_named_twice_is_not_written_with() {
    let (folder, sound) = image("cluster_size=512");
    let before = qemu::content(folder.path(), "image");
    let table = sound.word(48);
    let mut victim = Victim::new(sound.bytes.clone());
    victim.set_word(table + 8, victim.word(table));
    let open = |bytes: Vec<u8>, mode| {
        let runtime = LocalRuntime::new();
        let opened = Image::open(Memory::new(bytes), "image", mode, ImageOptions::default(), runtime.clone());
        runtime.block_on(opened).map(drop)
    };
    open(victim.bytes.clone(), Mode::Read).expect("reading needs no refcounts");
    let refused = open(victim.bytes.clone(), Mode::Write).expect_err("two places are counted at once");
    assert!(refused.to_string().contains("entries 0 and 1"), "{refused}");
    let (_, repaired) = mended(folder.path(), &victim, &before);
    open(repaired, Mode::Write).expect("it has been repaired");
}

#[test]
fn marks_in_the_header_are_cleared_when_all_is_well() {
    let (folder, sound) = image("cluster_size=4k,lazy_refcounts=on");
    let before = qemu::content(folder.path(), "image");
    let marked = |marks| {
        let mut victim = Victim::new(sound.bytes.clone());
        victim.set_word(72, marks);
        (0..20).for_each(|cluster| victim.set_refcount(cluster, cluster % 3));
        victim
    };
    let (_, bytes) = mended(folder.path(), &marked(3), &before);
    assert_eq!(Victim::new(bytes).word(72), 0);
    let storage = Memory::new(marked(1).bytes);
    run(repair_dirty(&storage, "image")).expect("refcounts can be mended");
    assert_eq!(Victim::new(storage.to_vec()).word(72), 0);
    // Leaks alone: whoever set the corrupt bit saw more than that.
    let mut victim = Victim::new(sound.bytes.clone());
    victim.set_word(72, 3);
    let storage = Memory::new(victim.bytes.clone());
    assert!(checked(&storage, Repair::None).unwrap().is_clean());
    assert!(storage.to_vec() == victim.bytes);
    assert!(checked(&storage, Repair::Leaks).unwrap().is_clean());
    assert_eq!(Victim::new(storage.to_vec()).word(72), 2);
    // What cannot be mended keeps the mark.
    let at = victim.l2_places()[0];
    victim.set_word(at, victim.word(at) | 1 << 58);
    let storage = Memory::new(victim.bytes);
    let error = run(repair_dirty(&storage, "image")).unwrap_err().to_string();
    assert!(error.contains("reserved bits"), "{error}");
    assert_eq!(Victim::new(storage.to_vec()).word(72), 3);
}

#[test]
fn what_may_belong_to_a_lost_table_is_not_freed() {
    let (_folder, mut victim) = image("cluster_size=4k");
    let l1 = victim.l1_places()[0];
    victim.set_word(l1, victim.word(l1) + 512);
    let leaks = checked(&Memory::new(victim.bytes.clone()), Repair::None).unwrap().leaks;
    assert!(leaks > 256, "{leaks}");
    victim.set_refcount(3, 0);
    let storage = Memory::new(victim.bytes.clone());
    let report = checked(&storage, Repair::All).unwrap();
    assert_eq!((report.leaks, report.leaks_fixed), (leaks, 0), "{report:#?}");
    // The entry that is right again finds everything where it was.
    let mut victim = Victim::new(storage.to_vec());
    victim.set_word(l1, (victim.word(l1) - 512) | COPIED);
    let report = checked(&Memory::new(victim.bytes), Repair::None).unwrap();
    assert_eq!(report.leaks, 0, "{report:#?}");
}

#[test]
fn a_cache_keeps_its_quota() {
    let cache = |quota| CreateOptions {
        cluster_size: 4096,
        backing: Some(("base".into(), "raw".into())),
        cache: Some(CacheOptions { quota, base: Some(BaseIdentity::Version("1".into())) }),
        ..CreateOptions::new(1 << 20)
    };
    let storage = Memory::default();
    run(qcow2::create(&storage, "cache", &cache(1 << 20))).unwrap();
    let len = run(storage.len()).unwrap();
    assert!(checked(&storage, Repair::None).unwrap().is_clean());
    run(storage.set_len((1 << 20) + 1)).unwrap();
    let report = checked(&storage, Repair::None).unwrap();
    assert_eq!((report.corruptions, report.leaks), (1, 0), "{report:#?}");
    assert!(report.findings[0].text.contains("quota"), "{report:#?}");
    // Its unused end is cut off.
    let report = checked(&storage, Repair::All).unwrap();
    assert!(report.is_clean() && report.corruptions_fixed == 1, "{report:#?}");
    assert_eq!(run(storage.len()).unwrap(), len);
    // The bytes in use are a hint, which may be old.
    let mut victim = Victim::new(storage.to_vec());
    let header = run(read_header(&storage, "cache")).unwrap();
    let in_use = header.cache().unwrap().in_use;
    let at = victim.bytes.windows(8).position(|bytes| bytes == in_use.to_be_bytes()).unwrap();
    victim.set_word(at as u64, in_use + 1);
    let report = checked(&Memory::new(victim.bytes), Repair::None).unwrap();
    assert!(report.is_clean() && report.findings.len() == 1, "{report:#?}");
    assert_eq!(report.findings[0].kind, FindingKind::Note);
}

#[test]
fn new_structures_never_break_a_quota() {
    let options = |quota| CreateOptions {
        cluster_size: 512,
        backing: Some(("base".into(), "raw".into())),
        cache: Some(CacheOptions { quota, base: None }),
        ..CreateOptions::new(1 << 20)
    };
    let quota = qcow2::empty_file_bytes(&options(1 << 30)).unwrap();
    let storage = Memory::default();
    run(qcow2::create(&storage, "cache", &options(quota))).unwrap();
    let mut victim = Victim::new(storage.to_vec());
    victim.set_word(victim.word(48), 1 << 40);
    let storage = Memory::new(victim.bytes);
    let report = checked(&storage, Repair::All).unwrap();
    assert!(run(storage.len()).unwrap() <= quota);
    assert!(report.corruptions > 0, "there is no room: {report:#?}");
}

#[test]
fn an_encrypted_image_is_checked_without_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = "secret,id=key,data=x";
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10,cluster_size=4k";
    qemu::img(
        folder.path(),
        &["create", "-q", "--object", secret, "-f", "qcow2", "-o", options, "image", "1M"],
    );
    let bytes = fs::read(folder.path().join("image")).unwrap();
    let report = checked(&Memory::new(bytes.clone()), Repair::All).unwrap();
    assert!(report.is_clean() && report.findings.is_empty(), "{report:#?}");
    let mut victim = Victim::new(bytes);
    victim.set_refcount(victim.clusters() - 1, 0);
    assert_eq!(checked(&Memory::new(victim.bytes), Repair::None).unwrap().corruptions, 1);
}

#[test]
fn bitmaps_that_fell_behind_are_leaks() {
    let (folder, _) = image("cluster_size=4k");
    qemu::img(folder.path(), &["bitmap", "--add", "image", "one"]);
    let mut victim = Victim::new(fs::read(folder.path().join("image")).unwrap());
    assert!(checked(&Memory::new(victim.bytes.clone()), Repair::None).unwrap().is_clean());
    victim.set_word(88, 0);
    fs::write(folder.path().join("image"), &victim.bytes).unwrap();
    let stock = qemu::checked(folder.path(), &[], "image");
    let storage = Memory::new(victim.bytes);
    let report = checked(&storage, Repair::None).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, stock.number("leaks")), "{stock:?}");
    assert!(report.leaks > 0 && checked(&storage, Repair::Leaks).unwrap().is_clean());
}

#[test]
fn misplaced_zero_clusters_lose_their_place() {
    for extended in [false, true] {
        let options = if extended { "cluster_size=16k,extended_l2=on" } else { "cluster_size=4k" };
        let (folder, mut victim) = image(options);
        let at = victim.l2_places()[5];
        let zero = if extended { 0 } else { 1 };
        victim.set_word(at, (victim.word(at) + 512) | zero);
        if extended {
            victim.set_word(at + 8, 0xffff << 32);
        }
        fs::write(folder.path().join("image"), &victim.bytes).unwrap();
        let stock = qemu::checked(folder.path(), &["-r", "all"], "image");
        assert_eq!(stock.code, 0, "{stock:?}");
        let before = qemu::content(folder.path(), "image");
        let (report, bytes) = mended(folder.path(), &victim, &before);
        assert!(report.corruptions_fixed > 0, "{report:#?}");
        assert_eq!(Victim::new(bytes).word(at), if extended { 0 } else { 1 });
    }
}

#[test]
fn more_references_than_a_refcount_can_count_are_an_error() {
    let (_folder, mut victim) = image("cluster_size=4k,refcount_bits=2");
    let places = victim.l2_places();
    for at in &places[1..6] {
        victim.set_word(*at, victim.word(places[0]));
    }
    let report = checked(&Memory::new(victim.bytes.clone()), Repair::All).unwrap();
    assert_eq!(report.corruptions, 3, "six references, a refcount of three: {report:#?}");
}

#[test]
fn findings_are_bounded_and_counted() {
    let (_folder, mut victim) = image("cluster_size=4k");
    (10..200).for_each(|cluster| victim.set_refcount(cluster, 2));
    let storage = Memory::new(victim.bytes);
    let options = CheckOptions { max_findings: 7, ..CheckOptions::default() };
    let report = run(check(&storage, "image", &options)).unwrap();
    assert_eq!(report.findings.len(), 7);
    assert_eq!(report.findings_left_out + 7, report.leaks + report.corruptions);
}

/// A file of version 3 that consists of a header with these words, and of zeroes.
fn hostile(cluster_bits: u32, bytes: usize, words: &[(u64, u64)]) -> Victim {
    let mut victim = Victim::new(vec![0; bytes]);
    victim.set_word(0, 0x5146_49fb << 32 | 3);
    victim.set_word(16, u64::from(cluster_bits));
    victim.set_word(96, 4 << 32 | 104);
    words.iter().for_each(|(at, word)| victim.set_word(*at, *word));
    victim
}

#[test]
fn small_files_that_claim_much_are_read_once() {
    // 65535 snapshots share one L1 table, whose entries all point at one L2 table, whose entries share a cluster.
    let (l1, l2, snapshots) = (4096, 12288, 1 << 20);
    let words =
        [(24, 64 << 20), (36, 512 << 32), (40, l1), (48, 8192), (56, 1 << 32 | 65535), (64, snapshots)];
    let mut victim = hostile(12, 8 << 20, &words);
    for index in 0..512 {
        victim.set_word(l1 + index * 8, l2 | COPIED);
        victim.set_word(l2 + index * 8, 16384 | COPIED);
    }
    for entry in (snapshots..).step_by(56).take(65535) {
        victim.set_word(entry, l1);
        victim.set_word(entry + 8, 512 << 32);
        victim.set_word(entry + 32, 16);
    }
    let storage = Counting::new(Memory::new(victim.bytes));
    let report = checked(&storage, Repair::None).unwrap();
    assert!(storage.counts().metadata_reads.bytes < 16 << 20, "{:?}", storage.counts());
    let references = format!("{} references", 512u64 * 512 * 65536);
    assert!(report.findings.iter().any(|f| f.text.contains(&references)), "{:#?}", report.findings);
}

#[test]
fn a_file_without_end_is_counted_in_bounded_memory() {
    // The L1 table points all over a sparse file of 16 PiB.
    let (entries, far) = (32768, 1u64 << 54);
    let words = [(24, 1 << 30), (36, entries << 32), (40, 512), (48, 1 << 40), (56, 1 << 32)];
    let mut victim = hostile(9, 512 << 10, &words);
    (0..entries).for_each(|index| victim.set_word(512 + index * 8, (far / entries * index) | COPIED));
    let storage = Sparse::new(far);
    run(storage.write_metadata(MetadataKind::Header, 0, &victim.bytes)).unwrap();
    let limited = |memory_limit| {
        let options = CheckOptions { memory_limit, ..CheckOptions::default() };
        run(check(&storage, "image", &options))
    };
    assert!(limited(16 << 20).unwrap().corruptions >= entries - 1);
    let error = limited(1 << 20).unwrap_err().to_string();
    assert!(error.contains("memory"), "{error}");
}
