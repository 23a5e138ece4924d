//! Bringing metadata into memory, and repeating steps until all they need is there.

use super::geometry::*;
use super::image::Image;
use super::slices::Entry;
use super::state::{Missing, State, Stop};
use crate::error::Result;
use crate::runtime::Join;
use crate::storage::{MetadataKind, Storage};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

impl<S: Storage> Image<S> {
    /// Repeats a step of the metadata until everything it needs is in memory and it happens.
    pub(super) async fn with_metadata<T>(
        &self,
        mut step: impl FnMut(&mut State) -> Result<T, Stop>,
    ) -> Result<T> {
        let mut loaded = LoadedSlices { state: &self.state, loads: 0, pinned: SmallVec::new() };
        loop {
            let outcome = {
                let mut state = self.state.borrow_mut();
                state.l2.trim();
                state.refcounts.trim();
                step(&mut state)
            };
            match outcome {
                Ok(value) => return Ok(value),
                Err(Stop::Missing(missing)) => {
                    self.load(missing).await?;
                    loaded.pin(missing);
                }
                Err(Stop::Invalid { structure, offset, problem }) => {
                    let error = self.blame.invalid(structure, offset, problem);
                    return Err(Box::pin(self.found_damage(error)).await);
                }
            }
        }
    }

    /// Brings metadata into memory; one at a time loads the same, the others wait for it.
    async fn load(&self, missing: Missing) -> Result<()> {
        let other =
            self.loading.borrow_mut().get_mut(&missing).map(|event| event.get_or_insert_default().listen());
        if let Some(other) = other {
            other.await;
            return Ok(());
        }
        let mut load = pin!(self.load_now(missing));
        // Storage in memory is ready at once; then there is nobody who could wait.
        if let Poll::Ready(loaded) = poll_fn(|context| Poll::Ready(load.as_mut().poll(context))).await {
            return loaded;
        }
        self.loading.borrow_mut().insert(missing, None);
        let _loading = Loading { image: self, missing };
        load.await
    }

    async fn load_now(&self, missing: Missing) -> Result<()> {
        match missing {
            Missing::L2Slice(slice) => {
                let (index, within) = self.geometry.slice_position(slice);
                let table = self.state.borrow().l1.get(index).copied().unwrap_or(0) & OFFSET_MASK;
                let bytes =
                    self.load_slice(MetadataKind::L2Table, "L2 table", table.saturating_add(within)).await?;
                self.state.borrow_mut().l2.insert_clean(slice, u64::decode(&bytes));
            }
            Missing::RefcountSlice(slice) => {
                let (block, within) = self.geometry.block_slice_position(slice);
                let entry = self.state.borrow().refcount_table.get(block).copied().unwrap_or(0);
                let offset = entry & OFFSET_MASK;
                if entry & REFCOUNT_TABLE_RESERVED != 0 || !self.geometry.is_aligned(offset) {
                    let problem = format!("entry {block} is {entry:#018x}, which is no cluster's offset");
                    return Err(self.blame.invalid(
                        "refcount table",
                        (block as u64).saturating_mul(8),
                        problem,
                    ));
                }
                let at = offset.saturating_add(within);
                let bytes = self.load_slice(MetadataKind::RefcountBlock, "refcount block", at).await?;
                self.state.borrow_mut().refcounts.insert_clean(slice, u8::decode(&bytes));
            }
            Missing::RefcountTable => {
                // A task: were it dropped half-way with its caller, what it was publishing would be lost.
                if let Some(image) = self.this.upgrade() {
                    let full = self.state.borrow().refcount_table.len();
                    let task = Box::pin(async move { image.grow_refcount_table(full).await });
                    Join::spawn(&*self.runtime, task).await?;
                }
            }
        }
        Ok(())
    }

    async fn load_slice(&self, kind: MetadataKind, structure: &'static str, offset: u64) -> Result<Vec<u8>> {
        let len = self.geometry.slice_bytes();
        self.check_within_file(structure, offset, len).await?;
        self.storage.read_metadata(kind, offset, len).await.map_err(self.blame.io("reading a table", offset))
    }

    /// Refuses what lies beyond the end of the file: a truncated image must not read as zeroes.
    pub(crate) async fn check_within_file(
        &self,
        structure: &'static str,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        match offset.saturating_add(len) <= self.file_len.get() {
            true => Ok(()),
            false => Box::pin(self.check_with_current_length(structure, offset, len)).await,
        }
    }

    async fn check_with_current_length(&self, structure: &'static str, offset: u64, len: u64) -> Result<()> {
        // Another process may have made the file longer since.
        let file_len = self.storage.len().await.map_err(self.blame.io("reading the length", 0))?;
        self.file_len.set(file_len.max(self.file_len.get()));
        // Only the file's last cluster need not be complete.
        let last = offset.saturating_add(len.saturating_sub(1)) & !lowest(self.geometry.cluster_bits);
        if last < self.file_len.get() {
            return Ok(());
        }
        let problem =
            format!("it lies beyond the end of the file ({file_len} bytes): the image is truncated");
        Err(self.blame.invalid(structure, offset, problem))
    }
}

/// A load under way; whether it succeeds, fails or is dropped, those who wait for it look again.
struct Loading<'a, S: Storage> {
    image: &'a Image<S>,
    missing: Missing,
}

impl<S: Storage> Drop for Loading<'_, S> {
    fn drop(&mut self) {
        let event = self.image.loading.borrow_mut().remove(&self.missing);
        if let Some(Some(event)) = event {
            event.notify();
        }
    }
}

/// Slices that a step has had loaded: they stay until it has happened, however many steps compete for the
/// memory. The first is not held: mostly it is the only one, and still there when the step is repeated.
struct LoadedSlices<'a> {
    state: &'a RefCell<State>,
    loads: usize,
    pinned: SmallVec<[Missing; 4]>,
}

impl LoadedSlices<'_> {
    fn pin(&mut self, missing: Missing) {
        self.loads = self.loads.saturating_add(1);
        if self.loads == 1 {
            return;
        }
        let mut state = self.state.borrow_mut();
        match missing {
            Missing::L2Slice(slice) if state.l2.contains(slice) => state.l2.pin(slice),
            Missing::RefcountSlice(slice) if state.refcounts.contains(slice) => state.refcounts.pin(slice),
            _ => return,
        }
        self.pinned.push(missing);
    }
}

impl Drop for LoadedSlices<'_> {
    fn drop(&mut self) {
        if self.pinned.is_empty() {
            return;
        }
        let mut state = self.state.borrow_mut();
        for missing in &self.pinned {
            match missing {
                Missing::L2Slice(slice) => state.l2.unpin(*slice),
                Missing::RefcountSlice(slice) => state.refcounts.unpin(*slice),
                Missing::RefcountTable => {}
            }
        }
    }
}
