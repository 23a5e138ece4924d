//! What disks ask of an image: mapping, and operations on clusters that take a while.
//!
//! An operation that gives clusters a mapping is registered while it is in flight: its host clusters are
//! reserved in one synchronous step, then its data is awaited, then it is committed in another. Whoever
//! needs one of its subclusters meanwhile waits for it, and looks again.

use super::freeing::Use;
use super::geometry::*;
use super::image::Image;
use super::mapping::{Kind, Run};
use super::reservation::Reservation;
use super::state::{State, Stop};
use super::zeroing::ZeroStep;
use crate::byte_range::{length_of, range_at};
use crate::disk::Piece;
use crate::error::Result;
use crate::runtime::{Event, LocalFuture, Outliving};
use crate::storage::{Payload, Storage};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

/// L2 slices that one step maps at most.
const SLICES_PER_STEP: u64 = 64;

/// How far an operation on unmapped clusters has come.
#[derive(Debug)]
pub(crate) enum Progress<P> {
    /// Data is on its way.
    Waiting,
    /// A fetch has its data; the copy into the cache goes on.
    Fetched(SmallVec<[Piece<P>; 2]>),
    /// It failed before there was data.
    Failed(crate::Error),
}

/// An allocating write or a fetch that is under way. Whoever needs one of its clusters queues here.
#[derive(Debug)]
pub(crate) struct InFlight<P> {
    /// Subclusters of the disk.
    pub guest: GuestRun,
    pub progress: RefCell<Progress<P>>,
    /// The operation is over, and no longer on the image's list.
    pub done: Cell<bool>,
    /// Notified whenever one of the above changes.
    pub changed: Event,
}

impl<S: Storage> Image<S> {
    /// Subclusters that one step handles at most from `start` on, within `range` of bytes.
    fn step(&self, range: &Range<u64>) -> GuestRun {
        let run = self.geometry.subclusters(range);
        let first_slice = self.geometry.slice_of(self.geometry.cluster_of(run.start));
        let end_slice = first_slice.saturating_add(SLICES_PER_STEP);
        let end = self.geometry.first_of_cluster(self.geometry.first_of_slice(end_slice));
        run.start..run.end.min(end)
    }

    /// The bytes of `range` that lie before subcluster `end`.
    pub(crate) fn bytes_before(&self, range: &Range<u64>, end: Subcluster) -> Range<u64> {
        range.start..range.end.min(self.geometry.guest_offset(end))
    }

    /// The bytes of the disk that whole subclusters cover.
    pub(crate) fn bytes_of(&self, run: &GuestRun) -> Range<u64> {
        self.geometry.guest_offset(run.start)..self.geometry.guest_offset(run.end)
    }

    /// The subclusters that a range of bytes of the disk touches.
    pub(crate) fn subclusters(&self, range: &Range<u64>) -> GuestRun {
        self.geometry.subclusters(range)
    }

    /// Maps the first bytes of a range.
    pub(crate) async fn map(&self, range: &Range<u64>) -> Result<Run> {
        let run = self.step(range);
        self.with_metadata(|state| state.map(&run)).await
    }

    /// Maps the first bytes of a range; where they are unmapped, begins to copy them, or joins a copy that
    /// is under way.
    pub(crate) async fn map_or_fill(&self, range: &Range<u64>) -> Result<FillStep<S::Payload>> {
        let step = self.step(range);
        self.with_metadata(|state| {
            if let Some(other) = self.overlapping(&(step.start..step.start + 1)) {
                return Ok(FillStep::Join(other));
            }
            let run = state.map(&step)?;
            if run.kind != Kind::Absent {
                return Ok(FillStep::Run(run));
            }
            let end = self.next_in_flight(step.start, run.end);
            Ok(match state.reserve(step.start..end)? {
                Some(reservation) => FillStep::Fetch(self.register(reservation.guest.clone()), reservation),
                None => FillStep::Run(Run { kind: Kind::Absent, end }),
            })
        })
        .await
    }

