//! Models of what a deployment is made of: devices, page caches, network file system, nodes.

mod device;
mod hard_disk;
mod nfs;
mod node;
mod page_cache;

pub use device::{Device, Direction};
pub use hard_disk::{seek_time, transfer_time};
pub use nfs::{NfsClient, NfsFile, NfsServer, PlacedFile, ServerFile};
pub use node::{Build, ComputeNode, Load, Local, StorageNode};
pub use page_cache::{Backing, CachedFile, PageCache, PageCacheUse};
