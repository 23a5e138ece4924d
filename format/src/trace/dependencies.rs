//! Which request waits for which, and for how long the guest computes between.
//!
//! A replay that issues requests at their recorded times is deaf to the storage: a slower disk would not make
//! the boot longer. A *closed-loop* replay issues a request some time after the completion of the one that it
//! waits for. A recording does not name that one; it must be inferred.
//!
//! **The rule for one recording.** A request waits for the latest completion at or before its own start. The
//! gap between the two is its think time: the guest computed, and the result of that computation was the
//! request. What starts before anything has completed waits for nothing, and its think time is its start.
//!
//! **Why slowed recordings.** The rule errs on a fast recording. When reads take 0.1 ms, a readahead request
//! has completed before the guest has computed its way to the next read, so that the rule links two requests
//! that would have been in flight together on any slower storage, and the predicted boot is too long there.
//! When the server holds every read back by some milliseconds, what is independent overlaps and what is
//! dependent waits. So causes are learnt from slowed recordings, and what is read from the recording at hand.
//!
//! **Carrying links over.** The k-th request of a certain operation, offset and length in one recording is taken
//! for the k-th such request in the other. Two boots never issue their requests in quite the same order, since
//! services start in parallel; that is evidence too, as a request waits only for what had completed before it
//! in *both* recordings. So a request waits for the latest completion before its start in the slowed
//! recording among the requests that had also completed before its start in the recording at hand. A
//! completion in the slowed recording that has no counterpart here (another boot reads a little else) is
//! bridged: its own think time is added and the search goes on from its start; its service time is left out,
//! since here it is not issued. A request without a counterpart keeps the link that the rule gives it in its
//! own recording.
//!
//! **Which think time is carried.** That of the slowed recording, over the same gap as the link. It has the
//! delay of what the request waited for taken off already, because a gap begins at a completion; and it belongs
//! to the link, whereas the gap in the fast recording often ends at a completion that was no cause. The
//! price is that computing speed is that of the slowed boot: replayed boots differ in what they read, and less
//! than real boots in how long the guest computes. Where think times should vary, scale them.

//! **How good it is.** Two guests, Debian 12 and 13 minimal, were recorded with every read held back by 0, 1, 2, 5, 10 and
//! 20 ms, five boots each, and undelayed boots with what they had learnt at one of these delays were held against the boots
//! measured at the others (experiment V1 of `vmicache reproduce` has the figures, and for every delay that could be learnt
//! from). Learnt at 20 ms, the delay chosen before these boots were recorded, the mean boot times at all other delays come
//! out within 4.1 %, and from 5 ms on within 1.4 %; learnt from undelayed boots alone they are 4 to 9 % too long from 5 ms
//! on. Undelayed boots of one guest differ among themselves by more than that.

use super::{Op, Request, Trace};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// What must happen before a request is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The request, always an earlier one in order of issue, whose completion it waits for; `None`: the start
    /// of the boot.
    pub waits_for: Option<usize>,
    /// How long the guest computes after that.
    pub think: Duration,
}

/// The links of a trace, one for each request, in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// `links[i]` belongs to `requests[i]`.
    pub links: Vec<Link>,
}

/// Dependencies learnt from slowed recordings, and how far these applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The dependencies.
    pub dependencies: Dependencies,
    /// Requests that had a counterpart in a slowed recording; the others have a link of their own recording.
    pub matched: usize,
}

impl Learned {
    /// Matched requests as a share of all; 0 without a request.
    pub fn share_matched(&self) -> f64 {
        match self.dependencies.links.len() {
            0 => 0.0,
            requests => self.matched as f64 / requests as f64,
        }
    }
}

impl Dependencies {
    /// The links that `trace` itself shows.
    pub fn infer(trace: &Trace) -> Dependencies {
        let requests = &trace.requests;
        let completions: BTreeSet<_> = requests.iter().enumerate().map(|(i, r)| (r.end, i)).collect();
        let links = requests.iter().enumerate().map(|(i, request)| {
            match completions.range(..(request.start, i)).next_back() {
                Some(&(end, before)) => {
                    Link { waits_for: Some(before), think: request.start.saturating_sub(end) }
                }
                None => Link { waits_for: None, think: request.start },
            }
        });
        Dependencies { links: links.collect() }
    }

    /// The links of `slowed`, recordings of the same guest on slower storage, carried over to the requests of
    /// `trace`. A request takes its link from the first of `slowed` that has a counterpart of it.
    pub fn learn(trace: &Trace, slowed: &[Trace]) -> Learned {
        let mut learned = Learned { dependencies: Dependencies::infer(trace), matched: 0 };
        let carried: Vec<_> = slowed.iter().map(|slow| carry_over(trace, slow)).collect();
        for (i, link) in learned.dependencies.links.iter_mut().enumerate() {
            if let Some(better) = carried.iter().find_map(|links| links.get(i).copied().flatten()) {
                *link = better;
                learned.matched = learned.matched.saturating_add(1);
            }
        }
        learned
    }

