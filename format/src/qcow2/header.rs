//! The header of a qcow2 image, its extensions, and the backing file's name.

use crate::cache::{BaseIdentity, CacheExtension};
use crate::error::{Blame, Result};

/// The first four bytes of every qcow2 image.
pub const MAGIC: u32 = 0x5146_49fb;
/// The smallest and the largest cluster: 512 bytes and 2 MiB.
pub const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Clusters with extended L2 entries: 16 KiB to 2 MiB.
pub const EXTENDED_L2_CLUSTER_BITS: std::ops::RangeInclusive<u32> = 14..=21;
/// QEMU opens no L1 table above this many bytes.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// QEMU opens no refcount table above this many bytes.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

const V2_LENGTH: u64 = 72;
const V3_MIN_LENGTH: u64 = 104;
/// What this code writes: version 3 with the compression type and its padding.
const V3_LENGTH: u64 = 112;
const MAX_BACKING_NAME: u64 = 1023;

/// Types of header extensions.
pub mod extension {
    #![allow(missing_docs, reason = "the names are the format's own")]
    pub const END: u32 = 0;
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    pub const BITMAPS: u32 = 0x2385_2875;
    pub const ENCRYPTION: u32 = 0x0537_be77;
    pub const EXTERNAL_DATA_FILE: u32 = 0x4441_5441;
    /// Bytes in use and quota of a cache image.
    pub const CACHE: u32 = 0x3139_3834;
    /// Which base image a cache belongs to; this project's own ("VMIB").
    pub const BASE_IDENTITY: u32 = 0x564d_4942;
}

/// Bits of the incompatible features.
pub mod incompatible {
    #![allow(missing_docs, reason = "the names are the format's own")]
    pub const DIRTY: u64 = 1 << 0;
    pub const CORRUPT: u64 = 1 << 1;
    pub const EXTERNAL_DATA_FILE: u64 = 1 << 2;
    pub const COMPRESSION_TYPE: u64 = 1 << 3;
    pub const EXTENDED_L2: u64 = 1 << 4;
    pub const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;
}

/// Compatible feature: refcounts may be written late.
pub const LAZY_REFCOUNTS: u64 = 1 << 0;
/// Autoclear feature: bitmaps are up to date.
pub const BITMAPS: u64 = 1 << 0;
/// Autoclear feature: the external data file is a raw image of its own.
pub const RAW_DATA_FILE: u64 = 1 << 1;

/// A header extension as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its type.
    pub kind: u32,
    /// Its content, without padding.
    pub data: Vec<u8>,
}

/// A qcow2 header with everything that shares its cluster. Offsets and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Binary logarithm of the cluster size.
    pub cluster_bits: u32,
    /// Virtual size of the disk.
    pub size: u64,
    /// 0 none, 1 AES, 2 LUKS.
    pub crypt_method: u32,
    /// Entries of the active L1 table.
    pub l1_size: u32,
    /// Where the active L1 table lies.
    pub l1_table_offset: u64,
    /// Where the refcount table lies.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u32,
    /// Number of internal snapshots.
    pub nb_snapshots: u32,
    /// Where the snapshot table lies.
    pub snapshots_offset: u64,
    /// Features that one must know to open the image.
    pub incompatible_features: u64,
    /// Features that one may ignore.
    pub compatible_features: u64,
    /// Features that one who does not know them clears before writing.
    pub autoclear_features: u64,
    /// Binary logarithm of the bits of a refcount.
    pub refcount_order: u32,
    /// Version 3: the fields from byte 104 on, up to the header's length, as they stand.
    pub further_fields: Vec<u8>,
    /// Everything between header and backing file name, in order, known or not.
    pub extensions: Vec<Extension>,
    /// The backing file's name as it stands.
    pub backing_file: Option<String>,
}

/// Reads big-endian fields off a buffer that is long enough; beyond its end they are zero.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk);
        u32::from_be_bytes(bytes.copied().unwrap_or_default())
    }

    fn u64(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk);
        u64::from_be_bytes(bytes.copied().unwrap_or_default())
    }
}

