//! The image that a conversion writes: a new one, which appears whole or not at all, or an existing one.

use super::{Args, Plan};
use crate::commands::img::create::Conversion;
use crate::commands::img::file::{FileFacts, begins_as_qcow2, inspect};
use crate::commands::img::new_image::{NewFile, NewImage};
use crate::commands::img::options;
use crate::commands::img::preallocation::Preallocation;
use crate::commands::img::source::{Source, could_not_open, inspect_writable, named_file, writing};
use anyhow::{Context, ensure};
use std::path::Path;
use std::rc::Rc;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::files::{Format, open_chain, resolve};
use vmicache_format::qcow2::Compression;
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{HostFile, Storage};

/// The image that is written.
pub struct Target {
    /// As it was given.
    pub name: String,
    /// Written in order.
    pub disk: Disk<HostFile>,
    /// It needs no zeroes.
    pub reads_as_zeroes: bool,
    /// What the source leaves to its own backing file is left to the target's.
    pub is_backed: bool,
    /// Bytes of a cluster; 1 of a raw image.
    pub cluster_size: u64,
    /// The method of its compressed clusters.
    pub compression: Compression,
    new: New,
}

/// What of a target has no name yet.
enum New {
    Nothing,
    Raw(NewFile),
    Qcow2(NewImage),
}

impl Target {
    /// Makes the image for a disk of `size` bytes, or opens the existing one.
    ///
    /// # Errors
    /// If it cannot be made or opened, is too small, is one of the sources, or a cache image.
    pub fn of(name: &str, size: u64, plan: &Plan<'_>, runtime: &Rc<LocalRuntime>) -> anyhow::Result<Target> {
        let (path, _) = named_file(name, false)?;
        if plan.args.no_create {
            let target =
                Target::existing(name, &path, plan, runtime).map_err(|error| could_not_open(name, error))?;
            ensure!(target.disk.size() >= size, "output file is smaller than input file");
            return Ok(target);
        }
        let failed = || format!("{name}: error while converting {}", plan.format);
        if path.exists() {
            refuse_source(&path, plan.sources).and_then(|()| refuse_cache(&path)).with_context(failed)?;
        }
        let make = match plan.format {
            Format::Raw => Target::raw(name, &path, size, plan.args, runtime),
            Format::Qcow2 => Target::qcow2(name, &path, size, plan, runtime),
        };
        make.with_context(failed)
    }

    fn existing(
        name: &str,
        path: &Path,
        plan: &Plan<'_>,
        runtime: &Rc<LocalRuntime>,
    ) -> anyhow::Result<Target> {
        let image = inspect_writable(path, plan.format)?;
        refuse_source(path, plan.sources)?;
        let disk = runtime.block_on(open_chain(path, plan.format, &writing(), runtime.clone()))?;
        let header = image.header.as_ref();
        Ok(Target {
            name: name.to_owned(),
            disk,
            reads_as_zeroes: plan.args.target_is_zero,
            is_backed: false,
            cluster_size: header.map_or(1, |header| header.cluster_size()),
            compression: header.and_then(|header| header.compression_method()).unwrap_or_default(),
            new: New::Nothing,
        })
    }

    fn raw(
        name: &str,
        path: &Path,
        size: u64,
        args: &Args,
        runtime: &Rc<LocalRuntime>,
    ) -> anyhow::Result<Target> {
        let options = options::parse(&args.options, Format::Raw)?;
        let preallocation = options.preallocation.unwrap_or_default();
        ensure!(preallocation != Preallocation::Metadata, "Unsupported preallocation mode 'metadata'");
        let file = NewFile::at(path)?;
        let raw = runtime.block_on(async {
            file.storage.set_len(size).await?;
            preallocation.allocate(&file.host()?, 0..size)?;
            anyhow::Ok(RawImage::open(file.storage.clone(), name, true).await?)
        })?;
        Ok(Target {
            name: name.to_owned(),
            disk: Disk::new(vec![Rc::new(Layer::Raw(raw))], Filling::default(), runtime.clone())?,
            reads_as_zeroes: true,
            is_backed: false,
            cluster_size: 1,
            compression: Compression::default(),
            new: New::Raw(file),
        })
    }

    fn qcow2(
        name: &str,
        path: &Path,
        size: u64,
        plan: &Plan<'_>,
        runtime: &Rc<LocalRuntime>,
    ) -> anyhow::Result<Target> {
        let args = plan.args;
        let options = options::parse(&args.options, Format::Qcow2)?;
        let Conversion { image: options, preallocation } =
            Conversion::of(path, options, size, args.backing.clone(), args.backing_format.as_deref())?;
        if let Some(data) = options.data_file.as_ref().and_then(|data| resolve(path, &data.name).ok())
            && data.exists()
        {
            refuse_source(&data, plan.sources)?;
        }
        let image = NewImage::make(path, name, &options, preallocation, runtime)?;
        let layer = Rc::new(Layer::Qcow2(runtime.block_on(image.open(runtime))?));
        Ok(Target {
            name: name.to_owned(),
            disk: Disk::new(vec![layer], Filling::default(), runtime.clone())?,
            reads_as_zeroes: options.backing.is_none(),
            is_backed: options.backing.is_some(),
            cluster_size: options.cluster_size,
            compression: options.compression,
            new: New::Qcow2(image),
        })
    }

    /// Closes the image, and gives a new one its name.
    ///
    /// # Errors
    /// If that cannot be; of a new image, what was there before is then still there.
    pub fn publish(self, runtime: &LocalRuntime) -> anyhow::Result<()> {
        let Target { name, disk, new, .. } = self;
        runtime.block_on(disk.close()).with_context(|| format!("error while closing {name}"))?;
        drop(disk);
        match new {
            New::Nothing => Ok(()),
            New::Raw(file) => file.publish(),
            New::Qcow2(image) => image.publish(),
        }
    }
}

/// Refuses a target that is read as well.
fn refuse_source(path: &Path, sources: &[Source]) -> anyhow::Result<()> {
    let own = FileFacts::of(path)?.identity;
    let files = sources.iter().flat_map(|source| &source.files);
    for file in files.flat_map(|file| [Some(&file.path), file.data_file.as_ref()]).flatten() {
        let is_own = FileFacts::of(file).is_ok_and(|facts| facts.identity == own);
        ensure!(
            !is_own,
            "the target is read itself: it is one of the sources, or one of them is backed by it"
        );
    }
    Ok(())
}

/// Refuses a target that is a cache image, whatever its name says.
fn refuse_cache(path: &Path) -> anyhow::Result<()> {
    let is_cache = begins_as_qcow2(path)?
        && inspect(path, Format::Qcow2)
            .is_ok_and(|image| image.header.is_some_and(|header| header.cache().is_some()));
    ensure!(
        !is_cache,
        "this is a cache image, which is no target; remove it first, if it is not needed any more"
    );
    Ok(())
}
