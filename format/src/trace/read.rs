//! Reading traces: nothing in a file is believed before it has been checked.

use super::{Metadata, Op, Request, Trace, TraceError};
use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder, Terminator, Trim};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::path::Path;
use std::time::Duration;

/// Most requests a trace may have: thousands of boots' worth, and little enough to hold in memory.
pub const MAX_REQUESTS: usize = 5_000_000;
/// Most bytes a trace may have after decompression: 256 MiB.
pub const MAX_BYTES: u64 = 256 << 20;
/// Most bytes a line of a trace may have.
pub const MAX_LINE: u64 = 4096;
/// Latest time in a trace: 100 days. Sums over any trace then stay far from overflow.
pub const MAX_TIME: Duration = Duration::from_secs(100 * 24 * 3600);
/// A file offset is a signed number for the operating system.
pub(super) const MAX_OFFSET: u64 = i64::MAX as u64;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const COLUMNS: [&str; 5] = ["start_us", "end_us", "op", "offset", "length"];

impl Trace {
    /// Reads the trace in the file `path`, plain or compressed with gzip, whatever its name.
    ///
    /// # Errors
    /// If the file cannot be read or is not a trace; the error says where and what would be right.
    pub fn open(path: &Path) -> Result<Trace, TraceError> {
        Trace::open_with_metadata(path).map(|(_, trace)| trace)
    }

    /// Reads the trace in the file `path` and what is known of it, as [`Trace::open`].
    ///
    /// # Errors
    /// As [`Trace::open`].
    pub fn open_with_metadata(path: &Path) -> Result<(Metadata, Trace), TraceError> {
        Trace::parse_with_metadata(open_file(path)?, &path.display().to_string())
    }

    /// Reads a trace, plain or compressed with gzip; errors call it `name`. Requests that are not in order of
    /// issue, as in a log written at completion, are sorted.
    ///
    /// # Errors
    /// If the input cannot be read or is not a trace; the error says where and what would be right.
    pub fn parse(input: impl Read, name: &str) -> Result<Trace, TraceError> {
        Trace::parse_with_metadata(input, name).map(|(_, trace)| trace)
    }

    /// Reads a trace and what is known of it, as [`Trace::parse`].
    ///
    /// # Errors
    /// As [`Trace::parse`].
    pub fn parse_with_metadata(input: impl Read, name: &str) -> Result<(Metadata, Trace), TraceError> {
        let mut text = Text::new(input, name)?;
        let metadata = text.metadata()?;
        Ok((metadata, Parser::new(text).trace()?))
    }
}

