//! Recognising the base of a cache.

use super::{Filling, Layer, Piece, Stack};
use crate::cache::{BaseIdentity, sample_ranges};
use crate::error::Result;
use crate::runtime::Runtime;
use crate::storage::{DataKind, Payload, Storage};
use std::cell::Cell;
use std::rc::Rc;

/// The identity of a base image, given as the layers it consists of, top first: its length and a digest of
/// sampled blocks. Only where the storage keeps bytes; without any, the digest is over nothing.
///
/// # Errors
/// If a sampled block cannot be read.
pub async fn identify<S: Storage>(layers: &[Rc<Layer<S>>], runtime: Rc<dyn Runtime>) -> Result<BaseIdentity> {
    let length = layers.first().map_or(0, |layer| layer.size());
    let layers = layers.to_vec();
    let stack = Rc::new(Stack { layers, runtime, filling: Filling::Beside, copying: Cell::new(0) });
    let mut samples = Vec::new();
    for range in sample_ranges(length) {
        let pieces = stack.read(0, range, DataKind::Identity).await?;
        samples.extend(pieces.iter().map(Piece::payload));
    }
    Ok(BaseIdentity::of_samples(length, samples.iter().filter_map(Payload::bytes)))
}
