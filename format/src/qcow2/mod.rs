//! qcow2 images.
//!
//! | module | subject |
//! | --- | --- |
//! | [`header`] | the header, its extensions, the backing file's name |
//! | `description` | what a header says, in names |
//! | [`check`] | check and repair |
//! | `create` | new images |
//! | `image` | an open image |
//! | `features` | which images can be opened for what |
//! | `geometry` | cluster numbers and offsets, table entries |
//! | `state` | the metadata in memory: mapping, reserving, committing |
//! | `allocation` | free clusters, refcounts |
//! | `refcount_width` | refcounts of 1 to 64 bits |
//! | `slices` | cached slices of L2 tables and refcount blocks |
//! | `loading` | bringing metadata into memory |
//! | `operations` | what disks ask: mapping, and operations in flight |
//! | `publish` | the order in which metadata reaches the storage |
//! | `table_growth` | a larger refcount table |
//! | `usage` | which host clusters the tables reach |
//! | `extents` | what an image holds itself, in the order of its disk |

mod allocation;
pub mod check;
mod create;
mod description;
mod extents;
mod features;
mod geometry;
pub mod header;
mod image;
mod loading;
mod operations;
mod publish;
mod reached;
mod refcount_width;
mod slices;
mod state;
mod table_growth;
mod usage;

pub use create::{CacheOptions, CreateOptions, create, empty_file_bytes, read_header};
pub(crate) use geometry::GuestCluster;
pub use image::{Image, ImageOptions, Mode};
pub(crate) use operations::{FillStep, InFlight, Progress, WriteStep};
pub(crate) use state::{CopySource, Kind, Reservation};
pub use usage::Usage;
