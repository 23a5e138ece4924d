//! Boot storms of virtual machines on real image chains, in simulated time.

mod deployment;
pub mod engine;
pub mod hardware;
pub mod models;
pub mod replay;
pub mod storage;
pub mod storm;
pub mod vm;