/// The bytes from `start` to `end`, as far as a buffer that is long enough has them.
fn part(buffer: &[u8], start: u64, end: u64) -> &[u8] {
    buffer.get(start as usize..end as usize).unwrap_or_default()
}

impl Header {
    /// Bytes from the start of an image that tell how large its first cluster is.
    pub const PREFIX: u64 = V3_MIN_LENGTH;

    /// The header of a new, empty version 3 image without tables.
    pub fn new(version: u32, cluster_bits: u32, size: u64) -> Self {
        Header {
            version,
            cluster_bits,
            size,
            crypt_method: 0,
            l1_size: 0,
            l1_table_offset: 0,
            refcount_table_offset: 0,
            refcount_table_clusters: 0,
            nb_snapshots: 0,
            snapshots_offset: 0,
            incompatible_features: 0,
            compatible_features: 0,
            autoclear_features: 0,
            refcount_order: 4,
            further_fields: if version >= 3 { vec![0; (V3_LENGTH - V3_MIN_LENGTH) as usize] } else { vec![] },
            extensions: vec![],
            backing_file: None,
        }
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the fixed part.
    pub fn header_length(&self) -> u64 {
        let further = self.further_fields.len() as u64;
        if self.version == 2 { V2_LENGTH } else { V3_MIN_LENGTH.saturating_add(further) }
    }

    /// The content of the extension of type `kind`.
    pub fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions.iter().find(|e| e.kind == kind).map(|e| e.data.as_slice())
    }

    /// Replaces or adds an extension; a new one goes to the front, where the first sector holds it.
    pub fn set_extension(&mut self, kind: u32, data: Vec<u8>) {
        match self.extensions.iter_mut().find(|e| e.kind == kind) {
            Some(extension) => extension.data = data,
            None => self.extensions.insert(0, Extension { kind, data }),
        }
    }

