//! Every kind of image that guests write: making them, and opening them over any storage.

use super::blocks::{BASE, BLOCK, Content, bytes_of};
use super::{Random, qemu};
use bytes::Bytes;
use std::rc::Rc;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{self, Compression, CreateOptions, DataFileOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Memory, Storage};
use vmicache_format::{RawImage, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    None,
    Raw,
    Qcow2,
}

/// A kind of image.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub cluster_size: u64,
    pub version: u32,
    pub refcount_bits: u32,
    pub extended_l2: bool,
    pub compression: Compression,
    pub backing: Backing,
    /// With an external data file, which may be a raw image of its own.
    pub data_file: Option<bool>,
    /// There is an internal snapshot of what was there first.
    pub snapshot: bool,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of the base's disk.
    pub base_size: u64,
    /// How much of the disk is full at first.
    pub full: f64,
    /// The size of the disk changes.
    pub resized: bool,
}

/// Clusters of so many bytes, version 3, no base.
pub const fn clusters(cluster_size: u64) -> Kind {
    let size = if cluster_size == 512 { 200 << 10 } else { 900 << 10 };
    Kind {
        cluster_size,
        version: 3,
        refcount_bits: 16,
        extended_l2: false,
        compression: Compression::Deflate,
        backing: Backing::None,
        data_file: None,
        snapshot: false,
        size,
        base_size: 0,
        full: 0.3,
        resized: false,
    }
}

impl Kind {
    /// Over a base that is a little shorter than the disk.
    pub const fn over(self, backing: Backing) -> Kind {
        Kind { backing, base_size: self.size - 10 * BLOCK, ..self }
    }

    pub const fn version_2(self) -> Kind {
        Kind { version: 2, ..self }
    }

    pub const fn refcounts(self, refcount_bits: u32) -> Kind {
        Kind { refcount_bits, ..self }
    }

    pub const fn extended(self) -> Kind {
        Kind { extended_l2: true, ..self }
    }

    pub const fn zstd(self) -> Kind {
        Kind { compression: Compression::Zstd, ..self }
    }

    pub const fn data_file(self, raw: bool) -> Kind {
        Kind { data_file: Some(raw), ..self }
    }

    pub const fn snapshot(self) -> Kind {
        Kind { snapshot: true, full: 0.7, ..self }
    }

    /// With a size that changes; the base is larger than the disk at first.
    pub const fn resized(self) -> Kind {
        let base_size = if self.base_size == 0 { 0 } else { self.size + self.size / 4 / BLOCK * BLOCK };
        // Few tables are there: those that come later are new ones.
        Kind { resized: true, base_size, full: 0.05, ..self }
    }

    /// The largest disk that the size changes to.
    pub fn largest(&self) -> u64 {
        if self.resized { self.size * 2 } else { self.size }
    }

    pub fn is_backed(&self) -> bool {
        self.backing != Backing::None
    }

    /// Whether whole clusters that are discarded read as zeroes afterwards.
    pub fn discards(&self) -> bool {
        self.data_file.is_none() && (self.version >= 3 || !self.is_backed())
    }

    pub fn compresses(&self) -> bool {
        self.data_file.is_none()
    }

    fn options(&self) -> CreateOptions {
        let backing = match self.backing {
            Backing::None => None,
            Backing::Raw => Some(("base".to_owned(), "raw".to_owned())),
            Backing::Qcow2 => Some(("base".to_owned(), "qcow2".to_owned())),
        };
        CreateOptions {
            cluster_size: self.cluster_size,
            version: self.version,
            backing,
            refcount_bits: self.refcount_bits,
            extended_l2: self.extended_l2,
            compression: self.compression,
            data_file: self.data_file.map(|raw| DataFileOptions { name: "data".into(), raw }),
            ..CreateOptions::new(self.size)
        }
    }
}

pub const VERSION_2: [Kind; 4] = [
    clusters(512).version_2(),
    clusters(4096).over(Backing::Raw).version_2(),
    clusters(65536).over(Backing::Qcow2).version_2(),
    clusters(4096).over(Backing::Raw).version_2().snapshot(),
];

