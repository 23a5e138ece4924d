//! The whole base image is copied to the compute node's disk before the guest starts. Only as many bytes are copied
//! as the image has allocated, from its beginning on; virtual machines of a node with the same base share the copy.

use super::{Below, Chain, Place, Site, copy, raw};
use crate::storage::SimFile;
use std::cell::Cell;
use vmicache_format::Result;
use vmicache_format::disk::Filling;
use vmicache_format::runtime::Event;
use vmicache_format::storage::{DataKind, PayloadFree};

/// The copy on a node's disk.
pub(super) struct Copy {
    file: SimFile,
    begun: Cell<bool>,
    done: Cell<bool>,
    finished: Event,
}

pub(super) async fn open(site: &Site, place: Place) -> Result<Below> {
    let (contents, bytes) = (PayloadFree::of_len(site.guest.disk_bytes), site.guest.disk_bytes);
    let file = site.node(place).file_on_disk(contents, bytes);
    let layers = vec![raw(&file).await?];
    let base = site.base_by_nfs(place);
    base.start_time();
    file.start_time();
    let copy = Copy { file, begun: Cell::default(), done: Cell::default(), finished: Event::new() };
    Ok(Below { layers, cache: None, base, filling: Filling::Beside, copy: Some(copy) })
}

pub(super) async fn before_boot(site: &Site, chain: &Chain) -> Result<()> {
    let Some(made) = &chain.below.copy else { return Ok(()) };
    if !made.begun.replace(true) {
        copy(&chain.below.base, &made.file, site.guest.allocated_bytes, DataKind::Guest).await?;
        made.done.set(true);
        made.finished.notify();
    }
    while !made.done.get() {
        made.finished.listen().await;
    }
    Ok(())
}
