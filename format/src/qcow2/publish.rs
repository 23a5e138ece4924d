//! The order in which metadata reaches the storage.
//!
//! In memory a mapping is visible at once. In the storage, nothing may point at something that a power cut could have
//! lost, and nothing that is still pointed at may be used for something else. So changes are collected, and published in
//! batches, each in this order:
//!
//! 1. data (written when it came) and refcounts; a barrier and the refcount table, if that has new blocks;
//! 2. a barrier; L2 entries;
//! 3. a barrier; L1 entries;
//! 4. a barrier, if somebody waits for durability, or if the batch took references away;
//! 5. only then those references are counted no more (see [`super::freeing`]); the refcounts that say so belong to the
//!    next batch.
//!
//! A power cut between two of them leaves clusters that are counted and unreachable, nothing worse. The content of a
//! batch is what memory holds when it begins: entries are only there once their data is written, so the first barrier
//! covers all the data that the batch points at. Data in an external file has a barrier of its own before the batch.
//!
//! Before the refcount table moves, the first step alone is taken: the new table is to name no block that could be lost.
//!
//! Barriers are dear, and a step without anything to write has none. Whatever moves (a table that has to become larger, a
//! table that is shared with snapshots) is written whole at its new place before anything points there, and its old place
//! is free only once nothing does.

use super::freeing::Freed;
use super::geometry::{COMPRESSED, OFFSET_MASK};
use super::header::{Header, extension};
use super::image::{Image, Mode};
use super::pieces::Pieces;
use crate::cache::CacheExtension;
use crate::error::Result;
use crate::runtime::Join;
use crate::storage::{MetadataKind, Storage};
use std::rc::Rc;

/// Changed metadata: what is to be written where.
#[derive(Default)]
struct Batch {
    refcounts: Pieces,
    refcount_table: Pieces,
    l2: Pieces,
    l1: Pieces,
    unpublished: u64,
    /// What the batch's tables no longer refer to.
    freed: Vec<Freed>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.freed.is_empty()
            && self.refcounts.is_empty()
            && self.l2.is_empty()
            && self.refcount_table.is_empty()
            && self.l1.is_empty()
    }
}

/// So many runs of freed clusters wait for a batch at most.
const MOST_FREED: usize = 4096;

/// The right to publish; one at a time.
pub(super) struct Turn<'a, S: Storage>(&'a Image<S>);

impl<S: Storage> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        self.0.publishing.set(false);
        self.0.published.notify();
    }
}

impl<S: Storage> Image<S> {
    /// Publishes everything that has been committed, and makes it durable. Dropping the future stops nothing.
    ///
    /// # Errors
    /// If the storage fails; what could not be written is tried again the next time.
    pub async fn flush(self: &Rc<Self>) -> Result<()> {
        let image = self.clone();
        Join::spawn(&*self.runtime, Box::pin(async move { image.publish(true).await })).await
    }

    /// Publishes what is pending in the background, without waiting for it.
    pub(crate) fn publish_in_background(self: &Rc<Self>) {
        // One task that has not begun is enough: it publishes whatever is there by then.
        if self.publishing_soon.replace(true) {
            return;
        }
        let image = self.clone();
        self.runtime.spawn(Box::pin(async move {
            let turn = image.publishing_turn().await;
            image.publishing_soon.set(false);
            // What fails stays pending; whoever flushes or closes is told.
            drop(image.publish_pending(false).await);
            drop(turn);
        }));
    }

    /// Closes the open batch if it has become too large, and sees that that of a cache does not grow too old.
    pub(crate) fn publish_when_due(self: &Rc<Self>) {
        let due = {
            let state = self.state.borrow();
            // What a guest has not flushed, it may lose; a cache is flushed by nobody.
            (self.mode() == Mode::Fill && state.unpublished >= self.options.batch_bytes)
                || state.l2.is_crowded()
                || state.freed.len() > MOST_FREED
        };
        if due && !self.publishing.get() {
            self.publish_in_background();
        } else if self.mode() == Mode::Fill && !self.timer_armed.replace(true) {
            let (image, pause) = (Rc::downgrade(self), self.runtime.sleep(self.options.batch_time));
            self.runtime.spawn(Box::pin(async move {
                pause.await;
                // An image that was closed meanwhile has nothing left to publish.
                if let Some(image) = image.upgrade() {
                    image.timer_armed.set(false);
                    drop(image.publish(false).await);
                }
            }));
        }
    }

