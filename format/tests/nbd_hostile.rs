//! The NBD server and clients that ask for too much, take nothing, or wait for ever: they harm themselves alone.

mod common;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../fuzz/src/nbd/mod.rs"]
mod nbd;

use common::sparse::Sparse;
use nbd::client::{Client, turns, until};
use nbd::seeds::{leave, negotiation, option, request};
use std::rc::Rc;
use std::time::Duration;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::nbd::{Export, Patience, Server, Statistics};
use vmicache_format::runtime::LocalRuntime;

const READ: u16 = 0;
const WRITE: u16 = 1;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const DF: u16 = 4;
const MIB: u32 = 1 << 20;

/// No clock ends anything.
const ENDLESS: Patience =
    Patience { negotiation: Duration::from_secs(1 << 20), farewell: Duration::from_secs(1 << 20) };
/// Nobody is waited for.
const NONE: Patience = Patience { farewell: Duration::ZERO, ..ENDLESS };

async fn serve(
    runtime: &Rc<LocalRuntime>,
    store: &Sparse,
    delay_read: Duration,
    patience: Patience,
) -> Rc<Server<Sparse>> {
    let raw = RawImage::open(store.clone(), "vast", true).await.unwrap();
    let disk = Disk::new(vec![Rc::new(Layer::Raw(raw))], Filling::Beside, runtime.clone()).unwrap();
    let export = Export {
        name: "rw".into(),
        description: String::new(),
        disk,
        writable: true,
        delay_read,
        statistics: Statistics::default(),
        recorder: None,
    };
    Server::with_patience(vec![Rc::new(export)], runtime.clone(), patience)
}

/// Runs a test beside a server of a disk of 8 GiB.
fn with_server(patience: Patience, delay_read: Duration, test: impl AsyncFnOnce(Rc<Server<Sparse>>, Sparse)) {
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let store = Sparse::new(8 << 30);
        let server = serve(&runtime, &store, delay_read, patience).await;
        test(server, store).await;
    });
}

/// A client that has agreed upon structured replies or, the old way, upon nothing.
async fn connect(server: &Rc<Server<Sparse>>, structured: bool) -> Client {
    let mut client = Client::connect(server);
    let greeting = 18;
    if structured {
        client.send(&negotiation("rw")).await;
        let (acknowledged, context, info) = (20, 20 + 4 + 15, 20 + 12);
        client.expect(greeting + acknowledged + context + acknowledged + info + acknowledged).await;
    } else {
        client.send(&[&3_u32.to_be_bytes()[..], &option(1, b"rw")].concat()).await;
        client.expect(greeting + 8 + 2).await;
    }
    client
}

/// Takes a simple reply: its error.
async fn reply(client: &mut Client) -> u32 {
    let reply = client.expect(16).await;
    assert_eq!(&reply[..4], 0x6744_6698_u32.to_be_bytes());
    u32::from_be_bytes(reply[4..8].try_into().unwrap())
}

/// Takes a chunk of a structured reply: whether it is the last, its kind, and its payload.
async fn chunk(client: &mut Client) -> (bool, u16, Vec<u8>) {
    let header = client.expect(20).await;
    assert_eq!(&header[..4], 0x668e_33ef_u32.to_be_bytes());
    let length = u32::from_be_bytes(header[16..].try_into().unwrap());
    let payload = client.expect(length as usize).await;
    (header[5] == 1, u16::from_be_bytes([header[6], header[7]]), payload)
}

async fn is_served(client: &mut Client) {
    client.send(&request(WRITE, 0, 0, 4)).await;
    client.send(b"abcd").await;
    assert_eq!(reply(client).await, 0);
}

