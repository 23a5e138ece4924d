//! A cache image in the compute node's memory. One that a boot has filled is copied to the node's disk
//! afterwards, where it outlives the node's next restart.

use super::{Below, Chain, Place, Site, copy};
use crate::storm::{Cache, State};
use vmicache_format::Result;
use vmicache_format::storage::{DataKind, PayloadFree};

pub(super) async fn open(site: &Site, place: Place, cache: &Cache, state: State) -> Result<Below> {
    let file = site.node(place).file_in_memory(site.cache_contents(place, cache, state)?);
    site.cached(file, site.base_by_nfs(place), cache, state).await
}

pub(super) async fn after_boot(site: &Site, place: Place, chain: &Chain) -> Result<()> {
    let Some(cache) = &chain.below.cache else { return Ok(()) };
    let bytes = cache.bytes();
    let on_disk = site.node(place).file_on_disk(PayloadFree::new(), bytes);
    on_disk.start_time();
    // Read as what it is, the cache's file, and not as a guest's data.
    copy(cache, &on_disk, bytes, DataKind::Identity).await
}
