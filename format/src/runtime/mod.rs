//! Who runs the tasks that images own.
//!
//! Allocating writes, cache fills and publications are tasks of an image, not of the guest request that
//! caused them: a client that goes away cancels nothing. The image hands them to a [`Runtime`]: the
//! [`LocalRuntime`] of this module in real time, a simulator's executor in simulated time.

mod event;
mod join;
mod local;
mod outliving;
mod reactor;

pub use event::{Event, Listener};
pub(crate) use join::Join;
pub use local::LocalRuntime;
pub(crate) use outliving::Outliving;
pub use reactor::Watched;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// A future that stays on its thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// A single-threaded executor with a clock.
pub trait Runtime {
    /// Runs `task` to its end, beside the caller.
    fn spawn(&self, task: LocalFuture<()>);

    /// Time since the runtime's own beginning.
    fn now(&self) -> Duration;

    /// Whether what is to be a task may begin where it is spawned, and become a task only where it has to wait: only
    /// if nobody else waits for a turn, and futures bear to be polled by one task first, then by another.
    fn begins_in_place(&self) -> bool {
        false
    }

    /// Completes `duration` from now.
    fn sleep(&self, duration: Duration) -> LocalFuture<()>;
}

/// Lets the tasks that can go on do so first.
pub(crate) async fn let_others_go_on() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
