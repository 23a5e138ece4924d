//! The books of a resource, and the laws that they must obey.

use super::time::{Span, Time};
use std::fmt;

/// What a resource did so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Requests that were completed.
    pub requests: u64,
    /// The amount of these, in the units of the resource.
    pub amount: u64,
    /// Time in which servers were busy, summed over them; for a link, the time that moving what it moved
    /// takes at full capacity.
    pub busy: Span,
    /// The integral of the number of requests in the system, waiting or being served, in seconds.
    pub in_system_time: f64,
    /// Servers; one for a link.
    pub servers: usize,
}

impl Usage {
    /// Share of `over` in which a server was busy, on average; 0 if that is no time.
    pub fn utilisation(&self, over: Span) -> f64 {
        per(self.busy.seconds() / self.servers as f64, over)
    }

    /// Mean number of requests in the system during `over`; 0 if that is no time.
    pub fn mean_in_system(&self, over: Span) -> f64 {
        per(self.in_system_time, over)
    }
}

fn per(seconds: f64, over: Span) -> f64 {
    if over == Span::ZERO { 0.0 } else { seconds / over.seconds() }
}

/// A law that every queue obeys, whatever its arrivals and service times (Denning and Buzen, "The operational
/// analysis of queueing network models", 1978).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// What came is completed, cancelled or still there.
    Conservation,
    /// Busy time is what the requests took.
    Utilisation,
    /// The integral of the number in the system is the sum of the times spent in it.
    Little,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Law::Conservation => "conservation",
            Law::Utilisation => "the utilisation law",
            Law::Little => "Little's law",
        })
    }
}

/// The books of a resource break a law: a fault of the simulator.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{resource} breaks {law}: {left} {unit} on one side, {right} on the other")]
pub struct Violation {
    /// Kind and name of the resource, such as "server `disk`".
    pub resource: String,
    /// The law.
    pub law: Law,
    /// Unit of both sides.
    pub unit: &'static str,
    /// Its left side.
    pub left: f64,
    /// Its right side.
    pub right: f64,
}

/// Sides of a law that differ.
pub(super) struct Mismatch {
    pub law: Law,
    pub unit: &'static str,
    pub left: f64,
    pub right: f64,
}

impl Mismatch {
    /// Compares two exact sums.
    pub fn unless_equal(law: Law, unit: &'static str, left: i128, right: i128) -> Result<(), Mismatch> {
        if left == right {
            Ok(())
        } else {
            Err(Mismatch { law, unit, left: left as f64, right: right as f64 })
        }
    }

    /// Compares two sums that may differ by so much.
    pub fn unless_near(law: Law, unit: &'static str, left: f64, right: f64, by: f64) -> Result<(), Mismatch> {
        if (left - right).abs() <= by { Ok(()) } else { Err(Mismatch { law, unit, left, right }) }
    }

    pub fn of(self, resource: String) -> Violation {
        Violation { resource, law: self.law, unit: self.unit, left: self.left, right: self.right }
    }
}

/// Counts of requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub requests: u64,
    pub amount: u64,
}

impl Tally {
    fn add(&mut self, amount: u64) {
        self.requests += 1;
        self.amount += amount;
    }
}

/// Who came, who left, and how long they stayed. Times are summed in whole picoseconds, so the laws hold
/// exactly.
#[derive(Debug, Default)]
pub(super) struct Census {
    pub arrived: Tally,
    pub completed: Tally,
    pub cancelled: Tally,
    pub present: u64,
    pub present_amount: u64,
    /// Integral of `present` up to `last`.
    area: i128,
    last: Time,
    /// Times that those who left had stayed.
    stayed: i128,
    /// Instants at which those who are present came.
    arrivals: i128,
}

impl Census {
    /// Carries the integral on to `now`.
    #[inline]
    pub fn settle(&mut self, now: Time) {
        if now == self.last {
            return;
        }
        let span = now.since(self.last).picoseconds();
        self.area += i128::from(self.present) * i128::from(span);
        self.last = now;
    }

    pub fn arrive(&mut self, now: Time, amount: u64) {
        self.settle(now);
        self.arrived.add(amount);
        self.present += 1;
        self.present_amount += amount;
        self.arrivals += i128::from(now.picoseconds());
    }

    pub fn complete(&mut self, now: Time, since: Time, amount: u64) {
        self.leave(now, since, amount);
        self.completed.add(amount);
    }

    pub fn cancel(&mut self, now: Time, since: Time, amount: u64) {
        self.leave(now, since, amount);
        self.cancelled.add(amount);
    }

    fn leave(&mut self, now: Time, since: Time, amount: u64) {
        self.settle(now);
        self.present -= 1;
        self.present_amount -= amount;
        self.arrivals -= i128::from(since.picoseconds());
        self.stayed += i128::from(now.since(since).picoseconds());
    }

    /// Integral of the number present, in seconds, up to the last settlement.
    pub fn in_system_time(&self) -> f64 {
        self.area as f64 / 1e12
    }

    /// Checks conservation and Little's law at `now`.
    pub fn check(&mut self, now: Time) -> Result<(), Mismatch> {
        self.settle(now);
        let gone = self.completed.requests + self.cancelled.requests + self.present;
        let conserved = |unit, left: u64, right: u64| {
            Mismatch::unless_equal(Law::Conservation, unit, left.into(), right.into())
        };
        conserved("requests", self.arrived.requests, gone)?;
        let amounts = self.completed.amount + self.cancelled.amount + self.present_amount;
        conserved("units", self.arrived.amount, amounts)?;
        let so_far = i128::from(self.present) * i128::from(now.picoseconds()) - self.arrivals;
        Mismatch::unless_equal(Law::Little, "request-picoseconds", self.area, self.stayed + so_far)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(picoseconds: u64) -> Time {
        Time::from_picoseconds(picoseconds)
    }

    /// One came and left, one was dropped, one is there.
    fn census() -> Census {
        let mut census = Census::default();
        census.arrive(at(10), 5);
        census.arrive(at(20), 7);
        census.complete(at(40), at(10), 5);
        census.arrive(at(50), 9);
        census.cancel(at(60), at(20), 7);
        census
    }

    fn broken(fault: impl FnOnce(&mut Census)) -> Option<Law> {
        let mut census = census();
        fault(&mut census);
        census.check(at(70)).err().map(|mismatch| mismatch.law)
    }

    #[test]
    fn right_books_pass_and_wrong_ones_do_not() {
        assert_eq!(broken(|_| {}), None);
        assert_eq!(broken(|census| census.completed.requests += 1), Some(Law::Conservation));
        assert_eq!(broken(|census| census.cancelled.amount -= 1), Some(Law::Conservation));
        assert_eq!(broken(|census| census.arrive(at(60), 0)), None);
        assert_eq!(broken(|census| census.stayed += 1), Some(Law::Little));
        assert_eq!(broken(|census| census.area -= 1), Some(Law::Little));
        // Five picoseconds that were not counted.
        assert_eq!(broken(|census| census.last = at(65)), Some(Law::Little));
    }

    #[test]
    fn usage_is_averaged_over_a_time() {
        let usage =
            Usage { requests: 1, amount: 1, busy: Span::from_seconds(3.0), in_system_time: 4.0, servers: 2 };
        assert_eq!(usage.utilisation(Span::from_seconds(3.0)), 0.5);
        assert_eq!(usage.mean_in_system(Span::from_seconds(2.0)), 2.0);
        assert_eq!(usage.utilisation(Span::ZERO), 0.0);
    }
}
