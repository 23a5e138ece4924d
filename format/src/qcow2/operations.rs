//! What disks ask of an image: mapping, and operations on clusters that take a while.
//!
//! An operation that gives clusters a mapping is registered while it is in flight: its host clusters are
//! reserved in one synchronous step, then its data is awaited, then it is committed in another. Whoever
//! needs one of its clusters meanwhile waits for it, and looks again.

use super::geometry::*;
use super::image::Image;
use super::state::*;
use crate::disk::Piece;
use crate::error::Result;
use crate::runtime::Event;
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
    /// Guest clusters.
    pub clusters: GuestRun,
    pub progress: RefCell<Progress<P>>,
    /// The operation is over, and no longer on the image's list.
    pub done: Cell<bool>,
    /// Notified whenever one of the above changes.
    pub changed: Event,
}

impl<S: Storage> Image<S> {
    /// Guest clusters that one step handles at most from `start` on, within `range` of bytes.
    fn step(&self, range: &Range<u64>) -> GuestRun {
        let clusters = self.geometry.guest_clusters(range);
        let last_slice = self.geometry.slice_of(clusters.start) + SLICES_PER_STEP;
        clusters.start..clusters.end.min(self.geometry.first_of_slice(last_slice))
    }

    /// The bytes of `range` that lie before the end of guest cluster `end`.
    pub(crate) fn bytes_before(&self, range: &Range<u64>, end: GuestCluster) -> Range<u64> {
        range.start..range.end.min(self.geometry.guest_offset(end))
    }

    /// The bytes of the disk that whole clusters cover.
    pub(crate) fn bytes_of(&self, clusters: &GuestRun) -> Range<u64> {
        self.geometry.guest_offset(clusters.start)..self.geometry.guest_offset(clusters.end)
    }

    /// Where a host cluster begins in the file, in bytes.
    pub(crate) fn host_offset(&self, cluster: HostCluster) -> u64 {
        self.geometry.host_offset(cluster)
    }

    /// Maps the first bytes of a range.
    pub(crate) async fn map(&self, range: &Range<u64>) -> Result<Run> {
        let clusters = self.step(range);
        self.with_metadata(|state| state.map(&clusters)).await
    }

    /// Maps the first bytes of a range; where they are unmapped, begins to copy them, or joins a copy that
    /// is under way.
    pub(crate) async fn map_or_fill(&self, range: &Range<u64>) -> Result<FillStep<S::Payload>> {
        let clusters = self.step(range);
        self.with_metadata(|state| {
            if let Some(other) = self.overlapping(clusters.start) {
                return Ok(FillStep::Join(other));
            }
            let run = state.map(&clusters)?;
            if run.kind != Kind::Absent {
                return Ok(FillStep::Run(run));
            }
            let end = self.next_in_flight(clusters.start, run.end);
            Ok(match state.reserve(clusters.start..end)? {
                Some(reservation) => FillStep::Fetch(self.register(reservation.guest.clone()), reservation),
                None => FillStep::Run(Run { kind: Kind::Absent, end }),
            })
        })
        .await
    }

    /// Decides where the first bytes of a guest's write go. What needs new clusters is registered as in
    /// flight; what overlaps an operation in flight waits for that to end.
    pub(crate) async fn begin_write(&self, range: &Range<u64>) -> Result<WriteStep<S::Payload>> {
        let clusters = self.step(range);
        loop {
            let step = self
                .with_metadata(|state| {
                    if let Some(other) = self.overlapping(clusters.start) {
                        return Ok(Err(other));
                    }
                    let run = state.map(&clusters)?;
                    let end = self.next_in_flight(clusters.start, run.end);
                    write_run(state, clusters.start..end, run.kind).map(Ok)
                })
                .await?;
            match step {
                Ok(Some(WriteRun::InPlace { host, end })) => return Ok(WriteStep::InPlace { host, end }),
                Ok(Some(WriteRun::New { reservation, source })) => {
                    let record = self.register(reservation.guest.clone());
                    return Ok(WriteStep::New { record, reservation, source });
                }
                Ok(None) => return Err(self.blame.refused("the image has no room for another cluster")),
                Err(other) => other.wait_until_done().await,
            }
        }
    }

    /// Makes the whole clusters of a range read as zeroes. Only for version 3.
    pub(crate) async fn set_zero(&self, clusters: GuestRun) -> Result<()> {
        let mut at = clusters.start;
        while at < clusters.end {
            let step = self
                .with_metadata(|state| {
                    if let Some(other) = self.overlapping(at) {
                        return Ok(Err(other));
                    }
                    let end = self.next_in_flight(at, clusters.end);
                    state.set_zero(&(at..end)).map(Ok)
                })
                .await?;
            match step {
                Ok(Some(end)) => at = end,
                Ok(None) => return Err(self.blame.refused("the image has no room for another table")),
                Err(other) => other.wait_until_done().await,
            }
        }
        Ok(())
    }

