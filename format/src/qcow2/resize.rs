//! A larger or smaller disk.

use super::freeing::Freed;
use super::geometry::*;
use super::header::{Header, MAX_L1_BYTES, l1_entries};
use super::image::{Image, Mode};
use super::slices::Entry;
use crate::byte_range::range_at;
use crate::error::Result;
use crate::runtime::Join;
use crate::storage::{MetadataKind, Storage};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

impl<S: Storage> Image<S> {
    /// Changes the size of the disk to `size` bytes. What a larger one has more reads as zeroes, or as what lies below;
    /// what a smaller one has less is lost. No request of a guest may be under way. Dropping the future stops nothing.
    ///
    /// # Errors
    /// If the image is not open for writing, the format cannot have such a disk, a smaller one would take data from
    /// internal snapshots of version 2, or the storage fails.
    pub async fn resize(self: &Rc<Self>, size: u64) -> Result<()> {
        let image = self.clone();
        // Were it dropped between the header and what follows from it, the storage would know of another table.
        let task = async move {
            image.grow_tables(size).await?;
            let lost = image.clusters_behind(size);
            if !lost.is_empty() {
                image.wait_until_idle().await;
                image.drop_clusters(&lost).await?;
            }
            image.flush().await?;
            let _turn = image.publishing_turn().await;
            image.switch_header(Header { size, ..image.header() }).await?;
            if lost.is_empty() { Ok(()) } else { image.give_back(lost).await }
        };
        Join::spawn(&*self.runtime, Box::pin(task)).await
    }

    /// Makes the L1 table large enough for a disk of `size` bytes, which does not become larger yet.
    ///
    /// # Errors
    /// As [`resize`](Self::resize).
    pub(crate) async fn prepare_resize(self: &Rc<Self>, size: u64) -> Result<()> {
        let image = self.clone();
        Join::spawn(&*self.runtime, Box::pin(async move { image.grow_tables(size).await })).await
    }

    async fn grow_tables(&self, size: u64) -> Result<()> {
        if self.mode() != Mode::Write {
            return Err(self.blame.refused("the image is not open for writing: its size cannot change"));
        }
        self.check_writable()?;
        let header = self.header();
        if !size.is_multiple_of(512) {
            return Err(self.blame.refused(format!("a disk of {size} bytes: allowed are multiples of 512")));
        }
        if header.nb_snapshots != 0 && header.version < 3 {
            let problem = "snapshots of version 2 have no size of their own: delete them before the disk changes its size";
            return Err(self.blame.refused(problem));
        }
        let entries = l1_entries(size, header.cluster_bits, header.has_extended_l2());
        if entries > MAX_L1_BYTES / 8 || size > i64::MAX as u64 {
            return Err(self.blame.refused(format!(
                "a disk of {size} bytes: its L1 table would exceed 32 MiB; use larger clusters"
            )));
        }
        match entries > u64::from(header.l1_size) {
            true => self.grow_l1(entries).await,
            false => Ok(()),
        }
    }

    /// The whole clusters that a disk of `size` bytes has no more.
    fn clusters_behind(&self, size: u64) -> Range<GuestCluster> {
        self.first_cluster_behind(size)..self.first_cluster_behind(self.size())
    }

    fn first_cluster_behind(&self, size: u64) -> GuestCluster {
        GuestCluster(size.div_ceil(self.cluster_size()))
    }

    /// Unmaps what tables map behind the end of the disk, where nothing should be: a larger disk would show it.
    ///
    /// # Errors
    /// As [`resize`](Self::resize).
    pub(crate) async fn drop_behind_end(self: &Rc<Self>) -> Result<()> {
        let image = self.clone();
        Join::spawn(&*self.runtime, Box::pin(async move { image.unmap_behind_end().await })).await
    }

    async fn unmap_behind_end(&self) -> Result<()> {
        if self.nothing_behind_end.get() {
            return Ok(());
        }
        let geometry = self.geometry;
        let first = self.first_cluster_behind(self.size());
        let tables = self.state.borrow().l1.len() as u64;
        // Of a damaged image many entries may point at the same table.
        let mut empty = BTreeSet::new();
        for index in geometry.l1_index(first)..tables {
            let mapped = geometry.clusters_of_table(index);
            let behind = mapped.start.max(first)..mapped.end;
            let table = self.with_metadata(|state| state.l2_table(index)).await?;
            if table == 0 || empty.contains(&table) {
                continue;
            }
            if !self.with_metadata(|state| state.maps_nothing(&behind)).await? {
                self.drop_clusters(&behind).await?;
            } else if behind == mapped {
                empty.insert(table);
            }
        }
        self.nothing_behind_end.set(true);
        Ok(())
    }

    async fn drop_clusters(&self, clusters: &Range<GuestCluster>) -> Result<()> {
        let first = |cluster| self.geometry.first_of_cluster(cluster);
        self.unmap_clusters(first(clusters.start)..first(clusters.end)).await
    }

    /// Moves the L1 table to a larger place: the new one is durable before the header points at it, and the old place
    /// is free only once it no longer does.
    async fn grow_l1(&self, entries: u64) -> Result<()> {
        let geometry = self.geometry;
        let bytes = entries.saturating_mul(8).next_multiple_of(512);
        let clusters = bytes.div_ceil(geometry.cluster_size());
        let place = self.contiguous_clusters(clusters).await?;
        let _turn = self.publishing_turn().await;
        // The refcounts of the new place are there before anything points at it.
        self.publish_pending(true).await?;
        let mut l1 = self.state.borrow().l1.clone();
        l1.resize(entries as usize, 0);
        let offset = geometry.host_offset(place);
        let mut table = u64::encode(&l1);
        table.resize((clusters << geometry.cluster_bits) as usize, 0);
        let write = self.storage.write_metadata(MetadataKind::L1Table, offset, &table).await;
        write.map_err(self.blame.io("writing a larger L1 table", offset))?;
        self.note_written(offset, table.len() as u64);
        self.barrier().await?;
        let old = self.header();
        let header = Header { l1_size: entries as u32, l1_table_offset: offset, ..old.clone() };
        self.switch_header(header).await?;
        {
            let mut state = self.state.borrow_mut();
            state.l1 = l1;
            (0..clusters).for_each(|number| state.hold_table(place + number));
            state.used = state.used.saturating_add(clusters);
        }
        let old_bytes = range_at(old.l1_table_offset, u64::from(old.l1_size) * 8);
        if old.l1_table_offset != 0 && !old_bytes.is_empty() {
            self.free_unused(vec![Freed::reference(geometry.host_clusters(&old_bytes))]).await;
        }
        self.publish_pending(true).await
    }

    /// Takes `count` clusters that lie one behind the other: behind the end of the file.
    async fn contiguous_clusters(&self, count: u64) -> Result<HostCluster> {
        self.with_metadata(|state| {
            // If the refcount table had to become larger, it lies at the end now, and would interrupt the run.
            let end = HostCluster(self.file_len.get().div_ceil(self.cluster_size()));
            state.take_contiguous(end, count)
        })
        .await
    }
}
