//! Zeroes, discards and another size of the top layer.

use super::write::writable;
use super::{Layer, Stack};
use crate::byte_range::{length_of, round_down};
use crate::error::Result;
use crate::storage::{Payload, Storage};
use std::ops::Range;
use std::rc::Rc;

impl<S: Storage> Stack<S> {
    /// Makes a range read as zeroes; `unmap` says that host clusters may be given back.
    pub(super) async fn write_zeroes(self: &Rc<Self>, range: Range<u64>, unmap: bool) -> Result<()> {
        let image = match &**self.top() {
            Layer::Qcow2(image) if writable(image)?.header().version >= 3 && !image.has_data_file() => image,
            _ => return self.write_explicit_zeroes(range).await,
        };
        let unit = image.subcluster_size();
        let first = range.start.next_multiple_of(unit);
        // The last subcluster of a disk may be cut short: what lies beyond it does not matter.
        let last = match range.end == image.size() {
            true => range.end.next_multiple_of(unit),
            false => round_down(range.end, unit),
        };
        if first > last {
            return self.write_explicit_zeroes(range).await;
        }
        // What lies in two clusters, none of them whole, is two writes: neither copies what the other writes.
        self.write_explicit_zeroes(range.start..first.min(range.end)).await?;
        for part in image.set_zero(image.subclusters(&(first..last)), unmap).await? {
            self.write_explicit_zeroes(part.start..part.end.min(range.end)).await?;
        }
        image.publish_when_due();
        self.write_explicit_zeroes(last.min(range.end)..range.end).await
    }

    async fn write_explicit_zeroes(self: &Rc<Self>, range: Range<u64>) -> Result<()> {
        const CHUNK: u64 = 1 << 20;
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at.saturating_add(CHUNK));
            self.write(at, S::Payload::zeroed(length_of(&(at..end)))).await?;
            at = end;
        }
        Ok(())
    }

    /// Takes the data of the whole clusters of a range away: they read as zeroes, or stay as they are where the image
    /// cannot say so. The rest of the range stays as it is.
    pub(super) async fn discard(self: &Rc<Self>, range: Range<u64>) -> Result<()> {
        let image = match &**self.top() {
            Layer::Qcow2(image) => writable(image)?,
            Layer::Raw(raw) => return raw.discard(&range).await,
        };
        let size = image.cluster_size();
        let first = range.start.next_multiple_of(size);
        let last = match range.end == image.size() {
            true => range.end.next_multiple_of(size),
            false => round_down(range.end, size),
        };
        // What lies in an external data file stays: what the file holds is what its reader sees.
        if first < last && !image.has_data_file() {
            image.discard_clusters(image.subclusters(&(first..last)), self.layers.len() > 1).await?;
            image.publish_when_due();
        }
        Ok(())
    }

    /// See [`Disk::resize`](super::Disk::resize).
    pub(super) async fn resize(self: &Rc<Self>, size: u64) -> Result<()> {
        let image = match &**self.top() {
            Layer::Qcow2(image) => writable(image)?,
            Layer::Raw(raw) => return Err(raw.refuse("a raw image gets another size from the host")),
        };
        let old_size = image.size();
        if size > old_size {
            image.drop_behind_end().await?;
            // What lies in the last cluster behind the old end, perhaps since the disk was larger once, goes first.
            let cluster_end = old_size.next_multiple_of(image.cluster_size()).min(size);
            self.write_explicit_zeroes(old_size..cluster_end).await?;
        }
        let below = self.layers.get(1).map_or(0, |layer| layer.size()).min(size);
        if below > old_size {
            // A larger image below shall not show through, not even if something happens before the end.
            image.prepare_resize(size).await?;
            self.write_zeroes(old_size..below, false).await?;
        }
        image.resize(size).await
    }
}
