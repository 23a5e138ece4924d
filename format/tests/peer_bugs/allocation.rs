//! Clusters given out wrongly, and tables that say wrong things of them.

use crate::common::steered::{Fate, Kind, Steered};
use crate::common::{Random, assert_same, seeds};
use crate::tables::{COPIED, Tables, field, number, set_u64};
use crate::{check_with_qemu, new_image, open, open_with, with_clusters};
use bytes::Bytes;
use futures_util::future::join_all;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use vmicache_format::Result;
use vmicache_format::qcow2::{ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Memory, MetadataKind};

const DISK: u64 = 2 << 20;

fn put(model: &mut [u8], offset: u64, data: &[u8]) {
    model[offset as usize..offset as usize + data.len()].copy_from_slice(data);
}

/// Random writes and zeroes, several at once, none onto another; now and then a flush.
async fn use_disk(disk: &vmicache_format::disk::Disk<Steered>, random: &mut Random, model: &mut [u8]) {
    for round in 0..30 {
        if round % 3 == 2 {
            disk.flush().await.expect("it can be flushed");
        }
        let part = model.len() as u64 / 4;
        let pieces = (0..4).map(|number| {
            let piece = random.piece(part, 30_000);
            (number * part + piece.start, random.bytes(piece.end - piece.start), random.chance(0.2))
        });
        let pieces: Vec<(u64, Vec<u8>, bool)> = pieces.collect();
        let done = join_all(pieces.iter().map(async |(offset, data, zero)| match zero {
            true => disk.write_zeroes(*offset, data.len() as u64).await,
            false => disk.write(*offset, Bytes::from(data.clone())).await,
        }));
        done.await.into_iter().collect::<Result<Vec<()>>>().expect("the disk can be written");
        for (offset, data, zero) in &pieces {
            put(model, *offset, if *zero { &[0; 40_000][..data.len()] } else { data });
        }
    }
}

/// Every write to a file falls into one of these; none may change its kind while it is in use.
#[test]
fn the_allocator_hands_out_no_live_l2_cluster() {
    for seed in seeds(0, 10) {
        let mut random = Random::new(seed);
        let cluster_size = random.pick(&[512, 512, 1024]);
        let storage = Steered::new(new_image(&with_clusters(cluster_size, DISK)));
        let (tables, data) = (Rc::new(RefCell::new(BTreeSet::new())), Rc::new(RefCell::new(BTreeSet::new())));
        let (seen_tables, seen_data) = (tables.clone(), data.clone());
        storage.witness(move |kind, range, _| {
            let seen = match kind {
                Kind::WriteMetadata(MetadataKind::L2Table) => &seen_tables,
                Kind::Write => &seen_data,
                _ => return,
            };
            seen.borrow_mut().extend(range.start / cluster_size..range.end.div_ceil(cluster_size));
        });
        let runtime = LocalRuntime::new();
        let mut model = vec![0; DISK as usize];
        runtime.block_on(async {
            for _ in 0..3 {
                // The tables are read again and again.
                let options = ImageOptions { metadata_cache: Some(0), batch_bytes: 1, ..Default::default() };
                let disk =
                    open_with(storage.clone(), Mode::Write, options, &runtime).await.expect("it opens");
                use_disk(&disk, &mut random, &mut model).await;
                disk.close().await.expect("it closes");
            }
        });
        assert!(tables.borrow().len() > 2 && data.borrow().len() > 100, "too little was written");
        let both: Vec<u64> = tables.borrow().intersection(&data.borrow()).copied().collect();
        assert!(both.is_empty(), "guest data was written to the clusters {both:?} of L2 tables");
        check_with_qemu(&storage.memory().to_vec(), &model);
    }
}

