//! qcow2 and cache images, stacks of layers, boot traces.
//!
//! A [`Disk`](disk::Disk) is a stack of images over [`Storage`](storage::Storage)s; what a storage is, a file
//! of the host or a simulator's model, the images do not know.

// Nothing that a file or a peer says may end the process. Tests may fail as they please.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod byte_range;
pub mod cache;
pub mod disk;
mod error;
pub mod files;
pub mod nbd;
pub mod qcow2;
mod raw;
pub mod runtime;
pub mod storage;
pub mod trace;

pub use error::{Error, Result};
pub use raw::RawImage;
