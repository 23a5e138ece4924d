//! The NBD server against clients that may do anything.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nix::sys::signal::{SigSet, Signal};

fuzz_target!(init: {
    // A program whose main function is not Rust's is killed when it writes to a client that has gone.
    SigSet::from(Signal::SIGPIPE).thread_block().expect("a signal can be blocked");
}, |input: &[u8]| vmicache_format_fuzz::nbd::play(input));
