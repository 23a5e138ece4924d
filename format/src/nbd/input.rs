//! What a client sends.

use super::connection::Stream;
use crate::runtime::Watched;
use std::io::{self, Read};
use std::rc::Rc;

/// Bytes that are read ahead: sixteen small writes, or hundreds of other requests.
const BUFFER: usize = 80 << 10;

/// Buffered bytes of a connection.
pub(super) struct Input {
    socket: Rc<Watched<Stream>>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub fn new(socket: Rc<Watched<Stream>>) -> Self {
        Input { socket, buffer: vec![0; BUFFER], start: 0, end: 0 }
    }

    /// Reads `N` bytes; `None` if the client hangs up before the first of them.
    pub async fn array<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        while self.end - self.start < N {
            if self.start + N > self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            let (end, buffer) = (self.end, &mut self.buffer);
            let read =
                self.socket.when_readable(|mut socket: &Stream| socket.read(&mut buffer[end..])).await?;
            if read == 0 {
                return if self.start == self.end { Ok(None) } else { Err(hung_up()) };
            }
            self.end += read;
        }
        let mut array = [0; N];
        array.copy_from_slice(&self.buffer[self.start..self.start + N]);
        self.consume(N);
        Ok(Some(array))
    }

    /// Reads `N` bytes that have to come.
    pub async fn expect<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.array().await?.ok_or_else(hung_up)
    }

    /// Reads `len` bytes that have to come.
    pub async fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut filled = self.take_buffered(&mut bytes);
        while filled < len {
            let rest = &mut bytes[filled..];
            let read = self.socket.when_readable(|mut socket: &Stream| socket.read(rest)).await?;
            if read == 0 {
                return Err(hung_up());
            }
            filled += read;
        }
        Ok(bytes)
    }

    /// Whether the next bytes are at hand.
    pub fn is_buffered(&self, len: usize) -> bool {
        self.end - self.start >= len
    }

    fn take_buffered(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.end - self.start);
        into[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.consume(count);
        count
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

fn hung_up() -> io::Error {
    io::Error::from(io::ErrorKind::UnexpectedEof)
}
