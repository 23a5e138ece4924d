//! Where the images of virtual machines lie: each deployment in a file of its own.

mod compute_disk_cache;
mod compute_memory_cache;
mod full_copy;
mod plain_overlay;
mod storage_memory_cache;
mod warm_cache;

pub(crate) use warm_cache::WarmCaches;

use crate::models::{ComputeNode, ServerFile, StorageNode};
use crate::replay;
use crate::storage::SimFile;
use crate::storm::{Cache, Deployment, Guest, State};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{self, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::Runtime;
use vmicache_format::storage::{DataKind, PayloadFree, Storage};
use vmicache_format::{Error, RawImage, Result};

/// The nodes, and what the images on them are made from.
pub(crate) struct Site {
    pub guest: Rc<Guest>,
    pub deployment: Deployment,
    pub storage: StorageNode,
    pub nodes: Vec<ComputeNode>,
    /// The base images, and in the same order the caches in the storage node's memory, if there are any.
    pub bases: Vec<ServerFile>,
    pub shared_caches: Vec<ServerFile>,
    pub warm: WarmCaches,
    pub runtime: Rc<dyn Runtime>,
    /// What virtual machines with the same image share on a node.
    opened: RefCell<BTreeMap<(u32, u32), Rc<Below>>>,
}

/// A virtual machine's place.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub node: u32,
    pub image: u32,
}

/// The open images below the overlays of one node that have the same base.
pub(crate) struct Below {
    layers: Vec<Rc<Layer<SimFile>>>,
    pub cache: Option<SimFile>,
    pub base: SimFile,
    filling: Filling,
    copy: Option<full_copy::Copy>,
}

/// The open images of one virtual machine.
pub(crate) struct Chain {
    pub disk: Disk<SimFile>,
    pub overlay: SimFile,
    pub below: Rc<Below>,
}

impl Site {
    pub fn new(
        guest: Rc<Guest>,
        deployment: Deployment,
        storage: StorageNode,
        nodes: Vec<ComputeNode>,
        images: u32,
        warm: WarmCaches,
        runtime: Rc<dyn Runtime>,
    ) -> Self {
        let bases = (0..images).map(|_| storage.file_on_disk(guest.disk_bytes)).collect();
        let shared_caches = match deployment {
            Deployment::StorageMemoryCache(_) => (0..images).map(|_| storage.file_in_memory()).collect(),
            _ => vec![],
        };
        let opened = RefCell::default();
        Site { guest, deployment, storage, nodes, bases, shared_caches, warm, runtime, opened }
    }

    pub fn node(&self, place: Place) -> &ComputeNode {
        &self.nodes[place.node as usize]
    }

    /// What has to happen between the start of a virtual machine and the first request of its guest.
    pub async fn before_boot(&self, chain: &Chain) -> Result<()> {
        match self.deployment {
            Deployment::FullCopy => full_copy::before_boot(self, chain).await,
            _ => Ok(()),
        }
    }

    /// Makes and opens the images of a virtual machine, which takes no time.
    pub async fn open(&self, place: Place) -> Result<Chain> {
        let shared = self.opened.borrow().get(&(place.node, place.image)).cloned();
        let below = match shared {
            Some(below) => below,
            None => {
                let below = Rc::new(self.open_below(place).await?);
                self.opened.borrow_mut().insert((place.node, place.image), below.clone());
                below
            }
        };
        let overlay = self.node(place).file_on_disk(PayloadFree::new(), self.guest.disk_bytes);
        let format = if below.cache.is_some() { "qcow2" } else { "raw" };
        let create = CreateOptions {
            cluster_size: replay::OVERLAY_CLUSTER_SIZE,
            backing: Some(("below".into(), format.into())),
            ..CreateOptions::new(self.guest.disk_bytes)
        };
        qcow2::create(&overlay, "overlay", &create).await?;
        let mut layers = vec![self.image(&overlay, "overlay", Mode::Write).await?];
        layers.extend(below.layers.iter().cloned());
        let disk = Disk::new(layers, below.filling, self.runtime.clone())?;
        overlay.start_time();
        Ok(Chain { disk, overlay, below })
    }

