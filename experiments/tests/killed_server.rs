//! A server that is killed again and again while a cache fills: the cache never holds anything wrong, never outgrows its
//! quota, and the next server goes on with it; what guests have flushed is there.

mod killed;
mod servers;

use killed::{Guest, OWN};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use servers::client::Client;
use servers::{Serving, command, vmicache};
use std::fs;
use std::ops::AddAssign;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const SIZE: usize = 24 << 20;
const GUESTS: usize = 3;
/// Behind what all guests read lie their own parts.
const SHARED: usize = SIZE - GUESTS * OWN;
/// Below the base's size, and beyond what the first refcount table counts.
const QUOTA: u64 = 12 << 20;
/// Servers that are killed, over each of two chains.
const LIVES: u32 = 100;
/// After so many a new, empty cache takes the old one's place.
const LIVES_OF_A_CACHE: u32 = 9;
/// Rounds of requests that a server answers at most before it is killed.
const ROUNDS: u32 = 200;

/// What was seen after the kills.
#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    /// Caches that had clusters which nothing points at, and how many these were.
    leaking: u32,
    leaks: u64,
    overlays_leaking: u32,
    /// Caches that held nothing yet, and those that had no room for another cluster and its table.
    empty: u32,
    full: u32,
    verified_bytes: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.kills += other.kills;
        self.leaking += other.leaking;
        self.leaks += other.leaks;
        self.overlays_leaking += other.overlays_leaking;
        self.empty += other.empty;
        self.full += other.full;
        self.verified_bytes += other.verified_bytes;
    }
}

fn make_cache(folder: &Path) {
    let options = format!("cache_img_quota={QUOTA},cluster_size=512,backing_file=base.raw,backing_fmt=raw");
    vmicache(folder, &["img", "create", "-f", "qcow2", "-o", &options, "cache.qcow2"]);
}

/// What stock qemu-img counts as leaked; any other finding fails.
fn leaks(folder: &Path, image: &str) -> u64 {
    let output =
        Command::new("qemu-img").args(["check", "--output=json", image]).current_dir(folder).output();
    let output = output.unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |what: &str| found[what].as_u64().unwrap_or(0);
    assert_eq!((count("corruptions"), count("check-errors")), (0, 0), "{image}: {found}");
    let expected = if count("leaks") == 0 { 0 } else { 3 };
    assert_eq!(output.status.code(), Some(expected), "{image}: {found}");
    count("leaks")
}

/// Looks at the files that a killed server has left.
fn inspect(folder: &Path) -> Tally {
    let len = fs::metadata(folder.join("cache.qcow2")).unwrap().len();
    assert!(len <= QUOTA, "the cache's file has {len} bytes, its quota is {QUOTA}");
    let leaks_found = leaks(folder, "cache.qcow2");
    let overlays_leaking = u32::from(leaks(folder, "overlay.qcow2") > 0);
    let output = command(folder).args(["cache", "verify", "--json", "cache.qcow2"]).output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let verified_bytes = report["compared_bytes"].as_u64().unwrap();
    Tally {
        kills: 1,
        leaking: u32::from(leaks_found > 0),
        leaks: leaks_found,
        overlays_leaking,
        empty: u32::from(verified_bytes == 0),
        full: u32::from(len + 2 * 512 > QUOTA),
        verified_bytes,
    }
}

/// Lets the guests work through a server for some rounds, then kills it.
fn live(folder: &Path, base: &[u8], guests: &mut [Guest], options: &[&str], dice: &mut Pcg64Mcg) {
    let server = Serving::start(folder, &[&["overlay.qcow2", "--writable"], options].concat());
    let mut client = Client::enter(server.socket()).unwrap();
    guests.iter_mut().for_each(|guest| guest.looks_after_a_crash(&mut client, base));
    let (answered, rounds) = mpsc::channel();
    thread::scope(|scope| {
        for guest in guests {
            let (answered, mut dice) = (answered.clone(), Pcg64Mcg::seed_from_u64(dice.random()));
            let mut client = Client::enter(server.socket()).unwrap();
            scope.spawn(move || guest.works(&mut client, base, &mut dice, &answered));
        }
        drop(answered);
        rounds.iter().take(dice.random_range(0..ROUNDS) as usize).for_each(drop);
        // Guests are at work: this is any moment of what the server does for them.
        thread::sleep(Duration::from_micros(dice.random_range(0..3000)));
        server.kill();
    });
}

/// One chain through many lives of its servers.
fn lives(seed: u64, options: &[&str]) -> Tally {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut dice = Pcg64Mcg::seed_from_u64(seed);
    let mut base = vec![0; SIZE];
    dice.fill_bytes(&mut base);
    fs::write(folder.join("base.raw"), &base).unwrap();
    make_cache(folder);
    vmicache(folder, &["img", "create", "-f", "qcow2", "-b", "cache.qcow2", "-F", "qcow2", "overlay.qcow2"]);
    let mut guests: Vec<Guest> =
        (0..GUESTS).map(|number| Guest::new(SHARED, SHARED + number * OWN)).collect();
    let mut tally = Tally::default();
    for life in 1..=LIVES {
        live(folder, &base, &mut guests, options, &mut dice);
        tally += inspect(folder);
        if life % LIVES_OF_A_CACHE == 0 {
            make_cache(folder);
        }
    }
    // After all that a server is closed in order.
    let server = Serving::start(folder, &["overlay.qcow2", "--writable"]);
    let mut client = Client::enter(server.socket()).unwrap();
    let read = |client: &mut Client, offset: usize| client.read(offset as u64, SHARED / 4).unwrap();
    for offset in (0..4).map(|quarter| quarter * (SHARED / 4)) {
        assert!(read(&mut client, offset) == base[offset..offset + SHARED / 4]);
    }
    guests.iter_mut().for_each(|guest| guest.looks_after_a_crash(&mut client, &base));
    drop(client);
    server.stop();
    let closed = inspect(folder);
    assert_eq!((closed.leaks, closed.full), (0, 1), "{closed:?}");
    tally
}

#[test]
fn two_hundred_kills_leave_nothing_wrong() {
    let (mut beside, in_path) = thread::scope(|scope| {
        let beside = scope.spawn(|| lives(1, &[]));
        let in_path = scope.spawn(|| lives(2, &["--fill-in-path"]));
        (beside.join().unwrap(), in_path.join().unwrap())
    });
    eprintln!("filling beside reads: {beside:?}\nfilling in their path: {in_path:?}");
    beside += in_path;
    assert_eq!(beside.kills, 200);
    // Otherwise no kill has met a cache at work, or the quota was never reached, or always.
    assert!(beside.leaking > 20 && beside.full > 20 && beside.full < 180, "{beside:?}");
}
