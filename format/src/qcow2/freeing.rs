//! Clusters on their way to being free.
//!
//! A cluster that the tables in memory no longer refer to must not be handed out yet: a table in the storage may
//! still point at it, and a request that began before may still be reading it or writing into it. So it waits, first
//! until the tables without it are durable, then until every request has ended that had begun by then; only then does
//! its refcount go down.

use super::geometry::{HostRun, length};
use super::image::Image;
use crate::runtime::Event;
use crate::storage::Storage;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// One reference less to each cluster of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Freed {
    pub clusters: HostRun,
    /// The guest has said that it needs the data no more: the host may have the room.
    pub discard: bool,
}

impl Freed {
    /// Of clusters that others may still refer to.
    pub fn reference(clusters: HostRun) -> Self {
        Freed { clusters, discard: false }
    }

    /// Of clusters that the guest has discarded.
    pub fn discarded(clusters: HostRun) -> Self {
        Freed { clusters, discard: true }
    }
}

/// Requests under way, in two generations, and what waits for those of each to end.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Requests of the generations with even and with odd numbers.
    users: [Cell<u64>; 2],
    generation: Cell<usize>,
    /// Freed before the present generation began, and since.
    before: RefCell<Vec<Freed>>,
    since: RefCell<Vec<Freed>>,
    /// Notified when the last request of a generation ends.
    ended: Event,
}

/// A request that may be using what was mapped when it began.
#[derive(Debug)]
pub(crate) struct Use {
    waiting: Rc<Waiting>,
    generation: usize,
}

impl Drop for Use {
    fn drop(&mut self) {
        let users = self.waiting.users(self.generation);
        users.update(|users| users.saturating_sub(1));
        if users.get() == 0 {
            self.waiting.ended.notify();
        }
    }
}

impl Waiting {
    fn users(&self, generation: usize) -> &Cell<u64> {
        let [even, odd] = &self.users;
        if generation.is_multiple_of(2) { even } else { odd }
    }

    fn begin(self: &Rc<Self>) -> Use {
        let generation = self.generation.get();
        let users = self.users(generation);
        users.update(|users| users.saturating_add(1));
        Use { waiting: self.clone(), generation }
    }

    /// Waits until no request is under way, not even one whose caller has gone away.
    pub async fn wait_until_unused(&self) {
        loop {
            let ended = self.ended.listen();
            if self.users.iter().all(|users| users.get() == 0) {
                return;
            }
            ended.await;
        }
    }

    fn add(&self, freed: Vec<Freed>) {
        self.since.borrow_mut().extend(freed);
    }

    /// What no request can be using any more.
    fn take_unused(&self) -> Vec<Freed> {
        let mut unused = Vec::new();
        // At most: what waits for the last generation, and what now waits for this one.
        for _ in 0..2 {
            if self.users(self.generation.get().wrapping_add(1)).get() != 0 {
                break;
            }
            unused.append(&mut self.before.borrow_mut());
            if self.since.borrow().is_empty() {
                break;
            }
            *self.before.borrow_mut() = self.since.take();
            self.generation.update(|generation| generation.wrapping_add(1));
        }
        if self.users.iter().all(|users| users.get() == 0) {
            unused.append(&mut self.before.borrow_mut());
        }
        unused
    }
}

impl<S: Storage> Image<S> {
    /// Says that a request begins that will use what it finds mapped, until the value is dropped.
    pub(crate) fn begin_use(&self) -> Use {
        self.waiting.begin()
    }

    /// Waits until nothing is in flight and no request is under way, not even one whose caller has gone away.
    pub(super) async fn wait_until_idle(&self) {
        loop {
            let idle = self.idle.listen();
            if self.in_flight.borrow().is_empty() {
                break;
            }
            idle.await;
        }
        self.waiting.wait_until_unused().await;
    }

    /// Takes note of clusters to which no table in the storage refers any more, and frees those that nobody uses.
    pub(super) async fn free_unused(&self, freed: Vec<Freed>) {
        self.waiting.add(freed);
        let unused = self.waiting.take_unused();
        if !unused.is_empty() {
            self.forget_decompressed();
        }
        for Freed { clusters, discard } in unused {
            if discard && self.options.discard {
                let bytes = length(&clusters) << self.geometry.cluster_bits;
                // The room is wanted back, and not owed.
                let _ = self.storage.discard(self.geometry.host_offset(clusters.start), bytes).await;
            }
            self.remove_references(&[clusters]).await;
        }
    }

    /// Counts one reference less to each cluster of some runs.
    pub(super) async fn remove_references(&self, runs: &[HostRun]) {
        for run in runs {
            let mut rest = run.clone();
            while !rest.is_empty() {
                match self.with_metadata(|state| state.remove_references(&rest)).await {
                    Ok(end) => rest.start = end,
                    // A refcount that cannot be read cannot be lowered: the cluster leaks, which harms nobody.
                    Err(_) => break,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::geometry::HostCluster;
    use super::*;

    fn freed(cluster: u64) -> Vec<Freed> {
        vec![Freed::reference(HostCluster(cluster)..HostCluster(cluster + 1))]
    }

    #[test]
    fn what_nobody_uses_is_free_at_once() {
        let waiting = Rc::new(Waiting::default());
        waiting.add(freed(1));
        assert_eq!(waiting.take_unused(), freed(1));
        assert_eq!(waiting.take_unused(), []);
    }

    #[test]
    fn what_a_request_may_use_waits_until_it_ends() {
        let waiting = Rc::new(Waiting::default());
        let first = waiting.begin();
        waiting.add(freed(1));
        assert_eq!(waiting.take_unused(), []);
        // One that begins later cannot use cluster 1, but may use 2.
        let second = waiting.begin();
        waiting.add(freed(2));
        assert_eq!(waiting.take_unused(), []);
        drop(first);
        assert_eq!(waiting.take_unused(), freed(1));
        assert_eq!(waiting.take_unused(), []);
        drop(second);
        assert_eq!(waiting.take_unused(), freed(2));
    }

    #[test]
    fn requests_that_follow_each_other_hold_nothing_up_for_ever() {
        let waiting = Rc::new(Waiting::default());
        let mut current = waiting.begin();
        for cluster in 0..10 {
            waiting.add(freed(cluster));
            waiting.take_unused();
            let next = waiting.begin();
            drop(current);
            current = next;
        }
        waiting.take_unused();
        let left = waiting.before.borrow().len() + waiting.since.borrow().len();
        assert!(left <= 2, "{left}");
        drop(current);
    }
}
