//! An open image.

use super::geometry::*;
use super::header::{Header, extension, incompatible};
use super::slices::{Entry, SliceCache};
use super::state::*;
use crate::disk::Piece;
use crate::error::{Blame, Result};
use crate::runtime::{Event, Join, Runtime};
use crate::storage::{MetadataKind, Storage};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::hash_map;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reading.
    Read,
    /// Reading and a guest's writes. A cache image refuses it.
    Write,
    /// Reading, and keeping copies of what is read from below. Only a cache image can.
    Fill,
}

/// How an image is opened. The defaults suit real use.
#[derive(Clone, Debug)]
pub struct ImageOptions {
    /// Memory for cached L2 tables, in bytes; `None`: for all of them, but at most 32 MiB. What is changed
    /// and not yet written may exceed it for a while.
    pub metadata_cache: Option<u64>,
    /// Guest data that a batch of metadata waits for at most, in bytes.
    pub batch_bytes: u64,
    /// How long the first change of a cache waits at most until it is published.
    pub batch_time: Duration,
}

impl Default for ImageOptions {
    fn default() -> Self {
        ImageOptions { metadata_cache: None, batch_bytes: 16 << 20, batch_time: Duration::from_secs(1) }
    }
}

/// Refcount slices in memory, in bytes: 4 GiB of clusters of 64 KiB, 16 MiB of 512-byte clusters.
const REFCOUNT_CACHE: u64 = 128 << 10;
const MAX_METADATA_CACHE: u64 = 32 << 20;
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
    pub clusters: Range<u64>,
    pub progress: RefCell<Progress<P>>,
    /// The operation is over, and no longer on the image's list.
    pub done: Cell<bool>,
    /// Notified whenever one of the above changes.
    pub changed: Event,
}

/// A qcow2 image that is open. It belongs to one thread; several disks may share it.
pub struct Image<S: Storage> {
    /// The image itself, for the tasks that it owns.
    this: Weak<Self>,
    pub(super) storage: S,
    pub(super) blame: Blame,
    pub(super) geometry: Geometry,
    pub(super) runtime: Rc<dyn Runtime>,
    pub(super) options: ImageOptions,
    mode: Mode,
    pub(super) header: RefCell<Header>,
    pub(super) state: RefCell<State>,
    /// Metadata that is being loaded, with those who wait for it, if anybody does.
    loading: RefCell<FxHashMap<Missing, Option<Event>>>,
    pub(super) in_flight: RefCell<Vec<Rc<InFlight<S::Payload>>>>,
    /// Notified when an operation leaves the list of those in flight.
    pub(super) idle: Event,
    pub(super) publishing: Cell<bool>,
    pub(super) published: Event,
    pub(super) timer_armed: Cell<bool>,
    pub(super) file_len: Cell<u64>,
    /// Copies that could not be written, since the image was opened.
    pub(crate) failed_fills: Cell<u64>,
}

