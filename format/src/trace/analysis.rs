//! What a boot did to its disk: requests, working set, order, and how busy the disk was.
//!
//! **Working set.** The bytes of the base image that a boot needs: all bytes that it reads, except those that
//! the same boot has written, zeroed or trimmed before, since these come from its own overlay. At a granularity
//! of *g* bytes every range of them counts as the whole blocks of *g* bytes that it touches, each block once.
//! "Before" follows the order of issue.

use super::ranges::Ranges;
use super::{Op, Trace};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

/// How many requests, and of how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Bytes they concern; a byte read twice counts twice.
    pub bytes: u64,
}

/// A boot in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Requests and bytes of each operation, in the order of [`Op::ALL`].
    pub by_op: [(Op, Counts); Op::ALL.len()],
    /// Reads that start where the read issued before them ended.
    pub sequential_reads: u64,
    /// `in_flight[n]` requests found, when they were issued, n requests in flight, themselves included.
    pub in_flight: Vec<u64>,
    /// Time from the first issue to the last completion.
    pub span: Duration,
    /// Time in which at least one request was in flight.
    pub busy: Duration,
    /// Time between the first issue and the last completion in which none was: the guest computed.
    pub think: Duration,
}

impl Summary {
    /// Counts what is in `trace`.
    pub fn of(trace: &Trace) -> Summary {
        let span = trace.span();
        let busy = busy_time(trace);
        Summary {
            by_op: Op::ALL.map(|op| (op, counts(trace, op))),
            sequential_reads: sequential_reads(trace),
            in_flight: in_flight(trace),
            span,
            busy,
            think: span.saturating_sub(busy),
        }
    }

    /// Requests and bytes of one operation.
    pub fn counts(&self, op: Op) -> Counts {
        self.by_op.iter().find(|(of, _)| *of == op).map(|(_, counts)| *counts).unwrap_or_default()
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.by_op.iter().map(|(_, counts)| counts.requests).sum()
    }

    /// Sequential reads as a share of all reads; 0 if there is none.
    pub fn sequential_share(&self) -> f64 {
        share(self.sequential_reads, self.counts(Op::Read).requests)
    }

    /// Most requests ever in flight together.
    pub fn most_in_flight(&self) -> usize {
        self.in_flight.len().saturating_sub(1)
    }

    /// Requests issued while no other was in flight, as a share of all; 0 if there is none.
    pub fn alone_share(&self) -> f64 {
        share(self.in_flight.get(1).copied().unwrap_or(0), self.requests())
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn counts(trace: &Trace, op: Op) -> Counts {
    trace.requests.iter().filter(|request| request.op == op).fold(Counts::default(), |sum, request| Counts {
        requests: sum.requests.saturating_add(1),
        bytes: sum.bytes.saturating_add(request.length),
    })
}

fn sequential_reads(trace: &Trace) -> u64 {
    let followers = trace.reads().skip(1);
    trace.reads().zip(followers).filter(|(read, next)| read.range().end == next.offset).count() as u64
}

fn in_flight(trace: &Trace) -> Vec<u64> {
    let mut found = Vec::new();
    let mut ends = BinaryHeap::new();
    for request in &trace.requests {
        while ends.peek().is_some_and(|Reverse(end)| *end <= request.start) {
            ends.pop();
        }
        ends.push(Reverse(request.end));
        if found.len() <= ends.len() {
            found.resize(ends.len().saturating_add(1), 0u64);
        }
        if let Some(requests) = found.get_mut(ends.len()) {
            *requests = requests.saturating_add(1);
        }
    }
    found
}

fn busy_time(trace: &Trace) -> Duration {
    let mut busy = Duration::ZERO;
    let mut counted = Duration::ZERO;
    for request in &trace.requests {
        busy = busy.saturating_add(request.end.saturating_sub(request.start.max(counted)));
        counted = counted.max(request.end);
    }
    busy
}

/// The working set of a boot, in bytes, at a granularity of `granularity` bytes: the blocks of that size that
/// hold a byte which the boot reads and has not written, zeroed or trimmed before.
///
/// A granularity of 0 counts as 1.
pub fn working_set(trace: &Trace, granularity: u64) -> u64 {
    needed(trace).rounded_out(granularity.max(1)).bytes()
}

/// The bytes of the base that the boot needs.
fn needed(trace: &Trace) -> Ranges {
    let mut needed = Ranges::default();
    let mut own = Ranges::default();
    for request in &trace.requests {
        match request.op {
            Op::Read => own.missing(request.range()).into_iter().for_each(|part| needed.insert(part)),
            Op::Write | Op::Zero | Op::Trim => own.insert(request.range()),
            Op::Flush => {}
        }
    }
    needed
}

/// The working set of any of `boots`, to the byte, as ascending ranges that do not touch.
pub fn joint_working_set<'a>(boots: impl IntoIterator<Item = &'a Trace>) -> Vec<Range<u64>> {
    let joint = boots.into_iter().fold(Ranges::default(), |joint, boot| joint.union(&needed(boot)));
    joint.iter().collect()
}

/// The blocks of `granularity` bytes (0 counts as 1) that a request of `boots` concerns, as ascending ranges that do
/// not touch: whatever an image with clusters of that size reads for them lies there.
pub fn footprint<'a>(boots: impl IntoIterator<Item = &'a Trace>, granularity: u64) -> Vec<Range<u64>> {
    let mut touched = Ranges::default();
    for request in boots.into_iter().flat_map(|boot| &boot.requests) {
        touched.insert(request.range());
    }
    touched.rounded_out(granularity.max(1)).iter().collect()
}

