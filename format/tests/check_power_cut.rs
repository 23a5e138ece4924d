//! A power cut while an image is repaired: the disk is as it was, nothing is worse, and the next repair ends as well.

mod common;

use common::cuts::Recorded;
use common::damage::Victim;
use common::samples::KINDS;
use common::{Random, assert_same, seeds};
use std::rc::Rc;
use vmicache_format::Result;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::check::{CheckOptions, Finding, FindingKind, Repair, Report, check};
use vmicache_format::qcow2::{Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Memory, Storage};

const DISK_PIECE: u64 = 1 << 20;

fn checked<S: Storage>(storage: &S, repair: Repair) -> Result<Report> {
    let options = CheckOptions { repair, ..CheckOptions::default() };
    LocalRuntime::new().block_on(check(storage, "image", &options))
}

/// The disk, piece by piece; `None` where it cannot be read.
fn content(bytes: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let runtime = Rc::new(LocalRuntime::new());
    let read = async {
        let storage = Memory::new(bytes.to_vec());
        let image =
            Image::open(storage, "image", Mode::Read, ImageOptions::default(), runtime.clone()).await?;
        let size = image.size();
        let disk = Disk::new(vec![Rc::new(Layer::Qcow2(image))], Filling::Beside, runtime.clone())?;
        let mut pieces = Vec::new();
        for start in (0..size).step_by(DISK_PIECE as usize) {
            let piece = disk.read(start, DISK_PIECE.min(size - start)).await;
            pieces.push(piece.ok().map(|bytes| bytes.to_vec()));
        }
        Ok::<_, vmicache_format::Error>(pieces)
    };
    runtime.block_on(read).ok()
}

/// Clusters whose refcount is below their references: a write to something else may overwrite them.
fn endangered(report: &Report) -> Vec<&Finding> {
    let is_danger = |finding: &&Finding| {
        finding.structure == "refcount" && finding.kind == FindingKind::Corruption && !finding.repaired
    };
    report.findings.iter().filter(is_danger).collect()
}

#[test]
fn a_repair_that_is_cut_off_does_no_harm_and_can_be_repeated() {
    for seed in seeds(1, 2) {
        for (number, kind) in (0..).zip(&KINDS) {
            let mut random = Random::new(seed * 1000 + number);
            let folder = tempfile::tempdir().expect("a folder");
            let bytes = kind.make(folder.path(), &mut random);
            for _ in 0..6 {
                let mut victim = Victim::new(bytes.clone());
                for _ in 0..random.pick(&[1, 3, 8]) {
                    victim.damage(&mut random);
                }
                cut(
                    &victim,
                    &mut random,
                    &format!("seed {seed}, {}: {}", kind.name, victim.story.join("; ")),
                );
            }
        }
    }
}

fn cut(victim: &Victim, random: &mut Random, case: &str) {
    let Ok(found) = checked(&Memory::new(victim.bytes.clone()), Repair::None) else { return };
    let before = content(&victim.bytes);
    for repair in [Repair::Leaks, Repair::All] {
        let recorded = Recorded::new(&victim.bytes);
        let whole = checked(&recorded, repair).expect("what can be checked can be repaired");
        for _ in 0..4 {
            let moment = random.below(recorded.moments() as u64) as usize;
            let bytes = recorded.cut_at(moment, random);
            let case = format!("{case}; {repair:?} is cut at {moment} of {}", recorded.moments());
            same_disk(&bytes, before.as_deref(), &case);
            let storage = Memory::new(bytes);
            let left = checked(&storage, Repair::None).unwrap_or_else(|error| panic!("{case}: {error}"));
            let more: Vec<_> =
                endangered(&left).into_iter().filter(|f| !endangered(&found).contains(f)).collect();
            assert!(more.is_empty() || found.corruptions > 0, "{case}: new dangers: {more:#?}");
            let again = checked(&storage, repair).expect("a repair can be repeated");
            if whole.is_clean() {
                assert!(again.is_clean(), "{case}: {again:#?}");
            }
            same_disk(&storage.to_vec(), before.as_deref(), &case);
        }
    }
}

fn same_disk(bytes: &[u8], before: Option<&[Option<Vec<u8>>]>, case: &str) {
    let Some(before) = before else { return };
    let after = content(bytes).unwrap_or_else(|| panic!("the disk cannot be opened any more: {case}"));
    for (before, after) in before.iter().zip(&after) {
        if let Some(before) = before {
            let after = after.as_ref().unwrap_or_else(|| panic!("the disk cannot be read any more: {case}"));
            assert_same(after, before, case);
        }
    }
}
