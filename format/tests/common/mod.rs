//! What the tests of images share.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod blocks;
pub mod caches;
pub mod cuts;
pub mod damage;
pub mod failing;
pub mod guest;
pub mod heap;
pub mod images;
pub mod kinds;
pub mod qemu;
pub mod recorded;
pub mod reference;
pub mod samples;
pub mod sparse;
pub mod steered;
pub mod storages;

use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::future::poll_fn;
use std::ops::Range;
use std::task::Poll;

/// Lets others run so many times before it goes on.
pub async fn turns(mut turns: u64) {
    poll_fn(|context| match turns {
        0 => Poll::Ready(()),
        _ => {
            turns -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// The random choices of one case. Should the case fail, its seed is printed.
pub struct Random {
    seed: u64,
    rng: Pcg64Mcg,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Random { seed, rng: Pcg64Mcg::seed_from_u64(seed) }
    }

    /// Below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.rng.random_range(0..end)
    }

    pub fn within(&mut self, range: Range<u64>) -> u64 {
        self.rng.random_range(range)
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }

    pub fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// A piece of a disk, mostly short, with its ends on multiples of `unit` or anywhere.
    pub fn piece(&mut self, size: u64, longest: u64) -> Range<u64> {
        let unit = self.pick(&[1, 512, 512, 4096]);
        let longest = match self.below(4) {
            0 => longest,
            1 => longest.min(64 << 10),
            _ => longest.min(6000),
        };
        let start = self.below(size) / unit * unit;
        let len = (1 + self.below(longest)).next_multiple_of(unit);
        start..(start + len).min(size)
    }
}

impl Drop for Random {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the case that failed has seed {}", self.seed);
        }
    }
}

/// The seeds of a test: those from `first` on, or the one that the environment names.
pub fn seeds(first: u64, count: u64) -> Vec<u64> {
    match std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (first..first + count).collect(),
    }
}

/// Panics with the first difference instead of printing two disks.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths differ");
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        let end = (at + 16).min(found.len());
        panic!("{what}: byte {at} and on: {:02x?}, expected {:02x?}", &found[at..end], &expected[at..end]);
    }
}
