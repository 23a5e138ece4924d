//! Traces from the logs of other recorders, plain or compressed with gzip.
//!
//! Logs are read line by line, within the same bounds as traces. Times begin anew at the first request; requests of no
//! bytes are left out. What a log cannot tell is said beside the trace.

mod blktrace;
mod nbdkit;
mod qemu;

use super::read::{MAX_OFFSET, MAX_REQUESTS, MAX_TIME, Text, open_file, printable};
use super::{Metadata, Op, Request, Trace, TraceError};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// How many lines are looked at to tell what wrote a log.
const LINES_TO_DETECT: u64 = 10_000;

/// What wrote a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The log file of nbdkit's log filter.
    NbdkitLog,
    /// QEMU's trace events `blk_co_preadv` and `blk_co_pwritev` as its log backend prints them with timestamps.
    QemuEvents,
    /// What `blkparse` prints of a recording by `blktrace`.
    Blktrace,
}

/// A trace made of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The requests.
    pub trace: Trace,
    /// What the log says beside them.
    pub metadata: Metadata,
    /// What the log does not tell, and what was assumed in its place: sentences for people.
    pub lacks: Vec<String>,
}

impl Source {
    /// Every source there is.
    pub const ALL: [Source; 3] = [Source::NbdkitLog, Source::QemuEvents, Source::Blktrace];

