//! Links that are shared fairly.

use super::Simulation;
use super::account::{Census, Law, Mismatch, Usage, Violation};
use super::sharing::Sharing;
use super::time::{Span, Time};
use super::waiting::{Bell, Waited, Waiter};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

/// A capacity that everyone who transfers shares fairly: each gets the same rate, but none more than its own
/// cap (max-min fairness of one link, processor sharing in the terms of queues).
#[derive(Clone)]
pub struct Link {
    shared: Rc<Shared>,
}

struct Shared {
    simulation: Simulation,
    name: Rc<str>,
    capacity: f64,
    /// Rings at the next end of a transfer, whoever awaits that.
    timer: u32,
    state: RefCell<State>,
}

struct State {
    sharing: Sharing,
    census: Census,
    /// What was moved by transfers that were dropped.
    wasted: f64,
    /// When the timer is set for.
    next: Option<Time>,
}

impl Link {
    /// A link that moves `capacity` units a second. The name is for messages.
    ///
    /// # Panics
    /// If the capacity is not positive and finite.
    pub fn new(simulation: &Simulation, name: impl Into<Rc<str>>, capacity: f64) -> Link {
        let name = name.into();
        let sensible = capacity > 0.0 && capacity.is_finite();
        assert!(sensible, "link `{name}` needs a positive, finite capacity, not {capacity}");
        let shared = Rc::new_cyclic(|link: &Weak<Shared>| Shared {
            simulation: simulation.clone(),
            name,
            capacity,
            timer: simulation.timers().borrow_mut().create_for(link.clone()),
            state: RefCell::new(State {
                sharing: Sharing::new(capacity),
                census: Census::default(),
                wasted: 0.0,
                next: None,
            }),
        });
        let weak: Weak<Shared> = Rc::downgrade(&shared);
        simulation.register(weak);
        Link { shared }
    }

    /// Moves `amount` units, at no more than `cap` units a second ([`f64::INFINITY`]: as fast as the link
    /// goes). It begins when it is first polled; dropping it ends it.
    ///
    /// # Panics
    /// If the cap is not positive.
    pub fn transfer(&self, amount: u64, cap: f64) -> Transfer {
        assert!(cap > 0.0, "link `{}`: the cap of a transfer must be positive, not {cap}", self.shared.name);
        Transfer { shared: self.shared.clone(), amount, cap, stage: Stage::New }
    }

    /// What it did until now.
    pub fn usage(&self) -> Usage {
        let mut state = self.shared.state.borrow_mut();
        state.settle(self.shared.simulation.now());
        Usage {
            requests: state.census.completed.requests,
            amount: state.census.completed.amount,
            busy: Span::from_seconds(state.sharing.moved / self.shared.capacity),
            in_system_time: state.census.in_system_time(),
            servers: 1,
        }
    }

    /// Checks the books until now against the laws of queues.
    ///
    /// # Errors
    /// If they break one.
    pub fn check(&self) -> Result<(), Violation> {
        let now = self.shared.simulation.now();
        let checked = self.shared.state.borrow_mut().check(now, self.shared.capacity);
        checked.map_err(|mismatch| mismatch.of(self.shared.title()))
    }
}

impl State {
    fn settle(&mut self, now: Time) {
        self.sharing.settle(now);
        self.census.settle(now);
    }

    fn check(&mut self, now: Time, capacity: f64) -> Result<(), Mismatch> {
        self.settle(now);
        let accounted = self.census.completed.amount as f64 + self.wasted + self.sharing.under_way();
        // An end is rounded to a picosecond; the rest is the rounding of sums.
        let rounding = capacity * 1e-12 * self.census.completed.requests as f64 + 1e-9 * accounted;
        Mismatch::unless_near(Law::Utilisation, "units", self.sharing.moved, accounted, rounding)?;
        let possible = capacity * now.seconds();
        let above = (self.sharing.moved - possible).max(0.0);
        Mismatch::unless_near(Law::Utilisation, "units above capacity", above, 0.0, rounding)?;
        self.census.check(now)
    }
}

