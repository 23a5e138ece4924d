//! Copying the input into the target.

use super::Plan;
use super::input::{Content, Input};
use super::stretches::Stretches;
use super::target::Target;
use crate::commands::img::progress::Progress;
use crate::commands::img::zeroes::{SECTOR, runs};
use anyhow::Context;
use bytes::{Bytes, BytesMut};
use rayon::ThreadPool;
use rayon::prelude::*;
use std::ops::Range;
use vmicache_format::qcow2::{Compression, compress};

/// What is read in one go.
const CHUNK: u64 = 1 << 20;

/// A copy, and how far it has come.
pub struct Copy<'a> {
    input: Input<'a>,
    target: &'a Target,
    /// Zeroes are left out in units of so many bytes; 0: they are written as data.
    unit: u64,
    /// Multiples of so many bytes are read.
    chunk: u64,
    /// Compress clusters, if they are to be.
    pool: Option<ThreadPool>,
    progress: Progress,
    shown: bool,
    /// Bytes of data that have been copied, of so many.
    copied: u64,
    data: u64,
}

impl<'a> Copy<'a> {
    /// A copy of all sources into `target`.
    ///
    /// # Errors
    /// If there can be no threads.
    pub fn new(plan: &Plan<'a>, target: &'a Target) -> anyhow::Result<Self> {
        let cluster = target.cluster_size;
        // Clusters are compressed one by one.
        let smallest = if plan.args.compress { 1 } else { plan.sparse };
        let unit = if plan.sparse == 0 { 0 } else { smallest.max(SECTOR as u64).next_multiple_of(cluster) };
        let at_once = if plan.args.compress { cluster * plan.threads as u64 } else { 0 };
        let pool = || rayon::ThreadPoolBuilder::new().num_threads(plan.threads).build();
        let shown = plan.args.progress && !plan.args.quiet;
        Ok(Copy {
            input: Input::of(plan.sources, target.is_backed, plan.args.salvage),
            target,
            unit,
            chunk: CHUNK.max(at_once).next_multiple_of(unit.max(cluster)),
            pool: plan.args.compress.then(pool).transpose()?,
            progress: Progress::new(shown),
            shown,
            copied: 0,
            data: 0,
        })
    }

    /// Copies everything.
    ///
    /// # Errors
    /// If a source cannot be read, or the target not be written.
    pub async fn run(mut self) -> anyhow::Result<()> {
        if self.shown {
            self.data = self.count().await?;
        }
        let input = self.input;
        let mut stretches = Stretches::of(&input, self.stretch_unit());
        while let Some(stretch) = stretches.next().await? {
            match stretch.content {
                Content::Backing => {}
                Content::Zeroes if self.unit > 0 => self.zeroes(stretch.range).await?,
                Content::Zeroes | Content::Data => self.data(stretch.range).await?,
            }
        }
        self.progress.set(100.0);
        Ok(())
    }

    /// How finely stretches are told apart.
    fn stretch_unit(&self) -> u64 {
        self.unit.max(self.target.cluster_size).max(SECTOR as u64)
    }

    /// How many bytes of data are to be copied.
    async fn count(&self) -> anyhow::Result<u64> {
        let mut data = 0;
        let mut stretches = Stretches::of(&self.input, self.stretch_unit());
        while let Some(stretch) = stretches.next().await? {
            if stretch.content == Content::Data || (stretch.content == Content::Zeroes && self.unit == 0) {
                data += stretch.range.end - stretch.range.start;
            }
        }
        Ok(data)
    }

    /// Makes a range read as zeroes.
    async fn zeroes(&self, range: Range<u64>) -> anyhow::Result<()> {
        if self.target.reads_as_zeroes {
            return Ok(());
        }
        let written = self.target.disk.write_zeroes(range.start, range.end - range.start).await;
        written.with_context(|| writing(range.start))
    }

    async fn data(&mut self, range: Range<u64>) -> anyhow::Result<()> {
        let mut at = range.start;
        while at < range.end {
            // Later chunks begin at multiples of their size.
            let end = range.end.min((at / self.chunk + 1) * self.chunk);
            let bytes = self.input.read(at..end).await?;
            self.write(at, &bytes).await?;
            self.copied += end - at;
            if self.shown {
                self.progress.set_part(self.copied, self.data);
            }
            at = end;
        }
        Ok(())
    }

    /// Writes what was read at `offset`.
    async fn write(&self, offset: u64, bytes: &Bytes) -> anyhow::Result<()> {
        let parts = match self.unit {
            0 => vec![(0..bytes.len(), true)],
            unit => runs(bytes, unit as usize),
        };
        for (part, is_data) in parts {
            let at = offset + part.start as u64;
            match (is_data, &self.pool) {
                (false, _) => self.zeroes(at..offset + part.end as u64).await?,
                (true, None) => {
                    self.target.disk.write(at, bytes.slice(part)).await.with_context(|| writing(at))?;
                }
                (true, Some(pool)) => self.write_compressed(pool, at, bytes.slice(part)).await?,
            }
        }
        Ok(())
    }

    /// Writes whole clusters, of which only the last one of the disk may be cut short.
    async fn write_compressed(&self, pool: &ThreadPool, offset: u64, bytes: Bytes) -> anyhow::Result<()> {
        let cluster = self.target.cluster_size as usize;
        let method = self.target.compression;
        let compressed: Vec<Option<Vec<u8>>> = pool.install(|| {
            bytes.par_chunks(cluster).map(|data| compress_whole(method, data, cluster)).collect()
        });
        for (number, compressed) in compressed.into_iter().enumerate() {
            let start = number * cluster;
            let at = offset + start as u64;
            let written = match compressed {
                Some(data) => self.target.disk.write_precompressed(at, data.into()).await,
                None => {
                    self.target.disk.write(at, bytes.slice(start..bytes.len().min(start + cluster))).await
                }
            };
            written.with_context(|| writing(at))?;
        }
        Ok(())
    }
}

/// Compresses a cluster, behind which zeroes stand if it is cut short.
fn compress_whole(method: Compression, data: &[u8], cluster: usize) -> Option<Vec<u8>> {
    if data.len() == cluster {
        return compress(method, data);
    }
    let mut whole = BytesMut::zeroed(cluster);
    whole[..data.len()].copy_from_slice(data);
    compress(method, &whole)
}

fn writing(offset: u64) -> String {
    format!("error while writing at byte {offset}")
}
