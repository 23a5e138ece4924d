//! Where the bytes of a disk lie: in which layer, and where in its file.

use super::{Disk, Layer, Stack};
use crate::byte_range::length_of;
use crate::error::Result;
use crate::qcow2::{Image, Kind};
use crate::storage::Storage;
use std::ops::Range;

/// A part of a disk, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapExtent {
    /// Bytes on the disk.
    pub range: Range<u64>,
    /// The layer that decides what is read, 0 for the top.
    pub depth: usize,
    /// That layer says what is read itself; otherwise nothing is below it, or nothing that reaches so far.
    pub is_present: bool,
    /// It is known to read as zeroes.
    pub is_zero: bool,
    /// It is read from a file.
    pub is_data: bool,
    /// That data is compressed.
    pub is_compressed: bool,
    /// Where the range begins in the file that holds the layer's data, if it lies there as it is read.
    pub offset: Option<u64>,
}

impl MapExtent {
    /// Zeroes that no layer holds; it is the lowest one that was asked which says so.
    fn nothing(range: Range<u64>, depth: usize) -> Self {
        MapExtent {
            range,
            depth,
            is_present: false,
            is_zero: true,
            is_data: false,
            is_compressed: false,
            offset: None,
        }
    }

    /// Whether `next`, which begins where this ends, goes on in the same way and at the next byte of the file.
    pub fn goes_on_in(&self, next: &MapExtent) -> bool {
        let length = length_of(&self.range);
        let expected = MapExtent {
            range: next.range.clone(),
            offset: self.offset.map(|offset| offset.saturating_add(length)),
            ..self.clone()
        };
        expected == *next
    }
}

impl<S: Storage> Disk<S> {
    /// Where a range lies, without reading any data: at most `most` extents in order from `offset` on; what goes on in
    /// the same way is one of them.
    ///
    /// # Errors
    /// If the range goes beyond the disk, a layer is damaged there, or a storage fails.
    pub async fn map(&self, offset: u64, len: u64, most: usize) -> Result<Vec<MapExtent>> {
        let mut rest = self.check(offset, len)?;
        let mut extents: Vec<MapExtent> = Vec::new();
        while !rest.is_empty() {
            let extent = self.stack.map(rest.clone()).await?;
            rest.start = extent.range.end;
            let is_full = extents.len() == most;
            match extents.last_mut() {
                Some(last) if last.goes_on_in(&extent) => last.range.end = extent.range.end,
                _ if is_full => break,
                _ => extents.push(extent),
            }
        }
        Ok(extents)
    }
}

impl<S: Storage> Stack<S> {
    /// Where the beginning of a range lies, which is not empty.
    pub(super) async fn map(&self, mut range: Range<u64>) -> Result<MapExtent> {
        for (depth, layer) in self.layers.iter().enumerate() {
            let (end, extent) = match &**layer {
                Layer::Raw(raw) => {
                    let (is_zero, end) = raw.hole(&range).await?;
                    let range = range.start..end;
                    let offset = Some(range.start);
                    let is_data = !is_zero;
                    let found = MapExtent {
                        is_present: true,
                        is_data,
                        is_zero,
                        offset,
                        ..MapExtent::nothing(range, depth)
                    };
                    (end, Some(found))
                }
                Layer::Qcow2(image) => map_image(image, depth, &range).await?,
            };
            range.end = end;
            if let Some(extent) = extent {
                return Ok(extent);
            }
            let below = self.layers.get(depth.saturating_add(1)).map_or(0, |layer| layer.size());
            if below <= range.start {
                return Ok(MapExtent::nothing(range, depth));
            }
            range.end = range.end.min(below);
        }
        Ok(MapExtent::nothing(range, self.layers.len().saturating_sub(1)))
    }
}

/// What an image says of the beginning of a range, and how far that goes; `None`: the layer below has to tell.
async fn map_image<S: Storage>(
    image: &Image<S>,
    depth: usize,
    range: &Range<u64>,
) -> Result<(u64, Option<MapExtent>)> {
    let run = image.map(range).await?;
    let part = image.bytes_before(range, run.end);
    let within = image.within_subcluster(part.start);
    let end = part.end;
    let present = MapExtent { is_present: true, ..MapExtent::nothing(part, depth) };
    let extent = match run.kind {
        Kind::Absent => return Ok((end, None)),
        Kind::Zero => present,
        Kind::ZeroAllocated { offset, .. } => {
            MapExtent { offset: Some(offset.saturating_add(within)), ..present }
        }
        Kind::Data { offset, .. } => MapExtent {
            is_zero: false,
            is_data: true,
            offset: Some(offset.saturating_add(within)),
            ..present
        },
        Kind::Compressed(_) => MapExtent { is_zero: false, is_data: true, is_compressed: true, ..present },
    };
    Ok((end, Some(extent)))
}
