//! Requests and their answers, once client and server have agreed.

use super::connection::{Load, Share};
use super::input::Input;
use super::negotiation::{ALLOCATION_ID, Agreement, broken};
use super::output::{Output, Part, Parts};
use super::protocol::*;
use super::server::{Export, Server};
use crate::byte_range::length_of;
use crate::disk::Piece;
use crate::error::Error;
use crate::runtime::{Runtime, let_others_go_on};
use crate::storage::Storage;
use crate::trace::Op;
use bytes::Bytes;
use futures_util::future::{Either, poll_fn, select};
use smallvec::smallvec;
use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

/// Requests of one client that are begun before others have their turn.
const TURN: u32 = 32;
/// Longer reads and writes, in bytes, are served piece by piece.
const LONGEST_WHOLE: u64 = 512 << 10;
/// Extents that one answer describes at most.
const MAX_EXTENTS: usize = 4096;
/// Bytes of the disk that one answer describes at most.
const MAX_DESCRIBED: u64 = 256 << 20;
/// A prefetch reads so many bytes at a time.
const PREFETCH_STEP: u64 = 256 << 10;
/// So many bytes are made zero at a time, in steps that end where clusters of any size do.
const ZERO_STEP: u64 = 2 << 20;

/// Why a request is not answered as wished.
pub(super) struct Failure {
    pub errno: Errno,
    pub problem: String,
}

impl Failure {
    fn new(errno: Errno, problem: &str) -> Self {
        Failure { errno, problem: problem.to_owned() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let errno = match error.io_kind() {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge) => Errno::NoSpace,
            _ => Errno::Io,
        };
        Failure { errno, problem: error.to_string() }
    }
}

/// A client that has chosen an export.
pub(super) struct Transmission<S: Storage<Payload = Bytes>> {
    pub server: Rc<Server<S>>,
    pub export: Rc<Export<S>>,
    pub structured: bool,
    allocation: bool,
    pub output: Rc<Output>,
    pub load: Rc<Load>,
    /// No more requests are read.
    client_leaves: Cell<bool>,
}

impl<S: Storage<Payload = Bytes>> Transmission<S> {
    pub fn new(
        server: Rc<Server<S>>,
        agreement: Agreement<S>,
        output: Rc<Output>,
        load: Rc<Load>,
    ) -> Rc<Self> {
        let Agreement { export, structured, allocation } = agreement;
        let client_leaves = Cell::new(false);
        Rc::new(Transmission { server, export, structured, allocation, output, load, client_leaves })
    }

    /// Nothing is begun any more, and what was asked for later requests' sake ends.
    pub fn client_leaves(&self) {
        self.client_leaves.set(true);
    }

    /// Begins requests as they come, until the client leaves or the server stops.
    ///
    /// # Errors
    /// If the client breaks the protocol, or the connection.
    pub async fn run(self: &Rc<Self>, input: &mut Input) -> io::Result<()> {
        let mut turn = 0u32;
        while let Some(header) = self.next_header(input).await? {
            let request = Request::parse(&header)
                .ok_or_else(|| broken("a request has to begin with its magic number"))?;
            if request.command == Command::Disconnect {
                return Ok(());
            }
            let start = Instant::now();
            if request.command == Command::Write && request.length > MAX_PAYLOAD {
                return Err(broken("too long a write"));
            }
            if is_large(&request) {
                self.serve_large(&request, input, start).await?;
                continue;
            }
            let share = self.load.admit(memory_of(&request)).await;
            let payload = match request.command {
                Command::Write => Bytes::from(input.bytes(request.length as usize).await?),
                _ => Bytes::new(),
            };
            self.begin(request, payload, share, start).await;
            turn = turn.wrapping_add(1);
            if turn == TURN {
                turn = 0;
                let_others_go_on().await;
            }
        }
        Ok(())
    }

    async fn next_header(&self, input: &mut Input) -> io::Result<Option<[u8; Request::SIZE]>> {
        if self.server.stopping.get() || self.output.has_failed() {
            return Ok(None);
        }
        if input.is_buffered(Request::SIZE) {
            return input.array().await;
        }
        match select(pin!(input.array()), pin!(self.server.stop_asked.listen())).await {
            Either::Left((header, _)) => header,
            Either::Right(_) => Ok(None),
        }
    }

    /// Does what can be done at once; the rest goes on as a task.
    async fn begin(self: &Rc<Self>, request: Request, payload: Bytes, share: Share, start: Instant) {
        let mut work = Box::pin(self.clone().serve(request, payload, share, start));
        if poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await.is_pending() {
            self.server.runtime.spawn(work);
        }
    }

    async fn serve(self: Rc<Self>, request: Request, payload: Bytes, share: Share, start: Instant) {
        if request.command == Command::Read && !self.export.delay_read.is_zero() {
            self.server.runtime.sleep(self.export.delay_read).await;
            if self.output.is_over() {
                return;
            }
        }
        let parts = match self.perform(&request, payload).await {
            Ok(parts) => {
                self.note(&request, start);
                parts
            }
            Err(failure) => self.refuse(&request, &failure),
        };
        self.output.push(parts, Some(share));
    }

