//! The timeline of a run in Chrome's trace format, which Perfetto opens: groups as processes, tracks as threads.

use serde::Serialize;
use std::cmp::Reverse;
use vmicache_sim::engine::Time;
use vmicache_sim::storm::{Timeline, TimelineSpan};

const PS_PER_NS: u64 = 1000;
const NS_PER_US: f64 = 1000.0;

#[derive(Serialize)]
struct Trace<'a> {
    #[serde(rename = "displayTimeUnit")]
    display_time_unit: &'static str,
    #[serde(rename = "traceEvents")]
    trace_events: Vec<Event<'a>>,
}

/// An event; times in microseconds.
#[derive(Serialize)]
#[serde(tag = "ph")]
enum Event<'a> {
    #[serde(rename = "M")]
    Metadata { name: &'static str, pid: usize, tid: usize, args: Metadata<'a> },
    #[serde(rename = "X")]
    Complete {
        name: &'a str,
        pid: usize,
        tid: usize,
        ts: f64,
        dur: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        args: Option<Moved>,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Metadata<'a> {
    Name { name: &'a str },
    Order { sort_index: usize },
}

#[derive(Serialize)]
struct Moved {
    bytes: u64,
}

/// The timeline as a file.
///
/// # Errors
/// None that is known: a timeline can be written down.
pub fn chrome_trace(timeline: &Timeline) -> anyhow::Result<Vec<u8>> {
    let mut spans: Vec<Vec<&TimelineSpan>> = vec![Vec::new(); timeline.tracks.len()];
    for span in &timeline.spans {
        if let Some(of_track) = spans.get_mut(span.track) {
            of_track.push(span);
        }
    }
    let mut groups: Vec<&str> = Vec::new();
    let mut trace_events = Vec::new();
    let mut threads = 0;
    for ((group, track), spans) in timeline.tracks.iter().zip(spans) {
        let known = groups.iter().position(|known| known == group);
        let pid = 1 + known.unwrap_or_else(|| {
            groups.push(group);
            groups.len() - 1
        });
        if known.is_none() {
            trace_events.extend(named("process", pid, 0, group, pid));
        }
        for lane in lanes(spans) {
            threads += 1;
            trace_events.extend(named("thread", pid, threads, track, threads));
            trace_events.extend(lane.into_iter().map(|span| complete(span, pid, threads)));
        }
    }
    Ok(serde_json::to_vec(&Trace { display_time_unit: "ms", trace_events })?)
}

/// The name of a process or thread, and its place among the others.
fn named<'a>(what: &str, pid: usize, tid: usize, name: &'a str, sort_index: usize) -> [Event<'a>; 2] {
    let (title, order) = match what {
        "process" => ("process_name", "process_sort_index"),
        _ => ("thread_name", "thread_sort_index"),
    };
    [
        Event::Metadata { name: title, pid, tid, args: Metadata::Name { name } },
        Event::Metadata { name: order, pid, tid, args: Metadata::Order { sort_index } },
    ]
}

/// Both ends are cut to nanoseconds, so that what encloses another still does.
fn complete(span: &TimelineSpan, pid: usize, tid: usize) -> Event<'_> {
    let (start, end) = (nanoseconds(span.start), nanoseconds(span.end));
    Event::Complete {
        name: &span.name,
        pid,
        tid,
        ts: start as f64 / NS_PER_US,
        dur: end.saturating_sub(start) as f64 / NS_PER_US,
        args: span.bytes.map(|bytes| Moved { bytes }),
    }
}

fn nanoseconds(time: Time) -> u64 {
    time.picoseconds() / PS_PER_NS
}

/// Spans of one track, laid out so that two of one lane follow each other or one encloses the other: nothing else
/// can be drawn on one thread.
fn lanes(mut spans: Vec<&TimelineSpan>) -> Vec<Vec<&TimelineSpan>> {
    // What encloses another comes before it.
    spans.sort_by_key(|span| (span.start, Reverse(span.end)));
    // Of each lane the ends of what is open, innermost last.
    let mut open: Vec<Vec<Time>> = Vec::new();
    let mut lanes: Vec<Vec<&TimelineSpan>> = Vec::new();
    for span in spans {
        let free = open.iter_mut().position(|ends| {
            while ends.last().is_some_and(|end| *end <= span.start) {
                ends.pop();
            }
            ends.last().is_none_or(|end| span.end <= *end)
        });
        let lane = free.unwrap_or_else(|| {
            open.push(Vec::new());
            lanes.push(Vec::new());
            lanes.len() - 1
        });
        if let (Some(ends), Some(lane)) = (open.get_mut(lane), lanes.get_mut(lane)) {
            ends.push(span.end);
            lane.push(span);
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn timeline(spans: &[(usize, &'static str, u64, u64)]) -> Timeline {
        let span = |&(track, name, start, end): &(usize, &'static str, u64, u64)| TimelineSpan {
            track,
            name: name.into(),
            start: Time::from_picoseconds(start * 1_500_000),
            end: Time::from_picoseconds(end * 1_500_000),
            bytes: (name == "read").then_some(4096),
        };
        let track = |group: &str, name: &str| (group.to_owned(), name.to_owned());
        Timeline {
            tracks: vec![track("node 1", "vm 1"), track("storage", "disk"), track("node 1", "vm 2")],
            spans: spans.iter().map(span).collect(),
        }
    }

    /// The events of a timeline, as another program reads them.
    fn events(timeline: &Timeline) -> Vec<Value> {
        let trace: Value = serde_json::from_slice(&chrome_trace(timeline).unwrap()).unwrap();
        trace["traceEvents"].as_array().unwrap().clone()
    }

    #[test]
    fn groups_are_processes_and_tracks_are_threads_with_names() {
        let events = events(&timeline(&[(0, "boot", 0, 9), (1, "read", 1, 2), (2, "boot", 1, 3)]));
        let names = |what: &str| -> Vec<(u64, String)> {
            let of = events.iter().filter(|event| event["name"] == what);
            let name = |event: &Value| event["args"]["name"].as_str().unwrap().to_owned();
            of.map(|event| (event["pid"].as_u64().unwrap(), name(event))).collect()
        };
        assert_eq!(names("process_name"), [(1, "node 1".into()), (2, "storage".into())]);
        assert_eq!(names("thread_name"), [(1, "vm 1".into()), (2, "disk".into()), (1, "vm 2".into())]);
        let read = events.iter().find(|event| event["name"] == "read").unwrap();
        assert_eq!((&read["ph"], &read["ts"], &read["dur"]), (&"X".into(), &1.5.into(), &1.5.into()));
        assert_eq!(read["args"]["bytes"], 4096);
    }

    #[test]
    fn spans_that_only_overlap_are_on_threads_of_their_own() {
        let spans = [(0, "boot", 0, 9), (0, "a", 1, 4), (0, "b", 2, 6), (0, "c", 4, 5), (0, "d", 9, 10)];
        let events = events(&timeline(&spans));
        let thread = |name: &str| events.iter().find(|event| event["name"] == name).unwrap()["tid"].clone();
        for together in ["a", "c", "d"] {
            assert_eq!(thread(together), thread("boot"), "{together}");
        }
        assert_ne!(thread("b"), thread("boot"));
    }
}
