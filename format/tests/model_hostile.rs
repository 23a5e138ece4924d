//! Images with damaged or malicious metadata: an error or some data, never a panic, never an endless loop, and
//! no memory beyond what the file's own size justifies.

mod common;

use bytes::Bytes;
use common::{Random, seeds};
use std::io;
use std::rc::Rc;
use vmicache_format::cache::BaseIdentity;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::header::extension;
use vmicache_format::qcow2::{self, CacheOptions, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{DataKind, Memory, MetadataKind, Storage};
use vmicache_format::{RawImage, Result};

/// Memory that, like a file system, does not grow without limits.
#[derive(Clone)]
struct Small(Memory);

const LARGEST: u64 = 64 << 20;

fn within(offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len).is_some_and(|end| end <= LARGEST) {
        true => Ok(()),
        false => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

impl Storage for Small {
    type Payload = Bytes;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        within(0, len)?;
        self.0.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        within(offset, parts.iter().map(|part| part.len() as u64).sum())?;
        self.0.write(offset, parts).await
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        assert!(len <= LARGEST, "a table of {len} bytes is read from a file of less than {LARGEST}");
        self.0.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        within(offset, bytes.len() as u64)?;
        self.0.write_metadata(kind, offset, bytes).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.0.flush().await
    }

    async fn len(&self) -> io::Result<u64> {
        self.0.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        within(0, len)?;
        self.0.set_len(len).await
    }

    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.discard(offset, len).await
    }
}

const DISK: u64 = 600_000;

/// A well-formed image with some data in it.
async fn sound_image(random: &mut Random, is_cache: bool, runtime: &Rc<LocalRuntime>) -> Result<Vec<u8>> {
    let memory = Small(Memory::default());
    let options = CreateOptions {
        cluster_size: random.pick(&[512, 4096, 65536]),
        version: random.pick(&[2, 3]),
        backing: is_cache.then(|| ("base".into(), "raw".into())),
        cache: is_cache
            .then(|| CacheOptions { quota: 4 << 20, base: Some(BaseIdentity::Version("1".into())) }),
        ..CreateOptions::new(DISK)
    };
    qcow2::create(&memory, "image", &options).await?;
    let disk = open(memory.clone(), is_cache, runtime).await?;
    use_disk(random, &disk).await;
    disk.close().await?;
    Ok(memory.0.to_vec())
}

async fn open(storage: Small, is_cache: bool, runtime: &Rc<LocalRuntime>) -> Result<Disk<Small>> {
    let mode = if is_cache { Mode::Fill } else { Mode::Write };
    let image = Image::open(storage, "image", mode, ImageOptions::default(), runtime.clone()).await?;
    let base = Small(Memory::new(vec![1; DISK as usize]));
    let mut layers = vec![Rc::new(Layer::Qcow2(image))];
    if is_cache {
        layers.push(Rc::new(Layer::Raw(RawImage::open(base, "base", false).await?)));
    }
    Disk::new(layers, Filling::InPath, runtime.clone())
}

/// Whether requests succeed does not matter here.
async fn use_disk(random: &mut Random, disk: &Disk<Small>) {
    let size = disk.size().clamp(1, DISK);
    for _ in 0..10 {
        let piece = random.piece(size, 100_000);
        let len = piece.end - piece.start;
        match random.below(4) {
            0 | 1 => drop(disk.read(piece.start, len).await),
            2 => drop(disk.write(piece.start, Bytes::from(vec![2; len as usize])).await),
            _ => drop(disk.write_zeroes(piece.start, len).await),
        }
    }
}

/// Puts a hostile number somewhere into the metadata.
fn damage(random: &mut Random, image: &mut Vec<u8>) {
    let wide = random.chance(0.5);
    let width = if wide { 8 } else { 4 };
    // Mostly the header, where every field has a meaning.
    let end = random.pick(&[112, 112, 512, 1 << 17]).min(image.len());
    let at = random.below((end - width) as u64) as usize / 4 * 4;
    let old = u64::from_be_bytes(image[at..at + 8].try_into().expect("eight bytes"));
    let (anything, bit) = (random.below(u64::MAX), 1 << random.below(64));
    let number = random.pick(&[
        0,
        1,
        u64::MAX,
        i64::MAX as u64,
        u64::from(u32::MAX),
        1 << 31,
        1 << 40,
        (1 << 56) - 512,
        image.len() as u64,
        image.len() as u64 / 512 * 512,
        old.wrapping_add(512),
        old ^ bit,
        anything,
    ]);
    match wide {
        true => image[at..at + 8].copy_from_slice(&number.to_be_bytes()),
        false => image[at..at + 4].copy_from_slice(&(number as u32).to_be_bytes()),
    }
    if random.chance(0.05) {
        let len = random.below(image.len() as u64 + 1);
        image.truncate(len as usize);
    }
}

fn use_image(random: &mut Random, image: Vec<u8>, is_cache: bool) -> bool {
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let Ok(disk) = open(Small(Memory::new(image)), is_cache, &runtime).await else { return false };
        use_disk(random, &disk).await;
        drop(disk.close().await);
        true
    })
}

#[test]
fn damaged_images_are_errors_at_worst() {
    let mut opened = 0;
    for seed in seeds(0, 1500) {
        let mut random = Random::new(seed);
        let is_cache = random.chance(0.5);
        let runtime = LocalRuntime::new();
        let sound =
            runtime.block_on(sound_image(&mut random, is_cache, &runtime)).expect("the image can be made");
        for _ in 0..10 {
            let mut image = sound.clone();
            (0..random.within(1..4)).for_each(|_| {
                if image.len() > 200 {
                    damage(&mut random, &mut image);
                }
            });
            opened += u32::from(use_image(&mut random, image, is_cache));
        }
    }
    // Else the tables were never looked at.
    assert!(
        std::env::var("TEST_SEED").is_ok() || opened > 2000,
        "only {opened} of the damaged images opened"
    );
}

/// A name of no bytes that is said to begin far behind the file: extensions are read up to the end of the
/// first cluster all the same.
#[test]
fn extensions_end_with_the_first_cluster() {
    let mut random = Random::new(0);
    let runtime = LocalRuntime::new();
    let mut image =
        runtime.block_on(sound_image(&mut random, true, &runtime)).expect("the image can be made");
    image[8..16].copy_from_slice(&(1_u64 << 40).to_be_bytes());
    image[16..20].copy_from_slice(&[0; 4]);
    let header_length = if image[7] == 2 { 72 } else { 112 };
    let long = [extension::BITMAPS.to_be_bytes(), (1_u32 << 20).to_be_bytes()].concat();
    image[header_length..header_length + 8].copy_from_slice(&long);
    assert!(!use_image(&mut random, image, true));
}
