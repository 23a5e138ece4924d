//! The log file of nbdkit's log filter, as of version 1.32: date, time, connection, action, and `key=value` pairs. A
//! request has one line when it arrives, and one, with three dots before the action, when it is answered.

use super::{Converted, Log, Op, Recorder, Source, Trace, number, request, seconds, unlike};
use std::time::Duration;

const RIGHT: &str = "2020-08-06 02:07:23.080415 connection=1 Read id=1 offset=0x0 count=0x200 ...";

/// The requests of one log.
#[derive(Default)]
pub(super) struct NbdkitLog {
    /// A number names a request only on its connection.
    recorder: Recorder<(u64, u64)>,
    recorded: Option<String>,
}

struct Line<'a> {
    date: &'a str,
    time: Duration,
    connection: u64,
    action: &'a str,
    rest: &'a str,
}

impl<'a> Line<'a> {
    /// None for a line that is not of a connection, such as of nbdkit's start.
    fn parse(line: &'a str) -> Option<Line<'a>> {
        let (date, line) = line.split_once(' ')?;
        let (time, line) = line.split_once(' ')?;
        let (connection, line) = line.strip_prefix("connection=")?.split_once(' ')?;
        let (action, rest) = line.split_once(' ').unwrap_or((line, ""));
        let time = days(date)?.saturating_add(time_of_day(time)?);
        Some(Line { date, time, connection: connection.parse().ok()?, action, rest })
    }

    fn value(&self, key: &str) -> Option<u64> {
        let mut pairs = self.rest.split_whitespace().filter_map(|word| word.split_once('='));
        pairs.find(|(of, _)| *of == key).and_then(|(_, value)| number(value))
    }
}

/// Whether a line is of this format.
pub(super) fn wrote(line: &str) -> bool {
    Line::parse(line).is_some()
}

impl Log for NbdkitLog {
    fn line(&mut self, text: &str) -> Result<(), String> {
        let Some(line) = Line::parse(text) else {
            return if text.contains("connection=") { Err(unlike(text, RIGHT)) } else { Ok(()) };
        };
        let answered = line.action.strip_prefix("...");
        let Some(op) = op(answered.unwrap_or(line.action)) else { return Ok(()) };
        let value = |key| line.value(key).ok_or_else(|| unlike(text, RIGHT));
        let key = (line.connection, value("id")?);
        if answered.is_some() {
            self.recorder.complete(&key, line.time);
            return Ok(());
        }
        let (offset, length) = if op == Op::Flush { (0, 0) } else { (value("offset")?, value("count")?) };
        if let Some(request) = request(line.time, op, offset, length)? {
            self.recorded.get_or_insert_with(|| line.date.to_owned());
            self.recorder.issue(key, request);
        }
        Ok(())
    }

    fn requests(&self) -> usize {
        self.recorder.requests.len()
    }

    fn finish(self: Box<Self>) -> Converted {
        let metadata = Source::NbdkitLog.metadata("nbdkit, log filter", self.recorded.as_deref());
        let (requests, unanswered) = self.recorder.finish();
        let mut lacks = vec!["guest, image, hypervisor and host: the log does not name them".to_owned()];
        lacks.extend(unanswered);
        Converted { trace: Trace { requests }, metadata, lacks }
    }
}

fn op(action: &str) -> Option<Op> {
    match action {
        "Read" => Some(Op::Read),
        "Write" => Some(Op::Write),
        "Zero" => Some(Op::Zero),
        "Trim" => Some(Op::Trim),
        "Flush" => Some(Op::Flush),
        _ => None,
    }
}

/// The time from the beginning of the year 0 to a day of the Gregorian calendar: only differences matter.
#[expect(clippy::arithmetic_side_effects, reason = "years end at 9999, and the other numbers before")]
fn days(date: &str) -> Option<Duration> {
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    Some(Duration::from_secs(days * 86_400))
}

fn time_of_day(time: &str) -> Option<Duration> {
    let (hours, rest) = time.split_once(':')?;
    let (minutes, rest) = rest.split_once(':')?;
    let hours: u64 = hours.parse().ok().filter(|hours| *hours < 24)?;
    let minutes: u64 = minutes.parse().ok().filter(|minutes| *minutes < 60)?;
    let minutes = hours.saturating_mul(60).saturating_add(minutes);
    Some(Duration::from_secs(minutes.saturating_mul(60)).saturating_add(seconds(rest)?))
}

#[cfg(test)]
mod tests {
    use super::days;

    #[test]
    fn a_day_follows_the_day_before() {
        let apart = |from, to| (days(to).unwrap() - days(from).unwrap()).as_secs() / 86_400;
        assert_eq!(apart("1970-01-01", "2026-11-24"), 20_781);
        assert_eq!(apart("2024-02-28", "2024-03-01"), 2);
        assert_eq!(apart("2026-12-31", "2027-01-01"), 1);
        assert_eq!(days("2026-13-01"), None);
    }
}
