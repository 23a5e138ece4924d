//! Which host clusters an image's tables reach.

use super::geometry::*;
use super::image::Image;
use super::reached::Reached;
use super::slices::Entry;
use super::state::Missing;
use crate::byte_range::range_at;
use crate::error::Result;
use crate::storage::{MetadataKind, Storage};

/// What the tables of an image reach, in bytes of its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Everything: header, tables, refcount blocks, and guest data.
    pub bytes_in_use: u64,
    /// Guest data alone.
    pub data_bytes: u64,
}

impl<S: Storage> Image<S> {
    /// Counts what the image's tables reach in the storage. Reads every table; nothing must be pending.
    ///
    /// # Errors
    /// If a table is wrong (two references to one cluster, a reference beyond the file), or the storage fails.
    pub async fn usage(&self) -> Result<Usage> {
        let (reached, data_clusters) = self.walk().await?;
        let bits = self.geometry.cluster_bits;
        Ok(Usage { bytes_in_use: reached.count << bits, data_bytes: data_clusters << bits })
    }

    /// The host clusters that the tables reach, and how many of them hold guest data.
    async fn walk(&self) -> Result<(Reached, u64)> {
        let geometry = self.geometry;
        let mut reached = Reached::default();
        let (l1, refcount_table) = {
            let state = self.state.borrow();
            (state.l1.clone(), state.refcount_table.clone())
        };
        let header = self.header();
        let table_bytes = u64::from(header.refcount_table_clusters) << geometry.cluster_bits;
        for (structure, offset, bytes) in [
            ("header", 0, geometry.cluster_size()),
            ("refcount table", header.refcount_table_offset, table_bytes),
            ("L1 table", header.l1_table_offset, u64::from(header.l1_size) * 8),
        ] {
            self.reach(&mut reached, structure, geometry.host_clusters(&range_at(offset, bytes)))?;
        }
        for entry in refcount_table.iter().filter(|entry| **entry != 0) {
            self.reach_table(&mut reached, "refcount block", geometry.host_cluster(*entry)).await?;
        }
        let mut data_clusters = 0;
        for (index, entry) in l1.iter().enumerate().filter(|(_, entry)| **entry & OFFSET_MASK != 0) {
            let table = entry & OFFSET_MASK;
            if entry & L1_RESERVED != 0 || !geometry.is_aligned(table) {
                let problem = format!("entry {index} is {entry:#018x}, which is no cluster's offset");
                let offset = header.l1_table_offset.saturating_add((index as u64).saturating_mul(8));
                return Err(self.blame.invalid("L1 table", offset, problem));
            }
            self.reach_table(&mut reached, "L2 table", geometry.host_cluster(*entry)).await?;
            let read =
                self.storage.read_metadata(MetadataKind::L2Table, table, geometry.cluster_size()).await;
            let table = read.map_err(self.blame.io("reading an L2 table", table))?;
            let words = u64::decode(&table);
            let entries: Vec<u64> = match geometry.has_subclusters() {
                true => words.step_by(2).collect(),
                false => words.collect(),
            };
            for run in data_runs(&entries, &geometry) {
                let run = run.map_err(|entry| {
                    let problem = "counting the clusters of an image with compressed clusters";
                    self.blame.unsupported(format!("{problem} (L2 entry {entry:#018x})"))
                })?;
                let last = geometry.host_offset(run.end).saturating_sub(geometry.cluster_size());
                self.check_within_file("data cluster", last, 1).await?;
                data_clusters = length(&run).saturating_add(data_clusters);
                self.reach(&mut reached, "data cluster", run)?;
            }
        }
        Ok((reached, data_clusters))
    }

    async fn reach_table(
        &self,
        reached: &mut Reached,
        structure: &'static str,
        cluster: HostCluster,
    ) -> Result<()> {
        let offset = self.geometry.host_offset(cluster);
        self.check_within_file(structure, offset, self.geometry.cluster_size()).await?;
        self.reach(reached, structure, cluster..cluster + 1)
    }

