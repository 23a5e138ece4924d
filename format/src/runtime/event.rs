//! Waiting for something to change, on one thread.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
struct State {
    /// Grows at each notification, so that a listener made before it cannot miss it.
    generation: u64,
    wakers: Vec<Waker>,
}

/// Something that tasks wait for: whoever listens before a notification is woken by it. What exactly has
/// changed, the woken look up themselves.
#[derive(Clone, Debug, Default)]
pub struct Event {
    state: Rc<RefCell<State>>,
}

impl Event {
    /// An event that nobody waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// A future that completes at the first notification from now on.
    pub fn listen(&self) -> Listener {
        Listener { state: self.state.clone(), generation: self.state.borrow().generation }
    }

    /// Wakes everyone who listens, in the order in which they began to wait.
    pub fn notify(&self) {
        let wakers = {
            let mut state = self.state.borrow_mut();
            state.generation = state.generation.wrapping_add(1);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Completes at the next notification of an [`Event`].
#[derive(Debug)]
pub struct Listener {
    state: Rc<RefCell<State>>,
    generation: u64,
}

impl Future for Listener {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.generation != self.generation {
            return Poll::Ready(());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}
