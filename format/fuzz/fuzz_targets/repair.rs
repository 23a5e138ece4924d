//! Hostile image files: see [`Target::Repair`].

#![no_main]

use libfuzzer_sys::fuzz_target;
use vmicache_format_fuzz::image::{Target, play};

fuzz_target!(|input: &[u8]| play(Target::Repair, input));