    /// The format of the backing file, if the image states it.
    pub fn backing_format(&self) -> Option<String> {
        self.extension(extension::BACKING_FORMAT).map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// What makes the image a cache image, if it is one; checked when the header was parsed.
    pub fn cache(&self) -> Option<CacheExtension> {
        self.extension(extension::CACHE).and_then(CacheExtension::parse)
    }

    /// Which base the image was made for, if it says so in a way that this version knows.
    pub fn base_identity(&self) -> Option<BaseIdentity> {
        self.extension(extension::BASE_IDENTITY).and_then(BaseIdentity::parse)
    }

    /// The cluster size of the image whose first [`PREFIX`](Self::PREFIX) bytes are given: how much
    /// [`parse`](Self::parse) needs.
    ///
    /// # Errors
    /// If that is no qcow2 image.
    pub(crate) fn cluster_bits_of(prefix: &[u8], blame: &Blame) -> Result<u32> {
        let fields = Fields(prefix);
        if fields.u32(0) != MAGIC {
            return Err(blame.invalid("header", 0, "no qcow2 image: the first four bytes are not QFI\\xfb"));
        }
        let version = fields.u32(4);
        if !(2..=3).contains(&version) {
            return Err(blame.unsupported(format!("qcow2 version {version} (versions 2 and 3 are)")));
        }
        let bits = fields.u32(20);
        if !CLUSTER_BITS.contains(&bits) {
            let problem = format!("cluster_bits is {bits}, allowed are 9 (512 bytes) to 21 (2 MiB)");
            return Err(blame.invalid("header", 20, problem));
        }
        Ok(bits)
    }

    /// Parses the image's first cluster.
    ///
    /// # Errors
    /// If a field breaks the format's rules or QEMU's limits. Features are not judged here: `info` must
    /// describe images that cannot be opened.
    pub(crate) fn parse(cluster: &[u8], blame: &Blame) -> Result<Self> {
        let cluster_bits = Self::cluster_bits_of(cluster, blame)?;
        let fields = Fields(cluster);
        let version = fields.u32(4);
        let mut header = Header {
            crypt_method: fields.u32(32),
            l1_size: fields.u32(36),
            l1_table_offset: fields.u64(40),
            refcount_table_offset: fields.u64(48),
            refcount_table_clusters: fields.u32(56),
            nb_snapshots: fields.u32(60),
            snapshots_offset: fields.u64(64),
            further_fields: vec![],
            ..Header::new(version, cluster_bits, fields.u64(24))
        };
        let mut length = V2_LENGTH;
        if version == 3 {
            header.incompatible_features = fields.u64(72);
            header.compatible_features = fields.u64(80);
            header.autoclear_features = fields.u64(88);
            header.refcount_order = fields.u32(96);
            length = u64::from(fields.u32(100));
            if length < V3_MIN_LENGTH || !length.is_multiple_of(8) || length > header.cluster_size() {
                let problem = format!(
                    "header_length is {length}, allowed are multiples of 8 from 104 to the cluster size"
                );
                return Err(blame.invalid("header", 100, problem));
            }
            header.further_fields = part(cluster, V3_MIN_LENGTH, length).to_vec();
        }
        header.check_tables(blame)?;
        let (name_offset, name_size) = (fields.u64(8), u64::from(fields.u32(16)));
        header.backing_file = backing_name(cluster, name_offset, name_size, blame)?;
        // A name of no bytes may be said to lie anywhere.
        let end =
            if name_offset == 0 { header.cluster_size() } else { name_offset.min(header.cluster_size()) };
        header.parse_extensions(cluster, length, end, blame)?;
        Ok(header)
    }

    fn check_tables(&self, blame: &Blame) -> Result<()> {
        let cluster = self.cluster_size();
        if self.refcount_order > 6 {
            let problem = format!("refcount_order is {}, allowed are 0 to 6", self.refcount_order);
            return Err(blame.invalid("header", 96, problem));
        }
        if self.has_extended_l2() && !EXTENDED_L2_CLUSTER_BITS.contains(&self.cluster_bits) {
            let problem = format!(
                "extended L2 entries with cluster_bits {}: allowed are 14 (16 KiB) to 21 (2 MiB)",
                self.cluster_bits
            );
            return Err(blame.invalid("header", 20, problem));
        }
        let l1_bytes = u64::from(self.l1_size) * 8;
        if l1_bytes > MAX_L1_BYTES {
            return Err(blame.invalid(
                "header",
                36,
                format!("an L1 table of {l1_bytes} bytes, allowed are 32 MiB"),
            ));
        }
        let needed = l1_entries(self.size, self.cluster_bits, self.has_extended_l2());
        if u64::from(self.l1_size) < needed {
            let problem =
                format!("l1_size is {}, a disk of {} bytes needs {needed}", self.l1_size, self.size);
            return Err(blame.invalid("header", 36, problem));
        }
        let table_bytes = u64::from(self.refcount_table_clusters) << self.cluster_bits;
        if table_bytes == 0 || table_bytes > MAX_REFCOUNT_TABLE_BYTES {
            let problem =
                format!("a refcount table of {table_bytes} bytes, allowed are one cluster to 8 MiB");
            return Err(blame.invalid("header", 56, problem));
        }
        let starts =
            [("L1 table", 40, self.l1_table_offset), ("refcount table", 48, self.refcount_table_offset)];
        for (table, field, offset) in starts {
            if !offset.is_multiple_of(cluster)
                || offset >> 56 != 0
                || (offset == 0 && !(table == "L1 table" && self.l1_size == 0))
            {
                let problem =
                    format!("the {table} is said to lie at {offset}, which is no cluster it could start at");
                return Err(blame.invalid("header", field, problem));
            }
        }
        Ok(())
    }

    fn parse_extensions(&mut self, cluster: &[u8], start: u64, end: u64, blame: &Blame) -> Result<()> {
        let (fields, mut position) = (Fields(cluster), start);
        while let Some(body) = position.checked_add(8).filter(|body| *body <= end) {
            let head = fields.u64(position as usize);
            let (kind, length) = ((head >> 32) as u32, head & u64::from(u32::MAX));
            if kind == extension::END {
                break;
            }
            let body_end = body.saturating_add(length);
            if body_end > end {
                let problem =
                    format!("type {kind:#010x}: a length of {length} bytes goes beyond the header's cluster");
                return Err(blame.invalid("header extension", position, problem));
            }
            if self.extension(kind).is_some() {
                let problem = format!("type {kind:#010x} stands there twice");
                return Err(blame.invalid("header extension", position, problem));
            }
            let data = part(cluster, body, body_end);
            if kind == extension::CACHE && CacheExtension::parse(data).is_none() {
                let problem = format!("the cache image extension has {length} bytes, it must have 16");
                return Err(blame.invalid("header extension", position, problem));
            }
            self.extensions.push(Extension { kind, data: data.to_vec() });
            position = body_end.next_multiple_of(8);
        }
        Ok(())
    }

    /// The image's first cluster, as this header describes it.
    ///
    /// # Errors
    /// If extensions and the backing file's name do not fit into one cluster.
    pub(crate) fn serialize(&self, blame: &Blame) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.cluster_size() as usize);
        for field in [MAGIC, self.version] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend([0; 12]); // the backing file's name: below
        bytes.extend(self.cluster_bits.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes.extend(self.crypt_method.to_be_bytes());
        bytes.extend(self.l1_size.to_be_bytes());
        bytes.extend(self.l1_table_offset.to_be_bytes());
        bytes.extend(self.refcount_table_offset.to_be_bytes());
        bytes.extend(self.refcount_table_clusters.to_be_bytes());
        bytes.extend(self.nb_snapshots.to_be_bytes());
        bytes.extend(self.snapshots_offset.to_be_bytes());
        if self.version >= 3 {
            for field in [self.incompatible_features, self.compatible_features, self.autoclear_features] {
                bytes.extend(field.to_be_bytes());
            }
            bytes.extend(self.refcount_order.to_be_bytes());
            bytes.extend((self.header_length() as u32).to_be_bytes());
            bytes.extend(&self.further_fields);
        }
        for Extension { kind, data } in &self.extensions {
            bytes.extend(kind.to_be_bytes());
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend([0; 8]); // end of the extensions
        let name = self.backing_file.as_deref().unwrap_or_default().as_bytes();
        let room = self.cluster_size().saturating_sub(bytes.len() as u64).min(MAX_BACKING_NAME);
        if name.len() as u64 > room {
            return Err(blame.refused(format!(
                "the backing file's name has {} bytes, the header's cluster of {} bytes has room for {room}: \
                 use a shorter (relative) name or larger clusters",
                name.len(),
                self.cluster_size(),
            )));
        }
        if !name.is_empty() {
            let offset = bytes.len() as u64;
            let place = offset.to_be_bytes().into_iter().chain((name.len() as u32).to_be_bytes());
            bytes.iter_mut().skip(8).zip(place).for_each(|(byte, new)| *byte = new);
            bytes.extend(name);
        }
        bytes.resize(self.cluster_size() as usize, 0);
        Ok(bytes)
    }
}

fn backing_name(cluster: &[u8], offset: u64, size: u64, blame: &Blame) -> Result<Option<String>> {
    if offset == 0 || size == 0 {
        return Ok(None);
    }
    let end = offset.checked_add(size).filter(|end| *end <= cluster.len() as u64 && size <= MAX_BACKING_NAME);
    let Some(end) = end else {
        let problem = format!(
            "a backing file name of {size} bytes at {offset}: allowed are 1023 bytes inside the first cluster"
        );
        return Err(blame.invalid("header", 8, problem));
    };
    match std::str::from_utf8(part(cluster, offset, end)) {
        Ok(name) => Ok(Some(name.to_owned())),
        Err(_) => Err(blame.invalid("header", offset, "the backing file's name is not UTF-8")),
    }
}

/// Entries that the L1 table of a disk of `size` bytes needs.
pub fn l1_entries(size: u64, cluster_bits: u32, extended_l2: bool) -> u64 {
    // An L2 table is a cluster full of entries of 8 bytes, extended ones of 16, each for a cluster of the disk.
    let table_bits = cluster_bits.saturating_sub(if extended_l2 { 4 } else { 3 });
    size.div_ceil(1 << cluster_bits.saturating_add(table_bits))
}
