//! Stacks of layers over the image of an input.

use super::Setting;
use super::store::Store;
use std::rc::Rc;
use std::time::Duration;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{self, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::{RawImage, Result};

/// Bytes of the image below: it ends with no cluster.
pub const BASE_BYTES: u64 = 300_100;

thread_local! {
    static BASE: Rc<Vec<u8>> = Rc::new((0..BASE_BYTES).map(|at| (at / 512 % 7 * 40 + at % 3) as u8).collect());
}

/// The files of a disk.
#[derive(Clone)]
pub struct Files {
    /// The image.
    pub image: Store,
    /// Its external data file, if it is to have one.
    pub data: Option<Store>,
    /// The raw image below, if there is to be one.
    pub base: Option<Store>,
}

impl Files {
    /// The files of an image that is opened with a setting.
    pub async fn new(image: Store, setting: &Setting) -> Self {
        let header = qcow2::read_header(&image, "image").await;
        let wants_data = header.is_ok_and(|header| header.data_file().is_some());
        let data = (wants_data != setting.wrong_data_file).then(|| Store::new(Rc::new(vec![9; 70_000])));
        let base = setting.is_backed.then(|| BASE.with(|base| Store::new(base.clone())));
        Files { image, data, base }
    }

    /// Opens the disk.
    pub async fn open(
        &self,
        mode: Mode,
        setting: &Setting,
        runtime: &Rc<LocalRuntime>,
    ) -> Result<Disk<Store>> {
        let options = ImageOptions {
            metadata_cache: setting.small_cache.then_some(0),
            batch_bytes: if setting.small_batches { 1 } else { 1 << 20 },
            // No clock ends what ought to end by itself.
            batch_time: Duration::from_secs(1 << 20),
            ..ImageOptions::default()
        };
        let (image, data) = (self.image.clone(), self.data.clone());
        let image = Image::open_with_data_file(image, data, "image", mode, options, runtime.clone()).await?;
        let mut layers = vec![Rc::new(Layer::Qcow2(image))];
        if let Some(base) = &self.base {
            layers.push(Rc::new(Layer::Raw(RawImage::open(base.clone(), "base", false).await?)));
        }
        let filling = if setting.in_path { Filling::InPath } else { Filling::Beside };
        Disk::new(layers, filling, runtime.clone())
    }
}
