//! Hostile image files: the inputs that fuzzing begins with, those that it found, and random ones. None may take much
//! memory; the store that they lie in bounds the requests.

mod common;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../fuzz/src/image/mod.rs"]
mod image;

use common::heap::{Counting, Watch};
use image::{RAW, Target, play, templates};
use proptest::prelude::*;
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that an input may take, all that is written to its file included.
const MOST_MEMORY: isize = 224 << 20;

/// The folder for inputs of a target: `seeds` or `found`.
fn folder(kind: &str, target: Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target.name())
}

/// Plays an input; if it fails, its name is printed.
fn play_named(target: Target, name: &str, bytes: &[u8]) {
    struct Name<'a>(Target, &'a str, &'a [u8]);
    impl Drop for Name<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the input that failed: {} {} {:?}", self.0.name(), self.1, self.2);
            }
        }
    }
    let _name = Name(target, name, bytes);
    // Templates are made once, and stay.
    if bytes.first().is_some_and(|number| *number != RAW) {
        templates::template(bytes[0]);
    }
    let watch = Watch::begin();
    play(target, bytes);
    let taken = watch.most();
    assert!(taken <= MOST_MEMORY, "{} MiB of memory", taken >> 20);
}

#[test]
fn the_seeds_do_no_harm() {
    let to_be_written = std::env::var_os("WRITE_SEEDS").is_some();
    for target in Target::ALL {
        for (name, bytes) in image::seeds::all(target) {
            if to_be_written {
                let folder = folder("seeds", target);
                std::fs::create_dir_all(&folder).expect("the folder can be made");
                std::fs::write(folder.join(&name), &bytes).expect("a seed can be written");
            }
            play_named(target, &name, &bytes);
        }
    }
}

#[test]
fn what_fuzzing_found_does_no_harm() {
    for target in Target::ALL {
        let files = std::fs::read_dir(folder("found", target)).expect("the folder of what was found");
        let mut played = 0;
        for file in files {
            let path = file.expect("a file").path();
            play_named(target, &path.display().to_string(), &std::fs::read(&path).expect("an input"));
            played += 1;
        }
        assert!(played > 0, "{}: the folder is empty", target.name());
    }
}

/// A change of a structure: see `patches`. Most are such as name a structure, and not any byte.
fn patch() -> impl Strategy<Value = Vec<u8>> {
    let place = (0..12_u8, 0..16_u8, any::<u8>());
    let value = (any::<u8>(), any::<u8>());
    let near = (place, value).prop_map(|((kind, a, b), (how, what))| vec![0, kind, a, b, how, what]);
    prop_oneof![4 => near, 1 => prop::collection::vec(any::<u8>(), 6..14)]
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    let patches = prop_oneof![1 => Just(vec![]), 3 => prop::collection::vec(patch(), 1..4)];
    let script = prop::collection::vec((0..16_u8, 0..8_u8, 0..32_u8, any::<u8>(), any::<u8>()), 0..16);
    (0..templates::COUNT as u8, any::<u8>(), patches, script).prop_map(
        |(template, setting, patches, script)| {
            let mut input = vec![template, setting, patches.len() as u8];
            input.extend(patches.concat());
            input.extend(
                script
                    .into_iter()
                    .flat_map(|(kind, unit, place, length, number)| [kind, unit, place, length, number]),
            );
            input
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_images_do_no_harm(input in input()) {
        for target in Target::ALL {
            play_named(target, "a random one", &input);
        }
    }
}
