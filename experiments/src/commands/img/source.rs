//! Images that are read: opened with everything that they are backed by.

use super::file::{begins_as_qcow2, inspect};
use super::naming::Named;
use anyhow::{Context, anyhow, bail};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::files::{ChainOptions, Format, ImageFile, NamedFiles, inspect_chain, open_chain};
use vmicache_format::qcow2::{Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};

/// What commands take that read images.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SourceOptions {
    /// Names are descriptions such as driver=qcow2,file.filename=NAME
    #[arg(long)]
    pub image_opts: bool,
    /// Read an image that others write; what is read may be half-written
    #[arg(short = 'U', long)]
    pub force_share: bool,
    /// Objects of QEMU; refused
    #[arg(long, value_name = "OBJECT", hide = true)]
    pub object: Vec<String>,
}

impl SourceOptions {
    /// Refuses what these options cannot do.
    ///
    /// # Errors
    /// If an object of QEMU is to be made.
    pub fn check(&self) -> anyhow::Result<()> {
        refuse_objects(&self.object)
    }
}

/// QEMU's objects are secrets and the like: nothing here uses any.
///
/// # Errors
/// If there is one.
pub fn refuse_objects(objects: &[String]) -> anyhow::Result<()> {
    match objects.first() {
        Some(object) => bail!("not supported: --object {object}; neither encryption nor TLS is"),
        None => Ok(()),
    }
}

/// The format that an argument states, or `None`.
///
/// # Errors
/// If it is not raw or qcow2.
pub fn parse_format(format: Option<&str>) -> anyhow::Result<Option<Format>> {
    let unknown = |format: &str| anyhow!("Unknown driver '{format}' (not supported; raw and qcow2 are)");
    format.map(|format| format.parse().map_err(|_| unknown(format))).transpose()
}

/// The format of the image at `path`: the stated one, or what its first bytes say. The operator points at this very
/// file; what lies below it is never guessed.
///
/// # Errors
/// If the file cannot be read.
pub fn format_of(path: &Path, stated: Option<Format>) -> anyhow::Result<Format> {
    match stated {
        Some(format) => Ok(format),
        None if begins_as_qcow2(path)? => Ok(Format::Qcow2),
        None => Ok(Format::Raw),
    }
}

/// An image that is read.
pub struct Source {
    /// As it was given.
    pub name: String,
    /// What a guest would see of it.
    pub disk: Disk<HostFile>,
    /// The files of its chain, top first; none for a disk of zeroes.
    pub files: Vec<ImageFile>,
}

impl Source {
    /// Opens what `name` names; `format` is that of the image, if it is stated.
    ///
    /// # Errors
    /// If a file of the chain cannot be opened, is no image of its format, or is being written by others.
    pub fn open(
        name: &str,
        format: Option<&str>,
        options: &SourceOptions,
        runtime: &Rc<LocalRuntime>,
    ) -> anyhow::Result<Source> {
        options.check()?;
        let open = || {
            let format = parse_format(format)?;
            match Named::of(name, options.image_opts)? {
                Named::Zeroes(size) => zeroes(size, runtime),
                Named::File(path, named) => {
                    let format = format_of(&path, format.or(named))?;
                    runtime.block_on(open_files(&path, format, options.force_share, runtime))
                }
            }
        };
        let (disk, files) = open().map_err(|error| could_not_open(name, error))?;
        Ok(Source { name: name.to_owned(), disk, files })
    }
}

type Opened = (Disk<HostFile>, Vec<ImageFile>);

async fn open_files(
    path: &Path,
    format: Format,
    unlocked: bool,
    runtime: &Rc<LocalRuntime>,
) -> anyhow::Result<Opened> {
    let files = inspect_chain(path, format, NamedFiles::Allow).await?;
    let disk = match unlocked {
        true => open_unlocked(&files, runtime).await?,
        false => {
            let options =
                ChainOptions { share: true, named_files: NamedFiles::Allow, ..ChainOptions::default() };
            open_chain(path, format, &options, runtime.clone()).await?
        }
    };
    Ok((disk, files))
}

async fn open_unlocked(files: &[ImageFile], runtime: &Rc<LocalRuntime>) -> anyhow::Result<Disk<HostFile>> {
    let mut layers = Vec::new();
    for file in files {
        let name = file.path.display().to_string();
        let open =
            |path: &Path| HostFile::open(path, Access::Inspect).with_context(|| path.display().to_string());
        let (storage, data) = (open(&file.path)?, file.data_file.as_deref().map(open).transpose()?);
        layers.push(Rc::new(match file.format {
            Format::Raw => Layer::Raw(RawImage::open(storage, &name, false).await?),
            Format::Qcow2 => {
                let (mode, options) = (Mode::Read, ImageOptions::default());
                let image = Image::open_with_data_file(storage, data, &name, mode, options, runtime.clone());
                Layer::Qcow2(image.await?)
            }
        }));
    }
    Ok(Disk::new(layers, Filling::default(), runtime.clone())?)
}

/// A disk of zeroes: a file without a name that is one hole.
fn zeroes(size: u64, runtime: &Rc<LocalRuntime>) -> anyhow::Result<Opened> {
    let file = tempfile::tempfile()?;
    file.set_len(size)?;
    let storage = HostFile::from_file(file)?;
    runtime.block_on(async {
        let raw = RawImage::open(storage, "zeroes", false).await?;
        Ok((Disk::new(vec![Rc::new(Layer::Raw(raw))], Filling::default(), runtime.clone())?, vec![]))
    })
}

/// `error` as qemu-img says that an image cannot be opened; what says so already, or begins with the same name,
/// does not say it twice.
pub fn could_not_open(name: &str, error: anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    if text.starts_with("Could not open") || text.starts_with("not supported") {
        return error;
    }
    let short = text.strip_prefix(&format!("{name}: ")).unwrap_or(&text);
    anyhow!("Could not open '{name}': {short}")
}

/// The image of the file at `path` alone, to be changed: with its format, and its header if it is a qcow2 image.
///
/// # Errors
/// If it cannot be read, is no image of that format, or is a cache image, which nobody writes but who fills it.
pub fn inspect_writable(path: &Path, format: Format) -> anyhow::Result<ImageFile> {
    let image = inspect(path, format)?;
    match image.header.as_ref().is_some_and(|header| header.cache().is_some()) {
        true => bail!("this is a cache image: only copies of its base are written to it"),
        false => Ok(image),
    }
}

/// How an image is opened that is written.
pub fn writing() -> ChainOptions {
    ChainOptions { writable: true, share: true, named_files: NamedFiles::Allow, ..ChainOptions::default() }
}

/// The file that `name` names, which has to be one.
///
/// # Errors
/// If it is none.
pub fn named_file(name: &str, image_opts: bool) -> anyhow::Result<(PathBuf, Option<Format>)> {
    match Named::of(name, image_opts)? {
        Named::File(path, format) => Ok((path, format)),
        Named::Zeroes(_) => bail!("not supported: {name:?} cannot be written"),
    }
}