impl Shared {
    /// Sets the timer for the next end.
    fn arm(&self, state: &mut State) {
        if !state.sharing.take_changed() {
            return;
        }
        let next = state.sharing.next_end();
        if next == state.next {
            return;
        }
        state.next = next;
        let mut timers = self.simulation.timers().borrow_mut();
        match next {
            Some(at) => timers.set(self.timer, at),
            None => timers.clear(self.timer),
        }
    }
}

impl Bell for Shared {
    fn ring(&self) -> Option<u32> {
        let now = self.simulation.now();
        let mut ended: SmallVec<[Waiter; 4]> = SmallVec::new();
        {
            let state = &mut *self.state.borrow_mut();
            state.settle(now);
            state.next = None;
            let census = &mut state.census;
            state.sharing.end_due(|flow| {
                census.complete(now, flow.since, flow.amount);
                ended.push(flow.waiter);
            });
            self.arm(state);
        }
        if let [Waiter::Task(alone)] = ended[..] {
            return Some(alone);
        }
        for waiter in ended {
            self.simulation.wake(waiter);
        }
        None
    }
}

impl Waited for Shared {
    fn title(&self) -> String {
        format!("link `{}`", self.name)
    }

    fn waiting(&self) -> Vec<u32> {
        self.state.borrow().sharing.tasks()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.simulation.timers().borrow_mut().release(self.timer);
    }
}

/// Completes when everything is moved; made by [`Link::transfer`].
#[must_use = "nothing moves until it is awaited"]
pub struct Transfer {
    shared: Rc<Shared>,
    amount: u64,
    cap: f64,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    New,
    UnderWay { flow: u32 },
    Done,
}

impl Future for Transfer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let (shared, amount, cap) = (&*this.shared, this.amount, this.cap);
        let now = shared.simulation.now();
        let state = &mut *shared.state.borrow_mut();
        match this.stage {
            Stage::Done => Poll::Ready(()),
            Stage::New => {
                state.settle(now);
                state.census.arrive(now, amount);
                let flow = state.sharing.begin(amount, cap, &shared.simulation, context);
                this.stage = Stage::UnderWay { flow };
                shared.arm(state);
                Poll::Pending
            }
            Stage::UnderWay { flow } => match state.sharing.waiter(cap, flow) {
                Some(waiter) => {
                    waiter.update(&shared.simulation, context);
                    Poll::Pending
                }
                None => {
                    this.stage = Stage::Done;
                    Poll::Ready(())
                }
            },
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let Stage::UnderWay { flow } = self.stage else { return };
        let now = self.shared.simulation.now();
        let state = &mut *self.shared.state.borrow_mut();
        state.settle(now);
        if let Some((since, moved)) = state.sharing.remove(self.cap, flow) {
            state.wasted += moved;
            state.census.cancel(now, since, self.amount);
            self.shared.arm(state);
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("over", &self.shared.name)
            .field("amount", &self.amount)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_moved_more_or_less_than_was_transferred_is_noticed() {
        let simulation = Simulation::new();
        let link = Link::new(&simulation, "port", 1e9);
        simulation.block_on(link.transfer(1_000_000, f64::INFINITY)).unwrap();
        link.check().unwrap();
        for fault in [-1.0, 1.0] {
            link.shared.state.borrow_mut().sharing.moved += fault;
            let violation = link.check().unwrap_err();
            assert_eq!((violation.resource.as_str(), violation.law), ("link `port`", Law::Utilisation));
            link.shared.state.borrow_mut().sharing.moved -= fault;
        }
        link.check().unwrap();
        // More than the link could have moved, and as much accounted.
        link.shared.state.borrow_mut().sharing.moved += 2.0;
        link.shared.state.borrow_mut().wasted += 2.0;
        assert_eq!(link.check().unwrap_err().unit, "units above capacity");
    }
}
