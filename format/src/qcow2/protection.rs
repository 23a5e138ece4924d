//! What a damaged image must not make a guest write over: its own tables.

use super::geometry::*;
use super::header::{Header, incompatible};
use super::image::{Image, Mode};
use super::reached::Reached;
use crate::error::{Blame, Error, Result};
use crate::storage::Storage;

/// The clusters that hold the tables which a header, an L1 table and a refcount table name, as far as the file goes.
pub(super) fn tables_of(header: &Header, l1: &[u64], refcount_table: &[u64], file_len: u64) -> Reached {
    let geometry = Geometry::of(header);
    let mut tables = Reached::default();
    let table_bytes = u64::from(header.refcount_table_clusters) << header.cluster_bits;
    let single = l1.iter().chain(refcount_table).map(|entry| (entry & OFFSET_MASK, geometry.cluster_size()));
    let whole = [
        (header.l1_table_offset, u64::from(header.l1_size) * 8),
        (header.refcount_table_offset, table_bytes),
    ];
    tables.mark(HostCluster(0)..HostCluster(1));
    for (offset, bytes) in single.chain(whole) {
        let end = offset.saturating_add(bytes);
        if offset != 0 && bytes != 0 && offset < file_len {
            let run = geometry.host_clusters(&(offset..end.min(file_len)));
            // Tables that overlap are for a check to find.
            (run.start.0..run.end.0).map(HostCluster).for_each(|cluster| {
                tables.mark(cluster..cluster + 1);
            });
        }
    }
    tables
}

/// Refuses a refcount table that names a block twice. It would count two places at once, and a search for free clusters
/// could go through one full block of a small file for as long as the table is.
pub(super) fn check_blocks_differ(header: &Header, refcount_table: &[u64], blame: &Blame) -> Result<()> {
    let entries = (0u64..).zip(refcount_table).map(|(index, entry)| (entry & OFFSET_MASK, index));
    let mut blocks: Vec<(u64, u64)> = entries.filter(|(offset, _)| *offset != 0).collect();
    blocks.sort_unstable();
    let shared = blocks.windows(2).find_map(|pair| match pair {
        [(one, first), (other, second)] if one == other => Some((one, first, second)),
        _ => None,
    });
    let Some((offset, first, second)) = shared else { return Ok(()) };
    let problem = format!(
        "entries {first} and {second} both point at the block at offset {offset}; a check that repairs all makes new ones"
    );
    Err(blame.invalid("refcount table", header.refcount_table_offset, problem))
}

impl<S: Storage> Image<S> {
    /// Takes note that the image's file is wrong somewhere: one that guests write is written no more, and says so to
    /// whoever opens it next. Returns the error itself.
    pub(super) async fn found_damage(&self, error: Error) -> Error {
        if self.mode() != Mode::Write || self.damage.borrow().is_some() {
            return error;
        }
        *self.damage.borrow_mut() = Some(error.clone());
        let mut header = self.header();
        if header.version >= 3 && header.incompatible_features & incompatible::CORRUPT == 0 {
            header.incompatible_features |= incompatible::CORRUPT;
            // That this fails changes nothing for the caller, who has an error already.
            if self.write_header(&header).await.is_ok() {
                *self.header.borrow_mut() = header;
            }
        }
        error
    }

    /// Refuses to change an image that was found damaged.
    pub(super) fn check_writable(&self) -> Result<()> {
        match &*self.damage.borrow() {
            Some(Error::Invalid { image, structure, offset, problem }) => {
                let problem = format!(
                    "it is written no more since it was found damaged: {structure} at offset {offset}: {problem}"
                );
                Err(Blame(image.clone()).refused(problem))
            }
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}
