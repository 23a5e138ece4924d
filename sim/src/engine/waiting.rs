//! Who waits, and in which order.

use super::Simulation;
use std::collections::VecDeque;
use std::rc::Weak;
use std::task::{Context, Waker};

/// Something that is called when its timer fires.
pub(super) trait Bell {
    /// Lets everyone go on who waited for this. A task that is alone in that is not woken but returned, to be
    /// polled at once.
    fn ring(&self) -> Option<u32>;
}

/// A resource that tasks wait for, so that a deadlock can be explained.
pub(super) trait Waited {
    /// Kind and name, such as "semaphore `slots`".
    fn title(&self) -> String;

    /// The tasks that wait for it now.
    fn waiting(&self) -> Vec<u32>;
}

/// Who is to go on.
#[derive(Clone, Default)]
pub(super) enum Waiter {
    #[default]
    Nobody,
    /// A task that awaits directly: no waker is needed.
    Task(u32),
    /// A part of a task with a waker of its own, as combinators have them.
    Part(u32, Waker),
    /// A resource.
    Bell(Weak<dyn Bell>),
}

impl Waiter {
    /// Whoever is being polled with `context`.
    #[inline]
    pub(super) fn of(simulation: &Simulation, context: &Context<'_>) -> Waiter {
        match simulation.direct(context) {
            Some(task) => Waiter::Task(task),
            None => Waiter::Part(simulation.current(), context.waker().clone()),
        }
    }

    /// Makes it whoever is being polled now; that may be another than before.
    #[inline]
    pub(super) fn update(&mut self, simulation: &Simulation, context: &Context<'_>) {
        if let Some(task) = simulation.direct(context) {
            if !matches!(self, Waiter::Task(before) if *before == task) {
                *self = Waiter::Task(task);
            }
            return;
        }
        let unchanged = match self {
            Waiter::Part(before, waker) => {
                *before == simulation.current() && waker.will_wake(context.waker())
            }
            _ => false,
        };
        if !unchanged {
            *self = Waiter::of(simulation, context);
        }
    }

    /// The task that waits.
    pub(super) fn task(&self) -> Option<u32> {
        match self {
            Waiter::Task(task) | Waiter::Part(task, _) => Some(*task),
            Waiter::Nobody | Waiter::Bell(_) => None,
        }
    }
}

/// A queue, first come first served, that may be left at any time.
#[derive(Default)]
pub(super) struct WaitQueue {
    /// Tickets grow from front to back.
    waiting: VecDeque<(u64, Waiter)>,
    tickets: u64,
}

impl WaitQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn join(&mut self, waiter: Waiter) -> u64 {
        self.tickets += 1;
        self.waiting.push_back((self.tickets, waiter));
        self.tickets
    }

    /// Whether it was the ticket's turn: those before the first one that waits have been called.
    pub(super) fn was_called(&self, ticket: u64) -> bool {
        self.waiting.front().is_none_or(|(first, _)| *first > ticket)
    }

    /// The waiter with the ticket, if it has not been called.
    pub(super) fn waiter(&mut self, ticket: u64) -> Option<&mut Waiter> {
        let position = self.position(ticket)?;
        self.waiting.get_mut(position).map(|(_, waiter)| waiter)
    }

    /// Calls the first.
    pub(super) fn call(&mut self) -> Option<Waiter> {
        self.waiting.pop_front().map(|(_, waiter)| waiter)
    }

    /// Takes the ticket back; false if it had been called before.
    pub(super) fn leave(&mut self, ticket: u64) -> bool {
        self.position(ticket).is_some_and(|position| self.waiting.remove(position).is_some())
    }

    pub(super) fn tasks(&self) -> Vec<u32> {
        self.waiting.iter().filter_map(|(_, waiter)| waiter.task()).collect()
    }

    fn position(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()
    }
}
