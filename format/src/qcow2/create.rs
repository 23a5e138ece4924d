//! New images, and the description of existing ones.

use super::compression::Compression;
use super::geometry::{Geometry, HostCluster};
use super::header::*;
use super::slices::Entry;
use crate::cache::{BaseIdentity, CacheExtension};
use crate::error::{Blame, Error, Result};
use crate::storage::{MetadataKind, Storage};
use std::sync::Arc;

/// What makes a new image a cache image.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// What the length of the image's file may not exceed, in bytes.
    pub quota: u64,
    /// Which base it belongs to.
    pub base: Option<BaseIdentity>,
}

/// What a new image is to be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// 2 or 3.
    pub version: u32,
    /// Name and format (`raw` or `qcow2`) of the backing file.
    pub backing: Option<(String, String)>,
    /// Present for a cache image.
    pub cache: Option<CacheOptions>,
    /// Bits of a refcount: a power of two from 1 to 64; version 2 has 16.
    pub refcount_bits: u32,
    /// L2 entries that map 32 subclusters each. Only for version 3 and clusters of 16 KiB or more.
    pub extended_l2: bool,
    /// Refcounts may be written late. Only for version 3.
    pub lazy_refcounts: bool,
    /// The method of compressed clusters. All but [`Compression::Deflate`] only for version 3.
    pub compression: Compression,
    /// Guest data lies in another file. Only for version 3.
    pub data_file: Option<DataFileOptions>,
}

/// The file in which the guest data of a new image is to lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFileOptions {
    /// Its name; relative to the folder of the image.
    pub name: String,
    /// It is to be a raw image of its own: always what the guest sees.
    pub raw: bool,
}

impl CreateOptions {
    /// An image of version 3 with clusters of 64 KiB and no backing file.
    pub fn new(size: u64) -> Self {
        CreateOptions {
            size,
            cluster_size: 65536,
            version: 3,
            backing: None,
            cache: None,
            refcount_bits: 16,
            extended_l2: false,
            lazy_refcounts: false,
            compression: Compression::Deflate,
            data_file: None,
        }
    }
}

/// How the parts of an empty image lie in its file, in clusters: header, refcount table, refcount blocks,
/// L1 table.
struct Layout {
    table_clusters: u64,
    blocks: u64,
    l1_clusters: u64,
}

impl Layout {
    /// The refcount table of a cache is made for all that the file may ever hold, so that it never has to move. That of
    /// any other image begins as small as QEMU makes it.
    fn of(options: &CreateOptions, geometry: &Geometry) -> Self {
        let cluster = geometry.cluster_size();
        let entries = l1_entries(options.size, geometry.cluster_bits, options.extended_l2);
        let l1_clusters = entries.saturating_mul(8).div_ceil(cluster).max(1);
        let mut layout = Layout { table_clusters: 1, blocks: 1, l1_clusters };
        if let Some(cache) = &options.cache {
            let data = options.size.div_ceil(cluster).saturating_add(entries).saturating_add(l1_clusters);
            let full = data.saturating_add(data >> geometry.block_bits.saturating_sub(2)).saturating_add(16);
            let per_table_cluster = (cluster / 8) << geometry.block_bits;
            let wanted = full.min(cache.quota >> geometry.cluster_bits).div_ceil(per_table_cluster);
            layout.table_clusters = wanted.clamp(1, MAX_REFCOUNT_TABLE_BYTES >> geometry.cluster_bits);
        }
        layout.add_blocks(geometry);
        layout
    }

    /// Makes the blocks count all clusters, and the table long enough for the blocks.
    fn add_blocks(&mut self, geometry: &Geometry) {
        let needed = |layout: &Layout| layout.end().0.div_ceil(1 << geometry.block_bits);
        while needed(self) > self.blocks {
            self.blocks = needed(self);
            let table_clusters = self.blocks.saturating_mul(8).div_ceil(geometry.cluster_size());
            self.table_clusters = self.table_clusters.max(table_clusters);
        }
    }

    fn first_block(&self) -> HostCluster {
        HostCluster(1) + self.table_clusters
    }

    fn l1_table(&self) -> HostCluster {
        self.first_block() + self.blocks
    }

    fn end(&self) -> HostCluster {
        self.l1_table() + self.l1_clusters
    }
}

