//! What a cache image holds, counted from its tables.

use super::BaseIdentity;
use crate::byte_range::length_of;
use crate::error::{Blame, Result};
use crate::qcow2::{ClusterLayout, Image, ImageOptions, Mode};
use crate::runtime::Runtime;
use crate::storage::Storage;
use std::rc::Rc;
use std::sync::Arc;

/// What a cache image is and holds. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Of the disk.
    pub size: u64,
    /// How its clusters are laid out.
    pub clusters: ClusterLayout,
    /// What the length of the file may not exceed.
    pub quota: u64,
    /// What the tables reach, metadata included; counted.
    pub bytes_in_use: u64,
    /// The same as the header has it, which is only a hint: it is as of the last close.
    pub bytes_in_use_hint: u64,
    /// Of what is in use, guest data.
    pub data_bytes: u64,
    /// Bytes of the disk that are cached, those that read as zeroes and take no room included.
    pub cached_bytes: u64,
    /// Of them, zeroes.
    pub zero_bytes: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Name of the backing file, as it is recorded.
    pub backing_file: Option<String>,
    /// Its format, if that is recorded.
    pub backing_format: Option<String>,
    /// Which base the cache was made for, if it says so in a way that this version knows.
    pub base: Option<BaseIdentity>,
}

/// Describes the cache image in `storage` by reading all its tables. `name` appears in errors.
///
/// # Errors
/// If that is no cache image, its tables are damaged, or the storage fails.
pub async fn describe<S: Storage>(storage: S, name: &str, runtime: Rc<dyn Runtime>) -> Result<Description> {
    let blame = Blame(Arc::from(name));
    let file_bytes = storage.len().await.map_err(blame.io("reading the length", 0))?;
    let image = Image::open(storage, name, Mode::Read, ImageOptions::default(), runtime).await?;
    let header = image.header();
    let cache = header.cache().ok_or_else(|| {
        blame.refused("this is no cache image: its header has no quota, as `-o cache_img_quota=` gives it")
    })?;
    let usage = image.usage().await?;
    let (mut cached_bytes, mut zero_bytes, mut position) = (0u64, 0u64, 0);
    while let Some(extent) = image.next_extent(position).await? {
        let bytes = length_of(&extent.range);
        cached_bytes = cached_bytes.saturating_add(bytes);
        zero_bytes = zero_bytes.saturating_add(if extent.is_zero { bytes } else { 0 });
        position = extent.range.end;
    }
    Ok(Description {
        size: header.size,
        clusters: ClusterLayout::of(&header),
        quota: cache.quota,
        bytes_in_use: usage.bytes_in_use,
        bytes_in_use_hint: cache.in_use,
        data_bytes: usage.data_bytes,
        cached_bytes,
        zero_bytes,
        file_bytes,
        backing_format: header.backing_format(),
        base: header.base_identity(),
        backing_file: header.backing_file,
    })
}