pub const VERSION_3: [Kind; 4] = [
    clusters(512).over(Backing::Raw),
    clusters(4096),
    clusters(4096).over(Backing::Qcow2).zstd(),
    clusters(65536).over(Backing::Raw),
];

pub const REFCOUNT_WIDTHS: [Kind; 6] = [
    clusters(512).refcounts(1),
    clusters(4096).over(Backing::Raw).refcounts(2).snapshot(),
    clusters(512).over(Backing::Qcow2).refcounts(4),
    clusters(65536).refcounts(8).snapshot(),
    clusters(4096).refcounts(32).zstd(),
    clusters(512).over(Backing::Raw).refcounts(64).snapshot(),
];

pub const EXTENDED_L2: [Kind; 5] = [
    clusters(16384).extended(),
    clusters(16384).over(Backing::Raw).extended().zstd(),
    clusters(65536).over(Backing::Qcow2).extended(),
    clusters(16384).over(Backing::Raw).extended().snapshot(),
    clusters(65536).extended().refcounts(1),
];

pub const DATA_FILES: [Kind; 4] = [
    clusters(4096).data_file(true),
    clusters(65536).data_file(false),
    clusters(512).over(Backing::Raw).data_file(false),
    clusters(16384).over(Backing::Qcow2).extended().data_file(false),
];

/// The refcount table of the first is nearly full: writes that a snapshot makes go elsewhere need a larger one.
pub const GROWING: [Kind; 7] = [
    Kind { size: 1800 << 10, full: 1.0, snapshot: true, ..clusters(512).refcounts(64) },
    clusters(512).resized(),
    // Its refcount blocks count little: a smaller disk leaves many of them empty.
    clusters(512).over(Backing::Raw).refcounts(64).resized(),
    clusters(512).over(Backing::Raw).resized(),
    clusters(512).over(Backing::Raw).version_2().resized(),
    clusters(4096).over(Backing::Qcow2).resized(),
    clusters(16384).over(Backing::Raw).extended().resized(),
];

pub const ALL: [&[Kind]; 6] = [&VERSION_2, &VERSION_3, &REFCOUNT_WIDTHS, &EXTENDED_L2, &DATA_FILES, &GROWING];

/// The content of the files of an image.
#[derive(Clone, Default)]
pub struct Files {
    pub image: Vec<u8>,
    pub data: Option<Vec<u8>>,
    pub base: Vec<u8>,
}

impl Files {
    /// An image of a kind that holds what its base holds, but some parts of its own that are zero, or have content of
    /// the base, compressed or not.
    pub fn new(kind: &Kind, random: &mut Random, runtime: &Rc<LocalRuntime>) -> Self {
        let image = Memory::default();
        let data = kind.data_file.map(|_| Memory::default());
        let base = runtime.block_on(base_of(kind, runtime));
        let made = runtime.block_on(async {
            qcow2::create(&image, "image", &kind.options()).await?;
            let stores = Stores { image: image.clone(), data: data.clone(), base: Memory::new(base.clone()) };
            let disk = stores.open(kind, Mode::Write, ImageOptions::default(), runtime).await?;
            fill(kind, random, &disk).await?;
            disk.close().await
        });
        made.expect("the image can be made");
        let mut files = Files { image: image.to_vec(), data: data.map(|data| data.to_vec()), base };
        if kind.snapshot {
            let folder = files.write_down();
            qemu::img(folder.path(), &["snapshot", "-c", "first", "image"]);
            files.image = std::fs::read(folder.path().join("image")).expect("QEMU wrote it");
        }
        files
    }

    /// The files in a folder of the host.
    pub fn write_down(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let files = [("image", Some(&self.image)), ("data", self.data.as_ref()), ("base", Some(&self.base))];
        for (name, content) in files {
            if let Some(content) = content {
                std::fs::write(folder.path().join(name), content).expect("a file can be written");
            }
        }
        folder
    }

