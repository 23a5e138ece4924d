//! What an export has served.

use crate::trace::Op;
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::time::Duration;

/// Requests of one operation.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Requests that were answered without an error.
    pub requests: u64,
    /// Bytes that they concerned.
    pub bytes: u64,
    latencies: Histogram<u64>,
}

impl Tally {
    #[expect(clippy::expect_used, reason = "the number of digits is a constant that a histogram takes")]
    fn new() -> Self {
        let latencies = Histogram::new(2).expect("two significant digits are within a histogram's bounds");
        Tally { requests: 0, bytes: 0, latencies }
    }

    /// The latency that a share `quantile` of the requests did not exceed, to two significant digits.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latencies.value_at_quantile(quantile))
    }
}

/// What an export has served since it was opened, by operation.
#[derive(Debug)]
pub struct Statistics {
    tallies: RefCell<[Tally; Op::ALL.len()]>,
    failures: Cell<u64>,
    last_failure: RefCell<Option<String>>,
}

impl Default for Statistics {
    fn default() -> Self {
        Statistics {
            tallies: RefCell::new(std::array::from_fn(|_| Tally::new())),
            failures: Cell::new(0),
            last_failure: RefCell::new(None),
        }
    }
}

impl Statistics {
    /// What was served of one operation.
    pub fn of(&self, op: Op) -> Tally {
        self.tallies.borrow().get(op as usize).cloned().unwrap_or_else(Tally::new)
    }

    /// Requests that failed because the storage did, or was full.
    pub fn failures(&self) -> u64 {
        self.failures.get()
    }

    /// What the last of them failed with.
    pub fn last_failure(&self) -> Option<String> {
        self.last_failure.borrow().clone()
    }

    pub(super) fn fail(&self, problem: &str) {
        self.failures.update(|failures| failures.saturating_add(1));
        *self.last_failure.borrow_mut() = Some(problem.to_owned());
    }

    pub(super) fn count(&self, op: Op, bytes: u64, latency: Duration) {
        let mut tallies = self.tallies.borrow_mut();
        let Some(tally) = tallies.get_mut(op as usize) else { return };
        tally.requests = tally.requests.saturating_add(1);
        tally.bytes = tally.bytes.saturating_add(bytes);
        // The histogram grows as needed; it refuses only what takes half a million years.
        let _ = tally.latencies.record(latency.as_micros() as u64);
    }
}
