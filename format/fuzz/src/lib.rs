//! Inputs for the NBD server, and the client that plays them. `format/tests/nbd_inputs.rs` runs them too.

#![warn(missing_docs)]

pub mod nbd;
