//! qcow2 images.
//!
//! | module | subject |
//! | --- | --- |
//! | [`header`] | the header, its extensions, the backing file's name |
//! | `geometry` | cluster arithmetic, table entries |
//! | `slices` | cached slices of L2 tables and refcount blocks |
//! | `allocation` | free clusters, refcounts |
//! | `state` | the metadata in memory: mapping, reserving, committing |
//! | `publish` | the order in which metadata reaches the storage |
//! | `usage` | which host clusters the tables reach |
//! | `create` | new images |
//! | [`Image`] | an open image |

mod allocation;
mod create;
mod geometry;
pub mod header;
mod image;
mod publish;
mod slices;
mod state;
mod table_growth;
mod usage;

pub use create::{CacheOptions, CreateOptions, create, empty_file_bytes, read_header};
pub use image::{Image, ImageOptions, Mode};
pub(crate) use image::{FillStep, InFlight, Progress, WriteStep};
pub(crate) use state::{CopySource, Kind, Reservation};
pub use usage::Usage;
