//! V1: how long a boot takes on slowed storage, predicted from recordings at one delay, and measured at another.
//!
//! What is predicted is what boot storms replay: an undelayed boot with the dependencies and think times of a slowed
//! one, each request as long as recorded and each read longer by the delay. What passes before the first request
//! and after the last one is taken from the slowed recording, too. Undelayed boots themselves teach their own order.

pub mod section;

use crate::cells::Cells;
use crate::inputs::{Boot, Guest};
use crate::stats::Summary;
use std::collections::BTreeSet;
use std::slice;
use std::time::Duration;
use vmicache_format::trace::{Dependencies, Op, Request};

/// A prediction from the recordings at one delay of the boots at another, or the same.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Whose boots they are.
    pub guest: &'a Guest,
    /// How much longer each read took in the recordings that were learnt from.
    pub learnt_at: Duration,
    /// How much longer each read takes in the boots that are predicted.
    pub delay: Duration,
    /// Seconds from power-on to the marker, over the recordings that were learnt from.
    pub predicted: Summary,
    /// The same, measured, over the boots recorded at this delay.
    pub measured: Summary,
}

impl Row<'_> {
    /// By which share of it the prediction is off the measured mean; positive if it is too long.
    pub fn error(&self) -> f64 {
        self.predicted.mean / self.measured.mean - 1.0
    }

    /// Half the width in seconds of the 95 % interval in which the mean of so many boots is expected; `None` if a
    /// single recording was learnt from.
    pub fn interval(&self) -> Option<f64> {
        self.predicted.half_width_of_next_mean(self.measured.count)
    }

    /// Whether the recordings that were learnt from are among those that are predicted.
    pub fn is_own(&self) -> bool {
        self.learnt_at == self.delay
    }
}

/// One row for each pair of delays at which boots were timed, in order of the delays; none if there is one delay only.
///
/// # Errors
/// None so far; cells may fail.
pub fn run<'a>(guest: &'a Guest, cells: &Cells) -> anyhow::Result<Vec<Row<'a>>> {
    let delays = delays(guest);
    if delays.len() < 2 {
        return Ok(Vec::new());
    }
    let rows = cells.each("V1: predictions", &delays, |learnt_at| {
        let models = models(guest, *learnt_at);
        let rows = delays.iter().filter_map(|delay| {
            let predicted = Summary::of(models.iter().map(|models| mean(models, *delay)))?;
            let measured = Summary::of(timed(guest, *delay).map(|(_, seconds)| seconds))?;
            Some(Row { guest, learnt_at: *learnt_at, delay: *delay, predicted, measured })
        });
        Ok(rows.collect::<Vec<_>>())
    })?;
    Ok(rows.into_iter().flatten().collect())
}

/// The delays at which boots of the guest were timed, rising.
fn delays(guest: &Guest) -> Vec<Duration> {
    let timed = guest.boots.iter().chain(&guest.slowed).filter(|boot| boot.seconds.is_some());
    timed.filter_map(|boot| boot.delay).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The boots that were recorded at this delay, with their seconds from power-on to the marker.
fn timed(guest: &Guest, delay: Duration) -> impl Iterator<Item = (&Boot, f64)> {
    let boots = guest.boots.iter().chain(&guest.slowed).filter(move |boot| boot.delay == Some(delay));
    boots.filter_map(|boot| Some((boot, boot.seconds?)))
}

/// An undelayed boot with what it has learnt from a recording.
struct Model<'a> {
    boot: &'a Boot,
    dependencies: Dependencies,
    /// Seconds before its first request and after its last one.
    outside: f64,
}

/// For each recording at this delay its models, one for each undelayed boot.
fn models(guest: &Guest, learnt_at: Duration) -> Vec<Vec<Model<'_>>> {
    let teachers = timed(guest, learnt_at).map(|(teacher, seconds)| {
        let outside = seconds - teacher.trace.span().as_secs_f64();
        let model = |boot, dependencies| Model { boot, dependencies, outside };
        if learnt_at.is_zero() {
            return vec![model(teacher, Dependencies::infer(&teacher.trace))];
        }
        let learn =
            |boot: &Boot| Dependencies::learn(&boot.trace, slice::from_ref(&teacher.trace)).dependencies;
        timed(guest, Duration::ZERO).map(|(boot, _)| model(boot, learn(boot))).collect()
    });
    teachers.filter(|models| !models.is_empty()).collect()
}

/// Seconds that a boot takes in the mean of these models, reads being held back by `delay`.
fn mean(models: &[Model], delay: Duration) -> f64 {
    let seconds = models.iter().map(|model| {
        let latency = |request: &Request| match request.op {
            Op::Read => request.latency() + delay,
            _ => request.latency(),
        };
        model.outside + model.dependencies.predict_span(&model.boot.trace, latency).as_secs_f64()
    });
    seconds.sum::<f64>() / models.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmicache_format::trace::Trace;

    /// A boot of three reads: the second does not wait for the first, the third waits for both.
    fn boot(name: &str, delay_ms: u64) -> Boot {
        let ms = Duration::from_millis;
        let took = 1 + delay_ms;
        // The second is issued 2 ms after the first, by when an undelayed first one has completed.
        let starts = [0, 2, took.max(2 + took) + 10];
        let read = |(number, start): (usize, u64)| Request {
            start: ms(start),
            end: ms(start + took),
            op: Op::Read,
            offset: number as u64 * 4096,
            length: 4096,
        };
        let trace = Trace { requests: starts.into_iter().enumerate().map(read).collect() };
        let seconds = Some(trace.span().as_secs_f64() + 1.0);
        Boot { name: name.to_owned(), sha256: String::new(), trace, delay: Some(ms(delay_ms)), seconds }
    }

    fn guest() -> Guest {
        Guest {
            name: "g".to_owned(),
            title: "G".to_owned(),
            disk_bytes: 1 << 20,
            allocated_bytes: 1 << 20,
            sha256: String::new(),
            storms: false,
            learn_from: None,
            boots: vec![boot("a", 0), boot("b", 0)],
            slowed: vec![boot("c", 20), boot("d", 20), boot("e", 50)],
        }
    }

    #[test]
    fn slowed_boots_are_predicted_from_slowed_ones_and_overrated_from_undelayed_ones() {
        let guest = guest();
        let rows = run(&guest, &Cells::new(Some(1)).unwrap()).unwrap();
        let ms = Duration::from_millis;
        let row = |learnt_at, delay| {
            rows.iter().find(|row| row.learnt_at == ms(learnt_at) && row.delay == ms(delay)).unwrap()
        };
        assert_eq!(rows.len(), 9);
        for (learnt_at, delay) in [(0, 0), (20, 20), (20, 50), (50, 20), (50, 50)] {
            assert!(row(learnt_at, delay).error().abs() < 1e-9, "{learnt_at} ms, {delay} ms");
        }
        // A second outside the requests; 0.114 s inside as measured, 0.164 s if each waits for the one before it.
        let overrated = row(0, 50);
        assert!((overrated.measured.mean - 1.114).abs() < 1e-9, "{overrated:?}");
        assert!((overrated.predicted.mean - 1.164).abs() < 1e-9, "{overrated:?}");
        assert_eq!((overrated.predicted.count, overrated.measured.count), (2, 1));
        assert!(row(50, 20).interval().is_none() && row(20, 50).interval().is_some());
    }

    #[test]
    fn a_guest_that_was_timed_at_one_delay_has_no_rows() {
        let guest = Guest { slowed: Vec::new(), ..guest() };
        assert!(run(&guest, &Cells::new(Some(1)).unwrap()).unwrap().is_empty());
    }
}
