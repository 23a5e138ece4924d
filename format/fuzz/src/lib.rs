//! Inputs for what takes something from strangers, and what plays them. `format/tests/nbd_inputs.rs` and
//! `format/tests/image_inputs.rs` play them too.

#![warn(missing_docs)]

pub mod image;
pub mod nbd;
