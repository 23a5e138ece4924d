//! Trace-driven virtual machines on real image chains.

pub mod replay;
pub mod vm;
