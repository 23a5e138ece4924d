//! Boot traces: what a guest asked of its disk, request by request.
//!
//! A trace is a CSV file, plain or compressed with gzip, whose first line names its columns:
//!
//! ```text
//! start_us,end_us,op,offset,length
//! 0,500,read,0,512
//! 60005,60085,read,1048576,4096
//! ```
//!
//! Times are whole microseconds from the first request, offsets and lengths bytes on the guest's disk, `op` one
//! of `read`, `write`, `zero`, `trim` and `flush`. Columns may come in any order, others beside them are
//! ignored, and fields are not quoted.
//!
//! Before that line may stand what is known of the recording, one `# key: value` to a line, at most
//! [`MAX_METADATA`] of them:
//!
//! ```text
//! # guest: debian-12-minimal
//! # tool: nbdkit 1.32, log filter
//! start_us,end_us,op,offset,length
//! ```
//!
//! Keys consist of lower-case letters, digits and hyphens, and each is there once; values are one line of printable
//! text. The constants of [`Metadata`] are the keys with a meaning. [`convert`] makes traces of other recorders' logs.

mod analysis;
pub mod convert;
mod dependencies;
mod error;
mod metadata;
mod ranges;
mod read;
mod write;

pub use analysis::{Counts, Overlap, Summary, footprint, joint_working_set, overlap, working_set};
pub use dependencies::{Dependencies, Learned, Link};
pub use error::TraceError;
pub use metadata::{MAX_METADATA, Metadata, MetadataError};
pub use read::{MAX_BYTES, MAX_LINE, MAX_REQUESTS, MAX_TIME};

use std::fmt;
use std::ops::Range;
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

impl Op {
    /// Every operation there is.
    pub const ALL: [Op; 5] = [Op::Read, Op::Write, Op::Zero, Op::Trim, Op::Flush];

    /// The operation's name in a trace file.
    pub fn name(self) -> &'static str {
        match self {
            Op::Read => "read",
            Op::Write => "write",
            Op::Zero => "zero",
            Op::Trim => "trim",
            Op::Flush => "flush",
        }
    }

    /// The operation of that name.
    pub fn from_name(name: &str) -> Option<Op> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
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

impl Request {
    /// The bytes of the guest's disk that it concerns; empty for a flush.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.length)
    }

    /// The time from its issue to its completion.
    pub fn latency(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

/// The requests of one boot, in the order in which they were issued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Ordered by `start`; requests that start together keep the order of the recording.
    pub requests: Vec<Request>,
}

impl Trace {
    /// The reads alone, in order of issue.
    pub fn reads(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|request| request.op == Op::Read)
    }

    /// The time from the first issue to the last completion.
    pub fn span(&self) -> Duration {
        let first = self.requests.iter().map(|request| request.start).min().unwrap_or_default();
        let last = self.requests.iter().map(|request| request.end).max().unwrap_or_default();
        last.saturating_sub(first)
    }

    /// Checks that every request lies on a disk of `disk_size` bytes.
    ///
    /// # Errors
    /// [`TraceError::BeyondDisk`] with the first request that ends beyond it.
    pub fn check_within(&self, disk_size: u64) -> Result<(), TraceError> {
        match (1..).zip(&self.requests).find(|(_, request)| request.range().end > disk_size) {
            None => Ok(()),
            Some((number, request)) => Err(TraceError::BeyondDisk { number, request: *request, disk_size }),
        }
    }
}
