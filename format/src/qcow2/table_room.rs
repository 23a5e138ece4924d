//! Room for tables where clusters are smaller than the host's pages.
//!
//! Were a table of a few hundred bytes to lie between the data of every few requests, it would be a request of its own
//! whenever it is published, and push what the guest writes off the pages of the host. So free clusters are kept for
//! tables, a group at a time. Nothing is counted before a table takes it: a crash leaves nothing behind.
//!
//! Not so in a cache: a boot reads it in the order in which a boot has filled it, and finds a table best beside its data.

use super::allocation::FreeClusters;
use super::geometry::*;
use super::state::{Missing, State, Stop, take_first};
use crate::byte_range::round_down;

/// Binary logarithm of the bytes of a page of the host.
pub(super) const PAGE_BITS: u32 = 12;
/// Pages of a group.
const GROUP_PAGES: u64 = 16;

impl State {
    /// How many of so many tables can lie in the room that is kept for them; what counts it is in memory then.
    pub(super) fn table_room_for(&mut self, tables: u64) -> Result<u64, Stop> {
        if tables > 0 && self.table_room.is_empty() && self.keeps_table_room {
            self.keep_table_room()?;
        }
        let count = tables.min(length(&self.table_room));
        let start = self.table_room.start;
        (0..count).try_for_each(|number| self.refcount(start + number).map(drop))?;
        Ok(count)
    }

    /// Keeps the next free clusters for tables, unless few are left.
    fn keep_table_room(&mut self) -> Result<(), Stop> {
        let page_bits = PAGE_BITS.saturating_sub(self.geometry.cluster_bits);
        let wanted = GROUP_PAGES << page_bits;
        let free = match self.find_free(wanted) {
            // For this alone the refcount table need not become larger.
            Err(Stop::Missing(Missing::RefcountTable)) => return Ok(()),
            found => found?,
        };
        let longest = free.runs.iter().max_by_key(|run| length(run)).cloned();
        let Some(run) = longest.filter(|_| free.found == wanted) else { return Ok(()) };
        self.check_no_table(&run)?;
        for (block, cluster) in free.blocks {
            if self.geometry.block_of(run.start) == block {
                self.check_no_table(&(cluster..cluster + 1))?;
                self.add_block(block, cluster);
            }
        }
        // The data behind begins with a page.
        let end = HostCluster(round_down(run.end.0, 1 << page_bits));
        self.table_room = run.start..if end > run.start { end } else { run.end };
        Ok(())
    }

    /// Takes the first cluster of the room for tables, or else of others that were taken for that.
    pub(super) fn take_for_table(&mut self, from_room: bool, others: &mut HostRuns) -> HostCluster {
        if !from_room {
            return take_first(others);
        }
        let cluster = self.table_room.start;
        self.table_room.start += 1;
        self.set_refcounts(cluster..cluster + 1, 1);
        cluster
    }

    /// Takes one cluster for a table; `None` if there is none.
    pub(super) fn take_table(&mut self) -> Result<Option<HostCluster>, Stop> {
        if self.table_room_for(1)? == 1 {
            return Ok(Some(self.take_for_table(true, &mut HostRuns::new())));
        }
        let mut free = self.find_free(1)?;
        Ok(match free.found {
            0 => None,
            _ => Some(take_first(&mut self.take(&mut free, 1)?)),
        })
    }

    /// Lets data have the room that was kept for tables.
    pub(super) fn give_up_table_room(&mut self) {
        let room = std::mem::take(&mut self.table_room);
        if !room.is_empty() {
            self.free_hint = self.free_hint.min(room.start);
        }
    }
}

impl FreeClusters {
    /// Where a refcount block that counts the clusters from `at` on is to lie: in room for tables, or there itself.
    pub(super) fn place_of_block(&mut self, at: HostCluster) -> HostCluster {
        if self.table_room.is_empty() {
            return at;
        }
        self.table_room.end = HostCluster(self.table_room.end.0.saturating_sub(1));
        self.table_room.end
    }
}
