//! The base and the cache image of `vmicache warm`.

use crate::commands::cache::header_of;
use crate::output::folder_of;
use crate::size::cluster_layout;
use anyhow::{Context, anyhow, ensure};
use std::path::{Path, PathBuf};
use vmicache_format::cache::BaseIdentity;
use vmicache_format::files::{
    Format, NamedFiles, begins_as_qcow2, create_image, describe_base, inspect_chain, link_target, resolve,
};
use vmicache_format::qcow2::{CacheOptions, ClusterLayout, CreateOptions};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};

/// What a cache has if nobody says otherwise: the smallest clusters keep nothing that no boot has read.
const CLUSTER_SIZE: u64 = 512;
/// The same with extended L2 entries: subclusters of 2 KiB.
const EXTENDED_L2_CLUSTER_SIZE: u64 = 65_536;

/// The base image.
pub struct Base {
    /// Where it lies.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes of its disk.
    pub size: u64,
    identity: BaseIdentity,
}

impl Base {
    /// Looks at the base. Only one that cannot be anything but raw needs no format: the first bytes of a raw
    /// image are its guest's.
    pub fn open(path: &Path, format: Option<Format>) -> anyhow::Result<Base> {
        let runtime = LocalRuntime::new();
        let format = match format {
            Some(format) => format,
            None => {
                ensure!(
                    !runtime.block_on(begins_as_qcow2(path)).context("base image")?,
                    "the base {} is a qcow2 image, or a raw one whose guest made it look so: say which, with \
                     --base-format qcow2 or --base-format raw",
                    path.display()
                );
                Format::Raw
            }
        };
        let described = runtime.block_on(describe_base(path, format, NamedFiles::Allow, runtime.clone()));
        let (size, identity) = described.context("base image")?;
        Ok(Base { path: path.to_path_buf(), format, size, identity })
    }

    /// The name that a cache at `cache` records: that within its folder if the base lies there, so that both
    /// can be moved together.
    fn name_for(&self, cache: &Path) -> anyhow::Result<String> {
        let real = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
        let base = real(&self.path)?;
        let cache = link_target(cache);
        let folder = real(folder_of(&cache))?;
        let name = base.strip_prefix(&folder).unwrap_or(&base);
        let name = name.to_str().with_context(|| {
            format!("the name of the base, {}, is not UTF-8: rename it", self.path.display())
        })?;
        resolve(&cache, name).map_err(|problem| anyhow!(problem))?;
        Ok(name.to_owned())
    }
}

/// The cache image, as it is asked for.
pub struct Target<'a> {
    pub path: &'a Path,
    pub quota: Option<u64>,
    pub cluster_size: Option<u64>,
    /// It is to have extended L2 entries; if not, an image that exists may have either.
    pub extended_l2: bool,
    pub base_version: Option<&'a str>,
}

impl Target<'_> {
    /// Makes the cache image if it is missing, and checks that it is the one asked for if not. Whether it
    /// was made.
    pub fn prepare(&self, base: &Base) -> anyhow::Result<bool> {
        let made = !link_target(self.path).exists();
        if made {
            self.make(base)?
        } else {
            self.check(base)?
        }
        Ok(made)
    }

    fn make(&self, base: &Base) -> anyhow::Result<()> {
        let name = self.path.display();
        let quota = self.quota.with_context(|| {
            format!("{name} is missing, and making it needs --quota SIZE (see `vmicache quota`)")
        })?;
        let identity = match self.base_version {
            Some(version) => BaseIdentity::Version(version.to_owned()),
            None => base.identity.clone(),
        };
        let folder = folder_of(self.path);
        ensure!(folder.is_dir(), "{name}: there is no folder {}", folder.display());
        let ClusterLayout { size: cluster_size, extended_l2 } = self.clusters()?;
        let options = CreateOptions {
            cluster_size,
            extended_l2,
            backing: Some((base.name_for(self.path)?, base.format.to_string())),
            cache: Some(CacheOptions { quota, base: Some(identity) }),
            ..CreateOptions::new(base.size.next_multiple_of(512))
        };
        Ok(LocalRuntime::new().block_on(create_image(self.path, &options))?)
    }

    fn clusters(&self) -> anyhow::Result<ClusterLayout> {
        let by_default = if self.extended_l2 { EXTENDED_L2_CLUSTER_SIZE } else { CLUSTER_SIZE };
        let size = self.cluster_size.unwrap_or(by_default);
        cluster_layout(size, self.extended_l2)
            .with_context(|| format!("--extended-l2 with --cluster-size {size}"))
    }

    /// Refuses an image of another kind. Whether the base still holds what the cache was made for, is checked
    /// when the chain is opened.
    fn check(&self, base: &Base) -> anyhow::Result<()> {
        let name = self.path.display();
        let header = header_of(self.path)?;
        let quota = header.cache().map(|cache| cache.quota);
        ensure!(
            self.quota.is_none() || self.quota == quota,
            "{name} exists, with a quota of {} bytes: leave out --quota to fill it further, or remove it first",
            quota.unwrap_or(0)
        );
        let cluster_size = header.cluster_size();
        ensure!(
            self.cluster_size.is_none_or(|wanted| wanted == cluster_size),
            "{name} exists, with clusters of {cluster_size} bytes: leave out --cluster-size to fill it further, \
             or remove it first"
        );
        ensure!(
            header.has_extended_l2() || !self.extended_l2,
            "{name} exists, without extended L2 entries: leave out --extended-l2 to fill it further, or remove it \
             first"
        );
        let files =
            LocalRuntime::new().block_on(inspect_chain(self.path, Format::Qcow2, NamedFiles::Allow))?;
        let below =
            files.get(1).with_context(|| format!("{name} has no backing file: it is a cache of nothing"))?;
        ensure!(
            identity(&below.path)? == identity(&base.path)? && below.format == base.format,
            "{name} belongs to another base: {} ({}); name that one with --base, or another cache",
            below.path.display(),
            below.format
        );
        Ok(())
    }
}

/// Device and inode: equal for two names of one file.
fn identity(path: &Path) -> anyhow::Result<(u64, u64)> {
    let identity = HostFile::open(path, Access::Inspect).and_then(|file| file.identity());
    identity.with_context(|| path.display().to_string())
}
