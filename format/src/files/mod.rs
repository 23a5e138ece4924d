//! Images in files of the host: chains that are opened by the names of their backing files, and new images.

mod named;

pub use named::{NamedFiles, resolve};

use crate::cache::{BaseIdentity, IdentityCheck};
use crate::disk::{Disk, Filling, Layer, identify};
use crate::error::{Blame, Error, Result};
use crate::qcow2::header::{Header, MAGIC};
use crate::qcow2::{self, CreateOptions, Image, ImageOptions, Mode};
use crate::raw::RawImage;
use crate::runtime::Runtime;
use crate::storage::{Access, HostFile, MetadataKind, Storage};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;

/// The format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// qcow2, cache images included.
    Qcow2,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "raw" => Ok(Format::Raw),
            "qcow2" => Ok(Format::Qcow2),
            other => Err(format!("unknown image format {other:?}: formats are raw and qcow2")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        })
    }
}

/// How a chain of image files is opened.
#[derive(Clone, Debug, Default)]
pub struct ChainOptions {
    /// The top image is opened for a guest's writes.
    pub writable: bool,
    /// Cache images are opened to be filled; otherwise they are only read.
    pub fill: bool,
    /// A cache that others of ours fill is read beside them, also if it was to be filled; so is one that was to be
    /// filled and that others read.
    pub share: bool,
    /// Whether reads wait for the copies that caches keep.
    pub filling: Filling,
    /// How the base of each cache is recognised.
    pub identity: IdentityCheck,
    /// How each qcow2 image is opened.
    pub image: ImageOptions,
    /// Whether the images may name further files.
    pub named_files: NamedFiles,
}

/// An image file in a chain.
#[derive(Clone, Debug)]
pub struct ImageFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its format, as the image above states it.
    pub format: Format,
    /// Of a qcow2 image.
    pub header: Option<Header>,
    /// Where the data of a qcow2 image lies that says so.
    pub data_file: Option<PathBuf>,
}

/// Longer chains are refused.
const MAX_CHAIN: usize = 256;

/// Opens the image at `path` with everything that it is backed by.
///
/// # Errors
/// If a file is missing, locked by others, no image of its format, or backs itself; if a backing file's
/// format is not stated; if a cache was made for another base.
pub async fn open_chain(
    path: &Path,
    format: Format,
    options: &ChainOptions,
    runtime: Rc<dyn Runtime>,
) -> Result<Disk<HostFile>> {
    open_chain_in(path, format, options, runtime, |_, file| file).await
}

/// As [`open_chain`], with every file seen through a storage that `wrap` makes of it: it is told which image of
/// the chain the file holds, 0 for the top.
///
/// # Errors
/// As [`open_chain`].
pub async fn open_chain_in<S: Storage>(
    path: &Path,
    format: Format,
    options: &ChainOptions,
    runtime: Rc<dyn Runtime>,
    wrap: impl Fn(usize, HostFile) -> S,
) -> Result<Disk<S>> {
    let files = inspect_chain(path, format, options.named_files).await?;
    // From the bottom, so that every cache finds its base open.
    let mut layers: Vec<Rc<Layer<S>>> = Vec::new();
    for (depth, file) in files.iter().enumerate().rev() {
        let writable = depth == 0 && options.writable;
        let wrap = |storage| wrap(depth, storage);
        let layer = Rc::new(open_layer(file, writable, options, runtime.clone(), wrap).await?);
        if let Some(recorded) = file.header.as_ref().and_then(Header::base_identity) {
            check_identity(&file.path, &recorded, &options.identity, &layers, runtime.clone()).await?;
        }
        layers.insert(0, layer);
    }
    Disk::new(layers, options.filling, runtime)
}

