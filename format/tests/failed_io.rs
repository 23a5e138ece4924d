//! Storages of which any one request fails, or that are full for a while, below every kind of image.
//!
//! What failed reaches the caller; the image stays consistent, whatever the process does next, and also if it dies;
//! and once the fault is gone, everything works.
//!
//! `FAILED_IO` is how often each request of a workload fails (1 if the environment does not say), `SEED` the first
//! seed.

mod common;

use bytes::Bytes;
use common::blocks::{BLOCK, History};
use common::failing::{Done, Failing, Fault, Faults, RequestKind};
use common::guest::{Guest, Request};
use common::kinds::{self, Files, Kind, Stores};
use common::{Random, reference};
use std::cell::RefCell;
use vmicache_format::Result;
use vmicache_format::qcow2::{ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Memory;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// An image of a kind, and what is done to it.
struct Case {
    kind: Kind,
    files: Files,
    seed: u64,
}

impl Case {
    fn new(kind: Kind, seed: u64) -> Self {
        let files = Files::new(&kind, &mut Random::new(seed), &LocalRuntime::new());
        Case { kind, files, seed }
    }

    /// A guest's requests, with a fault below; returns how many requests to the storages they make.
    fn run(&self, fault: Fault) -> u64 {
        let context = format!("{:?}, seed {}, {fault:?}", self.kind, self.seed);
        let kind = &self.kind;
        let mut random = Random::new(self.seed);
        let faults = Faults::new(fault, self.seed);
        let history = RefCell::new(History::new(kind.size, kind.base_size, kind.largest()));
        let memory = self.files.stores();
        let failing = |memory: &Memory| Failing::new(memory.clone(), &faults);
        let stores = Stores {
            image: failing(&memory.image),
            data: memory.data.as_ref().map(failing),
            base: failing(&memory.base),
        };
        let runtime = LocalRuntime::new();
        let mut errors = 0;
        runtime.block_on(async {
            let options = ImageOptions {
                metadata_cache: Some(0),
                batch_bytes: random.pick(&[1, 16 << 10, 16 << 20]),
                ..ImageOptions::default()
            };
            let Ok(disk) = stores.open(kind, Mode::Write, options, &runtime).await else {
                return errors += 1;
            };
            let guest = Guest { kind, disk, history: &history, note: &|_| {} };
            errors += some_requests(&guest, &mut random).await;
            self.look_as_after_death(&memory, &history.borrow(), &context);

            let count = faults.count();
            faults.mend();
            guest.issue_some(&mut random, 8).await.into_iter().for_each(|(request, outcome)| {
                outcome.unwrap_or_else(|error| panic!("{context}: {request:?} after the fault: {error}"));
            });
            guest.issue(&Request::Read(0..guest.disk.size())).await.expect("it can be read after the fault");
            guest.close().await.unwrap_or_else(|error| panic!("{context}: closing after the fault: {error}"));
            assert!(faults.count() >= count);
        });
        let failed = faults.failed.borrow().clone();
        assert!(errors == 0 || !failed.is_empty(), "{context}: an error without a fault");
        // Metadata that could not be written in the background is written again, and then nobody need know.
        let is_silent = |kind: &RequestKind| !matches!(kind, RequestKind::Read | RequestKind::Write);
        assert!(
            errors > 0 || failed.iter().all(is_silent),
            "{context}: nobody was told that {failed:?} failed"
        );
        let leaks = self.look_as_after_death(&memory, &history.borrow(), &context);
        assert!(leaks == 0 || !failed.is_empty(), "{context}: {leaks} clusters leaked without a fault");
        faults.count()
    }

    /// What another process finds in the files now; returns how many clusters leaked.
    fn look_as_after_death(&self, memory: &Stores<Memory>, history: &History, context: &str) -> u64 {
        let checked = reference::check(&memory.image.to_vec());
        let leaks = checked.unwrap_or_else(|problem| panic!("{context}: {problem}"));
        let runtime = LocalRuntime::new();
        let read: Result<Bytes> = runtime.block_on(async {
            let disk = memory.open(&self.kind, Mode::Read, ImageOptions::default(), &runtime).await?;
            disk.read(0, disk.size()).await
        });
        let read = read.unwrap_or_else(|error| panic!("{context}: reading it: {error}"));
        history.check_after_cut(&read).unwrap_or_else(|problem| panic!("{context}: {problem}"));
        leaks
    }
}

/// Some requests, of which some may fail; returns how many do.
async fn some_requests(guest: &Guest<'_, Failing>, random: &mut Random) -> u64 {
    let mut errors = 0;
    for round in 0..6 {
        for (_, outcome) in guest.issue_some(random, 7).await {
            errors += u64::from(outcome.is_err());
        }
        if guest.kind.resized && round % 2 == 1 {
            errors += u64::from(guest.resize(random).await.is_err());
        }
        if round == 2 {
            errors += u64::from(guest.issue(&Request::Flush).await.is_err());
        }
    }
    // What a request wrote is there for the next one, whatever became of others.
    let read = guest.issue(&Request::Read(0..guest.disk.size())).await;
    errors += u64::from(read.is_err());
    errors += u64::from(guest.issue(&Request::Flush).await.is_err());
    errors
}

fn every_request_fails(kinds: &[Kind]) {
    for (number, kind) in kinds.iter().enumerate() {
        let mut faults = 0;
        for round in 0..setting("FAILED_IO", 1) {
            let seed = setting("SEED", 1) + 1000 * number as u64 + round;
            let case = Case::new(*kind, seed);
            let requests = case.run(Fault::None);
            let mut random = Random::new(seed);
            for request in 0..requests {
                let done = random.pick(&[Done::Nothing, Done::Part, Done::All]);
                case.run(Fault::One(request, done));
                if request % 4 == 0 {
                    let end = random.within(request + 1..requests + 1);
                    case.run(Fault::Full(request..end));
                }
            }
            faults += requests + requests.div_ceil(4);
        }
        println!("{faults} faults below {kind:?}");
    }
}

#[test]
fn version_2() {
    every_request_fails(&kinds::VERSION_2);
}

#[test]
fn version_3() {
    every_request_fails(&kinds::VERSION_3);
}

#[test]
fn refcounts_of_every_width() {
    every_request_fails(&kinds::REFCOUNT_WIDTHS);
}

#[test]
fn extended_l2() {
    every_request_fails(&kinds::EXTENDED_L2);
}

#[test]
fn external_data_files() {
    every_request_fails(&kinds::DATA_FILES);
}

#[test]
fn tables_that_grow_and_disks_of_another_size() {
    every_request_fails(&kinds::GROWING);
}

/// Makes a disk larger, while the request of this number that this takes fails, and then writes where new tables are
/// needed; `false` if it takes fewer requests.
fn resize_fails(case: &Case, number: u64, done: Done) -> bool {
    let context = format!("{:?}: request {number} of a resize fails, having done {done:?}", case.kind);
    let kind = &case.kind;
    let faults = Faults::new(Fault::None, case.seed);
    let history = RefCell::new(History::new(kind.size, kind.base_size, kind.largest()));
    let memory = case.files.stores();
    let failing = |memory: &Memory| Failing::new(memory.clone(), &faults);
    let stores = Stores { image: failing(&memory.image), data: None, base: failing(&memory.base) };
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let disk = stores.open(kind, Mode::Write, ImageOptions::default(), &runtime).await.expect(&context);
        let guest = Guest { kind, disk, history: &history, note: &|_| {} };
        guest.issue(&Request::Write(0..BLOCK)).await.expect(&context);
        guest.issue(&Request::Flush).await.expect(&context);
        faults.set(Fault::One(faults.count() + number, done));
        let resized = guest.issue(&Request::Resize(kind.largest() / BLOCK * BLOCK)).await;
        faults.mend();
        let has_failed = !faults.failed.borrow().is_empty();
        assert_eq!(resized.is_err(), has_failed, "{context}: who was told");
        case.look_as_after_death(&memory, &history.borrow(), &context);
        for start in (0..kind.size).step_by(32 << 10) {
            guest.issue(&Request::Write(start..start + 2 * BLOCK)).await.expect(&context);
        }
        guest.issue(&Request::Flush).await.expect(&context);
        case.look_as_after_death(&memory, &history.borrow(), &context);
        guest.issue(&Request::Read(0..guest.disk.size())).await.expect(&context);
        guest.close().await.expect(&context);
        case.look_as_after_death(&memory, &history.borrow(), &context);
        has_failed
    })
}

#[test]
fn a_resize_of_which_a_request_fails_loses_nothing_that_follows() {
    let small = [kinds::clusters(512), kinds::clusters(512).over(kinds::Backing::Raw)];
    let extended = kinds::clusters(16384).over(kinds::Backing::Qcow2).extended();
    for kind in small.into_iter().chain([extended]) {
        let case = Case::new(Kind { full: 0.0, ..kind.resized() }, 1);
        for done in [Done::Nothing, Done::Part, Done::All] {
            let faults = (0..).take_while(|number| resize_fails(&case, *number, done)).count();
            assert!(faults > 2, "{:?}: a resize takes {faults} requests only", case.kind);
        }
    }
}