#[test]
fn nobody_waits_for_what_another_client_does_not_send_or_take() {
    with_server(ENDLESS, Duration::ZERO, async |server, _| {
        let mut stingy = connect(&server, false).await;
        stingy.send(&request(WRITE, 0, 0, 32 * MIB)).await;
        let mut deaf = connect(&server, false).await;
        deaf.send(&request(READ, 0, 0, 32 * MIB)).await;
        turns(1000).await;
        let mut client = connect(&server, false).await;
        client.send(&request(READ, 0, 100, 32 * MIB)).await;
        assert_eq!(reply(&mut client).await, 0);
        client.expect(32 << 20).await;
        client.send(&request(WRITE, 0, 100, 2 * MIB)).await;
        client.send(&vec![1; 2 << 20]).await;
        assert_eq!(reply(&mut client).await, 0);
    });
}

#[test]
fn large_reads_are_answered_in_full_in_every_form() {
    with_server(ENDLESS, Duration::ZERO, async |server, _| {
        let mut client = connect(&server, true).await;
        for (flags, offset) in [(0, 0), (0, 12345), (DF, 777)] {
            client.send(&request(READ, flags, offset, 3 * MIB)).await;
            let mut at = offset;
            loop {
                let (is_last, kind, payload) = chunk(&mut client).await;
                assert_eq!(kind, 1);
                assert_eq!(payload[..8], at.to_be_bytes());
                at += payload.len() as u64 - 8;
                if is_last {
                    break;
                }
                assert_eq!(flags, 0, "one that was not to be cut is");
            }
            assert_eq!(at, offset + u64::from(3 * MIB));
        }
        is_served(&mut client).await;
    });
}

#[test]
fn a_large_read_that_fails_midway_is_no_whole_answer() {
    with_server(ENDLESS, Duration::ZERO, async |server, store| {
        store.broken_from.set(Some(2 << 20));
        // In chunks, the error is one of them.
        let mut client = connect(&server, true).await;
        client.send(&request(READ, 0, 0, 4 * MIB)).await;
        let mut data = 0;
        let errno = loop {
            match chunk(&mut client).await {
                (false, 1, payload) => data += payload.len() - 8,
                (true, 0x8001, payload) => break payload[..4].to_vec(),
                other => panic!("{:?}", (other.0, other.1)),
            }
        };
        assert_eq!((data, errno), (2 << 20, 5_u32.to_be_bytes().to_vec()));
        is_served(&mut client).await;
        // Otherwise the connection has to end.
        let mut client = connect(&server, false).await;
        client.send(&request(READ, 0, 0, 4 * MIB)).await;
        let answer = client.take_until_hung_up().await;
        assert_eq!(answer.len(), 16 + (2 << 20));
        // One that fails at once is answered as any other.
        let mut client = connect(&server, false).await;
        client.send(&request(READ, 0, 3 << 20, 4 * MIB)).await;
        assert_eq!(reply(&mut client).await, 5);
        client.send(&request(READ, 0, 8 << 30, 4 * MIB)).await;
        assert_eq!(reply(&mut client).await, 22);
        is_served(&mut client).await;
    });
}

#[test]
fn a_large_write_that_fails_takes_its_data_with_it() {
    with_server(ENDLESS, Duration::ZERO, async |server, store| {
        store.broken_from.set(Some(2 << 20));
        let mut client = connect(&server, false).await;
        for (offset, errno) in [(100, 0), ((1 << 20) + 100, 5), (8 << 30, 28), (u64::MAX - 5, 28)] {
            client.send(&request(WRITE, 1, offset, MIB)).await;
            client.send(&vec![1; 1 << 20]).await;
            assert_eq!(reply(&mut client).await, errno, "at {offset}");
            is_served(&mut client).await;
        }
    });
}

