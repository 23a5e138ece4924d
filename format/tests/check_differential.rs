//! Check and repair against stock `qemu-img check`, on images of all kinds with all kinds of damage.

mod common;

use common::damage::Victim;
use common::qemu::{self, Checked};
use common::samples::{KINDS, Kind};
use common::{Random, assert_same, seeds};
use std::fs;
use std::path::Path;
use vmicache_format::Error;
use vmicache_format::qcow2::check::{CheckOptions, Finding, FindingKind, Repair, Report, check};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Memory;

/// Checks, and repairs if asked to, the image of these bytes.
fn checked(bytes: &[u8], repair: Repair) -> (Result<Report, Error>, Vec<u8>) {
    let storage = Memory::new(bytes.to_vec());
    let options = CheckOptions { repair, ..CheckOptions::default() };
    let report = LocalRuntime::new().block_on(check(&storage, "image", &options));
    (report, storage.to_vec())
}

/// The exit code that qemu-img has for a report.
fn code(report: &Result<Report, Error>) -> i32 {
    match report {
        Err(_) => 1,
        Ok(report) if report.corruptions > 0 => 2,
        Ok(report) if report.leaks > 0 => 3,
        Ok(_) => 0,
    }
}

/// Found here, and never looked for by qemu-img.
fn is_ours_alone(finding: &Finding) -> bool {
    let texts = ["something else uses it", "of the data file", "points nowhere", "reserved bits are set"];
    finding.repaired
        || finding.kind != FindingKind::Corruption
        || texts.iter().any(|text| finding.text.contains(text))
}

/// Both judge an image alike.
fn assert_agree(report: &Result<Report, Error>, stock: &Checked, case: &str) {
    let ours = code(report);
    let stricter = |report: &Report| report.findings.iter().all(is_ours_alone);
    let agree = ours == stock.code
        // qemu-img gives up when it cannot read a refcount block, an L1 table of a snapshot or a bitmap.
        || stock.code == 1 && ours == 2
        || ours == 2 && report.as_ref().is_ok_and(stricter);
    assert!(agree, "{case}\nours: {ours}, {report:#?}\nqemu-img: {stock:#?}");
}

fn assert_same_numbers(report: &Report, stock: &Checked, case: &str) {
    let pairs = [
        ("leaks", report.leaks),
        ("corruptions", report.corruptions),
        ("total-clusters", report.total_clusters),
        ("allocated-clusters", report.allocated_clusters),
        ("fragmented-clusters", report.fragmented_clusters),
        ("compressed-clusters", report.compressed_clusters),
        ("image-end-offset", report.image_end_offset),
    ];
    for (key, ours) in pairs {
        assert_eq!(ours, stock.number(key), "{key}: {case}\n{report:#?}\n{stock:#?}");
    }
}

/// What is left after a repair is what qemu-img finds, too, and the disk is as it was.
fn check_repaired(folder: &Path, bytes: &[u8], before: Option<&[u8]>, case: &str) {
    for repair in [Repair::Leaks, Repair::All] {
        let (report, repaired) = checked(bytes, repair);
        let case = format!("{case}, {repair:?}");
        fs::write(folder.join("repaired"), &repaired).expect("a file can be written");
        let stock = qemu::checked(folder, &[], "repaired");
        assert_agree(&report, &stock, &case);
        let Ok(report) = report else { continue };
        let (again, untouched) = checked(&repaired, Repair::None);
        let again = again.expect("what was checked once can be checked again");
        assert_eq!((again.corruptions, again.leaks), (report.corruptions, report.leaks), "{case}");
        assert!(untouched == repaired, "a check wrote something: {case}");
        if let Some(before) = before {
            let after = qemu::readable_content(folder, "repaired");
            assert_same(&after.unwrap_or_else(|| panic!("cannot be read any more: {case}")), before, &case);
        }
    }
}

fn with_every_kind(round: u64, test: impl Fn(&Kind, &Path, &[u8], &mut Random)) {
    for (number, kind) in (0..).zip(&KINDS) {
        let mut random = Random::new(round * 1000 + number);
        let folder = tempfile::tempdir().expect("a folder");
        let bytes = kind.make(folder.path(), &mut random);
        test(kind, folder.path(), &bytes, &mut random);
    }
}

#[test]
fn sound_images_are_clean_and_counted_alike() {
    with_every_kind(1, |kind, folder, bytes, _| {
        let stock = qemu::checked(folder, &[], "image");
        let (report, _) = checked(bytes, Repair::None);
        assert_agree(&report, &stock, kind.name);
        let report = report.expect("a sound image");
        assert!(report.is_clean() && report.findings.is_empty(), "{}: {report:#?}", kind.name);
        assert_same_numbers(&report, &stock, kind.name);
        for repair in [Repair::Leaks, Repair::All] {
            let (_, repaired) = checked(bytes, repair);
            assert!(repaired == bytes, "{}: a sound image was changed", kind.name);
        }
    });
}

#[test]
fn damaged_images_are_judged_and_repaired_alike() {
    for round in seeds(2, 2) {
        with_every_kind(round, |kind, folder, bytes, random| {
            for _ in 0..3 {
                let mut victim = Victim::new(bytes.to_vec());
                for _ in 0..random.pick(&[1, 1, 2, 5]) {
                    victim.damage(random);
                }
                let case = format!("round {round}, {}: {}", kind.name, victim.story.join("; "));
                fs::write(folder.join("image"), &victim.bytes).expect("a file can be written");
                let stock = qemu::checked(folder, &[], "image");
                let (report, _) = checked(&victim.bytes, Repair::None);
                assert_agree(&report, &stock, &case);
                let before = qemu::readable_content(folder, "image");
                check_repaired(folder, &victim.bytes, before.as_deref(), &case);
            }
        });
    }
}
