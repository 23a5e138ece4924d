//! The inputs that fuzzing begins with: whole sessions, and known kinds of misbehaviour.

use super::{Leaving, Manner, Meaning};

/// An option.
pub fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

/// A request's header.
pub fn request(command: u16, flags: u16, offset: u64, length: u32) -> Vec<u8> {
    let (magic, cookie) = (0x2560_9513_u32.to_be_bytes(), 77_u64.to_be_bytes());
    let (flags, command) = (flags.to_be_bytes(), command.to_be_bytes());
    [&magic[..], &flags, &command, &cookie, &offset.to_be_bytes(), &length.to_be_bytes()].concat()
}

/// The request after which the client hangs up.
pub fn leave() -> Vec<u8> {
    request(2, 0, 0, 0)
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), rest].concat()
}

/// Agrees upon structured replies, block status and an export.
pub fn negotiation(name: &str) -> Vec<u8> {
    let allocation = [&1_u32.to_be_bytes()[..], &named("base:allocation", &[])].concat();
    let options = [option(8, &[]), option(10, &named(name, &allocation)), option(7, &named(name, &[0, 0]))];
    [&3_u32.to_be_bytes()[..], &options.concat()].concat()
}

/// All seeds, with their files' names.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let polite = Manner { meaning: Meaning::Raw, cut: 0, taken: 255, leaving: Leaving::Answered };
    let input = |manner: Manner, rest: &[u8]| [&manner.bytes()[..], rest].concat();
    let session = [negotiation("rw"), requests()].concat();
    let of_requests = Manner { meaning: Meaning::Requests, ..polite };
    let of_script = Manner { meaning: Meaning::Script, ..polite };
    vec![
        ("session", input(polite, &session)),
        ("session-half-closed", input(Manner { leaving: Leaving::HalfClosed, cut: 7, ..polite }, &session)),
        ("session-stopped", input(Manner { leaving: Leaving::Stopped, cut: 40, ..polite }, &session)),
        (
            "session-cut-short",
            input(Manner { leaving: Leaving::AtOnce, ..polite }, &session[..session.len() / 2]),
        ),
        ("options", input(polite, &options())),
        ("oldest-way", input(polite, &[&1_u32.to_be_bytes()[..], &option(1, b"ro"), &requests()].concat())),
        ("unknown-client-flags", input(polite, &u32::MAX.to_be_bytes())),
        ("no-option", input(polite, b"\0\0\0\x03NOTANOPT\0\0\0\0\0\0\0\0")),
        ("option-too-long", input(polite, b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff")),
        ("no-request", input(of_requests, &[0xff; 28])),
        ("requests", input(of_requests, &requests())),
        ("requests-for-large-ranges", input(of_requests, &large_requests())),
        ("requests-of-a-deaf-client", input(Manner { taken: 0, ..of_requests }, &many_requests())),
        ("requests-out-of-range", input(of_requests, &wrong_requests())),
        ("write-without-data", input(of_requests, &request(1, 0, 0, 32 << 20))),
        ("write-too-long", input(of_requests, &request(1, 0, 0, u32::MAX))),
        ("script-empty", input(of_script, &[])),
        ("script-counting", input(of_script, &(0..=255).collect::<Vec<u8>>())),
        (
            "script-slow-taker",
            input(Manner { taken: 1, cut: 100, ..of_script }, &[[0, 9, 8, 9, 11]; 40].concat()),
        ),
    ]
}

fn options() -> Vec<u8> {
    let every = [0, 4, 0, 0, 0, 1, 0, 2, 0, 3];
    let many_queries =
        [&2_u32.to_be_bytes()[..], &named("base:", &[]), &named("other:context", &[])].concat();
    let options = [
        option(3, &[]),
        option(3, b"data"),
        option(5, &[]),
        option(6, &named("ro", &every)),
        option(7, &named("none", &[0, 0])),
        option(7, &[255; 6]),
        option(8, b"data"),
        option(9, &named("rw", &many_queries)),
        option(8, &[]),
        option(9, &named("rw", &many_queries)),
        option(9, &named("rw", &[0; 4])),
        option(10, &named("rw", &[255; 4])),
        option(2, &[]),
    ];
    [&3_u32.to_be_bytes()[..], &options.concat()].concat()
}

fn requests() -> Vec<u8> {
    let written = [request(1, 1, 100, 3), b"abc".to_vec()].concat();
    let asked =
        [(0, 0, 99, 5), (7, 0, 0, 1 << 20), (7, 8, 512, 4096), (5, 0, 4096, 70_000), (6, 2, 8000, 9000)];
    let asked = asked.map(|(command, flags, offset, length)| request(command, flags, offset, length));
    [written, asked.concat(), request(4, 0, 0, 4096), request(3, 0, 0, 0), request(0, 4, 0, 9000), leave()]
        .concat()
}

fn large_requests() -> Vec<u8> {
    let reads = [request(0, 0, 3, 1 << 20), request(0, 4, 0, 2 << 20), request(0, 0, 0, 32 << 20)];
    let commands = [request(5, 0, 0, 2 << 20), request(6, 1, 1, 2 << 20), request(7, 0, 0, 2 << 20)];
    [reads.concat(), commands.concat(), leave()].concat()
}

fn many_requests() -> Vec<u8> {
    (0..160).flat_map(|number| request(0, 0, number * 512, 4096)).collect()
}

fn wrong_requests() -> Vec<u8> {
    let end = super::disks::SIZE;
    let asked =
        [(0, end, 1), (0, u64::MAX, 2), (5, 1, u32::MAX), (7, 0, 0), (6, end - 1, 2), (3, 0, 1), (99, 0, 0)];
    asked.into_iter().flat_map(|(command, offset, length)| request(command, 0, offset, length)).collect()
}
