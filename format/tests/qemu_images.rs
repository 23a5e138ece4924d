//! Images of ours and of the stock tools: each side accepts, reads and goes on writing what the other made.

mod common;

use bytes::Bytes;
use common::{Random, assert_same, qemu, seeds};
use std::ops::Range;
use std::path::Path;
use tempfile::TempDir;
use vmicache_format::disk::Disk;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, create_image, open_chain};
use vmicache_format::qcow2::CreateOptions;
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::HostFile;

const CLUSTER_SIZES: [u64; 4] = [512, 4096, 65536, 2 << 20];

/// Opens a chain, uses its disk, and closes it.
fn with_disk<T>(path: &Path, options: &ChainOptions, use_it: impl AsyncFnOnce(&Disk<HostFile>) -> T) -> T {
    let runtime = LocalRuntime::new();
    let disk = {
        let _alone = qemu::no_process_starts();
        runtime.block_on(open_chain(path, Format::Qcow2, options, runtime.clone())).expect("the chain opens")
    };
    runtime.block_on(async {
        let value = use_it(&disk).await;
        disk.close().await.expect("the chain closes");
        value
    })
}

fn create(folder: &TempDir, name: &str, options: &CreateOptions) {
    LocalRuntime::new()
        .block_on(create_image(&folder.path().join(name), options))
        .expect("the image can be made");
}

/// The same with the stock tool.
fn stock_create(folder: &TempDir, name: &str, options: &CreateOptions) {
    let compat = if options.version == 2 { "0.10" } else { "1.1" };
    let format_options = format!("cluster_size={},compat={compat}", options.cluster_size);
    let size = options.size.to_string();
    let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", &format_options];
    if let Some((file, format)) = &options.backing {
        arguments.extend(["-b", file, "-F", format]);
    }
    arguments.extend([name, &size]);
    qemu::img(folder.path(), &arguments);
}

fn read_by_us(folder: &TempDir, name: &str) -> Vec<u8> {
    with_disk(
        &folder.path().join(name),
        &ChainOptions { named_files: NamedFiles::Allow, ..ChainOptions::default() },
        async |disk| disk.read(0, disk.size()).await.expect("the disk can be read").to_vec(),
    )
}

/// A change of the disk that both sides can make; the pattern is a byte, since qemu-io writes no others.
struct Change {
    range: Range<u64>,
    /// `None`: as a request to write zeroes.
    pattern: Option<u8>,
}

impl Change {
    fn random(random: &mut Random, size: u64) -> Self {
        let pattern = random.chance(0.75).then(|| random.within(1..256) as u8);
        Change { range: random.piece(size, size), pattern }
    }

    fn apply(&self, model: &mut [u8]) {
        model[self.range.start as usize..self.range.end as usize].fill(self.pattern.unwrap_or(0));
    }

    fn command(&self) -> String {
        let (offset, len) = (self.range.start, self.range.end - self.range.start);
        match self.pattern {
            Some(pattern) => format!("write -q -P {pattern} {offset} {len}"),
            None => format!("write -q -z {offset} {len}"),
        }
    }

    async fn perform(&self, disk: &Disk<HostFile>) {
        let (offset, len) = (self.range.start, self.range.end - self.range.start);
        let changed = match self.pattern {
            Some(pattern) => disk.write(offset, Bytes::from(vec![pattern; len as usize])).await,
            None => disk.write_zeroes(offset, len).await,
        };
        changed.expect("the disk can be changed");
    }
}

fn changes(random: &mut Random, size: u64) -> Vec<Change> {
    (0..random.within(3..20)).map(|_| Change::random(random, size)).collect()
}

fn change_by_qemu(folder: &TempDir, name: &str, changes: &[Change], model: &mut [u8]) {
    let commands: Vec<String> = changes.iter().map(Change::command).collect();
    qemu::io(folder.path(), &["-f", "qcow2"], name, &commands);
    changes.iter().for_each(|change| change.apply(model));
}

fn change_by_us(folder: &TempDir, name: &str, changes: &[Change], model: &mut [u8]) {
    let options = ChainOptions { writable: true, named_files: NamedFiles::Allow, ..ChainOptions::default() };
    with_disk(&folder.path().join(name), &options, async |disk| {
        for change in changes {
            change.perform(disk).await;
        }
    });
    changes.iter().for_each(|change| change.apply(model));
}