/// The files of the chain that begins at `path`, top first. None of them is locked or stays open.
///
/// # Errors
/// If a file is missing or no image of its format, the format of a backing file is not stated, an image
/// backs itself, or one names a file that it may not.
pub async fn inspect_chain(path: &Path, format: Format, named_files: NamedFiles) -> Result<Vec<ImageFile>> {
    let mut files: Vec<ImageFile> = Vec::new();
    let mut seen = Vec::new();
    let mut next = Some((path.to_path_buf(), format));
    while let Some((path, format)) = next.take() {
        let blame = blame(&path);
        let storage =
            HostFile::open(&path, Access::Inspect).map_err(|error| missing(&path, files.last(), error))?;
        let identity = storage.identity().map_err(file_error(&path))?;
        if seen.contains(&identity) {
            return Err(
                blame.refused("the image backs itself: its chain of backing files comes back to this file")
            );
        }
        if files.len() == MAX_CHAIN {
            return Err(blame.refused(format!("the chain has more than {MAX_CHAIN} images")));
        }
        seen.push(identity);
        let header = match format {
            Format::Raw => None,
            Format::Qcow2 => Some(qcow2::read_header(&storage, &blame.0).await?),
        };
        let mut data_file = None;
        if let Some(header) = &header {
            named_files.check(header, &blame)?;
            data_file = data_file_of(header, &path, &blame)?;
        }
        if let Some((file, format)) =
            header.as_ref().and_then(|h| h.backing_file.clone().map(|f| (f, h.backing_format())))
        {
            let Some(format) = format else {
                return Err(blame.refused(format!(
                    "the format of the backing file {file:?} is not stated, and guessing it would trust a guest's data: \
                     state it, as in `qemu-img rebase -u -b {file} -F qcow2|raw`"
                )));
            };
            let format = Format::from_str(&format)
                .map_err(|error| blame.unsupported(format!("backing file: {error}")))?;
            next = Some((resolve(&path, &file).map_err(|problem| blame.unsupported(problem))?, format));
        }
        files.push(ImageFile { path, format, header, data_file });
    }
    Ok(files)
}

/// Where the data of an image lies that has it in another file.
fn data_file_of(header: &Header, path: &Path, blame: &Blame) -> Result<Option<PathBuf>> {
    match header.data_file() {
        None => Ok(None),
        Some(name) if name.is_empty() => {
            Err(blame.refused("its data lies in an external data file, whose name it does not state"))
        }
        Some(name) => resolve(path, &name).map(Some).map_err(|problem| blame.unsupported(problem)),
    }
}

async fn open_layer<S: Storage>(
    file: &ImageFile,
    writable: bool,
    options: &ChainOptions,
    runtime: Rc<dyn Runtime>,
    wrap: impl Fn(HostFile) -> S,
) -> Result<Layer<S>> {
    let name = file.path.display().to_string();
    let is_cache = file.header.as_ref().is_some_and(|header| header.cache().is_some());
    let mode = match (writable, is_cache && options.fill) {
        (true, _) => Mode::Write,
        (false, true) => Mode::Fill,
        (false, false) => Mode::Read,
    };
    if writable && is_cache {
        return Err(
            blame(&file.path).refused("this is a cache image: only copies of its base are written to it")
        );
    }
    let (storage, mode) = open_file(&file.path, mode, options.share).map_err(file_error(&file.path))?;
    let storage = wrap(storage);
    let data_file = match &file.data_file {
        Some(path) => Some(wrap(open_file(path, mode, options.share).map_err(file_error(path))?.0)),
        None => None,
    };
    Ok(match file.format {
        Format::Raw => Layer::Raw(RawImage::open(storage, &name, writable).await?),
        Format::Qcow2 => {
            let image = options.image.clone();
            Layer::Qcow2(Image::open_with_data_file(storage, data_file, &name, mode, image, runtime).await?)
        }
    })
}

/// Opens the file of an image, and says what it could be opened for.
fn open_file(path: &Path, mode: Mode, share: bool) -> io::Result<(HostFile, Mode)> {
    let is_used = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    let read = || match HostFile::open(path, Access::Read) {
        Err(error) if share && is_used(&error) => HostFile::open(path, Access::Beside),
        read => read,
    };
    match mode {
        Mode::Read => read().map(|file| (file, mode)),
        Mode::Write => HostFile::open(path, Access::Write).map(|file| (file, mode)),
        Mode::Fill => match HostFile::open(path, Access::Fill) {
            Err(error) if share && is_used(&error) => read().map(|file| (file, Mode::Read)),
            filling => filling.map(|file| (file, mode)),
        },
    }
}