    /// The files in memory, to be opened.
    pub fn stores(&self) -> Stores<Memory> {
        Stores {
            image: Memory::new(self.image.clone()),
            data: self.data.clone().map(Memory::new),
            base: Memory::new(self.base.clone()),
        }
    }

    /// What the files hold that are not the base.
    pub fn written(&self) -> Vec<Vec<u8>> {
        [self.image.clone()].into_iter().chain(self.data.clone()).collect()
    }

    /// The same base below other content of the written files.
    pub fn with_written(&self, mut written: Vec<Vec<u8>>) -> Self {
        let data = self.data.as_ref().and_then(|_| written.pop());
        Files { image: written.pop().unwrap_or_default(), data, base: self.base.clone() }
    }
}

/// The storages of an image's files.
#[derive(Clone)]
pub struct Stores<S> {
    pub image: S,
    pub data: Option<S>,
    pub base: S,
}

impl<S: Storage<Payload = Bytes> + Clone> Stores<S> {
    pub async fn open(
        &self,
        kind: &Kind,
        mode: Mode,
        options: ImageOptions,
        runtime: &Rc<LocalRuntime>,
    ) -> Result<Disk<S>> {
        let (image, data) = (self.image.clone(), self.data.clone());
        let image =
            Image::open_with_data_file(image, data, "image", mode, options.clone(), runtime.clone()).await?;
        let mut layers = vec![Layer::Qcow2(image)];
        match kind.backing {
            Backing::None => {}
            Backing::Raw => layers.push(Layer::Raw(RawImage::open(self.base.clone(), "base", false).await?)),
            Backing::Qcow2 => {
                let base =
                    Image::open(self.base.clone(), "base", Mode::Read, options, runtime.clone()).await?;
                layers.push(Layer::Qcow2(base));
            }
        }
        Disk::new(layers.into_iter().map(Rc::new).collect(), Filling::Beside, runtime.clone())
    }
}

async fn base_of(kind: &Kind, runtime: &Rc<LocalRuntime>) -> Vec<u8> {
    let content = bytes_of(0..kind.base_size / BLOCK, BASE);
    if kind.backing != Backing::Qcow2 {
        return content;
    }
    let memory = Memory::default();
    let made: Result<()> = async {
        let options = CreateOptions { cluster_size: 4096, ..CreateOptions::new(kind.base_size) };
        qcow2::create(&memory, "base", &options).await?;
        let options = ImageOptions::default();
        let image = Image::open(memory.clone(), "base", Mode::Write, options, runtime.clone()).await?;
        let disk = Disk::new(vec![Rc::new(Layer::Qcow2(image))], Filling::Beside, runtime.clone())?;
        disk.write(0, content.into()).await?;
        disk.close().await
    }
    .await;
    made.expect("the base can be made");
    memory.to_vec()
}

/// Writes onto parts of a disk what they hold already, so that they have clusters of their own.
async fn fill<S: Storage<Payload = Bytes>>(kind: &Kind, random: &mut Random, disk: &Disk<S>) -> Result<()> {
    let size = disk.size();
    let unit = kind.cluster_size.max(2048);
    let content = |range: std::ops::Range<u64>| -> Bytes {
        let blocks = range.start / BLOCK..range.end / BLOCK;
        let content = |block| if block * BLOCK < kind.base_size { BASE } else { Content::Zero };
        blocks.flat_map(|block| content(block).bytes(block)).collect::<Vec<u8>>().into()
    };
    for start in (0..size).step_by(unit as usize) {
        let range = start..(start + unit).min(size);
        if !random.chance(kind.full) {
            continue;
        }
        // A snapshot is one reference more to each cluster: also to those that many compressed ones share.
        let compresses =
            unit == kind.cluster_size && kind.compresses() && !(kind.snapshot && kind.refcount_bits < 8);
        match compresses && random.chance(0.4) {
            true => disk.write_compressed(start, content(range)).await?,
            false => disk.write(start, content(range)).await?,
        }
    }
    Ok(())
}