    /// The time from the first issue to the last completion when `trace`, whose links these are, is replayed in
    /// closed loop and each request takes `latency` of it, however many are in flight.
    pub fn predict_span(&self, trace: &Trace, latency: impl Fn(&Request) -> Duration) -> Duration {
        let mut ends: Vec<Duration> = Vec::with_capacity(self.links.len());
        let mut first = Duration::MAX;
        let mut last = Duration::ZERO;
        for (link, request) in self.links.iter().zip(&trace.requests) {
            let waited = link.waits_for.and_then(|before| ends.get(before)).copied().unwrap_or_default();
            let start = waited.saturating_add(link.think);
            let end = start.saturating_add(latency(request));
            first = first.min(start);
            last = last.max(end);
            ends.push(end);
        }
        last.saturating_sub(first)
    }
}

/// The links of `slow` for the requests of `trace` that have a counterpart there.
fn carry_over(trace: &Trace, slow: &Trace) -> Vec<Option<Link>> {
    let counterparts = counterparts(trace, slow);
    let mut waitable = Waitable::new(trace, slow, &counterparts);
    let links = trace.requests.iter().zip(&counterparts).enumerate().map(|(i, (request, counterpart))| {
        waitable.advance(request.start, i);
        counterpart.map(|in_slow| waitable.link(in_slow))
    });
    links.collect()
}

/// For each request of `trace` its counterpart in `slow`: the k-th of the same operation, offset and length.
fn counterparts(trace: &Trace, slow: &Trace) -> Vec<Option<usize>> {
    let key = |request: &Request| -> (Op, u64, u64) { (request.op, request.offset, request.length) };
    let mut places: HashMap<_, Vec<usize>> = HashMap::new();
    // From the last, so that the first is popped first.
    for (i, request) in slow.requests.iter().enumerate().rev() {
        places.entry(key(request)).or_default().push(i);
    }
    trace.requests.iter().map(|request| places.get_mut(&key(request))?.pop()).collect()
}

/// The requests of a slowed recording that the next request of the recording at hand may wait for.
struct Waitable<'a> {
    slow: &'a Trace,
    /// For each request of the slowed recording its counterpart in the recording at hand.
    here: Vec<Option<usize>>,
    /// (end, index) in the slowed recording: those that have no counterpart, or one that has completed.
    completions: BTreeSet<(Duration, usize)>,
    /// (end here, index here, index in the slowed recording) of those whose counterparts complete later, the last
    /// first.
    later: Vec<(Duration, usize, usize)>,
}

impl<'a> Waitable<'a> {
    fn new(trace: &Trace, slow: &'a Trace, counterparts: &[Option<usize>]) -> Self {
        let mut here = vec![None; slow.requests.len()];
        let mut later = Vec::new();
        for (i, (request, counterpart)) in trace.requests.iter().zip(counterparts).enumerate() {
            if let Some(in_slow) = *counterpart
                && let Some(place) = here.get_mut(in_slow)
            {
                *place = Some(i);
                later.push((request.end, i, in_slow));
            }
        }
        later.sort_unstable_by(|a, b| b.cmp(a));
        let ends = slow.requests.iter().map(|request| request.end).zip(0..);
        let alone = ends.zip(&here).filter(|(_, counterpart)| counterpart.is_none());
        let completions = alone.map(|(end, _)| end).collect();
        Waitable { slow, here, completions, later }
    }

    /// Admits what the request `i` of the recording at hand, issued at `now`, may have waited for there.
    fn advance(&mut self, now: Duration, i: usize) {
        while let Some((.., in_slow)) = self.later.pop_if(|(end, before, _)| (*end, *before) < (now, i)) {
            let request = self.slow.requests.get(in_slow);
            self.completions.extend(request.map(|request| (request.end, in_slow)));
        }
    }

