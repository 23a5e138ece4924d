//! Simulated time: integer picoseconds, so that sums neither depend on their order nor on the machine.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

const PS_PER_SECOND: u64 = 1_000_000_000_000;
const PS_PER_NANOSECOND: u64 = 1_000;

/// An instant: picoseconds since the simulation began. The last one is after 213 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

/// A length of time in picoseconds, at most 213 days. What would be longer is cut off there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Time {
    /// The beginning.
    pub const ZERO: Time = Time(0);
    /// The last instant: nothing happens then.
    pub const MAX: Time = Time(u64::MAX);

    /// So many picoseconds after the beginning.
    pub const fn from_picoseconds(picoseconds: u64) -> Time {
        Time(picoseconds)
    }

    /// Picoseconds since the beginning.
    pub const fn picoseconds(self) -> u64 {
        self.0
    }

    /// Seconds since the beginning.
    pub fn seconds(self) -> f64 {
        Span(self.0).seconds()
    }

    /// The time that has passed since `earlier`; none, if that lies later.
    pub const fn since(self, earlier: Time) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);
    /// The longest span.
    pub const MAX: Span = Span(u64::MAX);

    /// So many picoseconds.
    pub const fn from_picoseconds(picoseconds: u64) -> Span {
        Span(picoseconds)
    }

    /// So many microseconds.
    pub const fn from_microseconds(microseconds: u64) -> Span {
        Span(microseconds.saturating_mul(1_000_000))
    }

    /// So many seconds, to the nearest picosecond; none, if that is negative or no number.
    pub fn from_seconds(seconds: f64) -> Span {
        // The conversion cuts off at both ends, and takes what is no number for zero.
        Span((seconds * PS_PER_SECOND as f64 + 0.5) as u64)
    }

    /// Picoseconds.
    pub const fn picoseconds(self) -> u64 {
        self.0
    }

    /// Seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / PS_PER_SECOND as f64
    }

    /// This span `factor` times, to the nearest picosecond.
    pub fn scaled(self, factor: f64) -> Span {
        Span((self.0 as f64 * factor).round_ties_even() as u64)
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Span {
        Span(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).saturating_mul(PS_PER_NANOSECOND))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        Duration::from_nanos(span.0 / PS_PER_NANOSECOND)
    }
}

impl Add<Span> for Time {
    type Output = Time;

    fn add(self, span: Span) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}

impl Add for Span {
    type Output = Span;

    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Span {
    fn add_assign(&mut self, other: Span) {
        *self = *self + other;
    }
}

impl Sub for Span {
    type Output = Span;

    fn sub(self, other: Span) -> Span {
        Span(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for Span {
    fn sum<I: Iterator<Item = Span>>(spans: I) -> Span {
        spans.fold(Span::ZERO, Add::add)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9} s", self.seconds())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9} s", self.seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_the_nearest_picosecond_and_never_overflow() {
        assert_eq!(Span::from_seconds(1.5e-12), Span::from_picoseconds(2));
        assert_eq!(Span::from_seconds(-1.0), Span::ZERO);
        assert_eq!(Span::from_seconds(f64::NAN), Span::ZERO);
        assert_eq!(Span::from_seconds(1e30), Span::MAX);
        assert_eq!(Time::MAX + Span::MAX, Time::MAX);
        assert_eq!(Time::ZERO.since(Time::MAX), Span::ZERO);
        assert_eq!(Span::from(Duration::from_micros(7)), Span::from_microseconds(7));
        assert_eq!(Duration::from(Span::from_seconds(0.25)), Duration::from_millis(250));
    }
}
