//! Futures that outlive whoever waits for them.

use super::LocalFuture;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future that is handed over, to go on elsewhere, if it is dropped before it has completed. Unlike a task it takes no
/// turn of its own while somebody waits for it.
pub(crate) struct Outliving<T, F: FnOnce(LocalFuture<T>)> {
    /// `None`: it has completed.
    going_on: Option<(LocalFuture<T>, F)>,
}

impl<T, F: FnOnce(LocalFuture<T>) + Unpin> Outliving<T, F> {
    /// `hand_over` is given the future if it has to go on without the caller.
    pub fn new(future: LocalFuture<T>, hand_over: F) -> Self {
        Outliving { going_on: Some((future, hand_over)) }
    }
}

impl<T, F: FnOnce(LocalFuture<T>) + Unpin> Future for Outliving<T, F> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some((future, _)) = &mut self.going_on else { return Poll::Pending };
        let polled = future.as_mut().poll(context);
        if polled.is_ready() {
            self.going_on = None;
        }
        polled
    }
}

impl<T, F: FnOnce(LocalFuture<T>)> Drop for Outliving<T, F> {
    fn drop(&mut self) {
        if let Some((future, hand_over)) = self.going_on.take() {
            hand_over(future);
        }
    }
}