    /// Counts a request that has failed; the answer to it.
    pub fn refuse(&self, request: &Request, failure: &Failure) -> Parts {
        if failure.errno == Errno::Io || failure.errno == Errno::NoSpace {
            self.export.statistics.fail(&failure.problem);
        }
        self.error_reply(request, failure)
    }

    /// Counts and records a request that has succeeded.
    pub fn note(&self, request: &Request, start: Instant) {
        let op = match request.command {
            Command::Read => Op::Read,
            Command::Write => Op::Write,
            Command::WriteZeroes => Op::Zero,
            Command::Trim => Op::Trim,
            Command::Flush => Op::Flush,
            _ => return,
        };
        let (offset, length) = match op {
            Op::Flush => (0, 0),
            _ if request.length == 0 => return,
            _ => (request.offset, u64::from(request.length)),
        };
        let end = Instant::now();
        self.export.statistics.count(op, length, end.saturating_duration_since(start));
        if let Some(recorder) = &self.export.recorder {
            recorder.borrow_mut().record(op, offset, length, start, end);
        }
    }

    /// Does what a request asks for; the parts of the answer.
    async fn perform(&self, request: &Request, payload: Bytes) -> Result<Parts, Failure> {
        self.check(request)?;
        let disk = &self.export.disk;
        let offset = request.offset;
        match request.command {
            Command::Read => return self.read(request).await,
            Command::BlockStatus => return self.block_status(request).await,
            Command::Write => disk.write(offset, payload).await?,
            Command::WriteZeroes => {
                let is_in_vain = || self.output.is_over();
                let keeps_room = request.has(command_flag::NO_HOLE);
                in_steps(request, ZERO_STEP, is_in_vain, async |at, length| match keeps_room {
                    true => disk.write_zeroes(at, length).await,
                    false => disk.write_zeroes_unmapped(at, length).await,
                })
                .await?;
            }
            Command::Flush => disk.flush().await?,
            Command::Cache => {
                let is_in_vain = || self.client_leaves.get() || self.server.stopping.get();
                in_steps(request, PREFETCH_STEP, is_in_vain, async |at, length| {
                    disk.read_pieces(at, length).await.map(drop)
                })
                .await?;
            }
            Command::Trim => {
                let is_in_vain = || self.output.is_over();
                in_steps(request, ZERO_STEP, is_in_vain, async |at, length| disk.discard(at, length).await)
                    .await?;
            }
            Command::Disconnect => {}
            Command::Unknown(code) => {
                return Err(Failure::new(Errno::Invalid, &format!("there is no command {code}")));
            }
        }
        let writes = matches!(request.command, Command::Write | Command::WriteZeroes | Command::Trim);
        if writes && request.has(command_flag::FUA) {
            disk.flush().await?;
        }
        Ok(self.done(request))
    }

    /// Whether a request may be done.
    pub fn check(&self, request: &Request) -> Result<(), Failure> {
        let invalid = |problem| Err(Failure::new(Errno::Invalid, problem));
        let size = self.export.disk.size();
        let (offset, length) = (request.offset, u64::from(request.length));
        let within = offset.checked_add(length).is_some_and(|end| end <= size);
        let writes = matches!(request.command, Command::Write | Command::WriteZeroes | Command::Trim);
        if writes && !self.export.writable {
            return Err(Failure::new(Errno::NotPermitted, "the export is read-only"));
        }
        if request.flags & !request.command.allowed_flags() != 0 {
            return invalid("a flag is set that does not belong to the command");
        }
        match request.command {
            Command::Flush if offset != 0 || length != 0 => invalid("a flush has neither offset nor length"),
            Command::Flush | Command::Unknown(_) => Ok(()),
            Command::Write | Command::WriteZeroes if !within => {
                Err(Failure::new(Errno::NoSpace, "the range goes beyond the disk"))
            }
            _ if !within => invalid("the range goes beyond the disk"),
            Command::Read if request.length > MAX_PAYLOAD => {
                Err(Failure::new(Errno::Overflow, "at most 32 MiB may be read at once"))
            }
            Command::BlockStatus if !self.allocation => invalid("block status was not agreed upon"),
            Command::BlockStatus if length == 0 => invalid("block status needs a length"),
            _ => Ok(()),
        }
    }

    async fn read(&self, request: &Request) -> Result<Parts, Failure> {
        let pieces = self.export.disk.read_pieces(request.offset, request.length.into()).await?;
        if pieces.is_empty() {
            return Ok(self.done(request));
        }
        if !self.structured {
            let mut parts = Parts::from_iter([Part::Small(Small::simple_reply(0, request.cookie))]);
            parts.extend(payloads(&pieces));
            return Ok(parts);
        }
        Ok(chunks(request, &pieces, true))
    }