    /// Decides where the first bytes of a guest's write go. What needs new clusters is registered as in
    /// flight; what overlaps an operation in flight waits for that to end.
    pub(crate) async fn begin_write(&self, range: &Range<u64>) -> Result<WriteStep<S::Payload>> {
        self.check_writable()?;
        let step = self.step(range);
        loop {
            let begun = self
                .with_metadata(|state| {
                    let first = step.start..step.start + 1;
                    let earlier = || first_overlapping(&self.left_behind.borrow(), &step);
                    if let Some(other) = self.overlapping(&first).or_else(earlier) {
                        return Ok(Err(other));
                    }
                    let run = state.map(&step)?;
                    let end = self.next_in_flight(step.start, run.end);
                    let (reservation, source) = match run_to_write(state, step.start..end, run.kind)? {
                        ToWrite::InPlace(host) => {
                            return Ok(Ok(Some(WriteStep::InPlace { host, end, using: self.begin_use() })));
                        }
                        ToWrite::Unmapped(source) => (state.reserve(step.start..end)?, source),
                        ToWrite::Prepared(reservation) => (Some(reservation), CopySource::Zeroes),
                        ToWrite::Replacing(source) => {
                            let clusters = state.geometry.clusters_of(&(step.start..end));
                            let whole = state.geometry.first_of_cluster(clusters.start)
                                ..state.geometry.first_of_cluster(clusters.end);
                            if let Some(other) = self.overlapping(&whole) {
                                return Ok(Err(other));
                            }
                            (state.reserve_replacement(&clusters)?, source)
                        }
                    };
                    Ok(Ok(reservation.map(|reservation| {
                        let record = self.register(reservation.guest.clone());
                        WriteStep::New { record, reservation, source }
                    })))
                })
                .await?;
            match begun {
                Ok(Some(step)) => return Ok(step),
                Ok(None) => return Err(self.blame.refused("the image has no room for another cluster")),
                Err(other) => other.wait_until_done().await,
            }
        }
    }

    /// Sets a place aside for a cluster that is written as `bytes` bytes of compressed data.
    pub(crate) async fn begin_compressed_write(
        &self,
        cluster: GuestCluster,
        bytes: u64,
    ) -> Result<(Rc<InFlight<S::Payload>>, Reservation)> {
        self.check_writable()?;
        let run = self.geometry.first_of_cluster(cluster)..self.geometry.first_of_cluster(cluster + 1);
        loop {
            let begun = self
                .with_metadata(|state| match self.overlapping(&run) {
                    Some(other) => Ok(Err(other)),
                    None => state.reserve_compressed(cluster, bytes).map(Ok),
                })
                .await?;
            match begun {
                Ok(Some(reservation)) => return Ok((self.register(run), reservation)),
                Ok(None) => return Err(self.blame.refused("the image has no room for another cluster")),
                Err(other) => other.wait_until_done().await,
            }
        }
    }

    /// Repeats a step that makes a part of a run read as zeroes, until all of it does. Returns the parts for which
    /// zeroes have to be written. A step of whole clusters waits for whatever is in flight on a part of one.
    async fn zero_steps(
        &self,
        run: GuestRun,
        whole_clusters: bool,
        mut step: impl FnMut(&mut State, &GuestRun) -> Result<ZeroStep, Stop>,
    ) -> Result<Vec<Range<u64>>> {
        self.check_writable()?;
        let mut to_be_written = Vec::new();
        let mut at = run.start;
        while at < run.end {
            let done = self
                .with_metadata(|state| {
                    let cluster = state.geometry.cluster_of(at);
                    let unit = match whole_clusters {
                        true => at..state.geometry.first_of_cluster(cluster + 1),
                        false => at..at + 1,
                    };
                    if let Some(other) = self.overlapping(&unit) {
                        return Ok(Err(other));
                    }
                    let mut end = self.next_in_flight(at, run.end);
                    if whole_clusters && end < run.end {
                        end = state.geometry.first_of_cluster(state.geometry.cluster_of(end));
                    }
                    step(state, &(at..end)).map(Ok)
                })
                .await?;
            match done {
                Ok(ZeroStep::Done(end)) => at = end,
                Ok(ZeroStep::ToBeWritten(end)) => {
                    to_be_written.push(self.bytes_of(&(at..end)));
                    at = end;
                }
                Ok(ZeroStep::NoRoom) => {
                    return Err(self.blame.refused("the image has no room for another table"));
                }
                Err(other) => other.wait_until_done().await,
            }
            // A range that takes many tables does not take as much memory.
            self.publish_if_crowded().await?;
        }
        Ok(to_be_written)
    }

    /// Makes whole subclusters read as zeroes. Only for version 3. Returns parts for which that has to be written.
    pub(crate) async fn set_zero(&self, run: GuestRun, unmap: bool) -> Result<Vec<Range<u64>>> {
        self.zero_steps(run, false, |state, run| state.set_zero(run, unmap)).await
    }

    /// Takes the data of whole clusters away; see [`State::discard`].
    pub(crate) async fn discard_clusters(&self, run: GuestRun, is_backed: bool) -> Result<()> {
        self.zero_steps(run, true, |state, run| state.discard(run, is_backed)).await.map(drop)
    }