impl<S: Storage> std::fmt::Debug for Image<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("name", &self.blame.0).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl<S: Storage> Image<S> {
    /// Opens the image in `storage`. `name` appears in errors. A cache that is opened to be filled is
    /// scanned first: what its tables reach is counted, and what they do not is free again.
    ///
    /// # Errors
    /// If that is no qcow2 image, it uses features that are not handled, its tables break the format's
    /// rules, `mode` does not fit it, or the storage fails.
    pub async fn open(
        storage: S,
        name: &str,
        mode: Mode,
        options: ImageOptions,
        runtime: Rc<dyn Runtime>,
    ) -> Result<Rc<Self>> {
        let blame = Blame(Arc::from(name));
        let mut header = super::create::read_header(&storage, name).await?;
        let file_len = storage.len().await.map_err(blame.io("reading the length", 0))?;
        check_features(&header, mode, &blame)?;
        let geometry = Geometry::new(header.cluster_bits);
        let l1_bytes = u64::from(header.l1_size) * 8;
        let table_bytes = u64::from(header.refcount_table_clusters) << header.cluster_bits;
        let tables = [
            (MetadataKind::L1Table, "L1 table", header.l1_table_offset, l1_bytes),
            (MetadataKind::RefcountTable, "refcount table", header.refcount_table_offset, table_bytes),
        ];
        let mut loaded = Vec::new();
        for (kind, structure, offset, bytes) in tables {
            if offset + bytes > file_len {
                let problem = format!("{bytes} bytes are needed, but the file ends at {file_len}: it is truncated");
                return Err(blame.invalid(structure, offset, problem));
            }
            let read = storage.read_metadata(kind, offset, bytes).await;
            loaded.push(u64::decode(&read.map_err(blame.io("reading a table", offset))?).into_vec());
        }
        let [l1, refcount_table] = <[Vec<u64>; 2]>::try_from(loaded).unwrap_or_default();
        if mode != Mode::Read && header.autoclear_features != 0 {
            header.autoclear_features = 0;
        }
        let cluster = geometry.cluster_size();
        let limit = match header.cache() {
            Some(cache) if mode == Mode::Fill => cache.quota / cluster,
            _ => 1 << (56 - header.cluster_bits),
        };
        let full_l2 = header.size.div_ceil(cluster) * 8;
        let metadata_cache = options.metadata_cache.unwrap_or(full_l2.min(MAX_METADATA_CACHE));
        let state = State {
            geometry,
            version: header.version,
            l1,
            l1_dirty: Default::default(),
            l2: SliceCache::new(metadata_cache, 1 << geometry.slice_bits),
            refcounts: SliceCache::new(REFCOUNT_CACHE, 1 << geometry.block_slice_bits),
            refcount_table,
            refcount_table_dirty: Default::default(),
            free_hint: 0,
            limit,
            used: 0,
            data_clusters: 0,
            unpublished: 0,
        };
        let image = Rc::new_cyclic(|this| Image {
            this: this.clone(),
            storage,
            blame,
            geometry,
            runtime,
            options,
            mode,
            header: RefCell::new(header),
            state: RefCell::new(state),
            loading: RefCell::default(),
            in_flight: RefCell::default(),
            idle: Event::new(),
            publishing: Cell::new(false),
            published: Event::new(),
            timer_armed: Cell::new(false),
            file_len: Cell::new(file_len),
            failed_fills: Cell::new(0),
        });
        if mode != Mode::Read {
            image.write_header_if_changed().await?;
        }
        if mode == Mode::Fill {
            image.reclaim().await?;
        }
        Ok(image)
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.header.borrow().size
    }

    /// The name by which errors speak of the image.
    pub fn name(&self) -> Arc<str> {
        self.blame.0.clone()
    }

