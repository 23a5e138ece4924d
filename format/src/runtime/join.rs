//! Waiting for the result of a task.

use super::{LocalFuture, Runtime};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The result of a task that goes on whether anyone waits for it or not.
pub(crate) struct Join;

struct Outcome<T> {
    value: Cell<Option<T>>,
    waiting: RefCell<Option<Waker>>,
}

impl Join {
    /// Runs `task` beside the caller from the first poll on; the returned future only waits for its result.
    pub async fn spawn<T: 'static>(runtime: &dyn Runtime, mut task: LocalFuture<T>) -> T {
        if runtime.begins_in_place() {
            // With storage that is ready at once, that is all: nobody else need know of the task.
            let begun = poll_fn(|context| Poll::Ready(task.as_mut().poll(context))).await;
            if let Poll::Ready(value) = begun {
                return value;
            }
        }
        let outcome = Rc::new(Outcome { value: Cell::new(None), waiting: RefCell::new(None) });
        let shared = outcome.clone();
        runtime.spawn(Box::pin(async move {
            shared.value.set(Some(task.await));
            if let Some(waker) = shared.waiting.take() {
                waker.wake();
            }
        }));
        poll_fn(|context| match outcome.value.take() {
            Some(value) => Poll::Ready(value),
            // Stays so if the task is dropped with its runtime: there is nobody left to answer.
            None => {
                *outcome.waiting.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}
