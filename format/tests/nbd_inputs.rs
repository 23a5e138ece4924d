//! The NBD server against the inputs that fuzzing begins with, those that it found, and random ones.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../fuzz/src/nbd/mod.rs"]
mod nbd;

use nbd::{Leaving, Manner, Meaning};
use proptest::prelude::*;
use std::path::PathBuf;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

#[test]
fn the_seeds_are_those_that_are_written_and_do_no_harm() {
    let seeds = nbd::seeds::all();
    if std::env::var_os("WRITE_SEEDS").is_some() {
        for (name, bytes) in &seeds {
            std::fs::write(folder("seeds/nbd").join(name), bytes).expect("a seed can be written");
        }
    }
    let files = std::fs::read_dir(folder("seeds/nbd")).expect("the folder of the seeds");
    assert_eq!(files.count(), seeds.len(), "write them anew, see fuzz/README.md");
    for (name, bytes) in seeds {
        let file = std::fs::read(folder("seeds/nbd").join(name)).expect("a seed");
        assert!(file == bytes, "{name} differs: write them anew, see fuzz/README.md");
        nbd::play(&bytes);
    }
}

#[test]
fn what_fuzzing_found_does_no_harm() {
    let files = std::fs::read_dir(folder("found/nbd")).expect("the folder of what was found");
    let mut played = 0;
    for file in files {
        nbd::play(&std::fs::read(file.expect("a file").path()).expect("an input"));
        played += 1;
    }
    assert!(played > 0, "the folder is empty");
}

fn manner() -> impl Strategy<Value = Manner> {
    let meaning = prop_oneof![
        1 => Just(Meaning::Raw),
        2 => Just(Meaning::Requests),
        5 => Just(Meaning::Script),
    ];
    let leaving =
        prop::sample::select(vec![Leaving::AtOnce, Leaving::Answered, Leaving::HalfClosed, Leaving::Stopped]);
    let taken = prop_oneof![Just(0), Just(1), Just(255), any::<u8>()];
    (meaning, any::<u8>(), taken, leaving).prop_map(|(meaning, cut, taken, leaving)| Manner {
        meaning,
        cut,
        taken,
        leaving,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_sessions_do_no_harm(manner in manner(), rest in prop::collection::vec(any::<u8>(), 0..400)) {
        nbd::play(&[&manner.bytes()[..], &rest].concat());
    }

    #[test]
    fn seeds_with_bytes_changed_do_no_harm(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let seeds = nbd::seeds::all();
        let mut input = seeds[seed.index(seeds.len())].1.clone();
        for (place, byte) in changes {
            let place = place.index(input.len());
            input[place] = byte;
        }
        nbd::play(&input);
    }
}