    /// The source's name.
    pub fn name(self) -> &'static str {
        match self {
            Source::NbdkitLog => "nbdkit-log",
            Source::QemuEvents => "qemu-events",
            Source::Blktrace => "blktrace",
        }
    }

    /// What wrote the log in the file `path`.
    ///
    /// # Errors
    /// If the file cannot be read, or no source or more than one fits.
    pub fn detect(path: &Path) -> Result<Source, TraceError> {
        Source::detect_in(open_file(path)?, &path.display().to_string())
    }

    /// What wrote the log `input`; errors call it `name`.
    ///
    /// # Errors
    /// As [`Source::detect`].
    pub fn detect_in(input: impl Read, name: &str) -> Result<Source, TraceError> {
        let mut text = Text::new(input, name)?;
        let mut fits = [false; Source::ALL.len()];
        while let Some(line) = text.next_line()?.filter(|_| text.line() <= LINES_TO_DETECT) {
            for (fits, source) in fits.iter_mut().zip(Source::ALL) {
                *fits |= source.wrote(&line);
            }
        }
        let mut found = Source::ALL.into_iter().zip(fits).filter_map(|(source, fits)| fits.then_some(source));
        let problem = match (found.next(), found.next()) {
            (Some(source), None) => return Ok(source),
            (None, _) => "no known recorder wrote these lines",
            (Some(_), Some(_)) => "several recorders may have written these lines",
        };
        Err(TraceError::UnknownSource { file: text.file(), problem: problem.to_owned() })
    }

    /// Makes a trace of the log in the file `path`.
    ///
    /// # Errors
    /// If the file cannot be read, or is no log of this source; the error says where and what would be right.
    pub fn convert(self, path: &Path) -> Result<Converted, TraceError> {
        self.convert_from(open_file(path)?, &path.display().to_string())
    }

    /// Makes a trace of the log `input`; errors call it `name`.
    ///
    /// # Errors
    /// As [`Source::convert`].
    pub fn convert_from(self, input: impl Read, name: &str) -> Result<Converted, TraceError> {
        let mut text = Text::new(input, name)?;
        let mut log = self.log();
        while let Some(line) = text.next_line()? {
            let (file, number) = (text.file(), text.line());
            log.line(&line).map_err(|problem| TraceError::Source { file, line: number, problem })?;
            if log.requests() > MAX_REQUESTS {
                return Err(TraceError::TooManyRequests { file: text.file() });
            }
        }
        let mut converted = log.finish();
        if converted.trace.requests.is_empty() {
            let problem = format!("no request of {self} in it");
            return Err(TraceError::UnknownSource { file: text.file(), problem });
        }
        rebase(&mut converted.trace.requests);
        let latest = converted.trace.requests.iter().map(|request| request.end).max();
        if latest.is_some_and(|latest| latest > MAX_TIME) {
            let problem = "the requests span more than 100 days, which is no boot".to_owned();
            return Err(TraceError::Source { file: text.file(), line: text.line(), problem });
        }
        Ok(converted)
    }

    fn wrote(self, line: &str) -> bool {
        match self {
            Source::NbdkitLog => nbdkit::wrote(line),
            Source::QemuEvents => qemu::wrote(line),
            Source::Blktrace => blktrace::wrote(line),
        }
    }

    fn log(self) -> Box<dyn Log> {
        match self {
            Source::NbdkitLog => Box::<nbdkit::NbdkitLog>::default(),
            Source::QemuEvents => Box::<qemu::QemuEvents>::default(),
            Source::Blktrace => Box::<blktrace::Blktrace>::default(),
        }
    }

    /// Metadata that name source and tool, and say when the recording was made, if that is known.
    fn metadata(self, tool: &str, recorded: Option<&str>) -> Metadata {
        let mut metadata = Metadata::default();
        let recorded = recorded.map(|recorded| (Metadata::RECORDED, recorded));
        for (key, value) in
            [(Metadata::TOOL, tool), (Metadata::SOURCE, self.name())].into_iter().chain(recorded)
        {
            // These are valid; and nothing but a comment would be lost.
            let _ = metadata.set(key, value);
        }
        metadata
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A log that is being read.
trait Log {
    /// Takes the next line; the error says what is wrong with it and what would be right.
    fn line(&mut self, line: &str) -> Result<(), String>;
    /// How many requests are held.
    fn requests(&self) -> usize;
    /// The requests, at the log's own times.
    fn finish(self: Box<Self>) -> Converted;
}

/// Requests that are issued in one line and completed in another, which names them by a key.
struct Recorder<K> {
    requests: Vec<Request>,
    in_flight: HashMap<K, VecDeque<usize>>,
    latest: Duration,
}

impl<K> Default for Recorder<K> {
    fn default() -> Self {
        Recorder { requests: Vec::new(), in_flight: HashMap::new(), latest: Duration::ZERO }
    }
}

impl<K: Eq + Hash> Recorder<K> {
    fn issue(&mut self, key: K, request: Request) {
        self.latest = self.latest.max(request.end);
        self.in_flight.entry(key).or_default().push_back(self.requests.len());
        self.requests.push(request);
    }

    /// Completes the first request of that key; one that was issued before the log began is none of it.
    fn complete(&mut self, key: &K, time: Duration) {
        self.latest = self.latest.max(time);
        let Some(waiting) = self.in_flight.get_mut(key) else { return };
        if let Some(request) = waiting.pop_front().and_then(|i| self.requests.get_mut(i)) {
            request.end = request.start.max(time);
        }
        if waiting.is_empty() {
            self.in_flight.remove(key);
        }
    }

    /// The requests, and what is to be said of those without a completion.
    fn finish(mut self) -> (Vec<Request>, Option<String>) {
        let open: Vec<usize> = self.in_flight.into_values().flatten().collect();
        for &i in &open {
            if let Some(request) = self.requests.get_mut(i) {
                request.end = self.latest;
            }
        }
        let lack = (!open.is_empty()).then(|| {
            format!("completions of {} requests: they are taken to complete where the log ends", open.len())
        });
        (self.requests, lack)
    }
}

/// A request that completes when it is issued, until a completion is found; none for one of no bytes.
fn request(time: Duration, op: Op, offset: u64, length: u64) -> Result<Option<Request>, String> {
    let (offset, length) = if op == Op::Flush { (0, 0) } else { (offset, length) };
    if offset.checked_add(length).is_none_or(|end| end > MAX_OFFSET) {
        return Err(format!(
            "offset {offset} and {length} bytes end beyond {MAX_OFFSET}, the end of any disk"
        ));
    }
    let empty = op != Op::Flush && length == 0;
    Ok((!empty).then_some(Request { start: time, end: time, op, offset, length }))
}

/// Puts requests in order of issue, from time 0 on.
fn rebase(requests: &mut [Request]) {
    requests.sort_by_key(|request| request.start);
    let first = requests.first().map(|request| request.start).unwrap_or_default();
    for request in requests {
        request.start = request.start.saturating_sub(first);
        request.end = request.end.saturating_sub(first);
    }
}

/// A time in seconds, with up to nine digits after the point.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9}").parse().ok()?;
    // Times of the calendar too are below 2^40 seconds; sums of what is larger could overflow.
    let whole = whole.parse().ok().filter(|seconds: &u64| *seconds < 1 << 40)?;
    Some(Duration::new(whole, nanoseconds))
}

/// A number, in hexadecimal after 0x.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// What to say of a line that is not as it should be.
fn unlike(line: &str, right: &str) -> String {
    format!("\"{}\" is not right; a line such as \"{right}\" would be", printable(line.as_bytes()))
}
