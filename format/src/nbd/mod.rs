//! An NBD server: disks as block devices for any hypervisor.
//!
//! Fixed newstyle negotiation, structured replies, `base:allocation`, named exports, several connections to an
//! export. One thread serves everybody, since images belong to one thread: requests whose data is at hand are
//! answered as they are read, and the answers to what came together leave together; others go on as tasks.
//!
//! **Memory.** A connection has a share of its own (a mebibyte) for requests that are under way
//! or whose answer the client has not taken yet. What is larger waits until the connection has nothing else
//! under way and there is room in what all connections have in common.

mod connection;
mod input;
mod negotiation;
mod output;
mod protocol;
mod recording;
mod server;
mod statistics;
mod transmission;

pub use connection::Stream;
pub use recording::Recorder;
pub use server::{Export, Listener, Server};
pub use statistics::{Statistics, Tally};