    /// The operation in flight on a guest cluster.
    fn overlapping(&self, cluster: GuestCluster) -> Option<Rc<InFlight<S::Payload>>> {
        self.in_flight.borrow().iter().find(|other| other.clusters.contains(&cluster)).cloned()
    }

    /// The first cluster after `start`, and before `end`, on which an operation is in flight; else `end`.
    fn next_in_flight(&self, start: GuestCluster, end: GuestCluster) -> GuestCluster {
        let list = self.in_flight.borrow();
        list.iter()
            .map(|other| other.clusters.start)
            .filter(|first| *first >= start)
            .fold(end, GuestCluster::min)
    }

    fn register(&self, clusters: GuestRun) -> Rc<InFlight<S::Payload>> {
        let record = Rc::new(InFlight {
            clusters,
            progress: RefCell::new(Progress::Waiting),
            done: Cell::new(false),
            changed: Event::new(),
        });
        self.in_flight.borrow_mut().push(record.clone());
        record
    }

    /// Writes data onto reserved host clusters: `parts` together cover the reservation.
    pub(crate) async fn write_reserved(&self, reservation: &Reservation, parts: &[S::Payload]) -> Result<()> {
        if let [host] = reservation.host.as_slice() {
            return self.write_data(self.geometry.host_offset(host.start), parts).await;
        }
        let whole = S::Payload::concat(parts);
        let base = reservation.guest.start;
        for (guest, host) in reservation.pairs() {
            let offset = |cluster| self.geometry.guest_offset(cluster) - self.geometry.guest_offset(base);
            let part = offset(guest.start)..offset(guest.end);
            self.write_data(self.geometry.host_offset(host.start), &[whole.slice(part)]).await?;
        }
        Ok(())
    }

    /// Writes guest data at a host offset.
    pub(crate) async fn write_data(&self, offset: u64, parts: &[S::Payload]) -> Result<()> {
        self.storage.write(offset, parts).await.map_err(self.blame.io("writing data", offset))?;
        let end = offset + parts.iter().map(Payload::len).sum::<u64>();
        self.file_len.set(self.file_len.get().max(end));
        Ok(())
    }

    /// Ends an operation whose data is in place: the clusters are mapped, those for which `is_hole` holds
    /// as zeroes.
    pub(crate) async fn commit(
        self: &Rc<Self>,
        record: &InFlight<S::Payload>,
        reservation: Reservation,
        is_hole: impl Fn(GuestCluster) -> bool,
    ) {
        let unused = self.state.borrow_mut().commit(&reservation, is_hole);
        self.free(&unused).await;
        self.finish(record);
        self.publish_when_due();
    }

    /// Ends an operation that failed: nothing is mapped, the clusters are free again.
    pub(crate) async fn abandon(&self, record: &InFlight<S::Payload>, reservation: Reservation) {
        let unused = self.state.borrow_mut().release(&reservation);
        self.free(&unused).await;
        self.finish(record);
    }

    fn finish(&self, record: &InFlight<S::Payload>) {
        self.in_flight.borrow_mut().retain(|other| !std::ptr::eq(&**other, record));
        record.done.set(true);
        record.changed.notify();
        self.idle.notify();
    }

    async fn free(&self, runs: &[HostRun]) {
        for run in runs {
            let mut rest = run.clone();
            while !rest.is_empty() {
                match self.with_metadata(|state| state.free(&rest)).await {
                    Ok(end) => rest.start = end,
                    // A refcount that cannot be read cannot be lowered: the cluster leaks, which harms nobody.
                    Err(_) => break,
                }
            }
        }
    }
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
    /// Onto mapped clusters: up to guest cluster `end`, from host cluster `host` on.
    InPlace { host: HostCluster, end: GuestCluster },
    /// Onto reserved clusters, whose untouched rest comes from `source`.
    New { record: Rc<InFlight<P>>, reservation: Reservation, source: CopySource },
}

impl<P> InFlight<P> {
    pub async fn wait_until_done(&self) {
        while !self.done.get() {
            self.changed.listen().await;
        }
    }
}

fn write_run(state: &mut State, clusters: GuestRun, kind: Kind) -> Result<Option<WriteRun>, Stop> {
    let new = |source| move |reservation| WriteRun::New { reservation, source };
    match kind {
        Kind::Data { host, copied: true } => Ok(Some(WriteRun::InPlace { host, end: clusters.end })),
        Kind::Data { copied: false, .. } => {
            Err(Stop::Unsupported("writing to a cluster that is shared (its COPIED flag is not set)".into()))
        }
        Kind::Absent => Ok(state.reserve(clusters)?.map(new(CopySource::Below))),
        Kind::Zero => Ok(state.reserve(clusters)?.map(new(CopySource::Zeroes))),
        Kind::ZeroAllocated(host) => {
            let end = host + length(&clusters);
            let reservation =
                Reservation { guest: clusters, host: SmallVec::from_buf([host..end]), reused: true };
            state.pin(&reservation);
            Ok(Some(WriteRun::New { reservation, source: CopySource::Zeroes }))
        }
    }
}
