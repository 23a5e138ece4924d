//! One recorded boot, request by request, through a chain of real images.
//!
//! The images lie on storage without payload: their tables are real, of guest data only extents are kept.
//! The base is raw. What is asked of it counts, but for the holes that it is said to have.

use std::rc::Rc;

use vmicache_format::cache::BaseIdentity;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{self, CacheOptions, ClusterLayout, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::{LocalRuntime, Runtime};
use vmicache_format::storage::{Counting, Holes, PayloadFree};
use vmicache_format::trace::{Dependencies, Op, Trace};
use vmicache_format::{Error, RawImage};

use crate::vm;

/// What stands between the guest and the base image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// overlay -> base
    Plain,
    /// overlay -> empty cache -> base
    Cold,
    /// overlay -> cache that a boot has filled -> base
    Warm,
}

/// The chain that a boot is replayed through. The overlay has clusters of 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Which images there are.
    pub layout: Layout,
    /// How the clusters of the cache image are laid out.
    pub clusters: ClusterLayout,
    /// Quota of the cache image in bytes of its file; `None`: as much as the disk could need.
    pub quota: Option<u64>,
    /// Virtual size of overlay and cache in bytes, and of a base that is not given.
    pub disk_size: u64,
}

/// The base image of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    len: u64,
    holes: Holes,
}

impl Base {
    /// One of `len` bytes with data everywhere.
    pub fn new(len: u64) -> Self {
        Base::with_holes(len, Holes::default())
    }

    /// One of `len` bytes with these holes, which cost no traffic and take no data cluster in a cache.
    pub fn with_holes(len: u64, holes: Holes) -> Self {
        Base { len, holes }
    }

    /// Virtual size in bytes of the disk of a cache over it: whole sectors of 512 bytes.
    pub fn disk_size(&self) -> u64 {
        self.len.checked_next_multiple_of(512).unwrap_or(u64::MAX)
    }
}

/// What one replayed boot did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests the guest issued.
    pub guest_requests: u64,
    /// Bytes the guest read.
    pub guest_bytes_read: u64,
    /// Guest data read from the base image, bytes.
    pub base_bytes_read: u64,
    /// Read requests that reached the base image.
    pub base_requests: u64,
    /// Host bytes that the cache's tables reach, metadata included, at the end of the boot; 0 without a cache.
    pub cache_bytes_in_use: u64,
    /// Of these, guest data alone.
    pub cache_data_bytes: u64,
    /// Length of the cache's file at the end of the boot; 0 without a cache.
    pub cache_file_bytes: u64,
    /// Length of the overlay's file at the end of the boot.
    pub overlay_file_bytes: u64,
}

/// Why a boot could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The chain could not be made, or a request failed.
    #[error(transparent)]
    Image(#[from] Error),
}

/// The cluster size of the overlay, in bytes: what qemu-img makes by default.
pub const OVERLAY_CLUSTER_SIZE: u64 = 65536;

/// Memory for the cached L2 tables of a cache image, in bytes: a boot needs each table once.
pub const METADATA_CACHE: u64 = 64 << 10;

/// Replays `boot` through a fresh overlay over `chain` and a base with data everywhere, after the boots of `fill`, in
/// this order and each with an overlay of its own, have filled the cache. A warm layout with an empty `fill` is filled
/// by `boot` itself; the other layouts ignore `fill`.
///
/// # Errors
/// If the chain cannot be made (a quota below the empty cache's metadata, clusters that the format does
/// not have) or a request lies beyond the disk.
pub fn replay(boot: &Trace, fill: &[&Trace], chain: &Chain) -> Result<Outcome, ReplayError> {
    replay_over(&Base::new(chain.disk_size), boot, fill, chain)
}

/// The same over `base`, as [`replay`].
///
/// # Errors
/// As [`replay`].
pub fn replay_over(
    base: &Base,
    boot: &Trace,
    fill: &[&Trace],
    chain: &Chain,
) -> Result<Outcome, ReplayError> {
    match chain.layout {
        Layout::Plain => boot_through(None, boot, chain, base),
        Layout::Cold => Cache::over(base, chain)?.boot(boot),
        Layout::Warm => {
            let mut cache = Cache::over(base, chain)?;
            let itself = [boot];
            for filling in if fill.is_empty() { &itself } else { fill } {
                cache.boot(filling)?;
            }
            cache.boot(boot)
        }
    }
}

/// A cache image over a raw base, with whatever the boots so far have left in it.
#[derive(Clone, Debug)]
pub struct Cache {
    storage: PayloadFree,
    chain: Chain,
    base: Base,
}

impl Cache {
    /// An empty cache image for `chain`, whose layout does not matter here, over a base with data everywhere.
    ///
    /// # Errors
    /// If there can be no such image.
    pub fn new(chain: &Chain) -> Result<Self, ReplayError> {
        Cache::over(&Base::new(chain.disk_size), chain)
    }

