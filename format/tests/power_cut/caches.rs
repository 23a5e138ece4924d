//! Power cuts while a cache fills: whatever the cache claims to hold afterwards equals the base.

use crate::common::caches::{Bases, DISK, KINDS, Kind, disk_of, empty, verify};
use crate::common::recorded::{Moment, Record, Recorded, Replayed};
use crate::common::{Random, assert_same, qemu};
use crate::{cuts_of_a_kind, setting};
use vmicache_format::RawImage;
use vmicache_format::disk::Layer;
use vmicache_format::qcow2::{Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Memory;

const CUTS_OF_A_LIFE: u64 = 100;
/// Each life begins with what a cut left of the one before: its leaks are used again.
const LIVES: u64 = 4;
/// One in so many caches that a cut left goes on, and is shown to stock QEMU.
const GOES_ON_ONE_IN: u64 = 20;

/// A cache with this content is opened, fills from several readers at once, and is closed.
fn record(kind: &Kind, content: &[u8], random: &mut Random, bases: &Bases) -> Vec<Moment> {
    let runtime = LocalRuntime::new();
    let record = Record::new(random.below(u64::MAX));
    let cache = Recorded::new(Memory::new(content.to_vec()), 0, &record);
    let base = Recorded::new(bases.qcow2.clone(), 1, &record);
    runtime.block_on(async {
        let batch_bytes = random.pick(&[1, 16 << 10, 16 << 20]);
        let options = ImageOptions { batch_bytes, metadata_cache: Some(0), ..ImageOptions::default() };
        let image = Image::open(cache.clone(), "cache", Mode::Fill, options.clone(), runtime.clone()).await;
        let base = Image::open(base, "base", Mode::Read, options, runtime.clone()).await;
        let disk = disk_of(vec![Layer::Qcow2(image.unwrap()), Layer::Qcow2(base.unwrap())], &runtime);
        for _ in 0..10 {
            let pieces: Vec<_> = (0..6).map(|_| random.piece(DISK, 20_000)).collect();
            let reads = pieces.iter().map(|piece| {
                let disk = disk.clone();
                async move {
                    let read = disk.read(piece.start, piece.end - piece.start).await.unwrap();
                    let right = &bases.base[piece.start as usize..piece.end as usize];
                    assert_same(&read, right, "what is read through a cache");
                }
            });
            futures_util::future::join_all(reads).await;
            if random.chance(0.2) {
                disk.flush().await.unwrap();
            }
        }
        disk.close().await.unwrap();
    });
    assert!(cache.memory.to_vec().len() as u64 <= kind.quota);
    record.take()
}

/// Opened to be filled, the cache loses its leaks and goes on; stock QEMU finds nothing wrong with it.
fn goes_on(kind: &Kind, content: &[u8], bases: &Bases) {
    let runtime = LocalRuntime::new();
    let memory = Memory::new(content.to_vec());
    runtime.block_on(async {
        let options = ImageOptions::default();
        let cache = Image::open(memory.clone(), "cache", Mode::Fill, options, runtime.clone()).await.unwrap();
        let base = RawImage::open(Memory::new(bases.base.clone()), "base", false).await.unwrap();
        let disk = disk_of(vec![Layer::Qcow2(cache), Layer::Raw(base)], &runtime);
        assert_same(&disk.read(0, DISK).await.unwrap(), &bases.base, "what is read through a cache");
        disk.close().await.unwrap();
    });
    let after = memory.to_vec();
    assert!(after.len() as u64 <= kind.quota);
    verify(&after, bases);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("base"), &bases.base).unwrap();
    std::fs::write(folder.path().join("cut"), content).unwrap();
    std::fs::write(folder.path().join("cache"), after).unwrap();
    qemu::check_but_for_leaks(folder.path(), "cut");
    qemu::check(folder.path(), "cache");
}

#[test]
fn caches() {
    let bases = Bases::new();
    for (number, kind) in KINDS.iter().enumerate() {
        let wanted = cuts_of_a_kind();
        let (mut cuts, mut most_held) = (0, 0);
        let mut seed = setting("SEED", 1) + 1000 * number as u64;
        while cuts < wanted {
            let mut random = Random::new(seed);
            let mut content = LocalRuntime::new().block_on(empty(kind));
            for _ in 0..LIVES.min((wanted - cuts).div_ceil(CUTS_OF_A_LIFE)) {
                let (looked_at, held, left) = life(kind, &content, &mut random, &bases);
                cuts += looked_at;
                most_held = most_held.max(held);
                content = left;
            }
            seed += 1;
        }
        println!("{cuts} cuts of {kind:?}");
        assert!(most_held > DISK / 4, "{kind:?}: the caches never held more than {most_held} bytes");
    }
}

/// One life, cut at many moments: how many, how much the cache held at most, and what a cut left.
fn life(kind: &Kind, content: &[u8], random: &mut Random, bases: &Bases) -> (u64, u64, Vec<u8>) {
    let moments = record(kind, content, random, bases);
    let mut replayed = Replayed::new(vec![content.to_vec(), vec![]]);
    let share = CUTS_OF_A_LIFE as f64 / moments.len() as f64;
    let (mut cuts, mut most_held, mut left) = (0, 0, content.to_vec());
    for moment in &moments {
        replayed.advance(moment);
        if random.chance(share.min(1.0)) {
            let (mut cut, _) = replayed.cut(random);
            let cut = cut.swap_remove(0);
            most_held = most_held.max(verify(&cut, bases));
            cuts += 1;
            if random.below(GOES_ON_ONE_IN) == 0 {
                goes_on(kind, &cut, bases);
            }
            if left == content || random.chance(0.05) {
                left = cut;
            }
        }
    }
    (cuts, most_held, left)
}
