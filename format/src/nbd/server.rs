//! Exports, and the connections to them.

use super::connection::{self, Patience, Stream};
use super::recording::Recorder;
use super::statistics::Statistics;
use crate::disk::Disk;
use crate::runtime::{Event, LocalRuntime, Runtime, let_others_go_on};
use crate::storage::Storage;
use bytes::Bytes;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use std::cell::{Cell, RefCell};
use std::fs::Permissions;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// A disk as clients find it.
pub struct Export<S: Storage<Payload = Bytes>> {
    /// By which clients ask for it; the empty name is the one they get without asking.
    pub name: String,
    /// For people who list the exports; may be empty.
    pub description: String,
    /// What is served.
    pub disk: Disk<S>,
    /// Whether clients may write.
    pub writable: bool,
    /// How much longer every read takes than it has to.
    pub delay_read: Duration,
    /// What has been served.
    pub statistics: Statistics,
    /// Keeps what clients ask for.
    pub recorder: Option<Rc<RefCell<Recorder>>>,
}

/// Where clients connect.
#[derive(Debug)]
pub enum Listener {
    /// A socket in the file system.
    Unix(UnixListener),
    /// An address and port.
    Tcp(TcpListener),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(socket) => socket.as_fd(),
            Listener::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl Listener {
    /// Listens at a socket in the file system that its owner alone may use. A socket that a server left behind
    /// is replaced.
    ///
    /// # Errors
    /// If the name is taken, by a server that runs or by another file, or the socket cannot be made.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket {
            match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Err(error) => return Err(error),
                Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "a server is listening there")),
            }
        }
        // Nobody else reaches it before its permissions are right.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let private = tempfile::Builder::new().prefix(".s").rand_bytes(4).tempdir_in(folder)?;
        let inside = private.path().join("s");
        let socket = UnixListener::bind(&inside)?;
        std::fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
        // Unlike a renaming, this replaces nothing.
        std::fs::hard_link(&inside, path)?;
        Ok(Listener::Unix(socket))
    }

    /// Listens at a TCP address and port.
    ///
    /// # Errors
    /// If it is in use, or not this host's.
    pub fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        Ok(Listener::Tcp(TcpListener::bind(address)?))
    }

    /// The TCP port.
    pub fn port(&self) -> Option<u16> {
        match self {
            Listener::Unix(_) => None,
            Listener::Tcp(socket) => socket.local_addr().ok().map(|address| address.port()),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Listener::Unix(socket) => socket.set_nonblocking(true),
            Listener::Tcp(socket) => socket.set_nonblocking(true),
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        let stream = match self {
            Listener::Unix(socket) => Stream::Unix(socket.accept()?.0),
            Listener::Tcp(socket) => {
                let stream = socket.accept()?.0;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        // Without room for some answers, every one of them would wait for the client. The host may give less.
        let _ = setsockopt(&stream, SndBuf, &SEND_BUFFER);
        stream.set_nonblocking()?;
        Ok(stream)
    }
}

/// Bytes of answers that the host takes from us before a client has.
const SEND_BUFFER: usize = 1 << 20;

/// After an error that passes by itself, such as too many open files, accepting pauses this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An NBD server. It lives on one thread, with the disks that it serves.
pub struct Server<S: Storage<Payload = Bytes>> {
    pub(super) exports: Vec<Rc<Export<S>>>,
    pub(super) runtime: Rc<LocalRuntime>,
    /// No new requests are begun.
    pub(super) stopping: Cell<bool>,
    pub(super) stop_asked: Event,
    connections: Cell<usize>,
    connection_ended: Event,
    pub(super) patience: Patience,
}

impl<S: Storage<Payload = Bytes>> Server<S> {
    /// A server of `exports`, whose names differ.
    pub fn new(exports: Vec<Rc<Export<S>>>, runtime: Rc<LocalRuntime>) -> Rc<Self> {
        Self::with_patience(exports, runtime, Patience::default())
    }

    /// A server of `exports`, whose names differ, that waits for clients as long as `patience` says.
    pub fn with_patience(
        exports: Vec<Rc<Export<S>>>,
        runtime: Rc<LocalRuntime>,
        patience: Patience,
    ) -> Rc<Self> {
        Rc::new(Server {
            exports,
            runtime,
            stopping: Cell::new(false),
            stop_asked: Event::new(),
            connections: Cell::new(0),
            connection_ended: Event::new(),
            patience,
        })
    }

    /// The exports, in the order in which they are listed.
    pub fn exports(&self) -> &[Rc<Export<S>>] {
        &self.exports
    }

    /// Clients that are connected.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Accepts clients until the server is stopped, then waits for their last requests.
    ///
    /// # Errors
    /// If the listener cannot be watched.
    pub async fn serve(self: &Rc<Self>, listener: Listener) -> io::Result<()> {
        listener.set_nonblocking()?;
        let listener = Rc::new(self.runtime.watch(listener)?);
        let server = self.clone();
        let accepting = Rc::new(Cell::new(true));
        let watched = accepting.clone();
        self.runtime.spawn(Box::pin(async move {
            while watched.get() {
                match listener.when_readable(Listener::accept).await {
                    Ok(stream) if watched.get() => server.connect(stream),
                    Ok(_) => break,
                    Err(_) => server.runtime.sleep(ACCEPT_PAUSE).await,
                }
                let_others_go_on().await;
            }
        }));
        self.stopped().await;
        accepting.set(false);
        loop {
            let ended = self.connection_ended.listen();
            if self.connections.get() == 0 {
                return Ok(());
            }
            ended.await;
        }
    }

    /// Serves one client, as a task.
    pub fn connect(self: &Rc<Self>, stream: Stream) {
        let server = self.clone();
        self.connections.update(|connections| connections.saturating_add(1));
        self.runtime.spawn(Box::pin(async move {
            // A client that breaks the protocol loses its connection; nobody else is harmed.
            let _ = connection::run(&server, stream).await;
            server.connections.update(|connections| connections.saturating_sub(1));
            server.connection_ended.notify();
        }));
    }

    /// Ends in order: requests that have begun are finished and answered, then connections are closed.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.stop_asked.notify();
    }

    /// Waits until the server is to end.
    pub(super) async fn stopped(&self) {
        while !self.stopping.get() {
            self.stop_asked.listen().await;
        }
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<Rc<Export<S>>> {
        let named = self.exports.iter().find(|export| export.name.as_bytes() == name);
        // Whoever names nothing gets the first.
        named.or_else(|| self.exports.first().filter(|_| name.is_empty())).cloned()
    }
}
