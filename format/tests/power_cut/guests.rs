//! Power cuts while a guest writes.

use crate::common::blocks::{Event, History};
use crate::common::guest::{Guest, Request};
use crate::common::kinds::{self, Files, Kind, Stores};
use crate::common::recorded::{Moment, Record, Recorded, Replayed};
use crate::common::{Random, qemu, reference};
use crate::{cuts_of_a_kind, setting};
use bytes::Bytes;
use std::cell::RefCell;
use vmicache_format::disk::Disk;
use vmicache_format::qcow2::{ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Memory, Storage};

/// Cuts of one life.
const CUTS_OF_A_LIFE: u64 = 128;
/// Lives of an image that follow each other, each on what a cut left of the one before.
const LIVES: u64 = 4;
/// One in so many images that a cut left is written on.
const WRITTEN_ONE_IN: u64 = 6;
/// One in so many is shown to stock QEMU.
const QEMU_ONE_IN: u64 = 40;

fn cut(kinds: &[Kind]) {
    for (number, kind) in kinds.iter().enumerate() {
        let wanted = cuts_of_a_kind();
        let (mut cuts, mut seed) = (0, setting("SEED", 1) + 1000 * number as u64);
        while cuts < wanted {
            cuts += Image::new(*kind, seed).lives(wanted - cuts);
            seed += 1;
        }
        println!("{cuts} cuts of {kind:?}");
    }
}

/// An image of a kind, over its lives.
struct Image {
    kind: Kind,
    random: Random,
    files: Files,
    history: History,
    /// What a snapshot holds.
    snapshot: Option<Bytes>,
}

impl Image {
    fn new(kind: Kind, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let runtime = LocalRuntime::new();
        let files = Files::new(&kind, &mut random, &runtime);
        let history = History::new(kind.size, kind.base_size, kind.largest());
        let snapshot = kind.snapshot.then(|| {
            let stores = files.stores();
            read_all(&kind, &stores, Mode::Read).expect("the image can be read")
        });
        Image { kind, random, files, history, snapshot }
    }

    fn lives(&mut self, most: u64) -> u64 {
        let mut cuts = 0;
        for _ in 0..LIVES.min(most.div_ceil(CUTS_OF_A_LIFE)) {
            cuts += self.life();
        }
        cuts
    }

    /// One life, cut at many moments. The next begins with what one of them left.
    fn life(&mut self) -> u64 {
        let live = RefCell::new(self.history.clone());
        let moments = self.record(&live);
        let mut replayed = Replayed::new(self.files.written());
        let mut history = self.history.clone();
        let share = CUTS_OF_A_LIFE as f64 / moments.len() as f64;
        let (mut cuts, mut left) = (0, None);
        for (number, moment) in moments.iter().enumerate() {
            replayed.advance(moment);
            if let Moment::Guest(event) = moment {
                history.happened(event);
            }
            if self.random.chance(share.min(1.0)) {
                let (written, survivors) = replayed.cut(&mut self.random);
                let files = self.files.with_written(written);
                let disk = self.look(&files, &history).unwrap_or_else(|problem| {
                    panic!("{:?}: a cut at moment {number}, with {survivors}: {problem}", self.kind)
                });
                cuts += 1;
                if left.is_none() || self.random.chance(0.05) {
                    left = Some((files, disk));
                }
            }
        }
        self.history = live.into_inner();
        if let Some((files, disk)) = left {
            self.history.settle(&disk);
            self.files = files;
        }
        cuts
    }

    /// What happens while a guest uses the image.
    fn record(&mut self, history: &RefCell<History>) -> Vec<Moment> {
        let (kind, random) = (&self.kind, &mut self.random);
        let record = Record::new(random.below(u64::MAX));
        let stores = self.files.stores();
        let recorded = |memory: Memory, file| Recorded::new(memory, file, &record);
        let stores = Stores {
            image: recorded(stores.image, 0),
            data: stores.data.map(|data| recorded(data, 1)),
            base: recorded(stores.base, 2),
        };
        let runtime = LocalRuntime::new();
        let note = |event: Event| record.note(event);
        runtime.block_on(async {
            let lives = random.within(1..3);
            for number in 1..=lives {
                let options = ImageOptions {
                    metadata_cache: Some(0),
                    batch_bytes: random.pick(&[1, 8 << 10, 64 << 10, 16 << 20]),
                    ..ImageOptions::default()
                };
                let disk = stores.open(kind, Mode::Write, options, &runtime).await.expect("it can be opened");
                let guest = Guest { kind, disk, history, note: &note };
                for _ in 0..24 / lives {
                    for (request, outcome) in guest.issue_some(random, 6).await {
                        outcome.unwrap_or_else(|error| panic!("{kind:?}: {request:?}: {error}"));
                    }
                    if kind.resized && random.chance(0.15) {
                        guest.resize(random).await.expect("the size can be changed");
                    }
                }
                if number < lives || random.chance(0.5) {
                    guest.close().await.expect("it can be closed");
                }
            }
        });
        record.take()
    }

