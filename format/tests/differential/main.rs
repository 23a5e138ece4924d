//! Random cases in which stock QEMU and the project take turns at one image: each writes, the other reads what
//! it wrote, compares it with an array of bytes, and goes on writing. Stock QEMU also checks what ours has
//! written: no errors, no leaks.
//!
//! `CASES` is how many cases are run, `SEED` runs one alone and keeps its files when it fails.

#[path = "../common/mod.rs"]
mod common;

mod axes;
mod bitmaps;
mod case;
mod model;
mod ops;
mod ours;
mod stock;

use case::{Case, Counts};
use ops::Noise;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const CASES: u64 = 3000;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value}: this must be a number")))
}

/// Tells the others to stop when one of the threads panics.
struct StopOthers<'a>(&'a AtomicBool);

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn either_side_reads_and_goes_on_where_the_other_stopped() {
    let begin = Instant::now();
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CASES").unwrap_or(CASES),
    };
    let folder = case::new_folder();
    let noise = Noise::new(folder.path().to_path_buf());
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let totals = Mutex::new(Counts::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let _stop_others = StopOthers(&stop);
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        break;
                    }
                    let counts = Case::new(seed, &noise).run();
                    let mut totals = totals.lock().expect("nobody panics while adding");
                    for (name, count) in counts {
                        *totals.entry(name).or_default() += count;
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().expect("nobody panics while adding");
    println!("{} cases in {:.0} s", seeds.end - seeds.start, begin.elapsed().as_secs_f64());
    totals.iter().for_each(|(name, count)| println!("{count:8} {name}"));
    if seeds.end - seeds.start >= CASES {
        for name in ops::expected_names() {
            assert!(totals.contains_key(name), "no case had this operation: {name}");
        }
    }
}
