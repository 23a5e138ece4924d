//! An open image.

use super::check::repair_dirty;
use super::features;
use super::freeing::Waiting;
use super::geometry::{Geometry, GuestCluster, HostCluster};
use super::header::Header;
use super::mapping::CompressedData;
use super::operations::InFlight;
use super::protection::{check_blocks_differ, tables_of};
use super::slices::{Entry, SliceCache};
use super::state::{Missing, State};
use super::table_room;
use crate::error::{Blame, Error, Result};
use crate::runtime::{Event, Runtime};
use crate::storage::{MetadataKind, Storage};
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
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
    /// Copies in a cache that a batch of metadata waits for at most, in bytes. An image that a guest writes is flushed by
    /// the guest.
    pub batch_bytes: u64,
    /// How long the first change of a cache waits at most until it is published.
    pub batch_time: Duration,
    /// Room of data that a guest discards goes back to the host.
    pub discard: bool,
}

impl Default for ImageOptions {
    fn default() -> Self {
        ImageOptions {
            metadata_cache: None,
            batch_bytes: 16 << 20,
            batch_time: Duration::from_secs(1),
            discard: true,
        }
    }
}

/// Refcount slices in memory, in bytes: 4 GiB of clusters of 64 KiB, 16 MiB of 512-byte clusters.
const REFCOUNT_CACHE: u64 = 128 << 10;
const MAX_METADATA_CACHE: u64 = 32 << 20;

/// A qcow2 image that is open. It belongs to one thread; several disks may share it.
pub struct Image<S: Storage> {
    /// The image itself, for the tasks that it owns.
    pub(super) this: Weak<Self>,
    pub(super) storage: S,
    /// Holds the guest's data, if the image itself does not.
    pub(super) data_file: Option<S>,
    pub(super) blame: Blame,
    pub(super) geometry: Geometry,
    pub(super) runtime: Rc<dyn Runtime>,
    pub(super) options: ImageOptions,
    mode: Mode,
    pub(super) header: RefCell<Header>,
    /// Another header was being written when the storage failed: nobody knows which one it holds.
    pub(super) header_in_doubt: Cell<bool>,
    pub(super) state: RefCell<State>,
    /// Metadata that is being loaded, with those who wait for it, if anybody does.
    pub(super) loading: RefCell<FxHashMap<Missing, Option<Event>>>,
    pub(super) in_flight: RefCell<Vec<Rc<InFlight<S::Payload>>>>,
    /// Writes in place whose callers have gone away.
    pub(super) left_behind: RefCell<Vec<Rc<InFlight<S::Payload>>>>,
    /// Notified when an operation leaves the list of those in flight.
    pub(super) idle: Event,
    pub(super) publishing: Cell<bool>,
    /// A task is to publish and waits for its turn.
    pub(super) publishing_soon: Cell<bool>,
    pub(super) published: Event,
    pub(super) timer_armed: Cell<bool>,
    pub(super) waiting: Rc<Waiting>,
    /// The compressed cluster that was read last, decompressed.
    pub(super) decompressed: RefCell<Option<(CompressedData, S::Payload)>>,
    /// What was found wrong while the image was open for writing: it is written no more.
    pub(super) damage: RefCell<Option<Error>>,
    pub(super) file_len: Cell<u64>,
    /// It is known that nothing is mapped behind the end of the disk but zeroes.
    pub(super) nothing_behind_end: Cell<bool>,
    pub(crate) failed_fills: Cell<u64>,
}

