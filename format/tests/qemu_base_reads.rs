//! What is read from the base is what stock QEMU reads when the same requests go through the same chain:
//! overlay, copy-on-read filter, cache, base.

#![expect(clippy::single_range_in_vec_init, reason = "what is read is a list of ranges, often of one")]

mod common;

use bytes::Bytes;
use common::storages::Recording;
use common::{Random, qemu, seeds};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use tempfile::TempDir;
use vmicache_format::cache::BaseIdentity;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{self, CacheOptions, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Memory;
use vmicache_format::{RawImage, Result};

/// A request of the guest.
#[derive(Clone, Debug)]
enum Request {
    Read(Range<u64>),
    Write(Range<u64>),
    WriteZeroes(Range<u64>),
}

impl Request {
    fn random(random: &mut Random, size: u64) -> Self {
        let piece = random.piece(size, 1 << 20);
        match random.below(10) {
            0..5 => Request::Read(piece),
            5..9 => Request::Write(piece),
            _ => Request::WriteZeroes(piece),
        }
    }

    /// See `a_short_write_across_two_slices_is_copied_around_in_one_read`.
    fn is_short_and_crosses_a_slice(&self, cluster_size: u64) -> bool {
        let Request::Write(range) = self else { return false };
        let slice = slice_of(cluster_size);
        range.end - range.start <= 16 << 10 && range.start / slice != (range.end - 1) / slice
    }

    fn command(&self) -> String {
        let (command, range) = match self {
            Request::Read(range) => ("read -q", range),
            Request::Write(range) => ("write -q -P 165", range),
            Request::WriteZeroes(range) => ("write -q -z", range),
        };
        format!("{command} {} {}", range.start, range.end - range.start)
    }

    async fn perform(&self, disk: &Disk<Recording<Memory>>) -> Result<()> {
        match self {
            Request::Read(range) => disk.read(range.start, range.end - range.start).await.map(drop),
            Request::Write(range) => {
                let data = Bytes::from(vec![165; (range.end - range.start) as usize]);
                disk.write(range.start, data).await
            }
            Request::WriteZeroes(range) => disk.write_zeroes(range.start, range.end - range.start).await,
        }
    }
}

/// How often each byte was read: ranges with another count than their neighbours.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reads(Vec<(Range<u64>, i64)>);

impl Reads {
    fn of(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut changes = BTreeMap::<u64, i64>::new();
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            *changes.entry(range.start).or_default() += 1;
            *changes.entry(range.end).or_default() -= 1;
        }
        let (mut reads, mut count, mut start) = (Vec::new(), 0, 0);
        for (at, change) in changes.into_iter().filter(|(_, change)| *change != 0) {
            if count != 0 {
                reads.push((start..at, count));
            }
            (count, start) = (count + change, at);
        }
        Reads(reads)
    }

    fn bytes(&self) -> i64 {
        self.0.iter().map(|(range, count)| (range.end - range.start) as i64 * count).sum()
    }
}

/// A chain in files for QEMU; ours is made of the same bytes.
struct Chain {
    folder: TempDir,
    overlay: CreateOptions,
    cache: CreateOptions,
    base_is_raw: bool,
}

