//! Reading compressed clusters.

use super::compression::{Compression, decompress};
use super::header::{Header, incompatible};
use super::image::Image;
use super::mapping::CompressedData;
use crate::error::Result;
use crate::storage::{DataKind, Payload, Storage};
use std::ops::Range;

impl Header {
    /// How clusters are compressed; `None` for a method that is not known.
    pub fn compression_method(&self) -> Option<Compression> {
        let kind = self.further_fields.first().copied().unwrap_or(0);
        match (kind, self.incompatible_features & incompatible::COMPRESSION_TYPE != 0) {
            (0, false) => Some(Compression::Deflate),
            (1, true) => Some(Compression::Zstd),
            _ => None,
        }
    }
}

impl<S: Storage> Image<S> {
    /// A part of a compressed cluster, in bytes from its beginning. The cluster that was read last is kept: guests
    /// mostly read on.
    pub(crate) async fn read_compressed(
        &self,
        kind: DataKind,
        data: CompressedData,
        part: Range<u64>,
    ) -> Result<S::Payload> {
        let kept =
            self.decompressed.borrow().as_ref().filter(|(of, _)| *of == data).map(|(_, data)| data.clone());
        let cluster = match kept {
            Some(cluster) => cluster,
            None => {
                let cluster = self.decompress(kind, data).await?;
                *self.decompressed.borrow_mut() = Some((data, cluster.clone()));
                cluster
            }
        };
        Ok(cluster.slice(part))
    }

    async fn decompress(&self, kind: DataKind, data: CompressedData) -> Result<S::Payload> {
        self.check_within_file("compressed cluster", data.offset, 1).await?;
        let read = self.storage.read(kind, data.offset, data.bytes).await;
        let compressed = read.map_err(self.blame.io("reading compressed data", data.offset))?;
        let size = self.cluster_size();
        // A storage without payload has nothing to decompress.
        let Some(bytes) = compressed.bytes() else { return Ok(S::Payload::zeroed(size)) };
        let method = self.header.borrow().compression_method().unwrap_or_default();
        match decompress(method, bytes, size as usize) {
            Ok(cluster) => Ok(S::Payload::copy_from(&cluster)),
            Err(problem) => {
                let problem = format!("its data cannot be decompressed: {problem}");
                Err(self.blame.invalid("compressed cluster", data.offset, problem))
            }
        }
    }

    /// Forgets decompressed data: its place in the file may come to hold something else.
    pub(super) fn forget_decompressed(&self) {
        self.decompressed.take();
    }
}