/// How much several boots have in common, in blocks of one granularity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Bytes in the working set of any of the boots.
    pub union: u64,
    /// Bytes in the working set of every boot.
    pub intersection: u64,
}

impl Overlap {
    /// Intersection over union; 1 for working sets that are all empty.
    pub fn jaccard(&self) -> f64 {
        if self.union == 0 { 1.0 } else { self.intersection as f64 / self.union as f64 }
    }
}

/// What the working sets of `boots` have in common, in blocks of `granularity` bytes (0 counts as 1); `None`
/// without a boot.
pub fn overlap<'a>(boots: impl IntoIterator<Item = &'a Trace>, granularity: u64) -> Option<Overlap> {
    let sets = boots.into_iter().map(|boot| needed(boot).rounded_out(granularity.max(1)));
    let (union, intersection) = sets
        .map(|set| (set.clone(), set))
        .reduce(|(union, common), (set, _)| (union.union(&set), common.intersection(&set)))?;
    Some(Overlap { union: union.bytes(), intersection: intersection.bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Request;

    fn trace(requests: &[(u64, u64, Op, u64, u64)]) -> Trace {
        let us = Duration::from_micros;
        let request = |&(start, end, op, offset, length): &_| Request {
            start: us(start),
            end: us(end),
            op,
            offset,
            length,
        };
        Trace { requests: requests.iter().map(request).collect() }
    }

    #[test]
    fn what_a_boot_wrote_itself_is_not_in_its_working_set() {
        let boot = trace(&[
            (0, 1, Op::Read, 0, 1024),
            (2, 3, Op::Write, 1024, 512),
            (4, 5, Op::Read, 512, 1536),
            (6, 7, Op::Write, 0, 512),
            (8, 9, Op::Trim, 8192, 4096),
            (10, 11, Op::Read, 8192, 4097),
        ]);
        assert_eq!(working_set(&boot, 1), 1024 + 512 + 1);
        assert_eq!(working_set(&boot, 512), 1024 + 512 + 512);
        assert_eq!(working_set(&boot, 4096), 4096 + 4096);
        assert_eq!(working_set(&boot, 1 << 20), 1 << 20);
    }

    #[test]
    fn time_in_flight_counts_overlapping_requests_once() {
        let boot = trace(&[
            (0, 10, Op::Read, 0, 1),
            (5, 25, Op::Read, 1, 1),
            (10, 12, Op::Read, 9, 1),
            (40, 41, Op::Flush, 0, 0),
        ]);
        let summary = Summary::of(&boot);
        assert_eq!(summary.span, Duration::from_micros(41));
        assert_eq!(summary.busy, Duration::from_micros(26));
        assert_eq!(summary.think, Duration::from_micros(15));
        // The third is issued at the very moment at which the first completes.
        assert_eq!(summary.in_flight, [0, 2, 2]);
        assert_eq!(summary.sequential_reads, 1);
    }

    #[test]
    fn what_boots_touch_and_what_they_need_are_joined() {
        let a = trace(&[(0, 1, Op::Write, 0, 512), (2, 3, Op::Read, 256, 512), (4, 5, Op::Flush, 0, 0)]);
        let b = trace(&[(0, 1, Op::Read, 9000, 100)]);
        assert_eq!(joint_working_set([&a, &b]), [512..768, 9000..9100]);
        assert_eq!(footprint([&a, &b], 4096), [0..4096, 8192..12_288]);
        assert_eq!(footprint([], 4096), []);
    }

    #[test]
    fn overlap_is_in_whole_blocks() {
        let a = trace(&[(0, 1, Op::Read, 0, 1024)]);
        let b = trace(&[(0, 1, Op::Read, 1000, 1048)]);
        assert_eq!(overlap([&a, &b], 512), Some(Overlap { union: 2048, intersection: 512 }));
        assert_eq!(overlap([&a, &b], 4096).map(|both| both.jaccard()), Some(1.0));
        assert_eq!(overlap([], 512), None);
    }
}
