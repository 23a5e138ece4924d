//! Boot traces: what a guest asked of its disk, request by request.
//!
//! Columns of the CSV form: `start_us,end_us,op,offset,length`; times in microseconds from the first
//! request, offsets and lengths in bytes on the guest's disk.

use std::time::Duration;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Data is read.
    Read,
    /// Data is written.
    Write,
    /// A range is overwritten with zeroes.
    Zero,
    /// A range is no longer needed.
    Trim,
    /// What was written must be durable.
    Flush,
}

/// One request of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it was issued, from the first request of the trace.
    pub start: Duration,
    /// When it completed, from the first request of the trace; never before `start`.
    pub end: Duration,
    /// What it asks for.
    pub op: Op,
    /// First byte on the guest's disk; 0 for a flush.
    pub offset: u64,
    /// Bytes; 0 for a flush.
    pub length: u64,
}

/// The requests of one boot, in the order in which they were issued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Ordered by `start`; requests that start together keep the order of the recording.
    pub requests: Vec<Request>,
}