    /// Takes the mapping of whole clusters away.
    pub(super) async fn unmap_clusters(&self, run: GuestRun) -> Result<()> {
        self.zero_steps(run, true, |state, run| state.unmap(run)).await.map(drop)
    }

    /// The first operation in flight on some subclusters.
    fn overlapping(&self, run: &GuestRun) -> Option<Rc<InFlight<S::Payload>>> {
        first_overlapping(&self.in_flight.borrow(), run)
    }

    /// Whether another operation than this one is in flight on a part of a cluster.
    fn is_in_flight_besides(&self, record: &InFlight<S::Payload>, cluster: GuestCluster) -> bool {
        let run = self.geometry.first_of_cluster(cluster)..self.geometry.first_of_cluster(cluster + 1);
        let overlaps = |other: &InFlight<_>| other.guest.start < run.end && run.start < other.guest.end;
        self.in_flight.borrow().iter().any(|other| !std::ptr::eq(&**other, record) && overlaps(other))
    }

    /// The first subcluster after `start`, and before `end`, on which an operation is in flight; else `end`.
    fn next_in_flight(&self, start: Subcluster, end: Subcluster) -> Subcluster {
        let list = self.in_flight.borrow();
        list.iter().map(|other| other.guest.start).filter(|first| *first >= start).fold(end, Subcluster::min)
    }

    fn register(&self, guest: GuestRun) -> Rc<InFlight<S::Payload>> {
        let record = InFlight::new(guest);
        self.in_flight.borrow_mut().push(record.clone());
        record
    }

    /// Writes data in place, from `offset` of the file that holds it on. If the caller goes away the storage may be busy
    /// with it still: the write goes on, its clusters stay in use, and a later write to one of its subclusters waits, lest
    /// the earlier one undo it.
    pub(crate) async fn write_in_place(
        self: &Rc<Self>,
        guest: GuestRun,
        using: Use,
        offset: u64,
        data: S::Payload,
    ) -> Result<()> {
        let (writer, keeper) = (self.clone(), self.clone());
        let write: LocalFuture<Result<()>> =
            Box::pin(async move { writer.write_data(offset, &[data]).await });
        let hand_over = move |write: LocalFuture<Result<()>>| {
            let record = InFlight::new(guest);
            keeper.left_behind.borrow_mut().push(record.clone());
            let runtime = keeper.runtime.clone();
            runtime.spawn(Box::pin(async move {
                // There is nobody left to be told how it ended.
                let _ = write.await;
                drop(using);
                keeper.left_behind.borrow_mut().retain(|other| !Rc::ptr_eq(other, &record));
                record.end();
            }));
        };
        Outliving::new(write, hand_over).await
    }

    /// Writes data onto reserved places: `parts` together cover the reservation.
    pub(crate) async fn write_reserved(&self, reservation: &Reservation, parts: &[S::Payload]) -> Result<()> {
        if let [host] = reservation.host.as_slice() {
            return self.write_data(host.start, parts).await;
        }
        let whole = S::Payload::concat(parts);
        let mut at = 0;
        for host in &reservation.host {
            let part = range_at(at, length_of(host));
            at = part.end;
            self.write_data(host.start, &[whole.slice(part)]).await?;
        }
        Ok(())
    }

    /// Writes guest data at an offset of the file that holds it.
    pub(crate) async fn write_data(&self, offset: u64, parts: &[S::Payload]) -> Result<()> {
        self.data_storage().write(offset, parts).await.map_err(self.blame.io("writing data", offset))?;
        if self.data_file.is_none() {
            self.note_written(offset, parts.iter().map(Payload::len).sum());
        }
        Ok(())
    }

    /// Whether the storage itself has copied guest data of another one to an offset of the file that holds it here.
    pub(crate) async fn copy_data(&self, source: &S, from: &Range<u64>, to: u64) -> bool {
        let is_copied = self.data_storage().copy_from(source, from, to).await;
        if is_copied && self.data_file.is_none() {
            self.note_written(to, length_of(from));
        }
        is_copied
    }

    /// Ends an operation whose data is in place: the subclusters are mapped, those for which `is_hole` holds
    /// as zeroes.
    pub(crate) async fn commit(
        self: &Rc<Self>,
        record: &InFlight<S::Payload>,
        reservation: &Reservation,
        is_hole: impl Fn(Subcluster) -> bool,
    ) {
        let is_shared = |cluster| self.is_in_flight_besides(record, cluster);
        let unused = self.state.borrow_mut().commit(reservation, is_hole, is_shared);
        self.free(&unused).await;
        self.finish(record);
        self.publish_when_due();
    }

