//! One recorded boot on a real chain: base <- cache <- overlay in memory.

use super::store::Store;
use crate::commands::cache::identity_check;
use crate::terminal::Progress;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::files::{ChainOptions, Format, NamedFiles, open_chain_in};
use vmicache_format::qcow2::{CreateOptions, Image, ImageOptions, Mode, create};
use vmicache_format::runtime::{LocalRuntime, Runtime};
use vmicache_format::storage::{Counting, Memory};
use vmicache_format::trace::Trace;
use vmicache_format::{Error, Result};
use vmicache_sim::replay::OVERLAY_CLUSTER_SIZE;
use vmicache_sim::vm::issue;

/// What a boot did.
pub struct Outcome {
    /// Guest data read from the base and what lies below it, bytes.
    pub base_bytes_read: u64,
    /// Copies that could not be written to the cache; the guest got its data all the same.
    pub failed_fills: u64,
}

/// Replays `boot`, request by request in the order of the recording, so that the cache fills in this order.
/// With `fill` the cache keeps what is read.
///
/// # Errors
/// If the chain cannot be opened, among others since the cache is another base's, or a request fails.
pub fn replay(
    cache: &Path,
    base_version: Option<&str>,
    boot: &Trace,
    fill: bool,
    progress: &Progress,
) -> Result<Outcome> {
    let runtime = LocalRuntime::new();
    // In the path, so that nothing is read from the base twice because its copy is still on its way.
    let identity = identity_check(base_version);
    let options = ChainOptions {
        fill,
        filling: Filling::InPath,
        identity,
        named_files: NamedFiles::Allow,
        ..ChainOptions::default()
    };
    runtime.block_on(async {
        let below = RefCell::new(Vec::new());
        let wrap = |depth, file| {
            let storage = Counting::new(Store::File(file));
            if depth > 0 {
                below.borrow_mut().push(storage.clone());
            }
            storage
        };
        let chain = open_chain_in(cache, Format::Qcow2, &options, runtime.clone(), wrap).await?;
        let disk = under_overlay(&chain, runtime.clone()).await?;
        for request in &boot.requests {
            issue(&disk, request).await?;
            progress.advance();
        }
        disk.close().await?;
        let base_bytes_read = below.borrow().iter().map(|storage| storage.counts().guest_reads.bytes).sum();
        Ok(Outcome { base_bytes_read, failed_fills: failed_fills(&chain) })
    })
}

/// The disk of a new overlay over `chain`.
async fn under_overlay(
    chain: &Disk<Counting<Store>>,
    runtime: Rc<dyn Runtime>,
) -> Result<Disk<Counting<Store>>, Error> {
    let storage = Counting::new(Store::Memory(Memory::default()));
    let options = CreateOptions {
        cluster_size: OVERLAY_CLUSTER_SIZE,
        backing: Some(("cache".into(), "qcow2".into())),
        ..CreateOptions::new(chain.size())
    };
    create(&storage, "overlay in memory", &options).await?;
    let image =
        Image::open(storage, "overlay in memory", Mode::Write, ImageOptions::default(), runtime.clone())
            .await?;
    let overlay = Rc::new(Layer::Qcow2(image));
    let layers = std::iter::once(overlay).chain(chain.layers().iter().cloned()).collect();
    Disk::new(layers, Filling::InPath, runtime)
}

fn failed_fills(chain: &Disk<Counting<Store>>) -> u64 {
    let fills = chain.layers().iter().map(|layer| match &**layer {
        Layer::Qcow2(image) => image.failed_fills(),
        Layer::Raw(_) => 0,
    });
    fills.sum()
}
