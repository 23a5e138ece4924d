//! One client.

use super::input::Input;
use super::negotiation::Negotiation;
use super::output::Output;
use super::server::Server;
use super::transmission::Transmission;
use crate::runtime::{Event, Runtime};
use crate::storage::Storage;
use bytes::Bytes;
use futures_util::future::{Either, select};
use std::cell::Cell;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// A connection to a client.
#[derive(Debug)]
pub enum Stream {
    /// Within the host.
    Unix(UnixStream),
    /// Over the network.
    Tcp(TcpStream),
}

impl Stream {
    /// Makes reads and writes return at once, as a server needs it.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Stream::Unix(socket) => socket.set_nonblocking(true),
            Stream::Tcp(socket) => socket.set_nonblocking(true),
        }
    }

    fn shutdown(&self) {
        // Fails if the client has hung up already.
        let _ = match self {
            Stream::Unix(socket) => socket.shutdown(Shutdown::Both),
            Stream::Tcp(socket) => socket.shutdown(Shutdown::Both),
        };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(socket) => socket.as_fd(),
            Stream::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(socket) => (&mut &*socket).read(buffer),
            Stream::Tcp(socket) => (&mut &*socket).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(socket) => (&mut &*socket).write(buffer),
            Stream::Tcp(socket) => (&mut &*socket).write(buffer),
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Unix(socket) => (&mut &*socket).write_vectored(parts),
            Stream::Tcp(socket) => (&mut &*socket).write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of requests that a connection may have under way: together with what it reads ahead and keeps account
/// of, a mebibyte.
const OWN_SHARE: u64 = 768 << 10;
/// Requests that it may have under way.
const MAX_REQUESTS: u64 = 128;

/// What a connection has under way.
#[derive(Default)]
pub(super) struct Load {
    bytes: Cell<u64>,
    requests: Cell<u64>,
    eased: Event,
}

/// Memory that a request takes from its begin until its answer is sent.
pub(super) struct Share {
    load: Rc<Load>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.load.bytes.update(|bytes| bytes.saturating_sub(self.bytes));
        self.load.requests.update(|requests| requests.saturating_sub(1));
        self.load.eased.notify();
    }
}

impl Load {
    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        self.until(|| self.requests.get() == 0).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let eased = self.eased.listen();
            if holds() {
                return;
            }
            eased.await;
        }
    }

    /// Waits for room for `bytes` more, at most [`OWN_SHARE`].
    pub async fn admit(self: &Rc<Self>, bytes: u64) -> Share {
        debug_assert!(bytes <= OWN_SHARE);
        let with_it = || self.bytes.get().saturating_add(bytes);
        self.until(|| with_it() <= OWN_SHARE && self.requests.get() < MAX_REQUESTS).await;
        self.bytes.set(with_it());
        self.requests.update(|requests| requests.saturating_add(1));
        Share { load: self.clone(), bytes }
    }
}

/// How long a server waits for clients.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a client to agree upon an export.
    pub negotiation: Duration,
    /// For a client that leaves, or when the server stops, until what was begun is answered and the answers are
    /// taken.
    pub farewell: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { negotiation: Duration::from_secs(60), farewell: Duration::from_secs(30) }
    }
}

/// Serves one client until it leaves, the connection breaks, or the server stops.
///
/// # Errors
/// If the client breaks the protocol, or the connection.
pub(super) async fn run<S: Storage<Payload = Bytes>>(
    server: &Rc<Server<S>>,
    stream: Stream,
) -> io::Result<()> {
    let socket = Rc::new(server.runtime.watch(stream)?);
    let mut input = Input::new(socket.clone());
    let agreement = {
        let negotiation = pin!(Negotiation::new(server, &mut input, &socket).run());
        let patience = pin!(server.runtime.sleep(server.patience.negotiation));
        match select(negotiation, select(pin!(server.stopped()), patience)).await {
            Either::Left((agreement, _)) => agreement?,
            Either::Right(_) => None,
        }
    };
    let Some(agreement) = agreement else { return Ok(()) };
    let output = Rc::new(Output::default());
    let load = Rc::new(Load::default());
    let sent = {
        let (output, socket) = (output.clone(), socket.clone());
        let done = Event::new();
        let listener = done.listen();
        server.runtime.spawn(Box::pin(async move {
            if output.run(&socket).await.is_err() {
                // Wakes the reader.
                socket.inner().shutdown();
            }
            done.notify();
        }));
        listener
    };
    let transmission = Transmission::new(server.clone(), agreement, output.clone(), load.clone());
    let read = {
        // A stopped server does not wait for ever for the rest of a request, or for room for the next.
        let patience = pin!(async {
            server.stopped().await;
            server.runtime.sleep(server.patience.farewell).await;
        });
        match select(pin!(transmission.run(&mut input)), patience).await {
            Either::Left((read, _)) => read,
            Either::Right(_) => {
                socket.inner().shutdown();
                Ok(())
            }
        }
    };
    transmission.client_leaves();
    let answered = pin!(load.until(|| load.requests.get() == 0 || output.has_failed()));
    // A client that takes no answers cannot hold the server up.
    if let Either::Right(_) = select(answered, pin!(server.runtime.sleep(server.patience.farewell))).await {
        socket.inner().shutdown();
    }
    output.close();
    sent.await;
    socket.inner().shutdown();
    read
}