    /// Publishes, and waits for it, once there are more changed slices than are to be kept in memory.
    pub(super) async fn publish_if_crowded(&self) -> Result<()> {
        let is_crowded = {
            let state = self.state.borrow();
            state.l2.is_crowded() || state.freed.len() > MOST_FREED
        };
        match self.this.upgrade() {
            Some(image) if is_crowded => {
                Join::spawn(&*self.runtime, Box::pin(async move { image.publish(false).await })).await
            }
            _ => Ok(()),
        }
    }

    /// Waits for what is in flight, publishes everything, and brings length and header up to date. The
    /// image can be used on; what it changes then needs another close.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn close(self: &Rc<Self>) -> Result<()> {
        if self.mode() == Mode::Read {
            return Ok(());
        }
        self.wait_until_idle().await;
        self.flush().await?;
        let has_freed = {
            let state = self.state.borrow();
            state.refcounts.dirty() > 0 || !state.freed.is_empty()
        };
        if has_freed {
            // The first round has freed clusters, which the second one counts.
            self.flush().await?;
        }
        if self.mode() == Mode::Fill {
            // The header is nobody else's while this one writes it.
            let _turn = self.publishing_turn().await;
            let mut header = self.header();
            let in_use = self.bytes_in_use();
            if let Some(cache) = header.cache().filter(|cache| cache.in_use != in_use) {
                header.set_extension(extension::CACHE, CacheExtension { in_use, ..cache }.to_bytes());
                self.switch_header(header).await?;
            }
        }
        Ok(())
    }

    async fn publish(&self, durable: bool) -> Result<()> {
        let _turn = self.publishing_turn().await;
        self.publish_pending(durable).await
    }

    /// Waits until nobody else publishes, and keeps others from it until the turn is dropped.
    pub(super) async fn publishing_turn(&self) -> Turn<'_, S> {
        loop {
            let other = self.published.listen();
            if !self.publishing.replace(true) {
                return Turn(self);
            }
            other.await;
        }
    }

    /// Publishes what is pending. Only in a turn.
    pub(super) async fn publish_pending(&self, durable: bool) -> Result<()> {
        self.settle_header().await?;
        let mut batch = self.take_batch();
        let written = self.write_batch(&batch, durable).await;
        let freed = if written.is_ok() { std::mem::take(&mut batch.freed) } else { vec![] };
        self.end_batch(batch, written.is_err());
        if written.is_ok() {
            // Loading a refcount may grow the table, which publishes: a cycle of futures.
            Box::pin(self.free_unused(freed)).await;
        }
        written
    }

    /// Publishes refcounts alone: everything that the refcount table points at is there then. Only in a turn.
    pub(super) async fn publish_refcounts(&self) -> Result<()> {
        self.settle_header().await?;
        let batch = self.take_refcounts();
        let written = self.write_batch(&batch, true).await;
        self.end_batch(batch, written.is_err());
        written
    }

    /// Sees that the storage holds the header that counts: were it one that points at other tables, what is published
    /// would be missing there.
    async fn settle_header(&self) -> Result<()> {
        match self.header_in_doubt.get() {
            true => self.switch_header(self.header()).await,
            false => Ok(()),
        }
    }

    /// Makes another header durable. Only in a turn.
    pub(super) async fn switch_header(&self, header: Header) -> Result<()> {
        self.header_in_doubt.set(true);
        self.write_header(&header).await?;
        self.barrier().await?;
        *self.header.borrow_mut() = header;
        self.header_in_doubt.set(false);
        Ok(())
    }

    fn take_batch(&self) -> Batch {
        let refcounts = self.take_refcounts();
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let geometry = self.geometry;
        state.batches = state.batches.wrapping_add(1);
        let l1 = &state.l1;
        let mut batch = Batch {
            l2: state.l2.take_dirty(|slice| offset_within(l1, geometry.slice_position(slice))),
            l1: Pieces::of_sectors(
                std::mem::take(&mut state.l1_dirty),
                l1,
                self.header.borrow().l1_table_offset,
            ),
            unpublished: std::mem::take(&mut state.unpublished),
            freed: std::mem::take(&mut state.freed),
            ..refcounts
        };
        if geometry.has_subclusters() && !state.data_file {
            hide_unwritten(batch.l2.bytes_mut(), self.file_len.get());
        }
        batch
    }

    fn take_refcounts(&self) -> Batch {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let (geometry, table) = (self.geometry, &state.refcount_table);
        let refcounts =
            state.refcounts.take_dirty(|slice| offset_within(table, geometry.block_slice_position(slice)));
        let dirty = std::mem::take(&mut state.refcount_table_dirty);
        let refcount_table = Pieces::of_sectors(dirty, table, self.header.borrow().refcount_table_offset);
        Batch { refcounts, refcount_table, ..Batch::default() }
    }

    async fn write_batch(&self, batch: &Batch, durable: bool) -> Result<()> {
        self.flush_data_file().await?;
        self.write_all(MetadataKind::RefcountBlock, &batch.refcounts).await?;
        if !batch.refcount_table.is_empty() {
            self.barrier().await?;
            self.write_all(MetadataKind::RefcountTable, &batch.refcount_table).await?;
        }
        if !batch.l2.is_empty() {
            self.barrier().await?;
            self.write_all(MetadataKind::L2Table, &batch.l2).await?;
        }
        if !batch.l1.is_empty() {
            self.barrier().await?;
            self.write_all(MetadataKind::L1Table, &batch.l1).await?;
        }
        if durable || !batch.freed.is_empty() { self.barrier().await } else { Ok(()) }
    }

    /// Lets go of the batch; what did not reach the storage is pending again.
    fn end_batch(&self, batch: Batch, failed: bool) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        for key in &batch.refcounts.keys {
            state.refcounts.unpin(*key);
        }
        for key in &batch.l2.keys {
            state.l2.unpin(*key);
        }
        if failed && !batch.is_empty() {
            batch.refcounts.keys.iter().for_each(|key| state.refcounts.mark_dirty(*key));
            batch.l2.keys.iter().for_each(|key| state.l2.mark_dirty(*key));
            state.refcount_table_dirty.extend(batch.refcount_table.keys);
            state.l1_dirty.extend(batch.l1.keys);
            state.add_unpublished(batch.unpublished);
            state.freed.splice(0..0, batch.freed);
        }
    }

    /// Makes the data in an external data file durable, before any table says that it is there: that of a batch was
    /// written before the batch was taken.
    async fn flush_data_file(&self) -> Result<()> {
        match &self.data_file {
            Some(file) => file.flush().await.map_err(self.blame.io("flushing the external data file", 0)),
            None => Ok(()),
        }
    }

    /// Writes pieces of metadata, neighbours in one request.
    pub(super) async fn write_all(&self, kind: MetadataKind, pieces: &Pieces) -> Result<()> {
        for (offset, bytes) in pieces.runs() {
            let write = self.storage.write_metadata(kind, offset, bytes).await;
            write.map_err(self.blame.io("writing metadata", offset))?;
            self.note_written(offset, bytes.len() as u64);
        }
        Ok(())
    }

    /// Takes note that so many bytes at an offset have been written: the file does not end before them.
    pub(super) fn note_written(&self, offset: u64, len: u64) {
        self.file_len.update(|known| known.max(offset.saturating_add(len)));
    }

    pub(super) async fn barrier(&self) -> Result<()> {
        self.storage.flush().await.map_err(self.blame.io("flushing", 0))
    }
}

/// Where a part of what an entry of a table points at lies in the file.
fn offset_within(table: &[u64], (index, within): (usize, u64)) -> u64 {
    (table.get(index).copied().unwrap_or(0) & OFFSET_MASK).saturating_add(within)
}

/// Takes host clusters out of slices of extended L2 entries that lie beyond the end of the file: they are there for
/// subclusters whose data is on its way, and with that the entry will be published again.
fn hide_unwritten(slices: &mut [u8], file_len: u64) {
    let (entries, _) = slices.as_chunks_mut::<16>();
    for entry in entries {
        let (word, allocated) = (u128::from_be_bytes(*entry) >> 64, u128::from_be_bytes(*entry) as u32);
        let word = word as u64;
        if allocated == 0 && word & COMPRESSED == 0 && word & OFFSET_MASK >= file_len {
            entry[..8].fill(0);
        }
    }
}