    /// What the counterpart of the request `at` of the slowed recording waits for, and its think time.
    fn link(&self, mut at: usize) -> Link {
        let mut think = Duration::ZERO;
        loop {
            let start = self.slow.requests.get(at).map(|request| request.start).unwrap_or_default();
            let Some(&(end, before)) = self.completions.range(..(start, at)).next_back() else {
                return Link { waits_for: None, think: think.saturating_add(start) };
            };
            think = think.saturating_add(start.saturating_sub(end));
            if let Some(waits_for) = self.here.get(before).copied().flatten() {
                return Link { waits_for: Some(waits_for), think };
            }
            at = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(start: u64, end: u64, offset: u64) -> Request {
        let us = Duration::from_micros;
        Request { start: us(start), end: us(end), op: Op::Read, offset, length: 512 }
    }

    fn link(waits_for: impl Into<Option<usize>>, think: u64) -> Link {
        Link { waits_for: waits_for.into(), think: Duration::from_micros(think) }
    }

    fn trace(requests: impl IntoIterator<Item = Request>) -> Trace {
        Trace { requests: requests.into_iter().collect() }
    }

    #[test]
    fn a_request_waits_for_the_latest_completion_before_it() {
        let boot = trace([read(0, 10, 0), read(5, 8, 1), read(9, 20, 2), read(10, 11, 3), read(11, 30, 4)]);
        let links = Dependencies::infer(&boot).links;
        assert_eq!(links, [link(None, 0), link(None, 5), link(1, 1), link(0, 0), link(3, 0)]);
    }

    #[test]
    fn requests_that_take_no_time_do_not_wait_for_each_other_in_a_circle() {
        let boot = trace([read(5, 5, 0), read(5, 5, 1), read(5, 5, 2)]);
        assert_eq!(Dependencies::infer(&boot).links, [link(None, 5), link(0, 0), link(1, 0)]);
    }

    #[test]
    fn a_slowed_recording_tells_readahead_from_dependence() {
        // 1 is issued while 0 is in flight when that takes long; in the fast recording it looks dependent.
        let fast = trace([read(0, 1, 0), read(3, 4, 1), read(9, 10, 2)]);
        let slow = trace([read(0, 100, 0), read(3, 103, 1), read(107, 207, 2)]);
        let learned = Dependencies::learn(&fast, &[slow]);
        assert_eq!(learned.dependencies.links, [link(None, 0), link(None, 3), link(1, 4)]);
        assert_eq!(learned.matched, 3);
        assert_eq!(learned.share_matched(), 1.0);
        let span = learned.dependencies.predict_span(&fast, |_| Duration::from_micros(50));
        assert_eq!(span, Duration::from_micros(3 + 50 + 4 + 50));
    }

    #[test]
    fn a_request_that_is_only_in_the_slowed_recording_is_bridged() {
        let fast = trace([read(0, 1, 0), read(9, 10, 2)]);
        let slow = trace([read(0, 100, 0), read(103, 203, 1), read(207, 307, 2)]);
        assert_eq!(Dependencies::learn(&fast, &[slow]).dependencies.links, [link(None, 0), link(0, 3 + 4)]);
    }

    #[test]
    fn what_completed_later_in_the_recording_at_hand_was_no_cause() {
        let fast = trace([read(0, 1, 0), read(2, 3, 2), read(4, 5, 1)]);
        let slow = trace([read(0, 100, 0), read(103, 203, 1), read(207, 307, 2)]);
        let links = Dependencies::learn(&fast, &[slow]).dependencies.links;
        assert_eq!(links, [link(None, 0), link(0, 107), link(0, 3)]);
    }

    #[test]
    fn requests_without_a_counterpart_keep_their_own_link() {
        let fast = trace([read(0, 1, 0), read(3, 4, 7), read(6, 7, 0), read(8, 9, 0)]);
        let slow = trace([read(0, 100, 0), read(103, 203, 0)]);
        let learned = Dependencies::learn(&fast, &[slow]);
        assert_eq!(learned.dependencies.links, [link(None, 0), link(0, 2), link(0, 3), link(2, 1)]);
        assert_eq!(learned.matched, 2);
        assert_eq!(Dependencies::learn(&fast, &[]).dependencies, Dependencies::infer(&fast));
    }

    fn traces() -> impl Strategy<Value = Trace> {
        let request =
            (0..200u64, 0..20u64, 0..6u64).prop_map(|(start, took, at)| read(start, start + took, at));
        prop::collection::vec(request, 0..60).prop_map(|mut requests| {
            requests.sort_by_key(|request| request.start);
            Trace { requests }
        })
    }

    proptest! {
        #[test]
        fn links_lead_to_earlier_requests(fast in traces(), slowed in prop::collection::vec(traces(), 0..3)) {
            let learned = Dependencies::learn(&fast, &slowed);
            for dependencies in [learned.dependencies, Dependencies::infer(&fast)] {
                prop_assert_eq!(dependencies.links.len(), fast.requests.len());
                for (i, link) in dependencies.links.iter().enumerate() {
                    prop_assert!(link.waits_for.is_none_or(|before| before < i), "{} waits for {:?}", i, link);
                }
            }
        }

        #[test]
        fn a_recording_teaches_itself_its_own_links(boot in traces()) {
            let learned = Dependencies::learn(&boot, std::slice::from_ref(&boot));
            prop_assert_eq!(learned.matched, boot.requests.len());
            prop_assert_eq!(learned.dependencies, Dependencies::infer(&boot));
        }

        #[test]
        fn recorded_latencies_give_the_recorded_span(boot in traces()) {
            let span = Dependencies::infer(&boot).predict_span(&boot, Request::latency);
            prop_assert_eq!(span, boot.span());
        }
    }
}