    async fn open_below(&self, place: Place) -> Result<Below> {
        match self.deployment {
            Deployment::PlainOverlay => plain_overlay::open(self, place).await,
            Deployment::ComputeDiskCache(cache, state) => {
                compute_disk_cache::open(self, place, &cache, state).await
            }
            Deployment::ComputeMemoryCache(cache, state) => {
                compute_memory_cache::open(self, place, &cache, state).await
            }
            Deployment::StorageMemoryCache(cache) => storage_memory_cache::open(self, place, &cache).await,
            Deployment::FullCopy => full_copy::open(self, place).await,
        }
    }

    /// What is still to be done once the boot is over.
    pub async fn after_boot(&self, place: Place, chain: &Chain) -> Result<()> {
        chain.disk.close().await?;
        match self.deployment {
            Deployment::ComputeMemoryCache(_, State::Cold) => {
                compute_memory_cache::after_boot(self, place, chain).await
            }
            _ => Ok(()),
        }
    }

    /// The base image of `place`, as its node reads it from the storage node.
    fn base_by_nfs(&self, place: Place) -> SimFile {
        let contents = PayloadFree::of_len(self.guest.disk_bytes);
        self.node(place).file_by_nfs(contents, &self.bases[place.image as usize])
    }

    async fn image(&self, file: &SimFile, name: &str, mode: Mode) -> Result<Rc<Layer<SimFile>>> {
        let options =
            ImageOptions { metadata_cache: Some(replay::METADATA_CACHE), ..ImageOptions::default() };
        let image = Image::open(file.clone(), name, mode, options, self.runtime.clone()).await?;
        Ok(Rc::new(Layer::Qcow2(image)))
    }

    /// A cache over a base. A warm one is read and no longer filled, as stock QEMU uses it.
    async fn cached(&self, cache: SimFile, base: SimFile, options: &Cache, state: State) -> Result<Below> {
        let mode = match state {
            State::Cold => Mode::Fill,
            State::Warm => Mode::Read,
        };
        let layers = vec![self.image(&cache, "cache image", mode).await?, raw(&base).await?];
        cache.start_time();
        base.start_time();
        Ok(Below { layers, cache: Some(cache), base, filling: options.filling, copy: None })
    }

    /// What a cache image holds when the storm begins.
    fn cache_contents(&self, place: Place, cache: &Cache, state: State) -> Result<PayloadFree> {
        match state {
            State::Cold => Ok(self.warm.empty(cache)?.fork()),
            State::Warm => Ok(self.warm.of_image(place.image, cache)?.fork()),
        }
    }
}

async fn raw(base: &SimFile) -> Result<Rc<Layer<SimFile>>> {
    Ok(Rc::new(Layer::Raw(RawImage::open(base.clone(), "base image", false).await?)))
}

/// An overlay straight over `base`.
async fn uncached(base: SimFile) -> Result<Below> {
    let layers = vec![raw(&base).await?];
    base.start_time();
    Ok(Below { layers, cache: None, base, filling: Filling::Beside, copy: None })
}

/// Bytes that are copied at a time.
const COPY_CHUNK: u64 = 1 << 20;

/// Copies the first `bytes` of a file, and makes the copy durable.
async fn copy(from: &SimFile, to: &SimFile, bytes: u64, kind: DataKind) -> Result<()> {
    let failed = |action, offset| {
        move |error| Error::Io { image: "copy of an image".into(), action, offset, source: Arc::new(error) }
    };
    let mut at = 0;
    while at < bytes {
        let len = COPY_CHUNK.min(bytes - at);
        let data = from.read(kind, at, len).await.map_err(failed("reading", at))?;
        to.write(at, &[data]).await.map_err(failed("writing", at))?;
        at += len;
    }
    to.flush().await.map_err(failed("flushing", at))
}
