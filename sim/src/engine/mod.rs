//! The discrete-event engine: tasks in simulated time, and the resources that they share.
//!
//! Simulated processes are plain `async` code on one thread. Time is counted in whole picoseconds and moves
//! only when nobody can go on at the present instant; what happens at one instant happens in a fixed order.
//! Resources are handles that clone cheaply and belong to one simulation; a future of theirs may be dropped
//! at any time, and leaves nothing behind.

mod account;
mod deadlock;
mod executor;
mod heap;
mod link;
mod semaphore;
mod server;
mod sharing;
mod streams;
#[cfg(test)]
mod tests;
mod time;
mod timers;
mod waiting;

pub use account::{Law, Usage, Violation};
pub use deadlock::{Blocked, Deadlock};
pub use executor::Simulation;
pub use link::{Link, Transfer};
pub use semaphore::{Acquire, Permit, Semaphore};
pub use server::Server;
pub use streams::{Stream, Streams};
pub use time::{Span, Time};
pub use timers::{Alarm, Sleep};
