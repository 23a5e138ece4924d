//! Waiting for the result of a task.

use super::{Event, Runtime};
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

/// The result of a task that goes on whether anyone waits for it or not.
pub(crate) struct Join;

impl Join {
    /// Runs `task` beside the caller; the returned future only waits for its result.
    pub fn spawn<T: 'static, F: Future<Output = T> + 'static>(
        runtime: &dyn Runtime,
        task: F,
    ) -> impl Future<Output = T> + use<T, F> {
        let result = Rc::new(RefCell::new(None));
        let done = Event::new();
        let listener = done.listen();
        let slot = result.clone();
        runtime.spawn(Box::pin(async move {
            let value = task.await;
            *slot.borrow_mut() = Some(value);
            done.notify();
        }));
        async move {
            listener.await;
            let value = result.borrow_mut().take();
            match value {
                Some(value) => value,
                // The task was dropped with its runtime: there is nobody left to answer.
                None => std::future::pending().await,
            }
        }
    }
}