    /// What the image was opened for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        self.geometry.cluster_size()
    }

    /// A copy of the header as it stands.
    pub fn header(&self) -> Header {
        self.header.borrow().clone()
    }

    /// The storage that holds the image.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Host bytes that the tables reach, metadata included; exact for a cache that was opened to be filled.
    pub fn bytes_in_use(&self) -> u64 {
        self.state.borrow().used << self.geometry.cluster_bits
    }

    /// Of the bytes in use, guest data.
    pub fn data_bytes(&self) -> u64 {
        self.state.borrow().data_clusters << self.geometry.cluster_bits
    }

    /// Bytes of memory that the image's tables take while it is open.
    pub fn memory(&self) -> u64 {
        let state = self.state.borrow();
        let tables = (state.l1.capacity() + state.refcount_table.capacity()) * size_of::<u64>();
        tables as u64 + state.l2.memory() + state.refcounts.memory()
    }

    pub(crate) fn blame(&self) -> &Blame {
        &self.blame
    }

    /// Guest clusters that one step handles at most from `start` on, within `range` of bytes.
    fn step(&self, range: &Range<u64>) -> Range<u64> {
        let clusters = self.geometry.guest_clusters(range);
        let last_slice = (clusters.start >> self.geometry.slice_bits) + SLICES_PER_STEP;
        clusters.start..clusters.end.min(last_slice << self.geometry.slice_bits)
    }

    /// The bytes of `range` that lie before the end of guest cluster `end`.
    pub(crate) fn bytes_before(&self, range: &Range<u64>, end: u64) -> Range<u64> {
        range.start..range.end.min(end << self.geometry.cluster_bits)
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
    pub(crate) async fn set_zero(&self, clusters: Range<u64>) -> Result<()> {
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
    fn overlapping(&self, cluster: u64) -> Option<Rc<InFlight<S::Payload>>> {
        self.in_flight.borrow().iter().find(|other| other.clusters.contains(&cluster)).cloned()
    }

    /// The first cluster after `start`, and before `end`, on which an operation is in flight; else `end`.
    fn next_in_flight(&self, start: u64, end: u64) -> u64 {
        let list = self.in_flight.borrow();
        list.iter().map(|other| other.clusters.start).filter(|first| *first >= start).fold(end, u64::min)
    }

    fn register(&self, clusters: Range<u64>) -> Rc<InFlight<S::Payload>> {
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
            return self.write_data(host.start << self.geometry.cluster_bits, parts).await;
        }
        use crate::storage::Payload;
        let whole = S::Payload::concat(parts);
        let base = reservation.guest.start;
        for (guest, host) in reservation.pairs() {
            let part = self.geometry.bytes(&(guest.start - base..guest.end - base));
            self.write_data(host.start << self.geometry.cluster_bits, &[whole.slice(part)]).await?;
        }
        Ok(())
    }

    /// Writes guest data at a host offset.
    pub(crate) async fn write_data(&self, offset: u64, parts: &[S::Payload]) -> Result<()> {
        use crate::storage::Payload;
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
        is_hole: impl Fn(u64) -> bool,
    ) {
        let unused = self.state.borrow_mut().commit(&reservation, is_hole);
        self.finish(record);
        self.free(&unused).await;
        self.publish_when_due();
    }

    /// Ends an operation that failed: nothing is mapped, the clusters are free again.
    pub(crate) async fn abandon(&self, record: &InFlight<S::Payload>, reservation: Reservation) {
        let unused = self.state.borrow_mut().release(&reservation);
        self.finish(record);
        self.free(&unused).await;
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

    /// Repeats a step of the metadata until everything it needs is in memory and it happens.
    pub(super) async fn with_metadata<T>(
        &self,
        mut step: impl FnMut(&mut State) -> Result<T, Stop>,
    ) -> Result<T> {
        let mut loaded = LoadedSlices { state: &self.state, slices: SmallVec::new() };
        loop {
            let outcome = {
                let mut state = self.state.borrow_mut();
                state.l2.trim();
                state.refcounts.trim();
                step(&mut state)
            };
            match outcome {
                Ok(value) => return Ok(value),
                Err(Stop::Missing(missing)) => {
                    self.load(missing).await?;
                    loaded.pin(missing);
                }
                Err(Stop::Invalid { structure, offset, problem }) => {
                    return Err(self.blame.invalid(structure, offset, problem));
                }
                Err(Stop::Unsupported(feature)) => return Err(self.blame.unsupported(feature)),
            }
        }
    }

    /// Brings metadata into memory; one at a time loads the same, the others wait for it.
    async fn load(&self, missing: Missing) -> Result<()> {
        let other = match self.loading.borrow_mut().entry(missing) {
            hash_map::Entry::Occupied(mut other) => Some(other.get_mut().get_or_insert_default().listen()),
            hash_map::Entry::Vacant(place) => {
                place.insert(None);
                None
            }
        };
        if let Some(other) = other {
            other.await;
            return Ok(());
        }
        let _loading = Loading { image: self, missing };
        match missing {
            Missing::L2Slice(slice) => {
                let (index, within) = self.geometry.slice_position(slice);
                let table = self.state.borrow().l1.get(index).copied().unwrap_or(0) & OFFSET_MASK;
                let bytes = self.load_slice(MetadataKind::L2Table, "L2 table", table + within).await?;
                self.state.borrow_mut().l2.insert_clean(slice, u64::decode(&bytes));
            }
            Missing::RefcountSlice(slice) => {
                let (block, within) = self.geometry.block_slice_position(slice);
                let entry = self.state.borrow().refcount_table.get(block).copied().unwrap_or(0);
                let offset = entry & OFFSET_MASK;
                if entry & REFCOUNT_TABLE_RESERVED != 0 || offset & (self.geometry.cluster_size() - 1) != 0 {
                    let problem = format!("entry {block} is {entry:#018x}, which is no cluster's offset");
                    return Err(self.blame.invalid("refcount table", block as u64 * 8, problem));
                }
                let bytes = self.load_slice(MetadataKind::RefcountBlock, "refcount block", offset + within).await?;
                self.state.borrow_mut().refcounts.insert_clean(slice, u16::decode(&bytes));
            }
            Missing::RefcountTable => {
                // A task: were it dropped half-way with its caller, what it was publishing would be lost.
                if let Some(image) = self.this.upgrade() {
                    let full = self.state.borrow().refcount_table.len();
                    Join::spawn(&*self.runtime, async move { image.grow_refcount_table(full).await }).await?;
                }
            }
        }
        Ok(())
    }

    async fn load_slice(&self, kind: MetadataKind, structure: &'static str, offset: u64) -> Result<Vec<u8>> {
        let len = self.geometry.slice_bytes();
        self.check_within_file(structure, offset, len).await?;
        self.storage.read_metadata(kind, offset, len).await.map_err(self.blame.io("reading a table", offset))
    }

    /// Refuses what lies beyond the end of the file: a truncated image must not read as zeroes.
    pub(crate) async fn check_within_file(&self, structure: &'static str, offset: u64, len: u64) -> Result<()> {
        match offset.saturating_add(len) <= self.file_len.get() {
            true => Ok(()),
            false => Box::pin(self.check_with_current_length(structure, offset)).await,
        }
    }

    async fn check_with_current_length(&self, structure: &'static str, offset: u64) -> Result<()> {
        // Another process may have made the file longer since.
        let file_len = self.storage.len().await.map_err(self.blame.io("reading the length", 0))?;
        self.file_len.set(file_len.max(self.file_len.get()));
        if offset < self.file_len.get() {
            return Ok(());
        }
        let problem = format!("it lies beyond the end of the file ({file_len} bytes): the image is truncated");
        Err(self.blame.invalid(structure, offset, problem))
    }

    /// Writes the header if it differs from what the storage holds, before anything else is written.
    async fn write_header_if_changed(&self) -> Result<()> {
        let stored = super::create::read_header(&self.storage, &self.blame.0).await?;
        if stored != *self.header.borrow() {
            self.write_header(&self.header()).await?;
            self.storage.flush().await.map_err(self.blame.io("flushing the header", 0))?;
        }
        Ok(())
    }

    pub(super) async fn write_header(&self, header: &Header) -> Result<()> {
        let bytes = header.serialize(&self.blame)?;
        let write = self.storage.write_metadata(MetadataKind::Header, 0, &bytes).await;
        write.map_err(self.blame.io("writing the header", 0))
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
    InPlace { host: u64, end: u64 },
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

fn write_run(state: &mut State, clusters: Range<u64>, kind: Kind) -> Result<Option<WriteRun>, Stop> {
    let new = |source| move |reservation| WriteRun::New { reservation, source };
    match kind {
        Kind::Data { host, copied: true } => Ok(Some(WriteRun::InPlace { host, end: clusters.end })),
        Kind::Data { copied: false, .. } => {
            Err(Stop::Unsupported("writing to a cluster that is shared (its COPIED flag is not set)".into()))
        }
        Kind::Absent => Ok(state.reserve(clusters)?.map(new(CopySource::Below))),
        Kind::Zero => Ok(state.reserve(clusters)?.map(new(CopySource::Zeroes))),
        Kind::ZeroAllocated(host) => {
            let end = host + (clusters.end - clusters.start);
            let reservation = Reservation { guest: clusters, host: SmallVec::from_buf([host..end]), reused: true };
            state.pin(&reservation);
            Ok(Some(WriteRun::New { reservation, source: CopySource::Zeroes }))
        }
    }
}

/// A load under way; whether it succeeds, fails or is dropped, those who wait for it look again.
struct Loading<'a, S: Storage> {
    image: &'a Image<S>,
    missing: Missing,
}

impl<S: Storage> Drop for Loading<'_, S> {
    fn drop(&mut self) {
        let event = self.image.loading.borrow_mut().remove(&self.missing);
        if let Some(Some(event)) = event {
            event.notify();
        }
    }
}

/// Slices that a step has had loaded: they stay until it has happened.
struct LoadedSlices<'a> {
    state: &'a RefCell<State>,
    slices: SmallVec<[Missing; 4]>,
}

