//! Disks: what a guest sees. A disk is a stack of layers, top first; several disks may share layers (one
//! base under many caches, one cache under many overlays).

mod fill;
mod identity;
mod map;
mod read;
mod verify;
mod write;
mod zero;

pub use identity::identify;
pub use map::MapExtent;
pub use verify::Verification;

use crate::byte_range::length_of;
use crate::error::{Error, Result};
use crate::qcow2::{Image, Mode};
use crate::raw::RawImage;
use crate::runtime::Runtime;
use crate::storage::{Payload, Storage};
use smallvec::SmallVec;
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// One image of a stack.
pub enum Layer<S: Storage> {
    /// The disk's bytes as they are.
    Raw(RawImage<S>),
    /// A qcow2 image; a cache image if it was opened to be filled.
    Qcow2(Rc<Image<S>>),
}

impl<S: Storage> Layer<S> {
    /// Bytes of the disk that this layer describes.
    pub fn size(&self) -> u64 {
        match self {
            Layer::Raw(raw) => raw.size(),
            Layer::Qcow2(image) => image.size(),
        }
    }

    /// The name by which errors speak of it.
    pub fn name(&self) -> Arc<str> {
        match self {
            Layer::Raw(raw) => raw.name(),
            Layer::Qcow2(image) => image.name(),
        }
    }

    /// The image, if it is a cache that is being filled.
    fn filling(&self) -> Option<&Rc<Image<S>>> {
        match self {
            Layer::Qcow2(image) if image.mode() == Mode::Fill => Some(image),
            _ => None,
        }
    }
}

/// A part of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes on the disk.
    pub range: Range<u64>,
    /// It is known to read as zeroes.
    pub is_zero: bool,
}

/// A part of what was read; no data means zeroes.
#[derive(Clone, Debug)]
pub(crate) struct Piece<P> {
    /// Bytes on the disk.
    pub range: Range<u64>,
    pub data: Option<P>,
}

impl<P: Payload> Piece<P> {
    /// What some pieces hold one after the other.
    fn join(mut pieces: read::Pieces<P>) -> P {
        match (pieces.pop(), pieces.is_empty()) {
            (Some(single), true) => single.into_payload(),
            (last, _) => {
                let payloads: SmallVec<[P; 2]> =
                    pieces.into_iter().chain(last).map(Piece::into_payload).collect();
                P::concat(&payloads)
            }
        }
    }

    fn into_payload(self) -> P {
        let len = length_of(&self.range);
        self.data.unwrap_or_else(|| P::zeroed(len))
    }

    pub fn payload(&self) -> P {
        match &self.data {
            Some(data) => data.clone(),
            None => P::zeroed(length_of(&self.range)),
        }
    }

    /// The part of this piece that lies in `range`.
    fn within(&self, range: &Range<u64>) -> Option<Self> {
        let common = self.range.start.max(range.start)..self.range.end.min(range.end);
        if common.is_empty() {
            return None;
        }
        let data = self.data.as_ref().map(|data| {
            if common == self.range {
                return data.clone();
            }
            let within = |at: u64| at.saturating_sub(self.range.start);
            let part = data.slice(within(common.start)..within(common.end));
            match part.bytes() {
                // Whoever keeps a small part, such as an answer that waits, shall not keep the whole.
                Some(bytes) if part.len() <= data.len() / 2 => P::copy_from(bytes),
                _ => part,
            }
        });
        Some(Piece { range: common, data })
    }
}

/// Whether a guest's read waits for the copy that a cache keeps of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Filling {
    /// The read ends when its data is there; the copy goes on.
    #[default]
    Beside,
    /// The read ends when the copy is written too.
    InPath,
}

/// Copies that go on beside guests hold at most this much memory; beyond it, reads wait for their copy.
const FILL_MEMORY: u64 = 64 << 20;

struct Stack<S: Storage> {
    layers: Vec<Rc<Layer<S>>>,
    runtime: Rc<dyn Runtime>,
    filling: Filling,
    /// Bytes of copies under way.
    copying: Cell<u64>,
}

impl<S: Storage> Stack<S> {
    #[expect(clippy::indexing_slicing, reason = "a disk without a layer is refused when it is made")]
    fn top(&self) -> &Rc<Layer<S>> {
        &self.layers[0]
    }
}

/// A stack of layers as a guest sees it: one disk with the size of its top layer. Clones are the same disk.
pub struct Disk<S: Storage> {
    stack: Rc<Stack<S>>,
}

impl<S: Storage> Clone for Disk<S> {
    fn clone(&self) -> Self {
        Disk { stack: self.stack.clone() }
    }
}

impl<S: Storage> Disk<S> {
    /// A disk of `layers`, top first. Only the top layer is written by guests; caches are filled wherever
    /// they stand.
    ///
    /// # Errors
    /// If there is no layer.
    pub fn new(layers: Vec<Rc<Layer<S>>>, filling: Filling, runtime: Rc<dyn Runtime>) -> Result<Self> {
        if layers.is_empty() {
            return Err(Error::Refused {
                image: "disk".into(),
                problem: "a disk needs at least one layer".into(),
            });
        }
        Ok(Disk { stack: Rc::new(Stack { layers, runtime, filling, copying: Cell::new(0) }) })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.stack.top().size()
    }