    /// Ends an operation that failed: nothing is mapped, the clusters are free again.
    pub(crate) async fn abandon(&self, record: &InFlight<S::Payload>, reservation: &Reservation) {
        let is_shared = |cluster| self.is_in_flight_besides(record, cluster);
        let unused = self.state.borrow_mut().release(reservation, is_shared);
        self.free(&unused).await;
        self.finish(record);
    }

    async fn free(&self, unused: &[HostRun]) {
        if !unused.is_empty() {
            // Seldom, and in memory of its own: with it the task of every write would outgrow what is allocated fast.
            Box::pin(self.remove_references(unused)).await;
        }
    }

    fn finish(&self, record: &InFlight<S::Payload>) {
        self.in_flight.borrow_mut().retain(|other| !std::ptr::eq(&**other, record));
        record.end();
        self.idle.notify();
    }
}

/// What the untouched rest of a newly written cluster is copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopySource {
    /// The layers below.
    Below,
    /// The cluster that is replaced, and where it has nothing the layers below.
    Replaced,
    Zeroes,
}

/// The first step of a read through a cache that is being filled.
pub(crate) enum FillStep<P> {
    /// The cache has it, or has no room for it (`Kind::Absent`).
    Run(Run),
    /// It is on its way already.
    Join(Rc<InFlight<P>>),
    /// The caller is to fetch it and to copy it here.
    Fetch(Rc<InFlight<P>>, Reservation),
}

/// The first step of a guest's write.
pub(crate) enum WriteStep<P> {
    /// Onto what is mapped: up to subcluster `end`, from byte `host` on, where the first subcluster begins.
    InPlace { host: u64, end: Subcluster, using: Use },
    /// Onto reserved places, whose untouched rest comes from `source`.
    New { record: Rc<InFlight<P>>, reservation: Reservation, source: CopySource },
}

/// The first of some operations that is about one of some subclusters.
fn first_overlapping<P>(operations: &[Rc<InFlight<P>>], run: &GuestRun) -> Option<Rc<InFlight<P>>> {
    operations.iter().find(|other| other.guest.start < run.end && run.start < other.guest.end).cloned()
}

impl<P> InFlight<P> {
    fn new(guest: GuestRun) -> Rc<Self> {
        Rc::new(InFlight {
            guest,
            progress: RefCell::new(Progress::Waiting),
            done: Cell::new(false),
            changed: Event::new(),
        })
    }

    fn end(&self) {
        self.done.set(true);
        self.changed.notify();
    }

    pub async fn wait_until_done(&self) {
        while !self.done.get() {
            self.changed.listen().await;
        }
    }
}

/// How a run of one kind is written.
enum ToWrite {
    /// Where it lies, from this byte on.
    InPlace(u64),
    /// On new places, in host clusters that are already there as far as possible.
    Unmapped(CopySource),
    /// On places that were in reserve.
    Prepared(Reservation),
    /// On new clusters, instead of those that others refer to as well, or that are compressed.
    Replacing(CopySource),
}

fn run_to_write(state: &mut State, run: GuestRun, kind: Kind) -> Result<ToWrite, Stop> {
    let bytes = state.geometry.guest_length(&run);
    let check = |state: &State, offset| match state.data_file {
        true => Ok(()),
        false => state.check_no_table(&state.geometry.host_clusters(&range_at(offset, bytes))),
    };
    match kind {
        Kind::Data { offset, copied } if copied || state.data_file => {
            check(state, offset)?;
            Ok(ToWrite::InPlace(offset))
        }
        Kind::ZeroAllocated { offset, copied } if copied || state.data_file => {
            check(state, offset)?;
            let reservation = Reservation::in_place(run, range_at(offset, bytes));
            state.pin(&reservation);
            Ok(ToWrite::Prepared(reservation))
        }
        Kind::Data { .. } | Kind::Compressed(_) => Ok(ToWrite::Replacing(CopySource::Replaced)),
        Kind::ZeroAllocated { .. } => Ok(ToWrite::Replacing(CopySource::Zeroes)),
        Kind::Absent | Kind::Zero if state.shares_host(run.start)? => {
            Ok(ToWrite::Replacing(CopySource::Replaced))
        }
        Kind::Absent => Ok(ToWrite::Unmapped(CopySource::Below)),
        Kind::Zero => Ok(ToWrite::Unmapped(CopySource::Zeroes)),
    }
}