    async fn block_status(&self, request: &Request) -> Result<Parts, Failure> {
        let most = if request.has(command_flag::REQ_ONE) { 1 } else { MAX_EXTENTS };
        // A client asks again for what is not described.
        let length = u64::from(request.length).min(MAX_DESCRIBED);
        let extents = self.export.disk.extents(request.offset, length, most).await?;
        let mut described = Vec::with_capacity(extents.len().saturating_mul(8));
        for extent in &extents {
            let flags = if extent.is_zero { allocation::HOLE | allocation::ZERO } else { 0 };
            described.extend((length_of(&extent.range) as u32).to_be_bytes());
            described.extend(flags.to_be_bytes());
        }
        let payload = (described.len() as u32).saturating_add(4);
        let id = ALLOCATION_ID.to_be_bytes();
        let header = Small::chunk(chunk::DONE, chunk::BLOCK_STATUS, request.cookie, payload, &id);
        Ok(smallvec![Part::Small(header), Part::Data(described.into())])
    }

    /// An answer without data.
    pub fn done(&self, request: &Request) -> Parts {
        smallvec![Part::Small(match self.structured && request.command == Command::Read {
            true => Small::chunk(chunk::DONE, chunk::NONE, request.cookie, 0, &[]),
            false => Small::simple_reply(0, request.cookie),
        })]
    }

    fn error_reply(&self, request: &Request, failure: &Failure) -> Parts {
        let errno = failure.errno as u32;
        // Only what must be structured is: every client understands the other form for the rest.
        if !self.structured || !matches!(request.command, Command::Read | Command::BlockStatus) {
            return smallvec![Part::Small(Small::simple_reply(errno, request.cookie))];
        }
        let message: String = failure.problem.chars().take(500).collect();
        let mut start = [0; 6];
        start[..4].copy_from_slice(&errno.to_be_bytes());
        start[4..].copy_from_slice(&(message.len() as u16).to_be_bytes());
        let payload = (message.len() as u32).saturating_add(6);
        let header = Small::chunk(chunk::DONE, chunk::ERROR, request.cookie, payload, &start);
        smallvec![Part::Small(header), Part::Data(message.into())]
    }
}

/// Whether a request is served piece by piece.
fn is_large(request: &Request) -> bool {
    let moves_data = matches!(request.command, Command::Read | Command::Write);
    moves_data && u64::from(request.length) > LONGEST_WHOLE && request.length <= MAX_PAYLOAD
}

/// What the buffer of `length` bytes that a storage reads into takes: some take powers of two.
pub(super) fn buffer_of(length: u64) -> u64 {
    if length == 0 { 0 } else { length.next_power_of_two() }
}

/// Bytes that a request which is not large takes until its answer is sent.
fn memory_of(request: &Request) -> u64 {
    let length = u64::from(request.length);
    match request.command {
        Command::Read if request.length > MAX_PAYLOAD => 0,
        Command::Read => buffer_of(length),
        Command::Write => length,
        Command::Cache | Command::WriteZeroes => length.min(PREFETCH_STEP),
        Command::BlockStatus if !request.has(command_flag::REQ_ONE) => (MAX_EXTENTS as u64).saturating_mul(8),
        _ => 0,
    }
}

/// Does `act` for one part (offset and length) of a request's range after the other, unless it is in vain. Parts
/// end at multiples of `step`.
async fn in_steps(
    request: &Request,
    step: u64,
    is_in_vain: impl Fn() -> bool,
    act: impl AsyncFn(u64, u64) -> crate::Result<()>,
) -> Result<(), Failure> {
    let Range { start: mut at, end } = request.range();
    while at < end {
        if is_in_vain() {
            return Err(Failure::new(Errno::Shutdown, "the connection ends"));
        }
        let next = end.min(at.saturating_add(1).next_multiple_of(step));
        act(at, length_of(&(at..next))).await?;
        at = next;
        let_others_go_on().await;
    }
    Ok(())
}

/// The data itself, zeroes and all.
pub(super) fn payloads(pieces: &[Piece<Bytes>]) -> impl Iterator<Item = Part> {
    pieces.iter().map(|piece| Part::Data(piece.payload()))
}

/// Pieces of what was read as chunks of a structured reply, of which they are the last or not. Zeroes are not sent.
pub(super) fn chunks(request: &Request, pieces: &[Piece<Bytes>], are_last: bool) -> Parts {
    let whole = request.has(command_flag::DF);
    let groups: Vec<&[Piece<Bytes>]> =
        pieces.chunk_by(|a, b| whole || a.data.is_some() == b.data.is_some()).collect();
    let mut parts = Parts::new();
    for (number, group) in groups.iter().enumerate() {
        let flags = if are_last && number.saturating_add(1) == groups.len() { chunk::DONE } else { 0 };
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let start = first.range.start;
        let length = length_of(&(start..last.range.end)) as u32;
        let mut place = [0; 12];
        place[..8].copy_from_slice(&start.to_be_bytes());
        place[8..].copy_from_slice(&length.to_be_bytes());
        if group.iter().all(|piece| piece.data.is_none()) {
            parts.push(Part::Small(Small::chunk(flags, chunk::OFFSET_HOLE, request.cookie, 12, &place)));
            continue;
        }
        let header =
            Small::chunk(flags, chunk::OFFSET_DATA, request.cookie, length.saturating_add(8), &place[..8]);
        parts.push(Part::Small(header));
        parts.extend(payloads(group));
    }
    parts
}
