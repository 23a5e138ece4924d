//! Timers: who is to go on at which instant.

use super::Simulation;
use super::heap::{Heap, MAX_ENTRIES};
use super::time::Time;
use super::waiting::{Bell, Waiter};
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Weak;
use std::task::{Context, Poll};

/// In the place of a task: the waiter is among `others`.
const OTHER: u32 = u32::MAX - 1;

/// All timers of a simulation. At one instant they fire in the order in which they were set.
#[derive(Default)]
pub(super) struct Timers {
    heap: Heap,
    /// By timer: the task that awaits it directly, which is nearly always the case and costs little.
    tasks: Vec<u32>,
    /// By timer: whoever else waits.
    others: Vec<Waiter>,
    free: Vec<u32>,
}

impl Timers {
    /// A timer that is not set, for whoever is being polled.
    #[inline]
    pub(super) fn create(&mut self, simulation: &Simulation, context: &Context<'_>) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| self.grow());
        self.assign(id, simulation, context);
        id
    }

    /// A timer that is not set, for a resource.
    pub(super) fn create_for(&mut self, bell: Weak<dyn Bell>) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| self.grow());
        self.assign_other(id, Waiter::Bell(bell));
        id
    }

    /// Gives the timer to whoever is being polled; it stays as it is set.
    #[inline]
    pub(super) fn assign(&mut self, id: u32, simulation: &Simulation, context: &Context<'_>) {
        match simulation.direct(context) {
            Some(task) => self.tasks[id as usize] = task,
            None => self.assign_other(id, Waiter::of(simulation, context)),
        }
    }

    #[inline]
    pub(super) fn release(&mut self, id: u32) {
        self.heap.remove(id);
        if self.tasks[id as usize] == OTHER {
            self.others[id as usize] = Waiter::Nobody;
        }
        self.free.push(id);
    }

    #[inline]
    pub(super) fn set(&mut self, id: u32, at: Time) {
        // The last instant never comes.
        if at == Time::MAX { self.heap.remove(id) } else { self.heap.set(id, at.picoseconds()) }
    }

    #[inline]
    pub(super) fn clear(&mut self, id: u32) {
        self.heap.remove(id);
    }

    /// Takes the next timer: its instant, and who waits for it.
    #[inline]
    pub(super) fn fire(&mut self) -> Option<(Time, Waiter)> {
        let (id, at) = self.heap.take_first()?;
        let waiter = match self.tasks[id as usize] {
            OTHER => self.others[id as usize].clone(),
            task => Waiter::Task(task),
        };
        Some((Time::from_picoseconds(at), waiter))
    }

    #[cold]
    fn grow(&mut self) -> u32 {
        let id = self.tasks.len() as u32;
        assert!(id < MAX_ENTRIES, "no more than {MAX_ENTRIES} timers at once");
        self.tasks.push(OTHER);
        self.others.push(Waiter::Nobody);
        id
    }

    fn assign_other(&mut self, id: u32, waiter: Waiter) {
        self.tasks[id as usize] = OTHER;
        self.others[id as usize] = waiter;
    }

    /// Timers that are set.
    #[cfg(test)]
    pub(super) fn count(&mut self) -> usize {
        self.heap.close_hole();
        self.heap.len()
    }
}

/// A timer that its owner sets, moves and clears: for futures written by hand. Dropping it clears it.
pub struct Alarm {
    simulation: Simulation,
    id: Cell<Option<u32>>,
}

impl Alarm {
    /// An alarm that is not set.
    pub fn new(simulation: &Simulation) -> Alarm {
        Alarm { simulation: simulation.clone(), id: Cell::new(None) }
    }

    /// Wakes the task of `context` at `at`, or now if that is past; an earlier setting is forgotten.
    #[inline]
    pub fn set(&self, at: Time, context: &mut Context<'_>) {
        let at = at.max(self.simulation.now());
        let mut timers = self.simulation.timers().borrow_mut();
        let id = match self.id.get() {
            Some(id) => {
                timers.assign(id, &self.simulation, context);
                id
            }
            None => timers.create(&self.simulation, context),
        };
        self.id.set(Some(id));
        timers.set(id, at);
    }

    /// Wakes nobody, until it is set again.
    #[inline]
    pub fn clear(&self) {
        if let Some(id) = self.id.take() {
            self.simulation.timers().borrow_mut().release(id);
        }
    }
}

impl Drop for Alarm {
    #[inline]
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("id", &self.id.get()).finish_non_exhaustive()
    }
}

/// Completes at an instant; made by [`Simulation::sleep`]. Dropping it takes its timer away.
#[must_use = "nobody sleeps until it is awaited"]
pub struct Sleep {
    simulation: Simulation,
    at: Time,
    /// Its timer, from the first poll on.
    timer: Option<u32>,
}

impl Sleep {
    #[inline]
    pub(super) fn new(simulation: &Simulation, at: Time) -> Sleep {
        Sleep { simulation: simulation.clone(), at, timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.simulation.now() >= this.at {
            return Poll::Ready(());
        }
        let mut timers = this.simulation.timers().borrow_mut();
        match this.timer {
            // It keeps its place among the timers of its instant.
            Some(timer) => timers.assign(timer, &this.simulation, context),
            None => {
                let timer = timers.create(&this.simulation, context);
                timers.set(timer, this.at);
                this.timer = Some(timer);
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    #[inline]
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.simulation.timers().borrow_mut().release(timer);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("at", &self.at).finish_non_exhaustive()
    }
}
