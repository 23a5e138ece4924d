//! What can be wrong with a trace.

use super::{MAX_BYTES, MAX_LINE, MAX_REQUESTS, MetadataError, Request};
use std::io;
use std::path::PathBuf;

/// Why a trace cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be opened.
    #[error("cannot open the trace {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading failed.
    #[error("{file}: cannot be read after line {line}")]
    Read {
        /// The trace's name.
        file: String,
        /// The last line that was read whole; 0 if there was none.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The compressed data end too early.
    #[error("{file}: the gzip data are cut off after line {line}; get the file anew")]
    Truncated {
        /// The trace's name.
        file: String,
        /// The last line that was read whole; 0 if there was none.
        line: u64,
    },
    /// The compressed data are damaged, or other data follow them.
    #[error("{file}: the gzip data are damaged, or followed by something else, after line {line}: {problem}")]
    Damaged {
        /// The trace's name.
        file: String,
        /// The last line that was read whole; 0 if there was none.
        line: u64,
        /// What the decompressor met.
        problem: String,
    },
    /// A line before the header is not metadata.
    #[error("{file}, line {line}: {source}")]
    Metadata {
        /// The trace's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong.
        source: MetadataError,
    },
    /// A line of another recorder's log is not as that recorder writes it, or what it says cannot be.
    #[error("{file}, line {line}: {problem}")]
    Source {
        /// The log's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// It cannot be told which recorder wrote a log, or another one than was said wrote it.
    #[error("{file}: {problem}; choose from nbdkit-log, qemu-events and blktrace")]
    UnknownSource {
        /// The log's name.
        file: String,
        /// What was found.
        problem: String,
    },
    /// The header line does not name a column that a trace must have.
    #[error(
        "{file}: line {line} is \"{header}\" and has no column {column}; right: start_us,end_us,op,offset,length"
    )]
    MissingColumn {
        /// The trace's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// The column's name.
        column: &'static str,
        /// The header line as it is.
        header: String,
    },
    /// The header line names a column twice.
    #[error("{file}: line {line} names the column {column} twice; each column once would be right")]
    DuplicateColumn {
        /// The trace's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// The column's name.
        column: &'static str,
    },
    /// A line has more or fewer fields than the header line.
    #[error(
        "{file}, line {line}: {fields} fields; right would be {columns}, as many as the header line has columns"
    )]
    Fields {
        /// The trace's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// How many fields the line has.
        fields: usize,
        /// How many the header line has.
        columns: usize,
    },
    /// A field holds a value that it must not have.
    #[error("{file}, line {line}, column {column}: \"{value}\" is not right: {expected}")]
    Field {
        /// The trace's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// The column's name.
        column: &'static str,
        /// The field as it is.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// There is no request.
    #[error(
        "{file}: no request in it; right would be a line start_us,end_us,op,offset,length and one line for each request"
    )]
    Empty {
        /// The trace's name.
        file: String,
    },
    /// More requests than a trace may have.
    #[error("{file}: more than {MAX_REQUESTS} requests, which is no boot")]
    TooManyRequests {
        /// The trace's name.
        file: String,
    },
    /// More bytes, after decompression, than a trace may have.
    #[error("{file}: more than {MAX_BYTES} bytes after decompression, which is no boot")]
    TooLarge {
        /// The trace's name.
        file: String,
    },
    /// A line longer than a trace may have.
    #[error(
        "{file}: the line after line {line} is longer than {MAX_LINE} bytes; a trace has one request to a line"
    )]
    LongLine {
        /// The trace's name.
        file: String,
        /// The last line that was read whole; 0 if there was none.
        line: u64,
    },
    /// A request ends beyond the disk.
    #[error(
        "request {number}, a {} of {} bytes at offset {}, ends beyond the disk of {disk_size} bytes; it needs {} bytes",
        request.op, request.length, request.offset, request.range().end
    )]
    BeyondDisk {
        /// The request's place in order of issue, counted from 1.
        number: usize,
        /// The request.
        request: Request,
        /// The disk's size in bytes.
        disk_size: u64,
    },
    /// Writing failed; nothing is left of the new file.
    #[error("cannot write the trace {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
