//! qcow2 images.
//!
//! | module | subject |
//! | --- | --- |
//! | [`header`] | the header, its extensions, the backing file's name |
//! | `description` | what a header says, in names |
//! | [`check`] | check and repair |
//! | `create` | new images |
//! | `image` | an open image |
//! | `feature_names` | the table of the features' names |
//! | `features` | which images can be opened for what |
//! | `protection` | damaged images: guests do not write over tables |
//! | `cluster_layout` | the size of clusters, with or without subclusters |
//! | `geometry` | cluster numbers and offsets, bits of table entries |
//! | `state` | the metadata in memory |
//! | `mapping` | L2 entries, and what the disk is mapped to |
//! | `reservation` | places for new data: reserving, committing, releasing |
//! | `zeroing` | zero clusters and discards |
//! | `allocation` | free clusters, refcounts |
//! | `freeing` | when a cluster that is not needed any more may be used again |
//! | `refcount_width` | refcounts of 1 to 64 bits |
//! | `slice_index` | where a slice lies in its cache |
//! | `slices` | cached slices of L2 tables and refcount blocks |
//! | `compression` | compressed clusters: the methods |
//! | `compressed_data` | compressed clusters: reading them |
//! | `loading` | bringing metadata into memory |
//! | `operations` | what disks ask: mapping, and operations in flight |
//! | `pieces` | metadata on its way to the storage |
//! | `publish` | the order in which metadata reaches the storage |
//! | `table_room` | clusters kept for tables, where clusters are small |
//! | `table_growth` | a larger refcount table |
//! | `resize` | a larger or smaller disk |
//! | `shrinking` | a smaller file, once the disk is smaller |
//! | `usage` | which host clusters the tables reach |
//! | `extents` | what an image holds itself, in the order of its disk |

mod allocation;
pub mod check;
mod cluster_layout;
mod compressed_data;
mod compression;
mod create;
mod description;
mod extents;
mod feature_names;
mod features;
mod freeing;
mod geometry;
pub mod header;
mod image;
mod loading;
mod mapping;
mod operations;
mod pieces;
mod protection;
mod publish;
mod reached;
mod refcount_width;
mod reservation;
mod resize;
mod shrinking;
mod slice_index;
mod slices;
mod state;
mod table_growth;
mod table_room;
mod usage;
mod zeroing;

pub use cluster_layout::ClusterLayout;
pub use compression::{Compression, compress};
pub use create::{CacheOptions, CreateOptions, DataFileOptions, create, empty_file_bytes, read_header};
pub(crate) use geometry::Subcluster;
pub use image::{Image, ImageOptions, Mode};
pub(crate) use mapping::{CompressedData, Kind};
pub(crate) use operations::{CopySource, FillStep, InFlight, Progress, WriteStep};
pub(crate) use reservation::Reservation;
pub use usage::Usage;