    /// Everything that must hold of an image, whatever happened to it; returns its disk.
    fn look(&mut self, files: &Files, history: &History) -> Result<Bytes, String> {
        let kind = &self.kind;
        reference::check(&files.image)?;
        let stores = files.stores();
        let disk = read_all(kind, &stores, Mode::Read)?;
        history.check_after_cut(&disk)?;
        self.look_at_snapshot(files)?;
        if self.random.below(QEMU_ONE_IN) == 0 {
            qemu::check_but_for_leaks(files.write_down().path(), "image");
        }
        if self.random.below(WRITTEN_ONE_IN) == 0 {
            let mut history = history.clone();
            history.settle(&disk);
            let files = self.write_on(files, history)?;
            self.look_at_snapshot(&files)?;
        }
        Ok(disk)
    }

    fn look_at_snapshot(&self, files: &Files) -> Result<(), String> {
        let Some(expected) = &self.snapshot else { return Ok(()) };
        let image = reference::snapshot(&files.image, 0);
        let found = read_all(&self.kind, &Files { image, ..files.clone() }.stores(), Mode::Read)?;
        match found == expected {
            true => Ok(()),
            false => Err("the snapshot has changed".into()),
        }
    }

    /// The image can be written again.
    fn write_on(&mut self, files: &Files, history: History) -> Result<Files, String> {
        let (kind, random, history) = (&self.kind, &mut self.random, RefCell::new(history));
        let (stores, runtime) = (files.stores(), LocalRuntime::new());
        let written = runtime.block_on(async {
            let disk = stores.open(kind, Mode::Write, ImageOptions::default(), &runtime).await?;
            let guest = Guest { kind, disk, history: &history, note: &|_| {} };
            for _ in 0..3 {
                for (_, outcome) in guest.issue_some(random, 6).await {
                    outcome?;
                }
            }
            if kind.resized {
                guest.resize(random).await?;
            }
            guest.issue(&Request::Read(0..guest.disk.size())).await?;
            guest.close().await
        });
        written.map_err(|error| format!("when it is written again: {error}"))?;
        let written = files.with_written(
            [stores.image.to_vec()].into_iter().chain(stores.data.as_ref().map(Memory::to_vec)).collect(),
        );
        let again = |problem| format!("when it has been written again: {problem}");
        reference::check(&written.image).map_err(again)?;
        let disk = read_all(kind, &stores, Mode::Read)?;
        history.borrow().check_after_cut(&disk).map_err(again)?;
        Ok(written)
    }
}

fn read_all<S>(kind: &Kind, stores: &Stores<S>, mode: Mode) -> Result<Bytes, String>
where
    S: Storage<Payload = Bytes> + Clone,
{
    let runtime = LocalRuntime::new();
    let read = runtime.block_on(async {
        let disk: Disk<S> = stores.open(kind, mode, ImageOptions::default(), &runtime).await?;
        disk.read(0, disk.size()).await
    });
    read.map_err(|error| format!("reading it: {error}"))
}

#[test]
fn version_2() {
    cut(&kinds::VERSION_2);
}

#[test]
fn version_3() {
    cut(&kinds::VERSION_3);
}

#[test]
fn refcounts_of_every_width() {
    cut(&kinds::REFCOUNT_WIDTHS);
}

#[test]
fn extended_l2() {
    cut(&kinds::EXTENDED_L2);
}

#[test]
fn external_data_files() {
    cut(&kinds::DATA_FILES);
}

#[test]
fn tables_that_grow_and_disks_of_another_size() {
    cut(&kinds::GROWING);
}
