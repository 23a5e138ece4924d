//! Fair sharing of a capacity, in virtual finish times.

use super::Simulation;
use super::heap::{Heap, MAX_ENTRIES};
use super::time::{Span, Time};
use super::waiting::Waiter;
use std::task::Context;

/// Flows that share a capacity fairly: every flow gets the same rate, the water level, but none more than its
/// cap. Flows of equal cap form a class with a virtual time of its own: what each of them has moved since the
/// class was last empty. A flow ends when that reaches what it was at its beginning plus its amount, whatever
/// the rates in between; so nobody looks at a flow before its end.
pub(super) struct Sharing {
    capacity: f64,
    /// By cap, lowest first. Empty ones are kept until a new one is needed.
    classes: Vec<Class>,
    last: Time,
    /// The next end may be another than it was.
    changed: bool,
    /// Integral of the sum of all rates up to `last`.
    pub moved: f64,
}

struct Class {
    cap: f64,
    /// Rate of each flow.
    rate: f64,
    /// Virtual time.
    moved: f64,
    /// Flows that go on, by virtual finish time.
    ends: Heap,
    flows: Vec<Flow>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Flow {
    stage: Stage,
    amount: u64,
    since: Time,
    finish: f64,
    waiter: Waiter,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Stage {
    /// No flow: a place for the next.
    #[default]
    Free,
    UnderWay,
    /// Whoever waits has not noticed.
    Ended,
}

/// A flow that ended.
pub(super) struct Ended {
    pub amount: u64,
    pub since: Time,
    pub waiter: Waiter,
}

impl Sharing {
    pub fn new(capacity: f64) -> Sharing {
        Sharing { capacity, classes: Vec::new(), last: Time::ZERO, changed: false, moved: 0.0 }
    }

    /// Moves every flow on to `now`.
    pub fn settle(&mut self, now: Time) {
        let seconds = now.since(self.last).picoseconds() as f64 * 1e-12;
        self.last = now;
        if seconds == 0.0 {
            return;
        }
        for class in &mut self.classes {
            let each = class.rate * seconds;
            class.moved += each;
            self.moved += each * class.ends.len() as f64;
        }
    }

    /// Begins a flow; everything must be settled. Its number is unique among those of its cap.
    pub fn begin(&mut self, amount: u64, cap: f64, simulation: &Simulation, context: &Context<'_>) -> u32 {
        let since = self.last;
        let class = self.class_or_new(cap);
        let finish = class.moved + amount as f64;
        let id = class.free.pop().unwrap_or_else(|| class.grow());
        let flow = &mut class.flows[id as usize];
        (flow.stage, flow.amount, flow.since, flow.finish) = (Stage::UnderWay, amount, since, finish);
        flow.waiter.update(simulation, context);
        // Bits of positive floats are ordered as the floats are.
        class.ends.set(id, finish.to_bits());
        self.changed |= class.ends.is_first(id);
        self.share();
        id
    }

    /// Ends all flows that are due now, at the last settlement.
    pub fn end_due(&mut self, mut each: impl FnMut(Ended)) {
        let mut any = false;
        for class in &mut self.classes {
            while let Some((flow, finish)) = class.ends.first()
                && class.is_due(finish)
            {
                class.ends.remove(flow);
                any = true;
                let flow = &mut class.flows[flow as usize];
                flow.stage = Stage::Ended;
                each(Ended {
                    amount: flow.amount,
                    since: flow.since,
                    waiter: std::mem::take(&mut flow.waiter),
                });
            }
            class.rest();
        }
        self.changed = true;
        if any {
            self.share();
        }
    }

    /// Whether the next end may be another than when this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// When the next flow ends.
    pub fn next_end(&self) -> Option<Time> {
        let ends = self.classes.iter().filter_map(|class| Some(class.time_to(class.ends.first()?.1)));
        // What is due and was not yet ended takes no time.
        ends.min().map(|span| self.last + span)
    }

    /// The waiter of a flow that goes on; `None` if it has ended, and then the flow is gone.
    pub fn waiter(&mut self, cap: f64, flow: u32) -> Option<&mut Waiter> {
        let class = self.class(cap)?;
        if class.flows.get(flow as usize)?.stage != Stage::UnderWay {
            class.release(flow);
            return None;
        }
        class.flows.get_mut(flow as usize).map(|flow| &mut flow.waiter)
    }

    /// Removes a flow; everything must be settled. Since when it was there and what it had moved, if it had
    /// not ended.
    pub fn remove(&mut self, cap: f64, flow: u32) -> Option<(Time, f64)> {
        let class = self.class(cap)?;
        let &Flow { stage, amount, since, finish, .. } = class.flows.get(flow as usize)?;
        class.release(flow);
        if stage != Stage::UnderWay {
            return None;
        }
        class.ends.remove(flow);
        let moved = amount as f64 - (finish - class.moved);
        class.rest();
        self.changed = true;
        self.share();
        Some((since, moved))
    }

    /// What the flows that go on have moved.
    pub fn under_way(&self) -> f64 {
        let moved = |class: &Class| -> f64 {
            let flows = class.ends.ids().filter_map(|flow| class.flows.get(flow as usize));
            flows.map(|flow| flow.amount as f64 - (flow.finish - class.moved)).sum()
        };
        self.classes.iter().map(moved).sum()
    }

    /// The tasks that wait for flows.
    pub fn tasks(&self) -> Vec<u32> {
        let flows = self.classes.iter().flat_map(|class| &class.flows);
        flows.filter_map(|flow| flow.waiter.task()).collect()
    }

    /// Gives every class its rate, the lowest cap first: its cap, or an equal share of what is left.
    fn share(&mut self) {
        let mut left = self.capacity;
        let mut flows: usize = self.classes.iter().map(|class| class.ends.len()).sum();
        for class in &mut self.classes {
            let members = class.ends.len();
            if members == 0 {
                continue;
            }
            let level = left / flows as f64;
            let rate = class.cap.min(level);
            if class.cap <= level {
                left -= class.cap * members as f64;
                flows -= members;
            }
            self.changed |= class.rate != rate;
            class.rate = rate;
        }
    }

    fn class(&mut self, cap: f64) -> Option<&mut Class> {
        let position = self.classes.binary_search_by(|class| class.cap.total_cmp(&cap)).ok()?;
        self.classes.get_mut(position)
    }

    fn class_or_new(&mut self, cap: f64) -> &mut Class {
        let find = |classes: &[Class]| classes.binary_search_by(|class| class.cap.total_cmp(&cap));
        let position = find(&self.classes).unwrap_or_else(|_| {
            self.classes.retain(|class| !class.is_unused());
            let position = find(&self.classes).unwrap_or_else(|position| position);
            self.classes.insert(position, Class::new(cap));
            position
        });
        &mut self.classes[position]
    }
}

impl Class {
    fn new(cap: f64) -> Class {
        Class { cap, rate: 0.0, moved: 0.0, ends: Heap::default(), flows: Vec::new(), free: Vec::new() }
    }

    /// Time from the last settlement to a virtual time, at the present rate.
    fn time_to(&self, finish: u64) -> Span {
        Span::from_seconds((f64::from_bits(finish) - self.moved) / self.rate)
    }

    /// Whether that time is none, to the nearest picosecond. The margin is for rounding: what is not due now has
    /// to be due later, or the clock would stand still.
    fn is_due(&self, finish: u64) -> bool {
        f64::from_bits(finish) - self.moved <= self.rate * (0.5e-12 * (1.0 + 1e-9))
    }

    /// Virtual time begins anew when nobody is left, so that it never grows beyond a double's precision.
    fn rest(&mut self) {
        if self.ends.len() == 0 {
            self.moved = 0.0;
            self.rate = 0.0;
        }
    }

    /// No flow, not even an ended one whose task has not noticed.
    fn is_unused(&self) -> bool {
        self.flows.len() == self.free.len()
    }

    #[cold]
    fn grow(&mut self) -> u32 {
        let id = self.flows.len() as u32;
        assert!(id < MAX_ENTRIES, "no more than {MAX_ENTRIES} flows at once");
        self.flows.push(Flow::default());
        id
    }

    fn release(&mut self, flow: u32) {
        let place = &mut self.flows[flow as usize];
        (place.stage, place.waiter) = (Stage::Free, Waiter::Nobody);
        self.free.push(flow);
    }
}
