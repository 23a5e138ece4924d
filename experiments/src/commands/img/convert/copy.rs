//! Copying disks into a target.

use super::stretches::Stretches;
use super::target::Target;
use super::{Args, warn_of_loss};
use crate::commands::img::progress::Progress;
use crate::commands::img::source::Source;
use crate::commands::img::zeroes::{SECTOR, runs};
use anyhow::{Context, anyhow};
use bytes::Bytes;
use std::ops::Range;

/// What is read in one go.
const CHUNK: u64 = 2 << 20;

/// A copy, and how far it has come.
pub struct Copy<'a> {
    sources: &'a [Source],
    target: &'a Target,
    /// Zeroes are left out in units of so many bytes; 0: they are written.
    unit: u64,
    salvage: bool,
    progress: Progress,
    shown: bool,
    /// Bytes of data that have been copied, of so many.
    copied: u64,
    data: u64,
}

impl<'a> Copy<'a> {
    /// A copy of `sources`, one behind the other, which leaves out runs of `sparse` zero bytes and more.
    pub fn new(
        sources: &'a [Source],
        target: &'a Target,
        sparse: u64,
        args: &Args,
        _threads: usize,
        progress: Progress,
    ) -> anyhow::Result<Self> {
        let unit = if sparse == 0 { 0 } else { sparse.max(target.cluster_size) };
        let shown = args.progress && !args.quiet;
        Ok(Copy { sources, target, unit, salvage: args.salvage, progress, shown, copied: 0, data: 0 })
    }

    /// Copies everything.
    ///
    /// # Errors
    /// If a source cannot be read, or the target not be written.
    pub async fn run(mut self) -> anyhow::Result<()> {
        if self.shown {
            self.data = self.count().await?;
        }
        let mut start = 0;
        for source in self.sources {
            let mut stretches = Stretches::of(&source.disk, self.unit.max(SECTOR as u64));
            while let Some(stretch) = stretches.next().await.with_context(|| source.name.clone())? {
                if stretch.is_zero && self.unit > 0 {
                    self.zeroes(start, stretch.range).await?;
                } else {
                    self.data(source, start, stretch.range).await?;
                }
            }
            start += source.disk.size().next_multiple_of(SECTOR as u64);
        }
        self.progress.set(100.0);
        Ok(())
    }

    /// How many bytes of data are to be copied.
    async fn count(&self) -> anyhow::Result<u64> {
        let mut data = 0;
        for source in self.sources {
            let mut stretches = Stretches::of(&source.disk, self.unit.max(SECTOR as u64));
            while let Some(stretch) = stretches.next().await.with_context(|| source.name.clone())? {
                if !stretch.is_zero || self.unit == 0 {
                    data += stretch.range.end - stretch.range.start;
                }
            }
        }
        Ok(data)
    }

    /// Makes a range read as zeroes; it is that of the source, which begins at `start` of the target.
    async fn zeroes(&self, start: u64, range: Range<u64>) -> anyhow::Result<()> {
        if self.target.reads_as_zeroes {
            return Ok(());
        }
        let offset = start + range.start;
        let written = self.target.disk.write_zeroes(offset, range.end - range.start).await;
        written.with_context(|| format!("error while writing at byte {offset}"))
    }

    async fn data(&mut self, source: &Source, start: u64, range: Range<u64>) -> anyhow::Result<()> {
        let chunk = CHUNK.max(self.unit);
        let mut at = range.start;
        while at < range.end {
            // Later chunks begin at multiples of their size.
            let end = range.end.min((at / chunk + 1) * chunk);
            let bytes = self.read(source, at..end).await?;
            self.write(start, at, &bytes).await?;
            self.copied += end - at;
            if self.shown {
                self.progress.set_part(self.copied, self.data);
            }
            at = end;
        }
        Ok(())
    }

    /// Writes what was read at `from` of the source.
    async fn write(&self, start: u64, from: u64, bytes: &Bytes) -> anyhow::Result<()> {
        let parts = match self.unit {
            0 => vec![(0..bytes.len(), true)],
            unit => runs(bytes, unit as usize),
        };
        for (part, is_data) in parts {
            let offset = from + part.start as u64;
            if !is_data {
                self.zeroes(start, offset..from + part.end as u64).await?;
                continue;
            }
            let written = self.target.disk.write(start + offset, bytes.slice(part)).await;
            written.with_context(|| format!("error while writing at byte {}", start + offset))?;
        }
        Ok(())
    }

    async fn read(&self, source: &Source, range: Range<u64>) -> anyhow::Result<Bytes> {
        let read = source.disk.read(range.start, range.end - range.start).await;
        match read {
            Ok(bytes) => Ok(bytes),
            Err(_) if self.salvage => self.salvage(source, range).await,
            Err(error) => {
                Err(anyhow!(error).context(format!("error while reading at byte {}", range.start)))
            }
        }
    }

    /// What can be read of a range, sector by sector; the others are zeroes.
    async fn salvage(&self, source: &Source, range: Range<u64>) -> anyhow::Result<Bytes> {
        let mut salvaged = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let length = (SECTOR as u64).min(range.end - at);
            match source.disk.read(at, length).await {
                Ok(bytes) => salvaged.extend_from_slice(&bytes),
                Err(error) => {
                    warn_of_loss(at, &anyhow!(error));
                    salvaged.resize(salvaged.len() + length as usize, 0);
                }
            }
            at += length;
        }
        Ok(salvaged.into())
    }
}
