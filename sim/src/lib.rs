//! Trace-driven virtual machines on real image chains, and the engine that gives them a clock.

pub mod engine;
pub mod hardware;
pub mod replay;
pub mod vm;
