//! Plain overlays: every block of the base that a guest reads crosses the network, in each boot again.

use super::{Below, Place, Site, uncached};
use vmicache_format::Result;

pub(super) async fn open(site: &Site, place: Place) -> Result<Below> {
    uncached(site.base_by_nfs(place)).await
}