    /// An empty cache image for `chain`, whose layout does not matter here, over `base`.
    ///
    /// # Errors
    /// If there can be no such image.
    pub fn over(base: &Base, chain: &Chain) -> Result<Self, ReplayError> {
        let storage = PayloadFree::new();
        let options = CreateOptions {
            cluster_size: chain.clusters.size,
            extended_l2: chain.clusters.extended_l2,
            backing: Some(("base".into(), "raw".into())),
            cache: Some(CacheOptions {
                quota: chain.quota.unwrap_or(u64::MAX),
                base: Some(BaseIdentity::Version("recorded".into())),
            }),
            ..CreateOptions::new(chain.disk_size)
        };
        LocalRuntime::new().block_on(qcow2::create(&storage, "cache image", &options))?;
        Ok(Cache { storage, chain: *chain, base: base.clone() })
    }

    /// Replays `boot` through a fresh overlay over this cache, which keeps what it reads.
    ///
    /// # Errors
    /// If a request lies beyond the disk.
    pub fn boot(&mut self, boot: &Trace) -> Result<Outcome, ReplayError> {
        boot_through(Some(&self.storage), boot, &self.chain, &self.base)
    }

    /// What the image's file holds.
    pub fn contents(&self) -> &PayloadFree {
        &self.storage
    }

    /// A cache of the same content that goes its own way from here.
    pub fn fork(&self) -> Self {
        Cache { storage: self.storage.fork(), chain: self.chain, base: self.base.clone() }
    }
}

/// The images of one boot, open.
struct Opened {
    base: Counting<PayloadFree>,
    cache: Option<Rc<Image<Counting<PayloadFree>>>>,
    overlay: PayloadFree,
    disk: Disk<Counting<PayloadFree>>,
}

async fn open(
    cache: Option<&PayloadFree>,
    chain: &Chain,
    base: &Base,
    runtime: Rc<dyn Runtime>,
) -> Result<Opened, Error> {
    let options = ImageOptions { metadata_cache: Some(METADATA_CACHE), ..ImageOptions::default() };
    let base = Counting::new(PayloadFree::with_holes(base.len, base.holes.clone()));
    let overlay = PayloadFree::new();
    let below = if cache.is_some() { "qcow2" } else { "raw" };
    let create = CreateOptions {
        cluster_size: OVERLAY_CLUSTER_SIZE,
        backing: Some(("below".into(), below.into())),
        ..CreateOptions::new(chain.disk_size)
    };
    qcow2::create(&overlay, "overlay", &create).await?;
    let image = |storage: &PayloadFree, name, mode| {
        Image::open(Counting::new(storage.clone()), name, mode, options.clone(), runtime.clone())
    };
    let mut layers = vec![Rc::new(Layer::Qcow2(image(&overlay, "overlay", Mode::Write).await?))];
    let cache = match cache {
        Some(storage) => Some(image(storage, "cache image", Mode::Fill).await?),
        None => None,
    };
    layers.extend(cache.iter().map(|image| Rc::new(Layer::Qcow2(image.clone()))));
    layers.push(Rc::new(Layer::Raw(RawImage::open(base.clone(), "base image", false).await?)));
    let disk = Disk::new(layers, Filling::Beside, runtime)?;
    Ok(Opened { base, cache, overlay, disk })
}

fn boot_through(
    cache: Option<&PayloadFree>,
    boot: &Trace,
    chain: &Chain,
    base: &Base,
) -> Result<Outcome, ReplayError> {
    use vmicache_format::storage::Storage;
    let runtime = LocalRuntime::new();
    let dependencies = Dependencies::infer(boot);
    let outcome = runtime.block_on(async {
        let images = open(cache, chain, base, runtime.clone()).await?;
        vm::boot(&images.disk, boot, &dependencies).await?;
        images.disk.close().await?;
        let reads = images.base.counts().guest_reads;
        let length = async |storage: &PayloadFree| storage.len().await.unwrap_or(0);
        Ok::<_, Error>(Outcome {
            guest_requests: boot.requests.len() as u64,
            guest_bytes_read: boot.requests.iter().filter(|r| r.op == Op::Read).map(|r| r.length).sum(),
            base_bytes_read: reads.bytes,
            base_requests: reads.requests,
            cache_bytes_in_use: images.cache.as_ref().map_or(0, |image| image.bytes_in_use()),
            cache_data_bytes: images.cache.as_ref().map_or(0, |image| image.data_bytes()),
            cache_file_bytes: match cache {
                Some(storage) => length(storage).await,
                None => 0,
            },
            overlay_file_bytes: length(&images.overlay).await,
        })
    });
    Ok(outcome?)
}

/// The smallest disk, in bytes, that holds every request of `boots`: whole sectors of 512 bytes.
pub fn disk_size_for<'a>(boots: impl IntoIterator<Item = &'a Trace>) -> u64 {
    let end = boots.into_iter().flat_map(|t| &t.requests).map(|r| r.offset.saturating_add(r.length)).max();
    end.unwrap_or(0).checked_next_multiple_of(512).unwrap_or(u64::MAX)
}
