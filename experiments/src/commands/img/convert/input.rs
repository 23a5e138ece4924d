//! The disks that are read, as one disk.

use super::warn_of_loss;
use crate::commands::img::source::Source;
use crate::commands::img::zeroes::SECTOR;
use anyhow::{Context, anyhow};
use bytes::Bytes;
use std::ops::Range;
use vmicache_format::disk::MapExtent;
use vmicache_format::storage::Payload;

/// So many extents are asked for at once.
const EXTENTS: usize = 256;

/// What is known of a part of the input without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Anything.
    Data,
    /// Zeroes.
    Zeroes,
    /// What the backing file of the target has.
    Backing,
}

/// A part of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Bytes of the input.
    pub range: Range<u64>,
    /// What it holds.
    pub content: Content,
}

/// One or several disks, each behind the one before; a disk takes whole sectors.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    sources: &'a [Source],
    /// The target has a backing file: what no image but the top one decides is left to it.
    is_backed: bool,
    /// What cannot be read is taken for zeroes.
    salvage: bool,
}

/// Bytes that a source takes in the input.
fn length(source: &Source) -> u64 {
    source.disk.size().next_multiple_of(SECTOR as u64)
}

/// Bytes of all sources.
pub fn size(sources: &[Source]) -> u64 {
    sources.iter().map(length).sum()
}

impl<'a> Input<'a> {
    /// The disks of `sources`.
    pub fn of(sources: &'a [Source], is_backed: bool, salvage: bool) -> Self {
        Input { sources, is_backed, salvage }
    }

    /// Bytes of it.
    pub fn size(&self) -> u64 {
        size(self.sources)
    }

    /// The source in which a byte lies, and where that begins.
    fn at(&self, offset: u64) -> Option<(&'a Source, u64)> {
        let mut start = 0;
        for source in self.sources {
            let end = start + length(source);
            if offset < end {
                return Some((source, start));
            }
            start = end;
        }
        None
    }

    /// What is known from a byte on, a little at a time: none behind the end.
    ///
    /// # Errors
    /// If the tables of an image cannot be read.
    pub async fn parts(&self, offset: u64) -> anyhow::Result<Vec<Part>> {
        let Some((source, start)) = self.at(offset) else { return Ok(vec![]) };
        let (from, size) = (offset - start, source.disk.size());
        if from >= size {
            return Ok(vec![Part { range: offset..start + length(source), content: Content::Zeroes }]);
        }
        let failed = || format!("error while reading block status at offset {from} of '{}'", source.name);
        let found = source.disk.map(from, size - from, EXTENTS).await.with_context(failed);
        let found = match found {
            Ok(extents) => extents,
            Err(error) if self.salvage => {
                warn_of_loss(&error);
                let range = offset..(offset + SECTOR as u64).min(start + size);
                return Ok(vec![Part { range, content: Content::Data }]);
            }
            Err(error) => return Err(error),
        };
        let part = |extent: MapExtent| Part {
            range: start + extent.range.start..start + extent.range.end,
            content: self.content(&extent),
        };
        Ok(found.into_iter().map(part).collect())
    }

    /// What is copied of an extent.
    fn content(&self, extent: &MapExtent) -> Content {
        let is_own = extent.depth == 0 && extent.is_present;
        match extent.is_zero {
            _ if self.is_backed && !is_own => Content::Backing,
            true => Content::Zeroes,
            false => Content::Data,
        }
    }

    /// Reads a range of it.
    ///
    /// # Errors
    /// If a disk cannot be read.
    pub async fn read(&self, range: Range<u64>) -> anyhow::Result<Bytes> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while let Some((source, start)) = self.at(at).filter(|_| at < range.end) {
            let (end, size) = (range.end.min(start + length(source)), source.disk.size());
            let inside = at - start..(end - start).min(size).max(at - start);
            if !inside.is_empty() {
                pieces.push(self.read_source(source, inside.clone()).await?);
            }
            if end - start > inside.end {
                pieces.push(Bytes::zeroed(end - start - inside.end));
            }
            at = end;
        }
        Ok(match pieces.as_slice() {
            [piece] => piece.clone(),
            pieces => Bytes::concat(pieces),
        })
    }

    async fn read_source(&self, source: &Source, range: Range<u64>) -> anyhow::Result<Bytes> {
        match source.disk.read(range.start, range.end - range.start).await {
            Ok(bytes) => Ok(bytes),
            Err(_) if self.salvage => Ok(salvage(source, range).await),
            Err(error) => Err(anyhow!(error).context(format!("error while reading at byte {}", range.start))),
        }
    }
}

/// What can be read of a range, sector by sector; the others are zeroes.
async fn salvage(source: &Source, range: Range<u64>) -> Bytes {
    let mut salvaged = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let length = (SECTOR as u64).min(range.end - at);
        match source.disk.read(at, length).await {
            Ok(bytes) => salvaged.extend_from_slice(&bytes),
            Err(error) => {
                warn_of_loss(&anyhow!(error).context(format!("error while reading offset {at}")));
                salvaged.resize(salvaged.len() + length as usize, 0);
            }
        }
        at += length;
    }
    salvaged.into()
}
