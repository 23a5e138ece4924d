//! Clusters of 512 bytes, where every table is short and all of them are many.

use crate::common::{Random, assert_same};
use crate::{check_with_qemu, new_image, open, with_clusters};
use bytes::Bytes;
use vmicache_format::qcow2::Mode;
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Counting;

const DISK: u64 = 16 << 20;

/// Requests to the storage are bounded by what was asked for: nothing is read or written over and over.
#[test]
fn random_requests_to_512_byte_clusters_come_to_an_end() {
    let mut random = Random::new(1);
    let memory = new_image(&with_clusters(512, DISK));
    let runtime = LocalRuntime::new();
    let mut model = vec![0; DISK as usize];
    runtime.block_on(async {
        let storage = Counting::new(memory.clone());
        let disk = open(storage.clone(), Mode::Write, &runtime).await.expect("it opens");
        for number in 0..1000 {
            let offset = random.below(DISK / 4096) * 4096;
            let data = random.bytes(4096);
            model[offset as usize..offset as usize + 4096].copy_from_slice(&data);
            disk.write(offset, Bytes::from(data)).await.expect("it can be written");
            let bound = 100 + 30 * number;
            let counts = storage.counts();
            assert!(counts.guest_writes.requests <= bound, "{counts:?} after {number} writes");
            assert!(counts.metadata_reads.requests <= bound, "{counts:?} after {number} writes");
            assert!(counts.metadata_writes.requests <= bound, "{counts:?} after {number} writes");
        }
        disk.close().await.expect("it closes");

        let storage = Counting::new(memory.clone());
        let disk = open(storage.clone(), Mode::Read, &runtime).await.expect("it opens");
        for number in 0..1000 {
            let offset = random.below(DISK - 4096);
            let read = disk.read(offset, 4096).await.expect("it can be read");
            assert_same(&read, &model[offset as usize..offset as usize + 4096], "a read");
            let (bound, counts) = (100 + 30 * number, storage.counts());
            assert!(counts.guest_reads.requests <= bound, "{counts:?} after {number} reads");
            assert!(counts.metadata_reads.requests <= bound, "{counts:?} after {number} reads");
        }
    });
    check_with_qemu(&memory.to_vec(), &model);
}

/// The file never has more than what the disk's clusters and tables need, however often they are written.
#[test]
fn no_cluster_of_512_bytes_leaks() {
    const SMALL: u64 = 1 << 20;
    let memory = new_image(&with_clusters(512, SMALL));
    let runtime = LocalRuntime::new();
    let mut model = vec![0; SMALL as usize];
    let mut random = Random::new(2);
    let mut longest = 0;
    for round in 0..4_u8 {
        runtime.block_on(async {
            let disk = open(memory.clone(), Mode::Write, &runtime).await.expect("it opens");
            for _ in 0..400 {
                let piece = random.piece(SMALL, 20_000);
                let data = vec![round + 1; (piece.end - piece.start) as usize];
                model[piece.start as usize..piece.end as usize].copy_from_slice(&data);
                disk.write(piece.start, Bytes::from(data)).await.expect("it can be written");
                let piece = random.piece(SMALL, 20_000);
                model[piece.start as usize..piece.end as usize].fill(0);
                disk.write_zeroes(piece.start, piece.end - piece.start).await.expect("it can be zeroed");
            }
            disk.close().await.expect("it closes");
        });
        longest = longest.max(memory.to_vec().len() as u64);
        check_with_qemu(&memory.to_vec(), &model);
    }
    // Data, L2 tables of 64 entries, refcount blocks of 256, and what an empty image has.
    let most = SMALL + SMALL / 64 + SMALL / 256 + 8 * 512 + SMALL / 512 / 64 * 8;
    assert!(longest <= most, "the file has {longest} bytes, {most} are enough");
}

/// Tables stay in memory for the whole disk, not for its first few megabytes.
#[test]
fn a_second_pass_over_512_byte_clusters_reads_no_table() {
    let memory = new_image(&with_clusters(512, DISK));
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let disk = open(memory.clone(), Mode::Write, &runtime).await.expect("it opens");
        for offset in (0..DISK).step_by(16 << 10) {
            disk.write(offset, Bytes::from(vec![3; 512])).await.expect("it can be written");
        }
        disk.close().await.expect("it closes");
        let storage = Counting::new(memory);
        let disk = open(storage.clone(), Mode::Read, &runtime).await.expect("it opens");
        let pass = async || {
            for offset in (0..DISK).step_by(16 << 10) {
                disk.read(offset, 512).await.expect("it can be read");
            }
            storage.counts().metadata_reads.requests
        };
        let (first, second) = (pass().await, pass().await);
        assert_eq!(second - first, 0, "tables read in the second pass");
    });
}