#[test]
fn what_takes_long_leaves_others_their_turn_and_ends_with_the_connection() {
    for (command, steps) in [(CACHE, 1 << 14), (WRITE_ZEROES, 1 << 12)] {
        with_server(NONE, Duration::ZERO, async |server, store| {
            let done = || store.reads.get() + store.writes.get();
            let (mut greedy, mut client) = (connect(&server, false).await, connect(&server, false).await);
            greedy.send(&request(command, 0, 0, u32::MAX)).await;
            until(|| done() > 0, "it is not begun").await;
            is_served(&mut client).await;
            assert!(done() < steps, "command {command} was done before others had their turn");
            drop(greedy);
            until(|| server.connections() == 1, "the connection goes on").await;
            let before = done();
            assert!(before < steps, "command {command} was done to its end for nobody");
            turns(10_000).await;
            assert!(done() <= before + 1, "command {command} goes on for nobody");
        });
    }
}

#[test]
fn a_server_that_stops_ends_a_prefetch() {
    with_server(ENDLESS, Duration::ZERO, async |server, store| {
        let mut client = connect(&server, false).await;
        client.send(&request(CACHE, 0, 0, u32::MAX)).await;
        until(|| store.reads.get() > 0, "it is not begun").await;
        server.stop();
        assert_eq!(reply(&mut client).await, 108);
        until(|| server.connections() == 0, "the server does not stop").await;
        assert!(store.reads.get() < 1 << 14);
    });
}

#[test]
fn a_client_cannot_keep_a_server_from_stopping() {
    let deaf = (0..200).flat_map(|at| request(READ, 0, at * 4096, 8192)).collect();
    for sent in [vec![], request(WRITE, 0, 0, 4096), request(WRITE, 0, 0, 32 * MIB), deaf] {
        with_server(NONE, Duration::ZERO, async |server, _| {
            let mut client = connect(&server, false).await;
            client.send(&sent).await;
            turns(1000).await;
            assert_eq!(server.connections(), 1);
            server.stop();
            until(|| server.connections() == 0, "the server does not stop").await;
        });
    }
}

#[test]
fn nobody_waits_for_delayed_reads_of_a_client_that_has_gone() {
    for length in [512, 4 * MIB] {
        with_server(NONE, Duration::from_secs(1 << 20), async |server, store| {
            let mut client = connect(&server, true).await;
            client.send(&request(READ, 0, 0, length)).await;
            turns(1000).await;
            drop(client);
            if length == 4 * MIB {
                // While it serves a large request, it does not listen to the client.
                server.stop();
            }
            until(|| server.connections() == 0, "the connection goes on").await;
            assert_eq!(store.reads.get(), 0);
        });
    }
}

#[test]
fn a_client_that_asks_as_fast_as_it_is_answered_has_only_its_turn() {
    with_server(ENDLESS, Duration::ZERO, async |server, _| {
        let mut client = Client::connect(&server);
        let options: Vec<u8> = (0..100).flat_map(|_| option(8, &[])).collect();
        client.send(&[&3_u32.to_be_bytes()[..], &options].concat()).await;
        let (mut answers, mut waited) = (0, 0);
        while answers < 18 + 100 * 20 {
            turns(1).await;
            waited += 1;
            answers += client.take(usize::MAX);
            assert!(waited < 1_000_000, "not all options are answered");
        }
        assert!(waited >= 100, "all were answered in {waited} turns");
    });
}

#[test]
fn whoever_does_not_come_to_terms_is_hung_up_on() {
    with_server(Patience { negotiation: Duration::ZERO, ..ENDLESS }, Duration::ZERO, async |server, _| {
        let mut client = Client::connect(&server);
        client.send(&[0, 0]).await;
        until(|| server.connections() == 0, "the server waits for ever").await;
        assert!(client.is_hung_up_on());
    });
}

#[test]
fn hundreds_of_idle_clients_are_no_obstacle() {
    with_server(ENDLESS, Duration::ZERO, async |server, _| {
        let mut idle = Vec::new();
        for _ in 0..300 {
            idle.push(connect(&server, false).await);
        }
        let mut client = connect(&server, false).await;
        is_served(&mut client).await;
        client.send(&leave()).await;
        assert!(client.take_until_hung_up().await.is_empty());
        drop((idle, client));
        until(|| server.connections() == 0, "the server keeps connections whose clients have gone").await;
    });
}
