//! Hostile image files: the inputs that fuzzing begins with, those that it found, and random ones.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../fuzz/src/image/mod.rs"]
mod image;

use image::{Target, play};

#[test]
fn the_seeds_do_no_harm() {
    for target in Target::ALL {
        for (name, bytes) in image::seeds::all(target) {
            play_named(target, &name, &bytes);
        }
    }
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
    play(target, bytes);
}
