//! Holding what a cache keeps against what lies below it.

use super::{Disk, Layer, Piece, Stack};
use crate::byte_range::{length_of, range_at};
use crate::error::{Blame, Result};
use crate::storage::{DataKind, Payload, Storage};
use bytes::Bytes;
use std::ops::Range;
use std::rc::Rc;

/// Bytes that are compared at a time: a multiple of every cluster size.
const STEP: u64 = 2 << 20;

/// How a cache compares with what lies below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Bytes of the disk that the cache holds, and that were compared.
    pub compared_bytes: u64,
    /// Of them, those that the cache holds as zeroes.
    pub zero_bytes: u64,
    /// Bytes of the clusters that differ.
    pub wrong_bytes: u64,
    /// Ranges of the disk that these clusters form.
    pub wrong_ranges: u64,
    /// The first [`KEPT`](Self::KEPT) of these ranges, in order.
    pub wrong: Vec<Range<u64>>,
}

impl Verification {
    /// So many ranges that differ are kept; the others are counted.
    pub const KEPT: usize = 64;

    /// Whether nothing differs.
    pub fn is_right(&self) -> bool {
        self.wrong_bytes == 0
    }
}

impl<S: Storage<Payload = Bytes>> Disk<S> {
    /// Compares all that the top layer, a cache image, holds with what lies below it, cluster by cluster; the
    /// cache's tables are checked first. `progress` is told how far along the disk the comparison is, in
    /// bytes. Nothing is copied into any cache.
    ///
    /// # Errors
    /// If the top layer is no cache image, its tables are damaged, or something cannot be read. That data
    /// differs is no error.
    pub async fn verify(&self, mut progress: impl FnMut(u64)) -> Result<Verification> {
        let top = self.stack.top();
        let cache = match &**top {
            Layer::Qcow2(image) if image.header().cache().is_some() => image,
            _ => return Err(Blame(top.name()).refused("this is no cache image: its header has no quota")),
        };
        cache.usage().await?;
        let mut found = Found::default();
        let mut position = 0;
        while let Some(extent) = cache.next_extent(position).await? {
            let end = extent.range.end.min(extent.range.start.saturating_add(STEP));
            let range = extent.range.start..end;
            found.count(length_of(&range), extent.is_zero);
            let cached = self.stack.content(0, range.clone()).await?;
            let below = self.stack.content(1, range.clone()).await?;
            if cached != below {
                found.compare(range, &cached, &below, cache.cluster_size());
            }
            position = end;
            progress(position);
        }
        Ok(found.verification)
    }
}

impl<S: Storage<Payload = Bytes>> Stack<S> {
    /// The bytes of `range` from layer `first` on, read so that no cache keeps them.
    async fn content(self: &Rc<Self>, first: usize, range: Range<u64>) -> Result<Bytes> {
        let pieces = self.read(first, range, DataKind::Identity).await?;
        Ok(Bytes::concat(&pieces.iter().map(Piece::payload).collect::<Vec<_>>()))
    }
}

#[derive(Default)]
struct Found {
    verification: Verification,
    /// Where the last range that differs ends.
    end: Option<u64>,
}

impl Found {
    /// Counts bytes that are compared.
    fn count(&mut self, bytes: u64, are_zero: bool) {
        let found = &mut self.verification;
        found.compared_bytes = found.compared_bytes.saturating_add(bytes);
        found.zero_bytes = found.zero_bytes.saturating_add(if are_zero { bytes } else { 0 });
    }

    /// Adds the clusters of `range` that differ.
    fn compare(&mut self, range: Range<u64>, cached: &[u8], below: &[u8], cluster_size: u64) {
        let size = cluster_size as usize;
        let clusters = cached.chunks(size).zip(below.chunks(size));
        for (start, (cached, below)) in range.step_by(size).zip(clusters) {
            if cached != below {
                self.add(range_at(start, cached.len() as u64));
            }
        }
    }

    fn add(&mut self, cluster: Range<u64>) {
        let found = &mut self.verification;
        found.wrong_bytes = found.wrong_bytes.saturating_add(length_of(&cluster));
        let goes_on = self.end.replace(cluster.end) == Some(cluster.start);
        if !goes_on {
            found.wrong_ranges = found.wrong_ranges.saturating_add(1);
        }
        let kept = found.wrong.len();
        match found.wrong.last_mut() {
            // The range that goes on may be one that was not kept.
            Some(last) if goes_on && last.end == cluster.start => last.end = cluster.end,
            _ if goes_on || kept == Verification::KEPT => {}
            _ => found.wrong.push(cluster),
        }
    }
}
