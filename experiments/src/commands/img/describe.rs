//! What an image's metadata says, under the names that qemu-img has for it.

use super::file::FileFacts;
use crate::units::hex;
use anyhow::Context;
use serde::Serialize;
use std::path::Path;
use vmicache_format::cache::BaseIdentity;
use vmicache_format::files::{ImageFile, resolve};
use vmicache_format::qcow2::header::{Header, extension};
use vmicache_format::qcow2::{Image, ImageOptions, Mode, Usage};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};

/// An image, or the file below one. The fields stand in the order of qemu-img's JSON; sizes are in bytes.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// The file that holds the image.
    pub children: Vec<Child>,
    /// As it is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// Of the disk, or of the file.
    pub virtual_size: u64,
    /// As it was given, or as the image above leads to it.
    pub filename: String,
    /// Of a qcow2 image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// raw, qcow2 or file.
    pub format: String,
    /// What the file system has allocated.
    pub actual_size: u64,
    /// What only images of this format have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<FormatSpecific>,
    /// Where the backing file lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// As it is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// Left out unless true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// Refcounts may be wrong: the image was not closed.
    pub dirty_flag: bool,
}

/// Something that an image consists of.
#[derive(Serialize)]
pub struct Child {
    /// What it is to the image.
    pub name: &'static str,
    /// The child itself.
    pub info: ImageInfo,
}

/// What only images of one format have.
#[derive(Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum FormatSpecific {
    /// A file of the host: nothing.
    File {},
    /// A qcow2 image.
    Qcow2(Box<Qcow2Info>),
}

/// What only qcow2 images have. What version 2 cannot express is left out for it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Qcow2Info {
    /// 0.10 or 1.1.
    pub compat: &'static str,
    /// zlib or zstd.
    pub compression_type: String,
    /// Whether writers may leave refcounts for later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy_refcounts: Option<bool>,
    /// Bits of a refcount.
    pub refcount_bits: u64,
    /// Of an encrypted image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<Encrypt>,
    /// The file that holds the data, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Whether that file is a raw image as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_raw: Option<bool>,
    /// Whether a program has found it damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<bool>,
    /// Whether clusters have subclusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_l2: Option<bool>,
    /// Number of internal snapshots; left out if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_count: Option<u32>,
    /// Features that one must know to open the image, and that nobody knows here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown_features: Vec<String>,
    /// Of a cache image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_image: Option<CacheInfo>,
}

/// How an image is encrypted.
#[derive(Serialize)]
pub struct Encrypt {
    /// aes or luks.
    pub format: String,
}

/// What only cache images have; sizes in bytes.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CacheInfo {
    /// What the length of the file may not exceed.
    pub quota: u64,
    /// What the tables reach, metadata included; null if it could not be counted.
    pub bytes_in_use: Option<u64>,
    /// Of it, guest data.
    pub data_bytes: Option<u64>,
    /// Length of the file.
    pub file_bytes: u64,
    /// What new clusters may take, their tables included.
    pub room_left: Option<u64>,
    /// Why it could not be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_error: Option<String>,
    /// The base that the cache was made for; null if none is recorded.
    pub base: Option<Base>,
}

/// By what a cache recognises its base.
#[derive(Serialize)]
#[serde(untagged, rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Base {
    /// By its length and a digest of sampled blocks.
    Digest {
        /// Bytes of its disk.
        length: u64,
        /// In hexadecimal.
        sample_sha256: String,
    },
    /// By a name that the operator gave.
    Version {
        /// The name.
        version: String,
    },
    /// In a way that this version does not know.
    Unknown {
        /// The record, in hexadecimal.
        unknown_record: String,
    },
}

impl ImageInfo {
    /// Describes an image. The tables of a cache image are read to count what they reach.
    ///
    /// # Errors
    /// If the file has gone.
    pub fn of(image: &ImageFile) -> anyhow::Result<ImageInfo> {
        let facts = FileFacts::of(&image.path)?;
        let file = ImageInfo::of_file(&image.path, &facts);
        let mut info = ImageInfo {
            format: image.format.to_string(),
            format_specific: None,
            ..ImageInfo::of_file(&image.path, &facts)
        };
        info.children.push(Child { name: "file", info: file });
        if let Some(header) = &image.header {
            info.add_header(header, &image.path, &facts);
        }
        Ok(info)
    }

