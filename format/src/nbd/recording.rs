//! Recording what a guest asks of an export.

use crate::trace::{MAX_REQUESTS, Op, Request, Trace};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of a request in the file that collects them.
const ENTRY: usize = 33;

/// Bytes that are written to it at a time: few enough to stay in the processor's nearest cache, beside what serving takes.
const BUFFER: usize = 8 << 10;

/// Collects the requests of one guest. They wait in a nameless file, so that a long recording takes no memory;
/// it goes with the process.
#[derive(Debug)]
pub struct Recorder {
    file: BufWriter<File>,
    /// When the first request was issued.
    begin: Option<Instant>,
    requests: usize,
    failed: Option<io::Error>,
}

impl Recorder {
    /// A recorder whose file lies in `folder`.
    ///
    /// # Errors
    /// If no file can be made there.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(folder)?);
        Ok(Recorder { file, begin: None, requests: 0, failed: None })
    }

    /// Requests recorded so far.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Keeps a request that has been answered. A guest is not stopped by a recording that fails:
    /// [`finish`](Self::finish) tells.
    pub(super) fn record(&mut self, op: Op, offset: u64, length: u64, start: Instant, end: Instant) {
        if self.requests == MAX_REQUESTS || self.failed.is_some() {
            let full = || io::Error::other(format!("a trace has at most {MAX_REQUESTS} requests"));
            self.failed.get_or_insert_with(full);
            return;
        }
        self.requests = self.requests.saturating_add(1);
        // The first to be answered need not have been the first to be issued: times count from an origin before.
        let begin = *self.begin.get_or_insert_with(|| start.checked_sub(HEAD_START).unwrap_or(start));
        let since = |at: Instant| nanoseconds(at.saturating_duration_since(begin));
        let mut entry = [0; ENTRY];
        let (numbers, last) = entry.as_chunks_mut();
        let values = [since(start), since(end), offset, length];
        numbers.iter_mut().zip(values).for_each(|(place, value)| *place = value.to_le_bytes());
        last.fill(op as u8);
        if let Err(error) = self.file.write_all(&entry) {
            self.failed = Some(error);
        }
    }

    /// The recorded boot, times from its first request.
    ///
    /// # Errors
    /// If the requests could not all be kept.
    pub fn finish(&mut self) -> io::Result<Trace> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.file.flush()?;
        let mut file = self.file.get_ref().try_clone()?;
        file.rewind()?;
        let mut file = BufReader::new(file);
        let mut requests = Vec::with_capacity(self.requests);
        let mut entry = [0; ENTRY];
        for _ in 0..self.requests {
            file.read_exact(&mut entry)?;
            let (numbers, last) = entry.as_chunks();
            let mut numbers = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes));
            let mut next = || numbers.next().unwrap_or_default();
            let (start, end) = (Duration::from_nanos(next()), Duration::from_nanos(next()));
            let op = last.first().and_then(|op| Op::ALL.get(usize::from(*op)).copied());
            let op = op.ok_or(io::ErrorKind::InvalidData)?;
            requests.push(Request { start, end, op, offset: next(), length: next() });
        }
        requests.sort_by_key(|request| request.start);
        let first = requests.first().map(|request| request.start).unwrap_or_default();
        // Whole microseconds, as in a file: what is kept is what would be read back.
        let micros = |at: Duration| Duration::from_micros(at.saturating_sub(first).as_micros() as u64);
        for request in &mut requests {
            (request.start, request.end) = (micros(request.start), micros(request.end));
        }
        Ok(Trace { requests })
    }
}

/// For five centuries; 128 bits, as the standard library takes, cost more.
fn nanoseconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// No request is in flight for as long as this.
const HEAD_START: Duration = Duration::from_secs(3600);