/// Reads back through qemu-io what the changes wrote last, piece by piece.
fn read_back(folder: &TempDir, name: &str, changes: &[Change], model: &[u8]) {
    let last = changes.iter().filter(|change| {
        let bytes = &model[change.range.start as usize..change.range.end as usize];
        bytes.iter().all(|byte| *byte == change.pattern.unwrap_or(0))
    });
    let commands: Vec<String> = last
        .map(|change| {
            let (offset, len) = (change.range.start, change.range.end - change.range.start);
            format!("read -P {} {offset} {len}", change.pattern.unwrap_or(0))
        })
        .collect();
    let printed = qemu::io(folder.path(), &["-r", "-f", "qcow2"], name, &commands);
    assert!(!printed.contains("Pattern verification failed"), "{printed}");
}

/// An image with or without a backing file, made by one side, and what its disk holds.
struct Subject {
    folder: TempDir,
    model: Vec<u8>,
}

const NAME: &str = "image.qcow2";

impl Subject {
    fn new(random: &mut Random, cluster_size: u64, by_qemu: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let most = (cluster_size * 40).clamp(1 << 20, 8 << 20);
        let size = random.within(4096..most) / 512 * 512;
        let base_size = random.within(512..2 * size);
        let backing = match random.below(3) {
            0 => None,
            1 => Some("raw"),
            _ => Some("qcow2"),
        };
        let mut model = vec![];
        if let Some(format) = backing {
            let base_size = base_size.next_multiple_of(512);
            model = vec![0; base_size as usize];
            let changes = changes(random, base_size);
            let options = CreateOptions {
                cluster_size: random.pick(&CLUSTER_SIZES),
                version: random.pick(&[2, 3]),
                ..CreateOptions::new(base_size)
            };
            stock_create(&folder, "base", &options);
            change_by_qemu(&folder, "base", &changes, &mut model);
            if format == "raw" {
                // A raw base ends anywhere.
                model.truncate((base_size - random.below(512)) as usize);
                std::fs::write(folder.path().join("base"), &model).expect("the base can be written");
            }
        }
        model.resize(size as usize, 0);
        let options = CreateOptions {
            cluster_size,
            version: random.pick(&[2, 3]),
            backing: backing.map(|format| ("base".into(), format.into())),
            ..CreateOptions::new(size)
        };
        match by_qemu {
            true => stock_create(&folder, NAME, &options),
            false => create(&folder, NAME, &options),
        }
        Subject { folder, model }
    }

    fn check(&self, changes: &[Change]) {
        qemu::check(self.folder.path(), NAME);
        assert_same(&qemu::content(self.folder.path(), NAME), &self.model, "what QEMU reads");
        assert_same(&read_by_us(&self.folder, NAME), &self.model, "what we read");
        read_back(&self.folder, NAME, changes, &self.model);
    }

    /// Changes from one side or the other.
    fn change(&mut self, random: &mut Random, by_qemu: bool) {
        let changes = changes(random, self.model.len() as u64);
        match by_qemu {
            true => change_by_qemu(&self.folder, NAME, &changes, &mut self.model),
            false => change_by_us(&self.folder, NAME, &changes, &mut self.model),
        }
        self.check(&changes);
    }
}

fn subjects(first: u64, count: u64, made_by_qemu: bool, rounds: &[bool]) {
    for seed in seeds(first, count) {
        let mut random = Random::new(seed);
        let cluster_size = CLUSTER_SIZES[(seed % 4) as usize];
        let mut subject = Subject::new(&mut random, cluster_size, made_by_qemu);
        subject.check(&[]);
        for by_qemu in rounds {
            subject.change(&mut random, *by_qemu);
        }
    }
}

#[test]
fn what_we_write_qemu_accepts() {
    subjects(100, 24, false, &[false, false]);
}

#[test]
fn what_qemu_writes_we_read() {
    subjects(200, 24, true, &[true]);
}

#[test]
fn either_side_goes_on_where_the_other_stopped() {
    subjects(300, 8, true, &[false, true, false]);
    subjects(400, 8, false, &[true, false, true]);
}
