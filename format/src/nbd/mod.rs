//! An NBD server: disks as block devices for any hypervisor.
//!
//! Fixed newstyle negotiation, structured replies, `base:allocation`, named exports, several connections to an
//! export. One thread serves everybody, since images belong to one thread: requests whose data is at hand are
//! answered as they are read, and the answers to what came together leave together; others go on as tasks.
//!
//! **Memory.** A connection has a mebibyte, most of it for requests that are under way or whose answer the client
//! has not taken yet; it is read no further while that is used up. What is larger is served piece by piece. No
//! connection waits for another's client.
//!
//! **Time.** What takes long is done in steps between which others have their turn, and ends with the
//! connection that asked for it.

mod connection;
mod input;
mod large;
mod negotiation;
mod output;
mod protocol;
mod recording;
mod server;
mod statistics;
mod transmission;

pub use connection::{Patience, Stream};
pub use recording::Recorder;
pub use server::{Export, Listener, Server};
pub use statistics::{Statistics, Tally};