    /// The layers, top first.
    pub fn layers(&self) -> &[Rc<Layer<S>>] {
        &self.stack.layers
    }

    /// Reads `len` bytes at `offset`.
    ///
    /// # Errors
    /// If the range goes beyond the disk, a layer is damaged there, or a storage fails.
    pub async fn read(&self, offset: u64, len: u64) -> Result<S::Payload> {
        let range = self.check(offset, len)?;
        Ok(Piece::join(self.stack.read(0, range, crate::storage::DataKind::Guest).await?))
    }

    /// Reads `len` bytes at `offset` as pieces in order that cover the range; those without data are zeroes.
    pub(crate) async fn read_pieces(&self, offset: u64, len: u64) -> Result<read::Pieces<S::Payload>> {
        let range = self.check(offset, len)?;
        self.stack.read(0, range, crate::storage::DataKind::Guest).await
    }

    /// Where a range holds data and where it is known to read as zeroes, without reading any data: at most `most`
    /// extents in order from `offset` on, no two neighbours alike.
    ///
    /// # Errors
    /// If the range goes beyond the disk, a layer is damaged there, or a storage fails.
    pub async fn extents(&self, offset: u64, len: u64, most: usize) -> Result<Vec<Extent>> {
        let range = self.check(offset, len)?;
        self.stack.extents(range, most).await
    }

    /// Writes `data` at `offset`. Dropping the future cancels no part that has begun.
    ///
    /// # Errors
    /// If the range goes beyond the disk, the top layer is not writable, or a storage fails.
    pub async fn write(&self, offset: u64, data: S::Payload) -> Result<()> {
        self.check(offset, data.len())?;
        self.stack.write(offset, data).await
    }

    /// Writes a whole cluster of the top layer (the last one cut short by the disk's end) as compressed data, or plainly
    /// if compression saves nothing.
    ///
    /// # Errors
    /// As [`write`](Self::write), and if that is no whole cluster, or the top layer has no compressed clusters.
    pub async fn write_compressed(&self, offset: u64, data: S::Payload) -> Result<()> {
        self.check(offset, data.len())?;
        self.stack.write_compressed(offset, data).await
    }

    /// Writes the cluster at `offset` as data that [`compress`](crate::qcow2::compress) made of it, with the method of
    /// the top layer.
    ///
    /// # Errors
    /// As [`write_compressed`](Self::write_compressed).
    pub async fn write_precompressed(&self, offset: u64, compressed: S::Payload) -> Result<()> {
        self.check(offset, 1)?;
        self.stack.write_precompressed(offset, compressed).await
    }

    /// Makes `len` bytes at `offset` read as zeroes; their room stays theirs.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        let range = self.check(offset, len)?;
        self.stack.write_zeroes(range, false).await
    }

    /// Makes `len` bytes at `offset` read as zeroes, and gives the room of whole clusters back.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_zeroes_unmapped(&self, offset: u64, len: u64) -> Result<()> {
        let range = self.check(offset, len)?;
        self.stack.write_zeroes(range, true).await
    }

    /// Says that `len` bytes at `offset` are needed no more: whole clusters of theirs read as zeroes and give their room
    /// back, where the top layer can do that; the rest stays as it is.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let range = self.check(offset, len)?;
        self.stack.discard(range).await
    }

    /// Makes the disk larger or smaller, by that of its top layer, a qcow2 image. What a larger one has more reads as
    /// zeroes; what a smaller one has less is lost. No other request may be under way.
    ///
    /// # Errors
    /// As [`Image::resize`].
    pub async fn resize(&self, size: u64) -> Result<()> {
        self.stack.resize(size).await
    }

    /// Makes everything written before durable. The batches of caches below are closed too, but nobody waits
    /// for them: a cache may be lost.
    ///
    /// # Errors
    /// If a storage fails.
    pub async fn flush(&self) -> Result<()> {
        for layer in self.stack.layers.iter().skip(1) {
            if let Some(cache) = layer.filling() {
                cache.publish_in_background();
            }
        }
        match &**self.stack.top() {
            Layer::Raw(raw) => raw.flush().await,
            Layer::Qcow2(image) => image.flush().await,
        }
    }

    /// Waits for what is in flight and brings every layer's file up to date: top first, since what is in
    /// flight there may still read through, and fill, the caches below.
    ///
    /// # Errors
    /// If a storage fails.
    pub async fn close(&self) -> Result<()> {
        for (depth, layer) in self.stack.layers.iter().enumerate() {
            match &**layer {
                Layer::Qcow2(image) => image.close().await?,
                Layer::Raw(raw) if depth == 0 => raw.flush().await?,
                Layer::Raw(_) => {}
            }
        }
        Ok(())
    }

    /// The range of a request, which must lie on the disk.
    fn check(&self, offset: u64, length: u64) -> Result<Range<u64>> {
        let size = self.size();
        if let Some(end) = offset.checked_add(length).filter(|end| *end <= size) {
            return Ok(offset..end);
        }
        Err(Error::BeyondDisk { image: self.stack.top().name(), offset, length, size })
    }
}
