//! Warm caches in the storage node's memory, one a base image, which the compute nodes read over the network:
//! the storage node's disk is left alone, its port is not.

use super::{Below, Place, Site};
use crate::storm::{Cache, State};
use vmicache_format::Result;

pub(super) async fn open(site: &Site, place: Place, cache: &Cache) -> Result<Below> {
    let contents = site.cache_contents(place, cache, State::Warm)?;
    let file = site.node(place).file_by_nfs(contents, &site.shared_caches[place.image as usize]);
    site.cached(file, site.base_by_nfs(place), cache, State::Warm).await
}