    fn reach(&self, reached: &mut Reached, structure: &'static str, run: HostRun) -> Result<()> {
        match reached.mark(run) {
            None => Ok(()),
            Some(cluster) => {
                let problem = "this cluster is used twice: the image is damaged, make it anew";
                Err(self.blame.invalid(structure, self.geometry.host_offset(cluster), problem))
            }
        }
    }

    /// Counts what the tables reach, and frees what they do not: what a crash left behind counts as used in
    /// the storage, although nothing points at it.
    pub(super) async fn reclaim(&self) -> Result<()> {
        let (reached, data_clusters) = self.walk().await?;
        let blocks = self.state.borrow().refcount_table.clone();
        self.check_counted(&reached, &blocks)?;
        for (block, _) in blocks.iter().enumerate().filter(|(_, entry)| **entry != 0) {
            for slice in self.geometry.slices_of_block(block as u64) {
                self.correct_refcounts(slice, &reached).await?;
            }
        }
        {
            let mut state = self.state.borrow_mut();
            state.used = reached.count;
            state.data_clusters = data_clusters;
            state.free_hint = HostCluster(0);
        }
        let end = self.geometry.host_offset(reached.end());
        if self.file_len.get() > end {
            self.storage.set_len(end).await.map_err(self.blame.io("shortening the file", end))?;
            self.file_len.set(end);
        }
        Ok(())
    }

    /// Refuses an image in which something is in use that no refcount block counts.
    fn check_counted(&self, reached: &Reached, blocks: &[u64]) -> Result<()> {
        let geometry = self.geometry;
        let uncounted = (0..geometry.block_of(reached.end() + lowest(geometry.block_bits)))
            .filter(|block| blocks.get(*block as usize).is_none_or(|entry| *entry == 0))
            .find_map(|block| reached.first_in(&geometry.clusters_of_block(block)));
        let Some(cluster) = uncounted else { return Ok(()) };
        let problem =
            format!("it does not count the cluster at {}, which is in use", geometry.host_offset(cluster));
        Err(self.blame.invalid("refcount table", self.header.borrow().refcount_table_offset, problem))
    }

    /// Sets the refcounts of one slice to what was reached, if they differ.
    async fn correct_refcounts(&self, slice: u64, reached: &Reached) -> Result<()> {
        let first = self.geometry.first_of_block_slice(slice);
        let (width, entries) = (self.geometry.width, 1 << self.geometry.block_slice_bits);
        let right = |index: usize| u64::from(reached.contains(first + index as u64));
        self.with_metadata(|state| {
            let counts = state.refcounts.get(slice).ok_or(Missing::RefcountSlice(slice))?;
            if (0..entries).all(|index| width.get(counts, index) == right(index)) {
                return Ok(());
            }
            if let Some(counts) = state.refcounts.get_mut(slice) {
                (0..entries).for_each(|index| width.set(counts, index, right(index)));
            }
            Ok(())
        })
        .await
    }
}

/// The runs of host clusters that the entries of an L2 table point at, in the order of the table. An entry
/// of compressed data ends them.
fn data_runs<'a>(
    entries: &'a [u64],
    geometry: &'a Geometry,
) -> impl Iterator<Item = Result<HostRun, u64>> + 'a {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let empty = rest.iter().take_while(|entry| **entry & (OFFSET_MASK | COMPRESSED) == 0).count();
        rest = rest.get(empty..)?;
        let first = *rest.first()?;
        if first & COMPRESSED != 0 {
            rest = &[];
            return Some(Err(first));
        }
        let start = geometry.host_cluster(first);
        let goes_on = |(number, entry): &(u64, &u64)| {
            **entry & COMPRESSED == 0 && geometry.host_cluster(**entry) == start + *number
        };
        let clusters = (0..).zip(rest).take_while(goes_on).count();
        rest = rest.get(clusters..)?;
        Some(Ok(start..start + clusters as u64))
    })
}