fn check(options: &CreateOptions, blame: &Blame) -> Result<Geometry> {
    let CreateOptions { size, cluster_size, version, .. } = *options;
    let bits = cluster_size.trailing_zeros();
    if !cluster_size.is_power_of_two() || !CLUSTER_BITS.contains(&bits) {
        let problem = format!(
            "a cluster size of {cluster_size} bytes: allowed are powers of two from 512 to 2097152 (2 MiB)"
        );
        return Err(blame.refused(problem));
    }
    if !(2..=3).contains(&version) {
        return Err(
            blame.refused(format!("qcow2 version {version}: allowed are 2 (compat=0.10) and 3 (compat=1.1)"))
        );
    }
    check_features(options, bits, blame)?;
    let geometry = Geometry::new(bits, options.extended_l2, options.refcount_bits.trailing_zeros());
    let largest = (MAX_L1_BYTES / 8) << geometry.l2_bits << bits;
    if size > largest.min(i64::MAX as u64) {
        return Err(blame.refused(format!(
            "a disk of {size} bytes: with clusters of {cluster_size} bytes the format ends at {largest}; use larger clusters"
        )));
    }
    Ok(geometry)
}

fn check_features(options: &CreateOptions, cluster_bits: u32, blame: &Blame) -> Result<()> {
    let CreateOptions { version, refcount_bits, .. } = *options;
    if !refcount_bits.is_power_of_two() || refcount_bits > 64 {
        let problem = format!("refcounts of {refcount_bits} bits: allowed are 1, 2, 4, 8, 16, 32 and 64");
        return Err(blame.refused(problem));
    }
    let of_version_3 = [
        (refcount_bits != 16, "refcounts of another width than 16 bits"),
        (options.extended_l2, "extended L2 entries"),
        (options.lazy_refcounts, "lazy refcounts"),
        (options.compression != Compression::Deflate, "another compression than zlib"),
        (options.data_file.is_some(), "an external data file"),
    ];
    if let Some((_, what)) = of_version_3.iter().find(|(wanted, _)| *wanted && version < 3) {
        return Err(
            blame.refused(format!("{what} with version 2 (compat=0.10): only version 3 (compat=1.1) has it"))
        );
    }
    if options.extended_l2 && !EXTENDED_L2_CLUSTER_BITS.contains(&cluster_bits) {
        let problem = format!(
            "extended L2 entries with clusters of {} bytes: allowed are 16384 (16 KiB) to 2097152 (2 MiB)",
            options.cluster_size
        );
        return Err(blame.refused(problem));
    }
    let is_raw = options.data_file.as_ref().is_some_and(|file| file.raw);
    if is_raw && options.backing.is_some() {
        return Err(blame.refused("an external data file that is a raw image allows no backing file"));
    }
    if options.cache.is_some() && options.data_file.is_some() {
        return Err(blame.refused("a cache image has no external data file"));
    }
    Ok(())
}

fn set_features(header: &mut Header, options: &CreateOptions) {
    header.refcount_order = options.refcount_bits.trailing_zeros();
    if options.extended_l2 {
        header.incompatible_features |= incompatible::EXTENDED_L2;
    }
    if options.lazy_refcounts {
        header.compatible_features |= LAZY_REFCOUNTS;
    }
    if options.compression == Compression::Zstd {
        header.incompatible_features |= incompatible::COMPRESSION_TYPE;
        if let Some(kind) = header.further_fields.first_mut() {
            *kind = 1;
        }
    }
    if let Some(file) = &options.data_file {
        header.incompatible_features |= incompatible::EXTERNAL_DATA_FILE;
        header.autoclear_features |= if file.raw { RAW_DATA_FILE } else { 0 };
        header.set_extension(extension::EXTERNAL_DATA_FILE, file.name.clone().into_bytes());
    }
}

/// Bytes of the file of an empty image: nothing but metadata.
///
/// # Errors
/// If the format cannot have such an image.
pub fn empty_file_bytes(options: &CreateOptions) -> Result<u64> {
    let geometry = check(options, &Blame(Arc::from("new image")))?;
    Ok(geometry.host_offset(Layout::of(options, &geometry).end()))
}

