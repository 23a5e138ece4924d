//! A cache image on the compute node's disk.

use super::{Below, Place, Site};
use crate::storm::{Cache, State};
use vmicache_format::Result;

pub(super) async fn open(site: &Site, place: Place, cache: &Cache, state: State) -> Result<Below> {
    let contents = site.cache_contents(place, cache, state)?;
    let most_bytes = cache.quota_bytes.unwrap_or(2 * site.guest.disk_bytes);
    let file = site.node(place).file_on_disk(contents, most_bytes);
    site.cached(file, site.base_by_nfs(place), cache, state).await
}