impl<S: Storage> std::fmt::Debug for Image<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("name", &self.blame.0).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl<S: Storage> Image<S> {
    /// Opens the image in `storage`. `name` appears in errors. A cache that is opened to be filled is
    /// scanned first: what its tables reach is counted, and what they do not is free again. An image that is opened for
    /// writing and was not closed (its dirty bit is set) is checked and repaired first.
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
        Self::open_with_data_file(storage, None, name, mode, options, runtime).await
    }

    /// As [`open`](Self::open); `data_file` holds the guest's data of an image that says so.
    ///
    /// # Errors
    /// As [`open`](Self::open), and if the image says that it has such a file and none is given, or the other way
    /// round.
    pub async fn open_with_data_file(
        storage: S,
        data_file: Option<S>,
        name: &str,
        mode: Mode,
        options: ImageOptions,
        runtime: Rc<dyn Runtime>,
    ) -> Result<Rc<Self>> {
        let blame = Blame(Arc::from(name));
        let mut header = super::create::read_header(&storage, name).await?;
        features::check(&header, mode, data_file.is_some(), &blame)?;
        if mode == Mode::Write && header.is_dirty() {
            repair_dirty(&storage, name).await?;
            header = super::create::read_header(&storage, name).await?;
        }
        let file_len = storage.len().await.map_err(blame.io("reading the length", 0))?;
        let geometry = Geometry::of(&header);
        let l1_bytes = u64::from(header.l1_size) * 8;
        let table_bytes = u64::from(header.refcount_table_clusters) << header.cluster_bits;
        let tables = [
            (MetadataKind::L1Table, "L1 table", header.l1_table_offset, l1_bytes),
            (MetadataKind::RefcountTable, "refcount table", header.refcount_table_offset, table_bytes),
        ];
        let mut loaded = Vec::new();
        for (kind, structure, offset, bytes) in tables {
            if offset.saturating_add(bytes) > file_len {
                let problem =
                    format!("{bytes} bytes are needed, but the file ends at {file_len}: it is truncated");
                return Err(blame.invalid(structure, offset, problem));
            }
            let read = storage.read_metadata(kind, offset, bytes).await;
            loaded.push(u64::decode(&read.map_err(blame.io("reading a table", offset))?).collect::<Vec<_>>());
        }
        let [l1, refcount_table] = <[Vec<u64>; 2]>::try_from(loaded).unwrap_or_default();
        if mode != Mode::Read {
            check_blocks_differ(&header, &refcount_table, &blame)?;
            // What the bits vouch for no longer holds once somebody writes who does not keep it up.
            header.autoclear_features &= features::KEPT_AUTOCLEAR;
        }
        let cluster = geometry.cluster_size();
        let limit = match header.cache() {
            Some(cache) if mode == Mode::Fill => HostCluster(cache.quota >> header.cluster_bits),
            _ => geometry.limit(),
        };
        let entry_bytes = if geometry.has_subclusters() { 16 } else { 8 };
        let full_l2 = header.size.div_ceil(cluster).saturating_mul(entry_bytes);
        let l2_slices = full_l2.div_ceil(geometry.slice_bytes());
        let metadata_cache = options.metadata_cache.unwrap_or(full_l2.min(MAX_METADATA_CACHE));
        let tables = match mode {
            Mode::Write => Some(tables_of(&header, &l1, &refcount_table, file_len)),
            Mode::Read | Mode::Fill => None,
        };
        let state = State {
            geometry,
            version: header.version,
            data_file: data_file.is_some(),
            l1,
            l1_dirty: Default::default(),
            l2: SliceCache::new(metadata_cache, (geometry.slice_bytes() / 8) as usize, l2_slices),
            refcounts: SliceCache::new(REFCOUNT_CACHE, geometry.slice_bytes() as usize, u64::MAX),
            refcount_table,
            refcount_table_dirty: Default::default(),
            tables,
            free_hint: HostCluster(0),
            keeps_table_room: mode == Mode::Write && geometry.cluster_bits < table_room::PAGE_BITS,
            table_room: HostCluster(0)..HostCluster(0),
            limit,
            used: 0,
            data_clusters: 0,
            unpublished: 0,
            batches: 0,
            freed: vec![],
            compressed_end: None,
        };
        let image = Rc::new_cyclic(|this| Image {
            this: this.clone(),
            storage,
            data_file,
            blame,
            geometry,
            runtime,
            options,
            mode,
            header: RefCell::new(header),
            header_in_doubt: Cell::new(false),
            state: RefCell::new(state),
            loading: RefCell::default(),
            in_flight: RefCell::default(),
            left_behind: RefCell::default(),
            idle: Event::new(),
            publishing: Cell::new(false),
            publishing_soon: Cell::new(false),
            published: Event::new(),
            timer_armed: Cell::new(false),
            waiting: Rc::default(),
            decompressed: RefCell::default(),
            damage: RefCell::default(),
            file_len: Cell::new(file_len),
            nothing_behind_end: Cell::new(false),
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

    /// Bytes of the smallest part of the disk that is mapped by itself: a cluster, or with extended L2 entries a
    /// subcluster.
    pub fn subcluster_size(&self) -> u64 {
        self.geometry.subcluster_size()
    }

    /// How far into its subcluster a byte of the disk lies.
    pub(crate) fn within_subcluster(&self, at: u64) -> u64 {
        self.geometry.within_subcluster(at)
    }

    /// The cluster in which a byte of the disk lies.
    pub(crate) fn cluster_at(&self, at: u64) -> GuestCluster {
        GuestCluster(at >> self.geometry.cluster_bits)
    }

    /// A copy of the header as it stands.
    pub fn header(&self) -> Header {
        self.header.borrow().clone()
    }

    /// The storage that holds the image.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Whether guest data lies in another file.
    pub(crate) fn has_data_file(&self) -> bool {
        self.data_file.is_some()
    }

    /// The storage that holds the guest's data: the image's own, or its external data file.
    pub(crate) fn data_storage(&self) -> &S {
        self.data_file.as_ref().unwrap_or(&self.storage)
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
        let tables =
            [&state.l1, &state.refcount_table].map(|table| (table.capacity() as u64).saturating_mul(8));
        tables.into_iter().chain([state.l2.memory(), state.refcounts.memory()]).sum()
    }

    /// Copies that could not be written since the image was opened; the guest got its data all the same.
    pub fn failed_fills(&self) -> u64 {
        self.failed_fills.get()
    }

    pub(crate) fn blame(&self) -> &Blame {
        &self.blame
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
