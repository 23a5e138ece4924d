//! qcow2 and cache images, stacks of layers, boot traces.

pub mod trace;
