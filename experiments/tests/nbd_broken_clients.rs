//! `vmicache serve` with clients that break off, break the protocol, or are still at work when it has to stop.

mod servers;

use servers::client::{
    self, CACHE, CLIENT_FLAGS, Client, DISCONNECT, FLUSH, LIST, READ, WRITE, WRITE_ZEROES,
};
use servers::client::{go, option, request};
use servers::{Serving, run, vmicache};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const SIZE: usize = 4 << 20;

/// A base of 4 MiB under a cache of 512-byte clusters and an overlay; what it holds.
fn chain(folder: &Path) -> Vec<u8> {
    let data: Vec<u8> = (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(folder.join("base.raw"), &data).unwrap();
    let options = "cache_img_quota=6M,cluster_size=512,backing_file=base.raw,backing_fmt=raw";
    vmicache(folder, &["img", "create", "-f", "qcow2", "-o", options, "cache.qcow2"]);
    vmicache(folder, &["img", "create", "-f", "qcow2", "-b", "cache.qcow2", "-F", "qcow2", "overlay.qcow2"]);
    data
}

/// A client that keeps reading and writing in the last mebibyte until it is told to end, and is not disturbed.
struct GoodClient {
    thread: JoinHandle<()>,
    end: Arc<AtomicBool>,
}

impl GoodClient {
    fn start(socket: PathBuf) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ends = end.clone();
        let thread = thread::spawn(move || {
            let mut client = Client::enter(&socket).unwrap();
            let mut rounds = 0;
            while rounds < 100 || !ends.load(Ordering::Relaxed) {
                rounds += 1;
                let offset = (3 << 20) + rounds * 7919 % (1 << 20) / 512 * 512;
                let data = [rounds as u8; 512];
                client.write(offset, &data).unwrap();
                assert_eq!(client.read(offset, 512).unwrap(), data);
            }
        });
        GoodClient { thread, end }
    }

    /// Ends it, after many rounds.
    fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// What the server counts as connected settles a little after the clients have gone.
fn settles_at(server: &Serving, connections: u64) {
    for _ in 0..100 {
        if server.status()["connections"] == connections {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{} connections instead of {connections}", server.status()["connections"]);
}

/// A session with everything in it, from a client's first byte to its last.
fn whole_session() -> Vec<u8> {
    let mut bytes = CLIENT_FLAGS.to_vec();
    // Structured replies, the list, and a metadata context.
    bytes.extend(option(8, &[]));
    bytes.extend(option(LIST, &[]));
    bytes.extend(option(10, &[&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15][..], b"base:allocation"].concat()));
    bytes.extend(go(""));
    bytes.extend(request(WRITE, 1, 700, 300));
    bytes.extend([5; 300]);
    for (command, offset, length) in [
        (READ, 0, 1 << 20),
        (WRITE_ZEROES, 4096, 70_000),
        (CACHE, 0, 1 << 20),
        (7, 0, 3 << 20),
        (FLUSH, 0, 0),
    ] {
        bytes.extend(request(command, 2, offset, length));
    }
    bytes.extend(request(DISCONNECT, 3, 0, 0));
    bytes
}

#[test]
fn clients_that_break_off_anywhere_disturb_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let base = chain(folder.path());
    let server = Serving::start(folder.path(), &["overlay.qcow2", "--writable"]);
    let good = GoodClient::start(server.socket().to_path_buf());
    let session = whole_session();
    for end in 0..=session.len() {
        // One hangs up and takes nothing, one takes everything first.
        let mut client = Client::connect(server.socket()).unwrap();
        client.send(&session[..end]).unwrap();
        drop(client);
        let mut client = Client::connect(server.socket()).unwrap();
        client.send(&session[..end]).unwrap();
        client.ends_sending();
        client.sees_hang_up();
    }
    settles_at(&server, 1);
    good.end();
    settles_at(&server, 0);
    let mut client = Client::enter(server.socket()).unwrap();
    assert!(client.read(1 << 20, 1 << 20).unwrap() == base[1 << 20..2 << 20]);
    drop(client);
    server.stop();
    run(folder.path(), "qemu-img", &["check", "overlay.qcow2"]);
    run(folder.path(), "qemu-img", &["check", "cache.qcow2"]);
}

#[test]
fn clients_that_break_the_protocol_are_hung_up_on() {
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    let server = Serving::start(folder.path(), &["overlay.qcow2", "--writable"]);
    let good = GoodClient::start(server.socket().to_path_buf());
    let greeted = |then: &[u8]| [&CLIENT_FLAGS[..], then].concat();
    let entered = |then: &[u8]| greeted(&[&go("")[..], then].concat());
    let huge = |number: u32| [b"IHAVEOPT", &number.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat();
    for sent in [
        vec![0xff; 4],
        greeted(b"NOTANOPTION!"),
        greeted(&huge(client::GO)),
        greeted(&huge(client::EXPORT_NAME)),
        greeted(&huge(77)),
        greeted(&option(client::EXPORT_NAME, b"unknown")),
        entered(&[0; 28]),
        entered(&request(WRITE, 1, 0, u32::MAX)),
        entered(&request(WRITE, 1, 0, 33 << 20)),
        entered(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n"),
    ] {
        // It goes on listening: the server has to hang up by itself.
        let mut client = Client::connect(server.socket()).unwrap();
        client.send(&sent).unwrap();
        client.sees_hang_up();
    }
    settles_at(&server, 1);
    good.end();
    settles_at(&server, 0);
    server.stop();
}

#[test]
fn a_server_that_is_told_to_stop_waits_for_no_half_request() {
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    for signal in ["TERM", "INT"] {
        let server = Serving::start(folder.path(), &["overlay.qcow2", "--writable"]);
        let clients: Vec<Client> = [
            vec![],
            CLIENT_FLAGS.to_vec(),
            [&CLIENT_FLAGS[..], b"IHAVE"].concat(),
            [&CLIENT_FLAGS[..], &option(client::GO, &[0; 60])[..40]].concat(),
            [&CLIENT_FLAGS[..], &go("")].concat(),
            [&CLIENT_FLAGS[..], &go(""), &request(READ, 1, 0, 512)[..20]].concat(),
        ]
        .iter()
        .map(|sent| {
            let mut client = Client::connect(server.socket()).unwrap();
            client.take(18).unwrap();
            client.send(sent).unwrap();
            client
        })
        .collect();
        settles_at(&server, clients.len() as u64);
        server.signal(signal);
        server.ends();
        clients.into_iter().for_each(Client::sees_hang_up);
    }
    run(folder.path(), "qemu-img", &["check", "overlay.qcow2"]);
    run(folder.path(), "qemu-img", &["check", "cache.qcow2"]);
}

#[test]
fn a_server_that_is_told_to_stop_answers_what_it_has_begun() {
    let folder = tempfile::tempdir().unwrap();
    let base = chain(folder.path());
    for (signal, pattern) in [("TERM", 1), ("INT", 2)] {
        // Long enough that none is answered before the signal is there, whatever else the machine does; were one, the
        // test would still be right.
        let server = Serving::start(folder.path(), &["overlay.qcow2", "--writable", "--delay-read", "1000"]);
        let mut client = Client::enter(server.socket()).unwrap();
        let mut expected = std::collections::HashMap::new();
        for number in 0..64_usize {
            let offset = number * 30_000;
            let cookie = client.ask(READ, offset as u64, 9000, &[]).unwrap();
            expected.insert(cookie, base[offset..offset + 9000].to_vec());
        }
        for number in 0..64 {
            let offset = (2 << 20) + number * 9000;
            let cookie = client.ask(WRITE, offset, 700, &[pattern; 700]).unwrap();
            expected.insert(cookie, vec![]);
        }
        // Requests are begun in their order: when this one is answered, so are all others begun.
        let flush = client.ask(FLUSH, 0, 0, &[]).unwrap();
        loop {
            let (cookie, data) = client.answer().unwrap();
            if cookie == flush {
                break;
            }
            assert!(expected.remove(&cookie).unwrap() == data);
        }
        server.signal(signal);
        while !expected.is_empty() {
            let (cookie, data) = client.answer().unwrap();
            assert!(expected.remove(&cookie).unwrap() == data);
        }
        client.sees_hang_up();
        server.ends();
        run(folder.path(), "qemu-img", &["check", "overlay.qcow2"]);
        run(folder.path(), "qemu-img", &["check", "cache.qcow2"]);
        let reads = (0..64).map(|number| format!("read -P {pattern} {} 700", (2 << 20) + number * 9000));
        let reads: Vec<String> = reads.flat_map(|read| ["-c".to_owned(), read]).collect();
        let reads: Vec<&str> = reads.iter().map(String::as_str).collect();
        let read = run(folder.path(), "qemu-io", &[&["-r", "overlay.qcow2"], &reads[..]].concat());
        assert!(!read.contains("failed"), "{read}");
    }
}