/// Makes an empty image in `storage`, which must be empty itself. `name` appears in errors.
///
/// # Errors
/// If the options are not such as the format allows, the quota is below the image's own metadata, the
/// backing file's name does not fit, or the storage fails.
pub async fn create<S: Storage>(storage: &S, name: &str, options: &CreateOptions) -> Result<()> {
    let blame = Blame(Arc::from(name));
    let geometry = check(options, &blame)?;
    let layout = Layout::of(options, &geometry);
    let cluster = geometry.cluster_size();
    let file_bytes = geometry.host_offset(layout.end());

    let mut header = Header::new(options.version, geometry.cluster_bits, options.size);
    header.add_feature_names();
    header.refcount_table_offset = cluster;
    header.refcount_table_clusters = layout.table_clusters as u32;
    header.l1_table_offset = geometry.host_offset(layout.l1_table());
    header.l1_size = l1_entries(options.size, geometry.cluster_bits, options.extended_l2).max(1) as u32;
    set_features(&mut header, options);
    if let Some((file, format)) = &options.backing {
        header.backing_file = Some(file.clone());
        header.set_extension(extension::BACKING_FORMAT, format.clone().into_bytes());
    }
    if let Some(cache) = &options.cache {
        check_cache(options, cache, file_bytes, &blame)?;
        if let Some(base) = &cache.base {
            header.set_extension(extension::BASE_IDENTITY, base.to_bytes());
        }
        let state = CacheExtension { in_use: file_bytes, quota: cache.quota };
        header.set_extension(extension::CACHE, state.to_bytes());
    }
    let first_cluster = header.serialize(&blame)?;

    let offset_of = |block| geometry.host_offset(layout.first_block() + block);
    let block_offsets: Vec<u64> = (0..layout.blocks).map(offset_of).collect();
    let mut counts = vec![0u8; (layout.blocks << geometry.cluster_bits) as usize];
    geometry.width.fill(&mut counts, 0..layout.end().0 as usize, 1);
    let parts = [
        (MetadataKind::RefcountTable, cluster, u64::encode(&block_offsets)),
        (MetadataKind::RefcountBlock, geometry.host_offset(layout.first_block()), counts),
    ];
    let write = |action| blame.io(action, 0);
    storage.set_len(file_bytes).await.map_err(write("making the image"))?;
    for (kind, offset, bytes) in parts {
        storage.write_metadata(kind, offset, &bytes).await.map_err(blame.io("making the image", offset))?;
    }
    // Until the header is there, the file is no image: whatever interrupts this leaves no broken one.
    storage.flush().await.map_err(write("making the image"))?;
    storage
        .write_metadata(MetadataKind::Header, 0, &first_cluster)
        .await
        .map_err(write("writing the header"))?;
    storage.flush().await.map_err(write("writing the header"))
}

fn check_cache(options: &CreateOptions, cache: &CacheOptions, file_bytes: u64, blame: &Blame) -> Result<()> {
    if options.backing.is_none() {
        return Err(blame.refused("a cache image needs a backing file: the base image that it caches"));
    }
    if cache.quota < file_bytes {
        let tables =
            if options.cluster_size == 512 { "; larger clusters need far smaller tables" } else { "" };
        return Err(blame.refused(format!(
            "a quota of {} bytes is below the image's own metadata of {file_bytes} bytes for a disk of {} bytes{tables}",
            cache.quota, options.size,
        )));
    }
    Ok(())
}

/// Reads the header of the image in `storage`, without judging whether it can be opened.
///
/// # Errors
/// If that is no qcow2 image, or its header breaks the format's rules.
pub async fn read_header<S: Storage>(storage: &S, name: &str) -> Result<Header> {
    let blame = Blame(Arc::from(name));
    let read = async |len| {
        storage.read_metadata(MetadataKind::Header, 0, len).await.map_err(blame.io("reading the header", 0))
    };
    let length = storage.len().await.map_err(blame.io("reading the header", 0))?;
    let bits = Header::cluster_bits_of(&read(Header::PREFIX).await?, &blame)?;
    if length < 512 {
        return Err::<_, Error>(blame.invalid("header", 0, format!("the file ends after {length} bytes")));
    }
    Header::parse(&read(1 << bits).await?, &blame)
}
