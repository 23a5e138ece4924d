//! Copy-on-read: filling a cache with what is read through it.

use super::{Piece, Stack};
use crate::byte_range::length_of;
use crate::qcow2::{Image, InFlight, Progress, Reservation, Subcluster};
use crate::storage::{DataKind, Storage};
use std::ops::Range;
use std::rc::Rc;

impl<S: Storage> Stack<S> {
    /// Fetches whole clusters from below layer `number` and copies them into its cache, as a task: whoever
    /// reads them waits for the record, and nobody's going away stops it.
    pub(super) fn spawn_fill(
        self: &Rc<Self>,
        number: usize,
        cache: Rc<Image<S>>,
        record: Rc<InFlight<S::Payload>>,
        reservation: Reservation,
    ) {
        let stack = self.clone();
        self.runtime.spawn(Box::pin(async move {
            let range = cache.bytes_of(&record.guest);
            let bytes = length_of(&range);
            stack.copying.update(|copying| copying.saturating_add(bytes));
            stack.fill(number, &cache, &record, reservation).await;
            stack.copying.update(|copying| copying.saturating_sub(bytes));
        }));
    }

    async fn fill(
        self: &Rc<Self>,
        number: usize,
        cache: &Rc<Image<S>>,
        record: &InFlight<S::Payload>,
        reservation: Reservation,
    ) {
        let range = cache.bytes_of(&record.guest);
        let pieces = match self.read(number.saturating_add(1), range.clone(), DataKind::Guest).await {
            Ok(pieces) => pieces,
            Err(error) => {
                *record.progress.borrow_mut() = Progress::Failed(error);
                record.changed.notify();
                return cache.abandon(record, &reservation).await;
            }
        };
        let has_holes = pieces.iter().any(|piece| piece.data.is_none());
        let data: Vec<S::Payload> = pieces.iter().map(Piece::payload).collect();
        let holes: Vec<Range<u64>> = match has_holes && cache.header().version >= 3 {
            true => {
                pieces.iter().filter(|piece| piece.data.is_none()).map(|piece| piece.range.clone()).collect()
            }
            false => vec![],
        };
        *record.progress.borrow_mut() = Progress::Fetched(pieces);
        record.changed.notify();

        // Whole subclusters that nothing below has need no place here.
        let is_hole = |subcluster: Subcluster| {
            let bytes = cache.bytes_of(&(subcluster..subcluster + 1));
            holes.iter().any(|hole| hole.start <= bytes.start && bytes.end <= hole.end)
        };
        let all_holes = holes.iter().any(|hole| hole.start <= range.start && range.end <= hole.end);
        let written = match all_holes {
            true => Ok(()),
            false => cache.write_reserved(&reservation, &data).await,
        };
        match written {
            Ok(()) => cache.commit(record, &reservation, is_hole).await,
            Err(_) => {
                // The guest has its data; only the copy is lost.
                cache.failed_fills.update(|fills| fills.saturating_add(1));
                cache.abandon(record, &reservation).await;
            }
        }
    }
}
