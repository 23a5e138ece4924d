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
        loop {
            if let Some(array) = self.buffered().first_chunk().copied() {
                self.consume(N);
                return Ok(Some(array));
            }
            if self.start.saturating_add(N) > self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.buffered().len());
            }
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            let read = self.socket.when_readable(|mut socket: &Stream| socket.read(room)).await?;
            if read == 0 {
                return if self.start == self.end { Ok(None) } else { Err(hung_up()) };
            }
            self.end = self.end.saturating_add(read);
        }
    }

    /// Reads `N` bytes that have to come.
    pub async fn expect<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.array().await?.ok_or_else(hung_up)
    }

    /// Reads `len` bytes that have to come.
    pub async fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut filled = self.take_buffered(&mut bytes);
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = self.socket.when_readable(|mut socket: &Stream| socket.read(rest)).await?;
            if read == 0 {
                return Err(hung_up());
            }
            filled = filled.saturating_add(read);
        }
        Ok(bytes)
    }

    /// Whether the next bytes are at hand.
    pub fn is_buffered(&self, len: usize) -> bool {
        self.buffered().len() >= len
    }

    fn buffered(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    fn take_buffered(&mut self, into: &mut [u8]) -> usize {
        // Out of memory, this never fails.
        let count = self.buffered().read(into).unwrap_or(0);
        self.consume(count);
        count
    }

    fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

fn hung_up() -> io::Error {
    io::Error::from(io::ErrorKind::UnexpectedEof)
}
