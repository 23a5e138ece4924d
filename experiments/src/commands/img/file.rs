//! Image files as they tell of themselves: nothing is opened for use, nothing is locked.

use anyhow::Context;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use vmicache_format::files::{self, Format, ImageFile, NamedFiles, inspect_chain};
use vmicache_format::qcow2;
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};

/// The unit in which disks and allocations are counted.
const SECTOR: u64 = 512;

/// What the file system says of a file.
pub struct FileFacts {
    /// Length in bytes.
    pub length: u64,
    /// Bytes that are allocated for it.
    pub allocated: u64,
    /// Device and inode: equal for two names of one file.
    pub identity: (u64, u64),
}

impl FileFacts {
    /// Asks the file system.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn of(path: &Path) -> anyhow::Result<FileFacts> {
        let metadata = fs::metadata(path).with_context(|| path.display().to_string())?;
        Ok(FileFacts {
            length: metadata.len(),
            allocated: metadata.blocks() * SECTOR,
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// The length in whole sectors, as qemu-img counts files and raw disks.
    pub fn sectors(&self) -> u64 {
        self.length.next_multiple_of(SECTOR)
    }
}

/// The image at `path` alone.
///
/// # Errors
/// If the file cannot be read or is no image of its format.
pub fn inspect(path: &Path, format: Format) -> anyhow::Result<ImageFile> {
    let name = path.display().to_string();
    let storage = HostFile::open(path, Access::Inspect).with_context(|| name.clone())?;
    let header = match format {
        Format::Raw => None,
        Format::Qcow2 => Some(LocalRuntime::new().block_on(qcow2::read_header(&storage, &name))?),
    };
    let data_file = header.as_ref().and_then(|header| header.data_file());
    let data_file = data_file.and_then(|name| files::resolve(path, &name).ok());
    Ok(ImageFile { path: path.to_path_buf(), format, header, data_file })
}

/// The image at `path` and everything that it is backed by, top first.
///
/// # Errors
/// As [`inspect`]; if the format of a backing file is not stated, or an image backs itself.
pub fn chain(path: &Path, format: Format) -> anyhow::Result<Vec<ImageFile>> {
    Ok(LocalRuntime::new().block_on(inspect_chain(path, format, NamedFiles::Allow))?)
}

/// Whether the file at `path` begins as qcow2 images do. A raw image does, too, if its guest wants it to.
///
/// # Errors
/// If it cannot be read.
pub fn begins_as_qcow2(path: &Path) -> anyhow::Result<bool> {
    Ok(LocalRuntime::new().block_on(files::begins_as_qcow2(path))?)
}