/// One request after the other fails, each of another kind; then others are written where it had been.
#[test]
fn no_cluster_is_allocated_twice_after_a_failed_write() {
    let kinds = [
        Kind::Write,
        Kind::WriteMetadata(MetadataKind::L2Table),
        Kind::WriteMetadata(MetadataKind::L1Table),
        Kind::WriteMetadata(MetadataKind::RefcountBlock),
        Kind::WriteMetadata(MetadataKind::RefcountTable),
        Kind::Flush,
    ];
    for (kind, late) in kinds.iter().flat_map(|kind| [(*kind, false), (*kind, true)]) {
        for victim in 0..4 {
            let storage = Steered::new(new_image(&with_clusters(512, DISK)));
            let runtime = LocalRuntime::new();
            let options = ImageOptions { batch_bytes: 1, ..Default::default() };
            let mut model = vec![0; DISK as usize];
            runtime.block_on(async {
                let disk =
                    open_with(storage.clone(), Mode::Write, options, &runtime).await.expect("it opens");
                let seen = Cell::new(0);
                storage.rule(move |asked, _| {
                    if asked == kind && seen.replace(seen.get() + 1) == victim {
                        return if late { Fate::FailLate } else { Fate::Fail };
                    }
                    Fate::Pass
                });
                for number in 0..40 {
                    // Now and then into a table of its own.
                    let (offset, data) = (number % 8 * 40_000 + number * 512, vec![number as u8 + 1; 1024]);
                    let written = disk.write(offset, Bytes::from(data.clone())).await;
                    let flushed = disk.flush().await;
                    if written.is_err() {
                        let again = disk.write(offset, Bytes::from(data.clone())).await;
                        again.expect("only one request fails");
                    }
                    if flushed.is_err() {
                        disk.flush().await.expect("only one request fails");
                    }
                    put(&mut model, offset, &data);
                }
                disk.close().await.expect("it closes");
            });
            check_with_qemu(&storage.memory().to_vec(), &model);
        }
    }
}

/// Whenever an L1 entry reaches the storage, the refcount of the table that it points at is there already, and so
/// are the L2 entry and the refcount before it of every data cluster.
#[test]
fn no_table_is_published_before_its_refcount() {
    for seed in seeds(0, 6) {
        let mut random = Random::new(seed);
        let storage = Steered::new(new_image(&with_clusters(random.pick(&[512, 4096]), DISK)));
        let published = Rc::new(Cell::new(0));
        let seen = published.clone();
        // What the storage held at its last flush: all that a power cut would have left for sure.
        let durable = RefCell::new(storage.memory().to_vec());
        storage.witness(move |kind, _, bytes| {
            let pointers = match kind {
                Kind::Flush => {
                    *durable.borrow_mut() = bytes.to_vec();
                    return;
                }
                // What stands there just before the next write: the pointers that were written by then.
                Kind::WriteMetadata(_) => bytes,
                _ => return,
            };
            let (now, safe) = (Tables::new(pointers), durable.borrow());
            let safe = Tables::new(&safe);
            for entry in now.l1().chain(now.l2()).filter(|entry| entry.offset() != 0) {
                assert_eq!(safe.refcount(entry.offset()), 1, "of the cluster in {entry:x?}");
                seen.set(seen.get() + 1);
            }
        });
        let runtime = LocalRuntime::new();
        let mut model = vec![0; DISK as usize];
        runtime.block_on(async {
            let options = ImageOptions { batch_bytes: 1, ..Default::default() };
            let disk = open_with(storage.clone(), Mode::Write, options, &runtime).await.expect("it opens");
            use_disk(&disk, &mut random, &mut model).await;
            disk.close().await.expect("it closes");
        });
        assert!(published.get() > 100, "too little was published");
        check_with_qemu(&storage.memory().to_vec(), &model);
    }
}

/// Writes over the whole disk of a damaged image, and returns the image.
fn write_all(bytes: Vec<u8>) -> Vec<u8> {
    let memory = Memory::new(bytes);
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let Ok(disk) = open(memory.clone(), Mode::Write, &runtime).await else { return };
        for offset in (0..disk.size()).step_by(512) {
            // Whether it succeeds does not matter here.
            drop(disk.write(offset, Bytes::from(vec![0xee; 512])).await);
        }
        drop(disk.close().await);
    });
    memory.to_vec()
}

fn some_image() -> Vec<u8> {
    let memory = new_image(&with_clusters(512, 200_000));
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let disk = open(memory.clone(), Mode::Write, &runtime).await.expect("it opens");
        disk.write(1000, Bytes::from(vec![1; 50_000])).await.expect("it can be written");
        disk.close().await.expect("it closes");
    });
    memory.to_vec()
}

