//! What an image holds itself, in the order of its disk.

use super::image::Image;
use super::mapping::Kind;
use crate::error::Result;
use crate::storage::Storage;
use std::ops::Range;

/// Consecutive bytes of the disk that an image holds itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub range: Range<u64>,
    /// They read as zeroes, and take no data cluster.
    pub is_zero: bool,
}

impl<S: Storage> Image<S> {
    /// The first extent of the disk from byte `from` on; `None` if the image holds nothing more.
    pub(crate) async fn next_extent(&self, from: u64) -> Result<Option<Extent>> {
        let mut rest = from.min(self.size())..self.size();
        while !rest.is_empty() {
            let run = self.map(&rest).await?;
            let range = self.bytes_before(&rest, run.end);
            match run.kind {
                Kind::Absent => rest.start = range.end,
                Kind::Zero | Kind::ZeroAllocated { .. } => return Ok(Some(Extent { range, is_zero: true })),
                Kind::Data { .. } | Kind::Compressed(_) => return Ok(Some(Extent { range, is_zero: false })),
            }
        }
        Ok(None)
    }
}
