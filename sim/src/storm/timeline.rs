//! What happened when, for people to look at.

use crate::engine::{Simulation, Time};
use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

/// Everything that was recorded of one storm, in order of its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Tracks: the group that each belongs to (a node, the storage node) and its own name (a virtual machine, a
    /// disk).
    pub tracks: Vec<(String, String)>,
    /// What happened.
    pub spans: Vec<TimelineSpan>,
}

/// Something that took time.
#[derive(Clone, Debug, PartialEq)]
pub struct TimelineSpan {
    /// Index into the tracks. Spans of one track may overlap.
    pub track: usize,
    /// What it was: `boot`, `read`, `write`…
    pub name: Cow<'static, str>,
    /// When it began.
    pub start: Time,
    /// When it ended.
    pub end: Time,
    /// Bytes concerned, if it moved any.
    pub bytes: Option<u64>,
}

struct Shared {
    sim: Simulation,
    timeline: RefCell<Timeline>,
}

/// Keeps what happens on one track; or nothing, if nobody wants to know.
#[derive(Clone, Default)]
pub struct Recorder(Option<(Rc<Shared>, usize)>);

impl Recorder {
    /// A recorder for `sim`, whose tracks are still to be made.
    pub fn new(sim: &Simulation) -> Self {
        let shared = Shared { sim: sim.clone(), timeline: RefCell::default() };
        Recorder(Some((Rc::new(shared), 0)))
    }

    /// A recorder for a new track; one that keeps nothing, if this one does not either.
    pub fn track(&self, group: &str, name: &str) -> Self {
        Recorder(self.0.as_ref().map(|(shared, _)| {
            let mut timeline = shared.timeline.borrow_mut();
            timeline.tracks.push((group.to_owned(), name.to_owned()));
            (shared.clone(), timeline.tracks.len() - 1)
        }))
    }

    /// Something begins that concerns so many bytes.
    pub fn begin(&self, name: &'static str, bytes: u64) -> OpenSpan {
        OpenSpan(self.0.as_ref().map(|(shared, track)| Begun {
            shared: shared.clone(),
            track: *track,
            name,
            start: shared.sim.now(),
            bytes,
        }))
    }

    /// Hands over what has been kept so far, on all tracks.
    pub fn take(&self) -> Option<Timeline> {
        self.0.as_ref().map(|(shared, _)| shared.timeline.take())
    }
}

struct Begun {
    shared: Rc<Shared>,
    track: usize,
    name: &'static str,
    start: Time,
    bytes: u64,
}

/// Something that has begun. It is kept once it has ended.
#[must_use]
pub struct OpenSpan(Option<Begun>);

impl OpenSpan {
    /// It ends now.
    pub fn end(self) {
        let Some(Begun { shared, track, name, start, bytes }) = self.0 else { return };
        let end = shared.sim.now();
        let bytes = (bytes > 0).then_some(bytes);
        shared.timeline.borrow_mut().spans.push(TimelineSpan { track, name: name.into(), start, end, bytes });
    }
}