impl Chain {
    /// The base is the file `base` in `folder`.
    fn new(folder: TempDir, overlay: (u64, u64), cache: (u64, u64), base_is_raw: bool) -> Self {
        let options = |(size, cluster_size)| CreateOptions { cluster_size, ..CreateOptions::new(size) };
        Chain { folder, overlay: options(overlay), cache: options(cache), base_is_raw }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn base(&self) -> Vec<u8> {
        std::fs::read(self.path().join("base")).expect("there is a base")
    }

    /// Where the base's file holds data of its disk.
    fn data_ranges(&self) -> Vec<Range<u64>> {
        if self.base_is_raw {
            return vec![Range { start: 0, end: self.base().len() as u64 }];
        }
        let map = qemu::img(self.path(), &["map", "-f", "qcow2", "base"]);
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number");
        map.lines()
            .skip(1)
            .map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                number(fields[2])..number(fields[2]) + number(fields[1])
            })
            .collect()
    }

    /// The parts of some ranges of the base's file where it holds data.
    fn clip(&self, ranges: &[Range<u64>]) -> Reads {
        let data = self.data_ranges();
        let parts = ranges.iter().flat_map(|range| {
            data.iter().map(move |data| range.start.max(data.start)..range.end.min(data.end).max(range.start))
        });
        Reads::of(parts.filter(|part| part.start < part.end).collect::<Vec<_>>())
    }

    fn read_by_us(&self, requests: &[Request]) -> Reads {
        let runtime = LocalRuntime::new();
        let base = Recording::new(Memory::new(self.base()));
        let done: Result<()> = runtime.block_on(async {
            let cache = CreateOptions {
                backing: Some(("base".into(), "raw".into())),
                cache: Some(CacheOptions { quota: u64::MAX, base: Some(BaseIdentity::Version("1".into())) }),
                ..self.cache.clone()
            };
            let mut layers = Vec::new();
            for (name, options, mode) in
                [("overlay", &self.overlay, Mode::Write), ("cache", &cache, Mode::Fill)]
            {
                let storage = Recording::new(Memory::default());
                qcow2::create(&storage, name, options).await?;
                let image =
                    Image::open(storage, name, mode, ImageOptions::default(), runtime.clone()).await?;
                layers.push(Layer::Qcow2(image));
            }
            layers.push(match self.base_is_raw {
                true => Layer::Raw(RawImage::open(base.clone(), "base", false).await?),
                false => {
                    let options = ImageOptions::default();
                    Layer::Qcow2(
                        Image::open(base.clone(), "base", Mode::Read, options, runtime.clone()).await?,
                    )
                }
            });
            let disk =
                Disk::new(layers.into_iter().map(Rc::new).collect(), Filling::Beside, runtime.clone())?;
            for request in requests {
                request.perform(&disk).await?;
            }
            disk.close().await
        });
        done.expect("the requests can be served");
        self.clip(&base.take_reads())
    }

    fn read_by_qemu(&self, requests: &[Request]) -> Reads {
        let runtime = LocalRuntime::new();
        for (name, options) in [("overlay", &self.overlay), ("cache", &self.cache)] {
            let storage = Memory::default();
            runtime.block_on(qcow2::create(&storage, name, options)).expect("the image can be made");
            std::fs::write(self.path().join(name), storage.to_vec()).expect("the image can be written");
        }
        let file = |name, read_only| {
            format!(r#""file":{{"driver":"file","filename":"{name}","read-only":{read_only}}}"#)
        };
        let driver = if self.base_is_raw { "raw" } else { "qcow2" };
        let base = format!(r#"{{"driver":"{driver}","read-only":true,{}}}"#, file("base", true));
        let cache =
            format!(r#"{{"driver":"qcow2","read-only":false,{},"backing":{base}}}"#, file("cache", false));
        let filter = format!(r#"{{"driver":"copy-on-read","read-only":false,"file":{cache}}}"#);
        let chain = format!(r#"json:{{"driver":"qcow2",{},"backing":{filter}}}"#, file("overlay", false));
        let trace = |event: &str| format!("enable={event},file=trace");
        let (opens, reads) = (trace("bdrv_open_common"), trace("bdrv_co_preadv_part"));
        let commands: Vec<String> = requests.iter().map(Request::command).collect();
        qemu::io(self.path(), &["-t", "unsafe", "-T", &opens, "-T", &reads], &chain, &commands);
        let trace = std::fs::read_to_string(self.path().join("trace")).expect("there is a trace");
        self.clip(&reads_of_file("base", &trace))
    }

    #[track_caller]
    fn assert_same_reads(&self, requests: &[Request]) {
        let (ours, theirs) = (self.read_by_us(requests), self.read_by_qemu(requests));
        if ours != theirs {
            panic!(
                "we read {} bytes of the base, QEMU {}\nours: {ours:?}\nQEMU: {theirs:?}\n{:?} {:?}\n{requests:?}",
                ours.bytes(),
                theirs.bytes(),
                self.overlay,
                self.cache,
            );
        }
    }
}

/// What QEMU read of the file `name`, by its trace.
fn reads_of_file(name: &str, trace: &str) -> Vec<Range<u64>> {
    let (mut node, mut reads) = (None, Vec::new());
    let quoted = format!("\"{name}\"");
    for line in trace.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            ["bdrv_open_common", "bs", bs, "filename", file, .., "\"file\""] if *file == quoted => {
                node = Some(*bs)
            }
            ["bdrv_co_preadv_part", "bs", bs, "offset", offset, "bytes", bytes, ..] if Some(*bs) == node => {
                let start: u64 = offset.parse().expect("an offset");
                reads.push(start..start + bytes.parse::<u64>().expect("a length"));
            }
            _ => {}
        }
    }
    assert!(node.is_some(), "the trace does not say that {name} was opened: {trace:.1000}");
    reads
}

/// What a slice of an L2 table maps, in bytes of the disk: QEMU has at most 4 KiB of a table in one piece.
fn slice_of(cluster_size: u64) -> u64 {
    cluster_size.min(4096) / 8 * cluster_size
}

const CLUSTER_SIZES: [u64; 3] = [512, 4096, 65536];

/// Chains of all combinations of cluster sizes, with sizes that are no multiple of them.
fn random_chain(random: &mut Random, seed: u64, base_is_raw: bool) -> Chain {
    let folder = tempfile::tempdir().expect("a folder");
    let overlay_cluster = CLUSTER_SIZES[(seed % 3) as usize];
    let cache_cluster = CLUSTER_SIZES[(seed / 3 % 3) as usize];
    let size = random.within(100_000..4 << 20) / 512 * 512;
    let other_size = |random: &mut Random| match random.below(4) {
        0 | 1 => size,
        2 => random.within(size / 2..size),
        _ => size + random.below(200_000),
    };
    let (base_size, mut cache_size) = (other_size(random), other_size(random) / 512 * 512);
    if base_is_raw {
        std::fs::write(folder.path().join("base"), random.bytes(base_size)).expect("the base can be written");
    } else {
        // See `the_last_cluster_of_a_cache_is_read_whole_though_it_begins_with_zeroes`.
        cache_size = cache_size.next_multiple_of(cache_cluster);
        let base_size = base_size.next_multiple_of(512).to_string();
        let cluster_size = format!("cluster_size={}", random.pick(&CLUSTER_SIZES));
        let arguments = ["create", "-q", "-f", "qcow2", "-o", &cluster_size, "base", &base_size];
        qemu::img(folder.path(), &arguments);
        let base_size = base_size.parse().expect("a number");
        let writes: Vec<String> = (0..random.within(1..10))
            .map(|_| Request::Write(random.piece(base_size, 1 << 20)).command())
            .collect();
        qemu::io(folder.path(), &["-f", "qcow2"], "base", &writes);
    }
    Chain::new(folder, (size, overlay_cluster), (cache_size, cache_cluster), base_is_raw)
}

fn sequences(first: u64, count: u64, base_is_raw: bool) {
    for seed in seeds(first, count) {
        let mut random = Random::new(seed);
        let chain = random_chain(&mut random, seed, base_is_raw);
        let requests: Vec<Request> = (0..random.within(1..40))
            .map(|_| Request::random(&mut random, chain.overlay.size))
            .filter(|request| !request.is_short_and_crosses_a_slice(chain.overlay.cluster_size))
            .collect();
        chain.assert_same_reads(&requests);
    }
}

#[test]
fn over_a_raw_base() {
    sequences(0, 180, true);
}

#[test]
fn over_a_qcow2_base() {
    sequences(1000, 180, false);
}

/// A chain over a raw base of these bytes, with a cache of 512-byte clusters.
fn plain_chain(base: &[u8], size: u64, overlay_cluster: u64) -> Chain {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("base"), base).expect("the base can be written");
    Chain::new(folder, (size, overlay_cluster), (size, 512), true)
}

fn once(ranges: &[Range<u64>]) -> Reads {
    Reads::of(ranges.iter().cloned())
}

/// Difference 1: the head and the tail of a short write, and what it overwrites between them, are read in one
/// request; where the write crosses from one slice of the L2 table into the next, QEMU makes it two writes
/// with a head and a tail each to themselves, and does not read between. We treat all of a request alike:
/// that costs at most 16 KiB, and for the usual 64 KiB clusters only at every multiple of 32 MiB.
#[test]
fn a_short_write_across_two_slices_is_copied_around_in_one_read() {
    let chain = plain_chain(&Random::new(1).bytes(4 << 20), 4 << 20, 4096);
    let slice = slice_of(4096);
    let (within, across) = (Request::Write(6000..11_000), Request::Write(slice - 2048..slice + 2048));
    assert!(!within.is_short_and_crosses_a_slice(4096) && across.is_short_and_crosses_a_slice(4096));
    chain.assert_same_reads(&[within]);
    assert_eq!(chain.read_by_us(std::slice::from_ref(&across)), once(&[slice - 4096..slice + 4096]));
    assert_eq!(
        chain.read_by_qemu(&[across]),
        once(&[slice - 4096..slice - 2048, slice + 2048..slice + 4096]),
    );
}

/// Difference 2: where a short write begins in a cluster that shows what lies below and ends in one that is
/// known to be zero, QEMU copies around both in one read, and so reads from below what the write replaces.
/// We know the zeroes and read the head alone.
#[test]
fn a_short_write_that_ends_in_zeroes_reads_its_head_alone() {
    let chain = plain_chain(&Random::new(2).bytes(1 << 20), 1 << 20, 4096);
    let requests = [Request::WriteZeroes(4096..8192), Request::Write(2560..5000)];
    assert_eq!(chain.read_by_us(&requests), once(&[0..2560]));
    assert_eq!(chain.read_by_qemu(&requests), once(&[0..4096]));
}

/// Difference 3: a cache whose disk ends inside a cluster, over a longer base. What lies beyond the cache's
/// end in that cluster is read along by both, but QEMU looks at the bytes before the end first: should they
/// all be zero, it marks the cluster as zeroes and reads no further. We read a cluster in one request, and
/// do not look into what is copied.
#[test]
fn the_last_cluster_of_a_cache_is_read_whole_though_it_begins_with_zeroes() {
    for (filler, read_by_qemu) in [(7, 8192), (0, 4608)] {
        let mut chain = plain_chain(&vec![filler; 1 << 16], 8192, 4096);
        chain.cache = CreateOptions { cluster_size: 4096, ..CreateOptions::new(4608) };
        let requests = [Request::Read(4096..4608)];
        assert_eq!(chain.read_by_us(&requests), once(&[4096..8192]));
        assert_eq!(chain.read_by_qemu(&requests), once(&[4096..read_by_qemu]));
    }
}

/// No difference: what is known to be zero is neither read nor fetched into the cache when a write copies it.
/// Here the base ends inside a cluster of the cache: who reads behind its end would fetch what lies before.
#[test]
fn known_zeroes_are_not_copied() {
    let mut chain = plain_chain(&Random::new(3).bytes((1 << 20) + 512), 4 << 20, 4096);
    chain.cache = CreateOptions { cluster_size: 65536, ..CreateOptions::new(4 << 20) };
    let behind = [Request::Write((1 << 20) + 20_000..(1 << 20) + 20_100)];
    chain.assert_same_reads(&behind);
    assert_eq!(chain.read_by_us(&behind), once(&[]));
    let across = [Request::Write((1 << 20) + 100..(1 << 20) + 200)];
    chain.assert_same_reads(&across);
    assert_eq!(chain.read_by_us(&across), once(&[1 << 20..(1 << 20) + 512]));
}

/// Difference 4: whether something is known to be zero QEMU asks its images once, and takes an answer about a
/// part for a no: zeroes of two kinds side by side it reads. We look at the whole, and do not.
#[test]
fn zeroes_of_two_kinds_are_known_too() {
    let mut chain = plain_chain(&[], 1 << 20, 4096);
    chain.base_is_raw = false;
    chain.cache = CreateOptions { cluster_size: 4096, ..CreateOptions::new(1 << 20) };
    qemu::img(chain.path(), &["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "base", "1M"]);
    // Nothing, zeroes, data, nothing.
    let writes = ["write -q -z 512 512", "write -q -P 1 1024 512"].map(String::from);
    qemu::io(chain.path(), &["-f", "qcow2"], "base", &writes);
    let requests = [Request::Write(1024..1536)];
    assert_eq!(chain.read_by_us(&requests), once(&[]));
    assert_eq!(chain.read_by_qemu(&requests), Reads::of(chain.data_ranges()));
    assert_eq!(chain.read_by_qemu(&requests).bytes(), 512);
}

/// Difference 5: what a host's file system knows as a hole of a raw base, QEMU reads like anything else, but for one
/// case: before it writes zeroes to a part of a cluster, it asks the file system about the rest, and reads nothing if
/// that is a hole. We read no hole that the storage tells of, as files of the host do (`holes.rs`); that of this test,
/// memory, tells of none.
#[test]
fn holes_of_a_raw_base_are_read_where_the_storage_knows_none() {
    let chain = plain_chain(&[], 1 << 20, 4096);
    let base = std::fs::File::options().write(true).open(chain.path().join("base")).expect("there is a base");
    base.set_len(1 << 20).expect("the base can be long");
    chain.assert_same_reads(&[Request::Write(5000..5100), Request::Read(70_000..80_000)]);
    let zeroes = [Request::WriteZeroes(100_352..120_000)];
    assert_eq!(chain.read_by_us(&zeroes), once(&[98_304..100_352, 119_808..122_880]));
    assert_eq!(chain.read_by_qemu(&zeroes), once(&[]));
}