    /// The file that holds an image.
    fn of_file(path: &Path, facts: &FileFacts) -> ImageInfo {
        ImageInfo {
            children: vec![],
            backing_filename_format: None,
            virtual_size: facts.sectors(),
            filename: path.display().to_string(),
            cluster_size: None,
            format: "file".to_owned(),
            actual_size: facts.allocated,
            format_specific: Some(FormatSpecific::File {}),
            full_backing_filename: None,
            backing_filename: None,
            encrypted: None,
            dirty_flag: false,
        }
    }

    fn add_header(&mut self, header: &Header, path: &Path, facts: &FileFacts) {
        self.virtual_size = header.size;
        self.cluster_size = Some(header.cluster_size());
        self.backing_filename = header.backing_file.clone();
        if let Some(name) = &header.backing_file {
            self.full_backing_filename = Some(full_name(path, name));
            self.backing_filename_format = header.backing_format();
        }
        self.encrypted = header.encryption().map(|_| true);
        self.dirty_flag = header.is_dirty();
        self.format_specific = Some(FormatSpecific::Qcow2(Box::new(Qcow2Info::of(header, path, facts))));
    }
}

/// Where the backing file lies; names that are no file's are left as they are.
fn full_name(image: &Path, backing: &str) -> String {
    match resolve(image, backing) {
        Ok(path) if !backing.starts_with("file:") => path.display().to_string(),
        _ => backing.to_owned(),
    }
}

impl Qcow2Info {
    fn of(header: &Header, path: &Path, facts: &FileFacts) -> Qcow2Info {
        let version_3 = header.version >= 3;
        let data_file = header.data_file();
        Qcow2Info {
            compat: if version_3 { "1.1" } else { "0.10" },
            compression_type: header.compression(),
            lazy_refcounts: version_3.then(|| header.lazy_refcounts()),
            refcount_bits: header.refcount_bits(),
            encrypt: header.encryption().map(|format| Encrypt { format }),
            data_file_raw: data_file.is_some().then(|| header.data_file_is_raw()),
            data_file,
            corrupt: version_3.then(|| header.is_corrupt()),
            extended_l2: version_3.then(|| header.has_extended_l2()),
            snapshot_count: (header.nb_snapshots != 0).then_some(header.nb_snapshots),
            unknown_features: header.unknown_features(),
            cache_image: CacheInfo::of(header, path, facts),
        }
    }
}

impl CacheInfo {
    fn of(header: &Header, path: &Path, facts: &FileFacts) -> Option<CacheInfo> {
        let quota = header.cache()?.quota;
        let usage = count(path);
        let known = usage.as_ref().ok();
        let room = quota - quota % header.cluster_size();
        Some(CacheInfo {
            quota,
            bytes_in_use: known.map(|usage| usage.bytes_in_use),
            data_bytes: known.map(|usage| usage.data_bytes),
            file_bytes: facts.length,
            room_left: known.map(|usage| room.saturating_sub(usage.bytes_in_use)),
            usage_error: usage.as_ref().err().map(|error| format!("{error:#}")),
            base: header.extension(extension::BASE_IDENTITY).map(Base::of),
        })
    }
}

/// Counts what the tables of the image at `path` reach, while others may be filling it.
fn count(path: &Path) -> anyhow::Result<Usage> {
    let name = path.display().to_string();
    let storage = HostFile::open(path, Access::Inspect).with_context(|| name.clone())?;
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let image = Image::open(storage, &name, Mode::Read, ImageOptions::default(), runtime.clone()).await?;
        Ok(image.usage().await?)
    })
}

impl Base {
    fn of(record: &[u8]) -> Base {
        match BaseIdentity::parse(record) {
            Some(BaseIdentity::Digest { length, digest }) => {
                Base::Digest { length, sample_sha256: hex(&digest) }
            }
            Some(BaseIdentity::Version(version)) => Base::Version { version },
            None => Base::Unknown { unknown_record: hex(record) },
        }
    }
}
