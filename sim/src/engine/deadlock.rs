//! What is told when nothing can go on.

use super::time::Time;
use std::fmt;

/// Lines of a message; the rest is counted.
const SHOWN: usize = 20;

/// Nothing can go on: no task is woken and no timer is set, but there are tasks that are not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Deadlock {
    /// When.
    pub at: Time,
    /// The tasks that are not done, the oldest slot first; the future of `block_on` is called `main`.
    pub blocked: Vec<Blocked>,
}

/// A task that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Its name.
    pub task: String,
    /// What it waits for, such as "semaphore `slots`"; empty if that is none of the engine's resources.
    pub resources: Vec<String>,
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deadlock at {}: every task that is left waits for another", self.at)?;
        for Blocked { task, resources } in self.blocked.iter().take(SHOWN) {
            write!(f, "\n  task `{task}` waits for ")?;
            match resources.as_slice() {
                [] => write!(f, "something other than the engine's resources")?,
                resources => write!(f, "{}", resources.join(" and "))?,
            }
        }
        match self.blocked.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}