impl LoadedSlices<'_> {
    fn pin(&mut self, missing: Missing) {
        let mut state = self.state.borrow_mut();
        match missing {
            Missing::L2Slice(slice) if state.l2.contains(slice) => state.l2.pin(slice),
            Missing::RefcountSlice(slice) if state.refcounts.contains(slice) => state.refcounts.pin(slice),
            _ => return,
        }
        self.slices.push(missing);
    }
}

impl Drop for LoadedSlices<'_> {
    fn drop(&mut self) {
        if self.slices.is_empty() {
            return;
        }
        let mut state = self.state.borrow_mut();
        for missing in &self.slices {
            match missing {
                Missing::L2Slice(slice) => state.l2.unpin(*slice),
                Missing::RefcountSlice(slice) => state.refcounts.unpin(*slice),
                Missing::RefcountTable => {}
            }
        }
    }
}

/// Refuses images whose features are not handled.
fn check_features(header: &Header, mode: Mode, blame: &Blame) -> Result<()> {
    let known = incompatible::DIRTY | incompatible::CORRUPT;
    if header.crypt_method != 0 {
        let method = if header.crypt_method == 1 { "AES" } else { "LUKS" };
        return Err(blame.unsupported(format!("encryption ({method}, crypt_method {})", header.crypt_method)));
    }
    let unknown = header.incompatible_features & !known;
    if unknown != 0 {
        let named: Vec<String> = (0..64).filter(|bit| unknown >> bit & 1 == 1).map(|bit| name_of(header, bit)).collect();
        return Err(blame.unsupported(named.join(", ")));
    }
    if mode == Mode::Read {
        return Ok(());
    }
    let is_cache = header.cache().is_some();
    match mode {
        Mode::Write if is_cache => {
            return Err(blame.refused("this is a cache image: only copies of its base are written to it"));
        }
        Mode::Fill if !is_cache => return Err(blame.refused("this is no cache image: it cannot be filled")),
        _ => {}
    }
    let obstacles = [
        (header.incompatible_features & incompatible::DIRTY != 0, "writing to an image with the dirty bit set (repair it first)"),
        (header.incompatible_features & incompatible::CORRUPT != 0, "writing to an image with the corrupt bit set"),
        (header.refcount_order != 4, "writing to an image whose refcounts are not 16 bits wide"),
        (header.nb_snapshots != 0, "writing to an image with internal snapshots"),
        (header.extension(extension::BITMAPS).is_some(), "writing to an image with bitmaps"),
    ];
    match obstacles.iter().find(|(present, _)| *present) {
        Some((_, what)) => Err(blame.unsupported(*what)),
        None => Ok(()),
    }
}

fn name_of(header: &Header, bit: u32) -> String {
    match 1u64 << bit {
        incompatible::EXTERNAL_DATA_FILE => "external data file".into(),
        incompatible::COMPRESSION_TYPE => "compression type other than deflate".into(),
        incompatible::EXTENDED_L2 => "extended L2 entries (subclusters)".into(),
        _ => header.feature_name(bit),
    }
}