/// Opens a file to read it; a folder is refused.
pub(super) fn open_file(path: &Path) -> Result<File, TraceError> {
    let cannot_open = |source| TraceError::Open { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(cannot_open)?;
    if file.metadata().map_err(cannot_open)?.is_dir() {
        return Err(cannot_open(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    Ok(file)
}

/// The bounded text of a file, plain or compressed with gzip; every line ends in a line feed, the last one too.
pub(super) struct Text<'a> {
    input: BufReader<Bounded<Box<dyn Read + 'a>>>,
    name: &'a str,
    compressed: bool,
    /// Lines that [`Text::next_line`] has read.
    lines: u64,
}

impl<'a> Text<'a> {
    pub(super) fn new(mut input: impl Read + 'a, name: &'a str) -> Result<Self, TraceError> {
        let mut magic = Vec::with_capacity(GZIP_MAGIC.len());
        input
            .by_ref()
            .take(GZIP_MAGIC.len() as u64)
            .read_to_end(&mut magic)
            .map_err(|source| TraceError::Read { file: name.to_owned(), line: 0, source })?;
        let compressed = magic == GZIP_MAGIC;
        let input: Chain<_, _> = Cursor::new(magic).chain(input);
        // An empty line more at the end does not matter, and lets lines be counted.
        let input: Box<dyn Read + 'a> = if compressed {
            Box::new(MultiGzDecoder::new(BufReader::new(input)).chain(&b"\n"[..]))
        } else {
            Box::new(input.chain(&b"\n"[..]))
        };
        Ok(Text { input: BufReader::new(Bounded::new(input)), name, compressed, lines: 0 })
    }

    /// The next line without its end; none at the end of the text. What is not UTF-8 is replaced.
    pub(super) fn next_line(&mut self) -> Result<Option<String>, TraceError> {
        let mut line = Vec::new();
        // Bounded by MAX_LINE: the reader below fails at longer lines.
        if self.input.read_until(b'\n', &mut line).map_err(|error| self.error(error))? == 0 {
            return Ok(None);
        }
        self.lines = self.lines.saturating_add(1);
        Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
    }

    /// The number of the line that was read last.
    pub(super) fn line(&self) -> u64 {
        self.lines
    }

    pub(super) fn file(&self) -> String {
        self.name.to_owned()
    }

    /// Reads the comment lines, and blank ones, that stand before all others.
    fn metadata(&mut self) -> Result<Metadata, TraceError> {
        let mut metadata = Metadata::default();
        while let Some(b'#' | b'\n' | b'\r') = self.peek()? {
            let line = self.next_line()?.unwrap_or_default();
            if line.starts_with('#') {
                metadata.read_line(&line).map_err(|source| TraceError::Metadata {
                    file: self.file(),
                    line: self.line(),
                    source,
                })?;
            }
        }
        Ok(metadata)
    }

    fn peek(&mut self) -> Result<Option<u8>, TraceError> {
        match self.input.fill_buf() {
            Ok(buffer) => Ok(buffer.first().copied()),
            Err(error) => Err(self.error(error)),
        }
    }

    fn error(&self, source: io::Error) -> TraceError {
        let (file, line) = (self.file(), self.input.get_ref().lines);
        match (Excess::of(&source), source.kind()) {
            (Some(Excess::Bytes), _) => TraceError::TooLarge { file },
            (Some(Excess::Line), _) => TraceError::LongLine { file, line },
            (None, io::ErrorKind::UnexpectedEof) if self.compressed => TraceError::Truncated { file, line },
            (None, io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) if self.compressed => {
                TraceError::Damaged { file, line, problem: source.to_string() }
            }
            (None, _) => TraceError::Read { file, line, source },
        }
    }
}

impl Read for Text<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

struct Parser<'a> {
    csv: Reader<Text<'a>>,
}

impl<'a> Parser<'a> {
    fn new(text: Text<'a>) -> Self {
        // Quotes are plain characters: an opening quote would swallow lines up to the next one. A carriage return
        // before a line feed is trimmed.
        let csv = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .quoting(false)
            .terminator(Terminator::Any(b'\n'))
            .trim(Trim::All)
            .from_reader(text);
        Parser { csv }
    }

    fn trace(mut self) -> Result<Trace, TraceError> {
        let mut record = ByteRecord::new();
        if !self.next(&mut record)? {
            return Err(TraceError::Empty { file: self.file() });
        }
        let columns = self.columns(&record)?;
        let header = record.len();
        let mut requests = Vec::new();
        while self.next(&mut record)? {
            if requests.len() == MAX_REQUESTS {
                return Err(TraceError::TooManyRequests { file: self.file() });
            }
            if record.len() != header {
                let (fields, columns) = (record.len(), header);
                return Err(TraceError::Fields { file: self.file(), line: self.line(), fields, columns });
            }
            let row =
                Row { file: self.csv.get_ref().name, line: self.line(), columns: &columns, record: &record };
            requests.push(row.request()?);
        }
        if requests.is_empty() {
            return Err(TraceError::Empty { file: self.file() });
        }
        requests.sort_by_key(|request: &Request| request.start);
        Ok(Trace { requests })
    }

    fn columns(&self, header: &ByteRecord) -> Result<[usize; COLUMNS.len()], TraceError> {
        let mut found = [0; COLUMNS.len()];
        for (place, column) in found.iter_mut().zip(COLUMNS) {
            let mut places = header.iter().enumerate().filter(|(_, name)| *name == column.as_bytes());
            let Some((first, _)) = places.next() else {
                let fields: Vec<_> = header.iter().map(printable).collect();
                return Err(TraceError::MissingColumn {
                    file: self.file(),
                    line: self.line(),
                    column,
                    header: fields.join(","),
                });
            };
            if places.next().is_some() {
                return Err(TraceError::DuplicateColumn { file: self.file(), line: self.line(), column });
            }
            *place = first;
        }
        Ok(found)
    }

    /// Reads the next line that is not blank; false at the end.
    fn next(&mut self, record: &mut ByteRecord) -> Result<bool, TraceError> {
        while self.csv.read_byte_record(record).map_err(|error| self.error(error))? {
            let blank = record.len() == 1 && record.iter().all(<[u8]>::is_empty);
            if !blank {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn error(&self, error: csv::Error) -> TraceError {
        let source = match error.into_kind() {
            ErrorKind::Io(source) => source,
            other => io::Error::other(format!("{other:?}")),
        };
        self.csv.get_ref().error(source)
    }

    /// The line of the record that was read last; the metadata stand before what the CSV reader counts.
    fn line(&self) -> u64 {
        self.csv.get_ref().line().saturating_add(self.csv.position().line().saturating_sub(1))
    }

    fn file(&self) -> String {
        self.csv.get_ref().file()
    }
}

/// A line of a trace, and where it stands.
struct Row<'a> {
    file: &'a str,
    line: u64,
    columns: &'a [usize; COLUMNS.len()],
    record: &'a ByteRecord,
}

impl Row<'_> {
    fn request(&self) -> Result<Request, TraceError> {
        let start = self.time(0)?;
        let end = self.time(1)?;
        if end < start {
            let start = start.as_micros();
            return Err(self.wrong(1, format!("a request cannot end before its start_us, {start}")));
        }
        let op = Op::from_name(&printable(self.field(2)))
            .ok_or_else(|| self.wrong(2, "read, write, zero, trim or flush would be".to_owned()))?;
        let offset = self.number(3, MAX_OFFSET, "bytes")?;
        let length = self.number(4, MAX_OFFSET, "bytes")?;
        if op == Op::Flush {
            for (column, value) in [(3, offset), (4, length)] {
                if value != 0 {
                    return Err(self.wrong(column, "a flush has the offset 0 and the length 0".to_owned()));
                }
            }
        } else if length == 0 {
            return Err(self.wrong(4, format!("a {op} has at least 1 byte")));
        } else if length > MAX_OFFSET.saturating_sub(offset) {
            let most = MAX_OFFSET.saturating_sub(offset);
            return Err(self.wrong(4, format!("with the offset {offset}, at most {most} would be")));
        }
        Ok(Request { start, end, op, offset, length })
    }

    fn time(&self, column: usize) -> Result<Duration, TraceError> {
        let most = MAX_TIME.as_micros() as u64;
        self.number(column, most, "microseconds").map(Duration::from_micros)
    }

    fn number(&self, column: usize, most: u64, unit: &str) -> Result<u64, TraceError> {
        let number = std::str::from_utf8(self.field(column)).ok().and_then(|text| text.parse().ok());
        number
            .filter(|number| *number <= most)
            .ok_or_else(|| self.wrong(column, format!("a whole number of {unit} from 0 to {most} would be")))
    }

    fn field(&self, column: usize) -> &[u8] {
        self.columns.get(column).and_then(|place| self.record.get(*place)).unwrap_or_default()
    }

    fn wrong(&self, column: usize, expected: String) -> TraceError {
        TraceError::Field {
            file: self.file.to_owned(),
            line: self.line,
            column: COLUMNS.get(column).copied().unwrap_or_default(),
            value: printable(self.field(column)),
            expected,
        }
    }
}

/// Bytes of a file as they may be shown on a terminal.
pub(super) fn printable(bytes: &[u8]) -> String {
    const MOST: usize = 80;
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(MOST).flat_map(char::escape_default).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}

/// Refuses input that grows beyond any trace, however small the compressed file was.
struct Bounded<R> {
    input: R,
    bytes: u64,
    line: u64,
    lines: u64,
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Excess {
    #[error("too many bytes")]
    Bytes,
    #[error("too long a line")]
    Line,
}

impl Excess {
    fn of(error: &io::Error) -> Option<Excess> {
        error.get_ref().and_then(|inner| inner.downcast_ref()).copied()
    }
}

impl<R> Bounded<R> {
    fn new(input: R) -> Self {
        Bounded { input, bytes: 0, line: 0, lines: 0 }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.bytes = self.bytes.saturating_add(count as u64);
        if self.bytes > MAX_BYTES {
            return Err(io::Error::other(Excess::Bytes));
        }
        for byte in buffer.iter().take(count) {
            self.line = self.line.saturating_add(1);
            if *byte == b'\n' {
                self.lines = self.lines.saturating_add(1);
                self.line = 0;
            } else if self.line > MAX_LINE {
                return Err(io::Error::other(Excess::Line));
            }
        }
        Ok(count)
    }
}
