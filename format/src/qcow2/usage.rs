//! Which host clusters an image's tables reach.

use super::geometry::*;
use super::image::Image;
use super::slices::Entry;
use crate::error::Result;
use crate::storage::{MetadataKind, Storage};
use std::ops::Range;

/// What the tables of an image reach, in bytes of its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Everything: header, tables, refcount blocks, and guest data.
    pub bytes_in_use: u64,
    /// Guest data alone.
    pub data_bytes: u64,
}

/// A bit a host cluster: reached or not.
#[derive(Default)]
struct Reached {
    words: Vec<u64>,
    clusters: u64,
}

impl Reached {
    /// Marks a cluster; says whether it was marked before.
    fn mark(&mut self, cluster: u64) -> bool {
        let (word, bit) = ((cluster / 64) as usize, 1 << (cluster % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let before = self.words[word] & bit != 0;
        self.words[word] |= bit;
        self.clusters += u64::from(!before);
        before
    }

    fn contains(&self, cluster: u64) -> bool {
        self.words.get((cluster / 64) as usize).is_some_and(|word| word >> (cluster % 64) & 1 == 1)
    }

    /// One more than the highest cluster that is marked.
    fn end(&self) -> u64 {
        let last = self.words.iter().rposition(|word| *word != 0);
        last.map_or(0, |last| last as u64 * 64 + 64 - u64::from(self.words[last].leading_zeros()))
    }
}

impl<S: Storage> Image<S> {
    /// Counts what the image's tables reach in the storage. Reads every table.
    ///
    /// # Errors
    /// If a table is wrong (two references to one cluster, a reference beyond the file), or the storage fails.
    pub async fn usage(&self) -> Result<Usage> {
        let (reached, data_clusters) = self.walk().await?;
        let bits = self.geometry.cluster_bits;
        Ok(Usage { bytes_in_use: reached.clusters << bits, data_bytes: data_clusters << bits })
    }

    async fn walk(&self) -> Result<(Reached, u64)> {
        let mut reached = Reached::default();
        let geometry = self.geometry;
        let (l1, refcount_table) = {
            let state = self.state.borrow();
            (state.l1.clone(), state.refcount_table.clone())
        };
        let header = self.header.borrow().clone();
        let table_bytes = u64::from(header.refcount_table_clusters) << geometry.cluster_bits;
        self.reach(&mut reached, "header", 0..1)?;
        for (structure, offset, bytes) in [
            ("refcount table", header.refcount_table_offset, table_bytes),
            ("L1 table", header.l1_table_offset, u64::from(header.l1_size) * 8),
        ] {
            self.reach(&mut reached, structure, geometry.guest_clusters(&(offset..offset + bytes)))?;
        }
        for entry in refcount_table.iter().filter(|entry| **entry != 0) {
            let offset = entry & OFFSET_MASK;
            self.check_within_file("refcount block", offset, geometry.cluster_size()).await?;
            let block = offset >> geometry.cluster_bits;
            self.reach(&mut reached, "refcount block", block..block + 1)?;
        }
        let mut data_clusters = 0;
        for index in 0..l1.len() {
            let table = l1[index] & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            if l1[index] & L1_RESERVED != 0 || table & (geometry.cluster_size() - 1) != 0 {
                let problem = format!("entry {index} is {:#018x}, which is no cluster's offset", l1[index]);
                return Err(self.blame.invalid("L1 table", header.l1_table_offset + index as u64 * 8, problem));
            }
            self.check_within_file("L2 table", table, geometry.cluster_size()).await?;
            let cluster = table >> geometry.cluster_bits;
            self.reach(&mut reached, "L2 table", cluster..cluster + 1)?;
            let read = self.storage.read_metadata(MetadataKind::L2Table, table, geometry.cluster_size()).await;
            let entries = u64::decode(&read.map_err(self.blame.io("reading an L2 table", table))?);
            let mut furthest = 0;
            for entry in entries.iter().filter(|entry| **entry & OFFSET_MASK != 0) {
                if entry & COMPRESSED != 0 {
                    return Err(self.blame.unsupported("counting the clusters of an image with compressed clusters"));
                }
                let offset = entry & OFFSET_MASK;
                furthest = furthest.max(offset);
                let cluster = offset >> geometry.cluster_bits;
                self.reach(&mut reached, "data cluster", cluster..cluster + 1)?;
                data_clusters += 1;
            }
            self.check_within_file("data cluster", furthest, 1).await?;
        }
        Ok((reached, data_clusters))
    }

    fn reach(&self, reached: &mut Reached, structure: &'static str, clusters: Range<u64>) -> Result<()> {
        for cluster in clusters {
            if reached.mark(cluster) {
                let offset = cluster << self.geometry.cluster_bits;
                let problem = "this cluster is used twice: the image is damaged, make it anew";
                return Err(self.blame.invalid(structure, offset, problem));
            }
        }
        Ok(())
    }

    /// Counts what the tables reach, and frees what they do not: what a crash left behind counts as used in
    /// the storage, although nothing points at it.
    pub(super) async fn reclaim(&self) -> Result<()> {
        let (reached, data_clusters) = self.walk().await?;
        let geometry = self.geometry;
        let blocks = self.state.borrow().refcount_table.clone();
        let counted = (blocks.len() as u64) << geometry.block_bits;
        if reached.end() > counted {
            let problem = format!("it counts {counted} clusters, but cluster {} is in use", reached.end() - 1);
            return Err(self.blame.invalid("refcount table", self.header.borrow().refcount_table_offset, problem));
        }
        for (block, entry) in blocks.iter().enumerate() {
            let mut slices = geometry.slices_of_block(block as u64);
            if *entry == 0 {
                let first = slices.start << geometry.block_slice_bits;
                let end = slices.end << geometry.block_slice_bits;
                if let Some(cluster) = (first..end.min(reached.end())).find(|cluster| reached.contains(*cluster)) {
                    let problem = format!("entry {block} is missing, but cluster {cluster} is in use");
                    let offset = self.header.borrow().refcount_table_offset + block as u64 * 8;
                    return Err(self.blame.invalid("refcount table", offset, problem));
                }
                continue;
            }
            slices.end = slices.end.max(slices.start);
            for slice in slices {
                self.correct_refcounts(slice, &reached).await?;
            }
        }
        {
            let mut state = self.state.borrow_mut();
            state.used = reached.clusters;
            state.data_clusters = data_clusters;
            state.free_hint = 0;
        }
        let end = reached.end() << geometry.cluster_bits;
        if self.file_len.get() > end {
            self.storage.set_len(end).await.map_err(self.blame.io("shortening the file", end))?;
            self.file_len.set(end);
        }
        Ok(())
    }

    /// Sets the refcounts of one slice to what was reached, if they differ.
    async fn correct_refcounts(&self, slice: u64, reached: &Reached) -> Result<()> {
        let base = slice << self.geometry.block_slice_bits;
        let right = |index: usize| u16::from(reached.contains(base + index as u64));
        self.with_metadata(|state| {
            let counts = state.refcounts.get(slice).ok_or(super::state::Missing::RefcountSlice(slice))?;
            if counts.iter().enumerate().all(|(index, count)| *count == right(index)) {
                return Ok(());
            }
            if let Some(counts) = state.refcounts.get_mut(slice) {
                counts.iter_mut().enumerate().for_each(|(index, count)| *count = right(index));
            }
            Ok(())
        })
        .await
    }
}