/// Refuses a cache whose base is not the one that it was made for.
async fn check_identity<S: Storage>(
    cache: &Path,
    recorded: &BaseIdentity,
    check: &IdentityCheck,
    base: &[Rc<Layer<S>>],
    runtime: Rc<dyn Runtime>,
) -> Result<()> {
    let found = match (recorded, check) {
        (_, IdentityCheck::Skip) => return Ok(()),
        (BaseIdentity::Digest { .. }, _) => identify(base, runtime).await?,
        (BaseIdentity::Version(_), IdentityCheck::Version(stated)) => BaseIdentity::Version(stated.clone()),
        (BaseIdentity::Version(version), IdentityCheck::Sample) => {
            let problem =
                format!("the cache was made for base version {version:?}: state the version of the base");
            return Err(blame(cache).refused(problem));
        }
    };
    match recorded.difference(&found) {
        None => Ok(()),
        Some(difference) => Err(Error::OtherBase { image: blame(cache).0, difference }),
    }
}

/// Makes an empty image at `path`. The file appears whole or not at all; one that was there is replaced,
/// unless a process uses it.
///
/// # Errors
/// As [`qcow2::create`], and if the file cannot be written.
pub async fn create_image(path: &Path, options: &CreateOptions) -> Result<()> {
    let path = &link_target(path);
    if path.exists() {
        // Fails if others use it; the lock goes again at once.
        HostFile::open(path, Access::Write).map_err(file_error(path))?;
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // The temporary file's own errors name a file that nobody has asked for.
    std::fs::metadata(folder).map_err(file_error(folder))?;
    let temporary = tempfile::Builder::new()
        .prefix(".vmicache-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(|error| file_error(path)(io::Error::from(error.kind())))?;
    let file = temporary.as_file().try_clone().map_err(file_error(path))?;
    let storage = HostFile::from_file(file).map_err(file_error(path))?;
    qcow2::create(&storage, &path.display().to_string(), options).await?;
    drop(storage);
    temporary.persist(path).map_err(|error| file_error(path)(error.error))?;
    Ok(())
}

/// Whether the file at `path` begins as qcow2 images do. A raw image does, too, if its guest wants it to.
///
/// # Errors
/// If it cannot be read.
pub async fn begins_as_qcow2(path: &Path) -> Result<bool> {
    let storage = HostFile::open(path, Access::Inspect).map_err(file_error(path))?;
    let start = storage.read_metadata(MetadataKind::Header, 0, 4).await.map_err(file_error(path))?;
    Ok(start == MAGIC.to_be_bytes())
}

/// What a symbolic link leads to, so that a new image does not replace the link; any other path as it is.
pub fn link_target(path: &Path) -> PathBuf {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    match is_link {
        true => std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()),
        false => path.to_path_buf(),
    }
}

/// The virtual size of the image at `path`, and its identity as a base: what a cache over it records.
///
/// # Errors
/// As [`open_chain`].
pub async fn describe_base(
    path: &Path,
    format: Format,
    named_files: NamedFiles,
    runtime: Rc<dyn Runtime>,
) -> Result<(u64, BaseIdentity)> {
    let options = ChainOptions { named_files, ..ChainOptions::default() };
    let disk = open_chain(path, format, &options, runtime.clone()).await?;
    Ok((disk.size(), identify(disk.layers(), runtime).await?))
}

fn blame(path: &Path) -> Blame {
    Blame(Arc::from(path.display().to_string()))
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |source| Error::File { image: blame(path).0, source: Arc::new(source) }
}

fn missing(path: &Path, above: Option<&ImageFile>, source: io::Error) -> Error {
    match above {
        Some(above) => Error::Refused {
            image: blame(&above.path).0,
            problem: format!("its backing file {} cannot be opened: {source}", path.display()),
        },
        None => file_error(path)(source),
    }
}
