//! A client that may do anything, and what must hold of the server whatever it does.
//!
//! An input begins with a [`Manner`] of [`Manner::BYTES`] bytes: what the rest of it means, how it is cut, whether
//! answers are taken, how the client leaves. Server and client share one thread and wait for no clock.

pub mod client;
mod disks;
mod script;
pub mod seeds;

use client::{Client, turns, until};
use std::rc::Rc;
use std::time::Duration;
use vmicache_format::nbd::{Patience, Server};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Memory;

/// What the rest of an input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// All that the client sends.
    Raw,
    /// What the client sends once it has agreed upon the writable export.
    Requests,
    /// A script that sessions are made from: options and requests that are mostly right.
    Script,
}

/// How the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It hangs up after its last byte.
    AtOnce,
    /// It takes what answers there are first.
    Answered,
    /// It says that it sends no more, and takes answers until the server hangs up.
    HalfClosed,
    /// The server is stopped before it hangs up.
    Stopped,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// What the rest of the input means.
    pub meaning: Meaning,
    /// Bytes that are sent at once; 0: all. There are at most [`MOST_CUTS`] cuts.
    pub cut: u8,
    /// Kibibytes of answers that are taken after each; 255: all there are.
    pub taken: u8,
    /// How it leaves.
    pub leaving: Leaving,
}

/// Times that a client pauses while it sends.
pub const MOST_CUTS: usize = 16;

impl Manner {
    /// Bytes of a manner.
    pub const BYTES: usize = 4;

    /// The manner that an input begins with.
    pub fn parse(bytes: [u8; Self::BYTES]) -> Self {
        let meaning = [Meaning::Raw, Meaning::Requests, Meaning::Script][usize::from(bytes[0] % 3)];
        let ways = [Leaving::AtOnce, Leaving::Answered, Leaving::HalfClosed, Leaving::Stopped];
        Manner { meaning, cut: bytes[1], taken: bytes[2], leaving: ways[usize::from(bytes[3] % 4)] }
    }

    /// The bytes that [`parse`](Self::parse) makes it from.
    pub fn bytes(self) -> [u8; Self::BYTES] {
        [self.meaning as u8, self.cut, self.taken, self.leaving as u8]
    }
}

/// What a client of the input sends.
pub fn stream(manner: &Manner, rest: &[u8]) -> Vec<u8> {
    match manner.meaning {
        Meaning::Raw => rest.to_vec(),
        Meaning::Requests => [&seeds::negotiation(disks::WRITABLE)[..], rest].concat(),
        Meaning::Script => script::session(rest),
    }
}

/// Plays an input to a new server.
///
/// # Panics
/// If the server does, keeps a connection whose client has gone, does not serve the next client, or its disk
/// can no longer be closed.
pub fn play(input: &[u8]) {
    let Some((manner, rest)) = input.split_first_chunk() else { return };
    let manner = Manner::parse(*manner);
    let sent = stream(&manner, rest);
    let runtime = LocalRuntime::new();
    runtime.block_on(drive(&runtime, &manner, &sent));
}

async fn drive(runtime: &Rc<LocalRuntime>, manner: &Manner, sent: &[u8]) {
    // No clock ends what ought to end by itself.
    let patience =
        Patience { negotiation: Duration::from_secs(1 << 20), farewell: Duration::from_secs(1 << 20) };
    let server = Server::with_patience(disks::exports(runtime).await, runtime.clone(), patience);
    let mut client = Client::connect(&server);
    client.send_in_pieces(manner, sent).await;
    if manner.leaving == Leaving::Stopped {
        server.stop();
    }
    match manner.leaving {
        Leaving::AtOnce => {}
        Leaving::Answered | Leaving::Stopped => client.take_what_comes().await,
        Leaving::HalfClosed => client.close_half_and_take_all().await,
    }
    drop(client);
    has_ended(&server).await;
    if manner.leaving != Leaving::Stopped {
        the_next_is_served(&server).await;
    }
    let closed = server.exports()[0].disk.close().await;
    closed.expect("whatever a client does, the image can be closed");
}

async fn has_ended(server: &Rc<Server<Memory>>) {
    until(|| server.connections() == 0, "the server keeps a connection whose client has gone").await;
}

async fn the_next_is_served(server: &Rc<Server<Memory>>) {
    let mut client = Client::connect(server);
    let session = [seeds::negotiation(disks::READ_ONLY), seeds::request(0, 0, 1, 2), seeds::leave()].concat();
    client.send(&session).await;
    let answers = client.take_until_hung_up().await;
    assert!(answers.ends_with(&disks::READ_ONLY_BYTES), "the next client is not served: {answers:?}");
    drop(client);
    has_ended(server).await;
    turns(1).await;
}
