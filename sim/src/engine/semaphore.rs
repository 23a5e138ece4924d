//! Permits that are waited for in order.

use super::Simulation;
use super::waiting::{WaitQueue, Waited, Waiter};
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

/// A number of permits, first come first served. A permit that is given back goes directly to the first that
/// waits: nobody overtakes.
#[derive(Clone)]
pub struct Semaphore {
    shared: Rc<Shared>,
}

struct Shared {
    simulation: Simulation,
    kind: &'static str,
    name: Rc<str>,
    state: RefCell<State>,
}

struct State {
    permits: usize,
    queue: WaitQueue,
}

impl Semaphore {
    /// A semaphore with `permits` permits. The name is for messages.
    pub fn new(simulation: &Simulation, name: impl Into<Rc<str>>, permits: usize) -> Semaphore {
        Semaphore::of_kind(simulation, "semaphore", name.into(), permits)
    }

    pub(super) fn of_kind(
        simulation: &Simulation,
        kind: &'static str,
        name: Rc<str>,
        permits: usize,
    ) -> Semaphore {
        let state = RefCell::new(State { permits, queue: WaitQueue::default() });
        let shared = Rc::new(Shared { simulation: simulation.clone(), kind, name, state });
        let weak: Weak<Shared> = Rc::downgrade(&shared);
        simulation.register(weak);
        Semaphore { shared }
    }

    /// Waits for a permit. It may be dropped at any time: its place in the queue, or the permit that it was
    /// just given, goes to the next.
    pub fn acquire(&self) -> Acquire {
        Acquire { shared: self.shared.clone(), ticket: None }
    }

    /// Permits that nobody has.
    pub fn available(&self) -> usize {
        self.shared.state.borrow().permits
    }
}

impl Shared {
    fn release(&self) {
        let next = {
            let mut state = self.state.borrow_mut();
            let next = state.queue.call();
            if next.is_none() {
                state.permits += 1;
            }
            next
        };
        if let Some(next) = next {
            self.simulation.wake(next);
        }
    }
}

impl Waited for Shared {
    fn title(&self) -> String {
        format!("{} `{}`", self.kind, self.name)
    }

    fn waiting(&self) -> Vec<u32> {
        self.state.borrow().queue.tasks()
    }
}

/// Completes with a permit; made by [`Semaphore::acquire`].
#[must_use = "nobody waits until it is awaited"]
pub struct Acquire {
    shared: Rc<Shared>,
    /// Its place, as long as it waits, or until it learns that it was called.
    ticket: Option<u64>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        let shared = self.shared.clone();
        let mut state = shared.state.borrow_mut();
        match self.ticket {
            None if state.permits > 0 && state.queue.is_empty() => state.permits -= 1,
            None => {
                self.ticket = Some(state.queue.join(Waiter::of(&shared.simulation, context)));
                return Poll::Pending;
            }
            Some(ticket) if state.queue.was_called(ticket) => self.ticket = None,
            Some(ticket) => {
                if let Some(waiter) = state.queue.waiter(ticket) {
                    waiter.update(&shared.simulation, context);
                }
                return Poll::Pending;
            }
        }
        drop(state);
        Poll::Ready(Permit { shared })
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let waited = self.shared.state.borrow_mut().queue.leave(ticket);
        if !waited {
            self.shared.release();
        }
    }
}

/// A permit, given back when it is dropped.
#[must_use = "it is given back when it is dropped"]
pub struct Permit {
    shared: Rc<Shared>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.release();
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").field("of", &self.shared.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("of", &self.shared.name).finish_non_exhaustive()
    }
}
