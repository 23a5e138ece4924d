//! Bugs that other implementations of the format have or had, each with a test of its own.

#[path = "../common/mod.rs"]
mod common;

mod allocation;
mod hostile;
mod small_clusters;
mod tables;
mod timing;

use common::{assert_same, qemu};
use std::rc::Rc;
use tempfile::TempDir;
use vmicache_format::Result;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{self, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Memory, Storage};

/// A new image in memory.
fn new_image(options: &CreateOptions) -> Memory {
    let memory = Memory::default();
    let made = LocalRuntime::new().block_on(qcow2::create(&memory, "image", options));
    made.expect("the image can be made");
    memory
}

fn with_clusters(cluster_size: u64, size: u64) -> CreateOptions {
    CreateOptions { cluster_size, ..CreateOptions::new(size) }
}

/// A disk of one image.
async fn open<S: Storage>(storage: S, mode: Mode, runtime: &Rc<LocalRuntime>) -> Result<Disk<S>> {
    open_with(storage, mode, ImageOptions::default(), runtime).await
}

async fn open_with<S: Storage>(
    storage: S,
    mode: Mode,
    options: ImageOptions,
    runtime: &Rc<LocalRuntime>,
) -> Result<Disk<S>> {
    let image = Image::open(storage, "image", mode, options, runtime.clone()).await?;
    Disk::new(vec![Rc::new(Layer::Qcow2(image))], Filling::Beside, runtime.clone())
}

fn folder_with(bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("image"), bytes).expect("the image can be written");
    folder
}

/// QEMU finds no error and no leak in an image, and reads `content`.
#[track_caller]
fn check_with_qemu(bytes: &[u8], content: &[u8]) {
    let folder = folder_with(bytes);
    qemu::check(folder.path(), "image");
    assert_same(&qemu::content(folder.path(), "image"), content, "what QEMU reads");
}