/// The refcount of the header's cluster says that it is free.
#[test]
fn nothing_is_allocated_at_offset_0() {
    let mut bytes = some_image();
    let header = bytes[..512].to_vec();
    let at = Tables::new(&bytes).refcount_at(0).expect("the header is counted") as usize;
    bytes[at..at + 2].fill(0);
    let mut after = write_all(bytes);
    // It may have got the bit that says that the image is damaged.
    after[79] &= !2;
    assert_same(&after[..512], &header, "the header");
}

/// An L2 entry says that a guest's cluster lies where the header, a table or a refcount block lies.
#[test]
fn guest_data_goes_over_no_header_and_no_table() {
    let bytes = some_image();
    let tables = Tables::new(&bytes);
    let entry = tables.l2_entry_at(2048).expect("that is mapped");
    let places = [
        ("header", 0),
        ("L1 table", number(&bytes, field::L1_TABLE, 8)),
        ("refcount table", number(&bytes, field::REFCOUNT_TABLE, 8)),
        ("refcount block", tables.refcount_table().next().expect("there is one").offset()),
        ("L2 table", tables.l1().next().expect("there is one").offset()),
    ];
    for (what, place) in places {
        let mut damaged = bytes.clone();
        set_u64(&mut damaged, entry.at, COPIED | place);
        let after = write_all(damaged);
        let there = &after[place as usize..place as usize + 512];
        assert!(there.iter().filter(|byte| **byte == 0xee).count() < 100, "guest data lies over the {what}");
    }
}

/// The refcount table of 512 bytes counts 8 MiB; a disk of 12 MiB makes it move. Where it was is used again.
#[test]
fn relocated_refcount_tables_and_blocks_leave_nothing_behind() {
    const LARGE: u64 = 12 << 20;
    let folder = tempfile::tempdir().expect("a folder");
    let size = LARGE.to_string();
    crate::qemu::img(
        folder.path(),
        &["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "image", &size],
    );
    let memory = Memory::new(std::fs::read(folder.path().join("image")).expect("qemu-img wrote it"));
    let old_table = number(&memory.to_vec(), field::REFCOUNT_TABLE, 8);
    let runtime = LocalRuntime::new();
    let mut model = vec![0; LARGE as usize];
    for offset in (0..LARGE).step_by(1 << 20) {
        runtime.block_on(async {
            let disk = open(memory.clone(), Mode::Write, &runtime).await.expect("it opens");
            disk.write(offset, Bytes::from(vec![7; 1 << 20])).await.expect("it can be written");
            disk.close().await.expect("it closes");
        });
        model[offset as usize..offset as usize + (1 << 20)].fill(7);
    }
    let bytes = memory.to_vec();
    assert_ne!(number(&bytes, field::REFCOUNT_TABLE, 8), old_table, "the table has not moved");
    let references = Tables::new(&bytes).references();
    assert!(references.contains_key(&old_table), "where the old table was is not used again");
    check_with_qemu(&bytes, &model);
}

/// An entry has the COPIED flag exactly if the refcount of what it points at is one, and that is how often the
/// tables point at it.
#[test]
fn copied_flags_and_refcounts_agree() {
    for seed in seeds(0, 10) {
        let mut random = Random::new(seed);
        let storage = Steered::new(new_image(&with_clusters(random.pick(&[512, 4096, 65536]), DISK)));
        let runtime = LocalRuntime::new();
        let mut model = vec![0; DISK as usize];
        runtime.block_on(async {
            let disk = open(storage.clone(), Mode::Write, &runtime).await.expect("it opens");
            use_disk(&disk, &mut random, &mut model).await;
            disk.close().await.expect("it closes");
        });
        let bytes = storage.memory().to_vec();
        let tables = Tables::new(&bytes);
        for (host, count) in tables.references() {
            assert_eq!(count, tables.refcount(host), "references to the cluster at {host} and its refcount");
        }
        for entry in tables.l1().chain(tables.l2()).filter(|entry| entry.offset() != 0) {
            assert_eq!(entry.value & COPIED != 0, tables.refcount(entry.offset()) == 1, "{entry:x?}");
        }
        check_with_qemu(&bytes, &model);
    }
}
