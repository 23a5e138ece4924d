//! An NBD client that says exactly what a test wants said. It takes simple replies only.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const FLUSH: u16 = 3;
pub const CACHE: u16 = 5;
pub const WRITE_ZEROES: u16 = 6;

pub const EXPORT_NAME: u32 = 1;
pub const LIST: u32 = 3;
pub const GO: u32 = 7;

/// Fixed newstyle, no zeroes: what a client says first.
pub const CLIENT_FLAGS: [u8; 4] = 3_u32.to_be_bytes();

/// An option of the negotiation.
pub fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

/// Chooses the export of that name, and wants to know nothing of it.
pub fn go(name: &str) -> Vec<u8> {
    option(GO, &[&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), &[0, 0]].concat())
}

/// The header of a request.
pub fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let start = [&0x2560_9513_u32.to_be_bytes()[..], &[0, 0], &command.to_be_bytes()].concat();
    [&start[..], &cookie.to_be_bytes(), &offset.to_be_bytes(), &length.to_be_bytes()].concat()
}

/// After this a server that does not answer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
pub struct Client {
    stream: UnixStream,
    /// Bytes of data that belong to the answers that are still to come, by cookie.
    awaited: HashMap<u64, usize>,
    cookie: u64,
}

impl Client {
    /// A connection on which nothing has been said yet.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { stream, awaited: HashMap::new(), cookie: 0 })
    }

    /// A connection to the only export.
    pub fn enter(socket: &Path) -> io::Result<Self> {
        let mut client = Client::connect(socket)?;
        client.take(18)?;
        client.send(&[&CLIENT_FLAGS[..], &option(EXPORT_NAME, b"")].concat())?;
        // Size and flags.
        client.take(10)?;
        Ok(client)
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn ends_sending(&mut self) {
        // Fails if the server has hung up already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Takes what comes until the server hangs up.
    pub fn sees_hang_up(mut self) {
        match self.stream.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            // It has not read all that was sent.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the server does not hang up"),
        }
    }

    /// Sends a request without waiting for its answer; its cookie.
    pub fn ask(&mut self, command: u16, offset: u64, length: usize, data: &[u8]) -> io::Result<u64> {
        self.cookie += 1;
        self.awaited.insert(self.cookie, if command == READ { length } else { 0 });
        self.send(&[&request(command, self.cookie, offset, length as u32)[..], data].concat())?;
        Ok(self.cookie)
    }

    /// Takes the next answer: its cookie and data.
    pub fn answer(&mut self) -> io::Result<(u64, Vec<u8>)> {
        let header = self.take(16)?;
        let (magic, rest) = header.split_at(4);
        assert_eq!(magic, 0x6744_6698_u32.to_be_bytes(), "an answer has to begin with its magic number");
        let (errno, cookie) = rest.split_at(4);
        let errno = i32::from_be_bytes(errno.try_into().unwrap());
        let cookie = u64::from_be_bytes(cookie.try_into().unwrap());
        let length = self.awaited.remove(&cookie).expect("an answer to what nobody has asked");
        match errno {
            0 => Ok((cookie, self.take(length)?)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    pub fn read(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.ask(READ, offset, length, &[])?;
        Ok(self.answer()?.1)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ask(WRITE, offset, data.len(), data)?;
        self.answer().map(drop)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.ask(FLUSH, 0, 0, &[])?;
        self.answer().map(drop)
    }
}
