//! Power cuts on every kind of image that is written.
//!
//! A guest, or the filling of a cache, writes an image on a storage that records everything; then the image is looked
//! at as cuts at moments of that record leave it. Always it opens, for reading and for writing; a check finds nothing
//! beyond clusters that leaked; what was flushed is there; and no block shows what was never written to it.
//!
//! `POWER_CUTS` is the number of cuts of a run (12000 if the environment does not say), for a soak of any
//! length; `SEED` is the first seed (1). Each test takes its share of the cuts:
//!
//! ```text
//! POWER_CUTS=2000000 SEED=$RANDOM cargo test --release -p vmicache-format --test power_cut -- --nocapture
//! ```

#[path = "../common/mod.rs"]
mod common;

mod caches;
mod guests;

/// A number that the environment may name.
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// How often an image of one kind is cut, if all tests run.
fn cuts_of_a_kind() -> u64 {
    let kinds =
        common::kinds::ALL.iter().map(|kinds| kinds.len()).sum::<usize>() + common::caches::KINDS.len();
    setting("POWER_CUTS", 12_000).div_ceil(kinds as u64)
}
