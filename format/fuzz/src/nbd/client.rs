//! The client's end of a connection, on the server's thread.

use super::{MOST_CUTS, Manner};
use bytes::Bytes;
use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Poll;
use vmicache_format::nbd::{Server, Stream};
use vmicache_format::storage::Storage;

/// After so many turns the server has looked at its sockets, and acted upon what it saw.
const LOOK: u32 = 80;
/// Looks at which nothing happens before the client believes that nothing will.
const IDLE_LOOKS: u32 = 4;
/// Looks after which something that has to happen should have.
const PATIENCE: u32 = 20_000;
/// What is taken at once.
const BUFFER: usize = 64 << 10;

/// Lets the server's tasks go on, so many times.
pub async fn turns(mut turns: u32) {
    poll_fn(|context| match turns {
        0 => Poll::Ready(()),
        _ => {
            turns -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Waits for what has to come by itself; panics with `otherwise` if it does not.
pub async fn until(holds: impl Fn() -> bool, otherwise: &str) {
    for _ in 0..PATIENCE {
        if holds() {
            return;
        }
        turns(LOOK).await;
    }
    panic!("{otherwise}");
}

/// A client.
pub struct Client {
    socket: UnixStream,
    buffer: Box<[u8; BUFFER]>,
    hung_up_on: bool,
}

impl Client {
    /// Connects to a server.
    pub fn connect<S: Storage<Payload = Bytes>>(server: &Rc<Server<S>>) -> Self {
        let (socket, served) = UnixStream::pair().expect("a pair of sockets");
        let served = Stream::Unix(served);
        served.set_nonblocking().expect("a socket that does not block");
        socket.set_nonblocking(true).expect("a socket that does not block");
        server.connect(served);
        Client { socket, buffer: Box::new([0; BUFFER]), hung_up_on: false }
    }

    /// Sends a stream as the manner says. What the server does not take is not sent.
    pub async fn send_in_pieces(&mut self, manner: &Manner, stream: &[u8]) {
        let least = stream.len().div_ceil(MOST_CUTS).max(1);
        let piece = match manner.cut {
            0 => stream.len().max(1),
            cut => usize::from(cut).max(least),
        };
        let taken = if manner.taken == u8::MAX { usize::MAX } else { usize::from(manner.taken) << 10 };
        for bytes in stream.chunks(piece) {
            if !self.offer(bytes, taken).await {
                return;
            }
            turns(LOOK).await;
            self.take(taken);
        }
    }

    /// Sends all bytes, and takes no answers.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.offer(bytes, 0).await;
    }

    /// Whether the server takes the bytes, if it gets rid of `taken` bytes of answers at a time.
    async fn offer(&mut self, mut bytes: &[u8], taken: usize) -> bool {
        let mut idle = 0;
        while !bytes.is_empty() && idle < IDLE_LOOKS {
            match (&self.socket).write(bytes) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    idle = 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    turns(LOOK).await;
                    idle = if self.take(taken) > 0 { 0 } else { idle + 1 };
                }
                Err(_) => return false,
            }
        }
        bytes.is_empty()
    }

    /// Whether the server has hung up.
    pub fn is_hung_up_on(&mut self) -> bool {
        self.take(usize::MAX);
        self.hung_up_on
    }

    /// Takes answers that are there, but no more than `most` bytes; how many.
    pub fn take(&mut self, most: usize) -> usize {
        let mut taken = 0;
        while taken < most && !self.hung_up_on {
            let room = BUFFER.min(most - taken);
            match (&self.socket).read(&mut self.buffer[..room]) {
                Ok(0) => self.hung_up_on = true,
                Ok(count) => taken += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.hung_up_on = true,
            }
        }
        taken
    }

    /// Takes answers until none comes any more.
    pub async fn take_what_comes(&mut self) {
        let mut idle = 0;
        while idle < IDLE_LOOKS && !self.hung_up_on {
            turns(LOOK).await;
            idle = if self.take(usize::MAX) > 0 { 0 } else { idle + 1 };
        }
    }

    /// Says that nothing more will be sent, and takes answers until the server hangs up, as it has to.
    pub async fn close_half_and_take_all(&mut self) {
        // Fails if the server has hung up already.
        let _ = self.socket.shutdown(Shutdown::Write);
        for _ in 0..PATIENCE {
            if self.hung_up_on {
                return;
            }
            turns(LOOK).await;
            self.take(usize::MAX);
        }
        panic!("the server does not hang up on a client that sends no more");
    }

    /// The next `count` bytes of answers, which have to come.
    pub async fn expect(&mut self, count: usize) -> Vec<u8> {
        let mut answer = vec![0; count];
        let mut filled = 0;
        for _ in 0..PATIENCE {
            match (&self.socket).read(&mut answer[filled..]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => turns(LOOK).await,
                Err(error) => panic!("the server hangs up: {error}"),
                Ok(0) if filled < count => panic!("the server hangs up {} bytes early", count - filled),
                Ok(read) => filled += read,
            }
            if filled == count {
                return answer;
            }
        }
        panic!("{} bytes of an answer are missing", count - filled);
    }

    /// All answers until the server hangs up, as it has to.
    pub async fn take_until_hung_up(&mut self) -> Vec<u8> {
        let mut answers = Vec::new();
        for _ in 0..PATIENCE {
            match (&self.socket).read_to_end(&mut answers) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => turns(LOOK).await,
                _ => return answers,
            }
        }
        panic!("the server does not hang up on a client that has left");
    }
}
