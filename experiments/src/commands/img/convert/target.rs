//! The image that a conversion writes: a new one, which appears whole or not at all, or an existing one.

use super::Args;
use crate::commands::img::create::conversion_options;
use crate::commands::img::file::{FileFacts, begins_as_qcow2, inspect};
use crate::commands::img::options;
use crate::commands::img::source::{Source, could_not_open, inspect_writable, named_file, parse_format};
use crate::output::{folder_of, temporary};
use anyhow::{Context, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tempfile::NamedTempFile;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::files::{ChainOptions, Format, link_target, open_chain};
use vmicache_format::qcow2::{self, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};

/// The image that is written.
pub struct Target {
    /// As it was given.
    pub name: String,
    /// Written in order.
    pub disk: Disk<HostFile>,
    /// It needs no zeroes.
    pub reads_as_zeroes: bool,
    /// Bytes of a cluster; 1 of a raw image.
    pub cluster_size: u64,
    /// A new image, and where it is to go.
    new: Option<(NamedTempFile, PathBuf)>,
}

impl Target {
    /// Makes the image, or opens the existing one.
    ///
    /// # Errors
    /// If it cannot be made or opened, is too small, is one of the sources, or a cache image.
    pub fn of(
        name: &str,
        format: Format,
        args: &Args,
        sources: &[Source],
        runtime: &Rc<LocalRuntime>,
    ) -> anyhow::Result<Target> {
        let (path, _) = named_file(name, false)?;
        let size = sources.iter().map(|source| source.disk.size().next_multiple_of(512)).sum();
        if args.no_create {
            return Target::existing(name, &path, format, args, size, sources, runtime)
                .map_err(|error| could_not_open(name, error));
        }
        let failed = || format!("{name}: error while converting {format}");
        Target::new(name, &path, format, args, size, sources, runtime).with_context(failed)
    }

    fn existing(
        name: &str,
        path: &Path,
        format: Format,
        args: &Args,
        size: u64,
        sources: &[Source],
        runtime: &Rc<LocalRuntime>,
    ) -> anyhow::Result<Target> {
        refuse_source(path, sources)?;
        let image = inspect_writable(path, format)?;
        let options = ChainOptions { writable: true, share: true, ..ChainOptions::default() };
        let disk = runtime.block_on(open_chain(path, format, &options, runtime.clone()))?;
        ensure!(disk.size() >= size, "output file is smaller than input file");
        Ok(Target {
            name: name.to_owned(),
            disk,
            reads_as_zeroes: args.target_is_zero,
            cluster_size: image.header.map_or(1, |header| header.cluster_size()),
            new: None,
        })
    }

    fn new(
        name: &str,
        path: &Path,
        format: Format,
        args: &Args,
        size: u64,
        sources: &[Source],
        runtime: &Rc<LocalRuntime>,
    ) -> anyhow::Result<Target> {
        let path = link_target(path);
        let options = options::parse(&args.options, format)?;
        if path.exists() {
            refuse_source(&path, sources)?;
            refuse_cache(&path)?;
            // Fails if others use it; the lock goes again at once.
            HostFile::open(&path, Access::Write)?;
        }
        let folder = folder_of(&path);
        fs::metadata(folder).with_context(|| format!("Could not create '{name}'"))?;
        let file = temporary(folder).with_context(|| format!("Could not create '{name}'"))?;
        let storage = HostFile::from_file(file.as_file().try_clone()?)?;
        let (layer, cluster_size) = match format {
            Format::Raw => {
                ensure!(options.backing_file.is_none(), "Backing file not supported for file format 'raw'");
                file.as_file().set_len(size)?;
                (Layer::Raw(runtime.block_on(RawImage::open(storage, name, true))?), 1)
            }
            Format::Qcow2 => {
                ensure!(
                    options.cache_img_quota.is_none() && options.base_version.is_none(),
                    "a cache image takes copies of its base, and nothing is converted into one"
                );
                let backing_format = parse_format(args.backing_format.as_deref())?;
                let image = conversion_options(&path, options, size, args.backing.clone(), backing_format)?;
                let cluster_size = image.cluster_size;
                let opened = runtime.block_on(async {
                    qcow2::create(&storage, name, &image).await?;
                    Image::open(storage, name, Mode::Write, ImageOptions::default(), runtime.clone()).await
                })?;
                (Layer::Qcow2(opened), cluster_size)
            }
        };
        let disk = Disk::new(vec![Rc::new(layer)], Filling::default(), runtime.clone())?;
        let new = Some((file, path));
        Ok(Target { name: name.to_owned(), disk, reads_as_zeroes: true, cluster_size, new })
    }

    /// Gives a new image its place, once it is closed.
    ///
    /// # Errors
    /// If that cannot be; what was there before is then still there.
    pub fn publish(self) -> anyhow::Result<()> {
        let Target { name, disk, new, .. } = self;
        drop(disk);
        let Some((file, path)) = new else { return Ok(()) };
        file.persist(path).map_err(|error| error.error).with_context(|| format!("Could not create '{name}'"))?;
        Ok(())
    }
}

/// Refuses a target that is read as well.
fn refuse_source(path: &Path, sources: &[Source]) -> anyhow::Result<()> {
    let own = FileFacts::of(path)?.identity;
    for file in sources.iter().flat_map(|source| &source.files) {
        let is_own = FileFacts::of(&file.path).is_ok_and(|facts| facts.identity == own);
        ensure!(!is_own, "the target is read itself: it is one of the sources, or one of them is backed by it");
    }
    Ok(())
}

/// Refuses a target that is a cache image, whatever its name says.
fn refuse_cache(path: &Path) -> anyhow::Result<()> {
    let is_cache = begins_as_qcow2(path)?
        && inspect(path, Format::Qcow2)?.header.is_some_and(|header| header.cache().is_some());
    ensure!(!is_cache, "this is a cache image, which is no target; remove it first, if it is not needed any more");
    Ok(())
}
