//! New qcow2 images that nobody sees until they are whole.

use super::file::FileFacts;
use super::preallocation::{Allocating, Preallocation, preallocate};
use crate::output::{folder_of, temporary};
use anyhow::{Context, anyhow, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tempfile::NamedTempFile;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::files::{link_target, resolve};
use vmicache_format::qcow2::{self, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile, Storage};

/// How an image is opened that nobody sees until it is whole: its tables are written when they take some memory, and
/// not every few megabytes to survive a power cut.
fn unseen(cluster_size: u64) -> ImageOptions {
    /// L2 entries that wait: 8 MiB of them.
    const ENTRIES: u64 = 1 << 20;
    ImageOptions { batch_bytes: ENTRIES * cluster_size, ..ImageOptions::default() }
}

/// A file that does not have its name yet.
pub struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
    /// Locked, so that nobody who finds the file writes it.
    pub storage: HostFile,
}

impl NewFile {
    /// A file that is to be at `path`, or where the link of that name leads.
    ///
    /// # Errors
    /// If there is no such folder, it cannot be written, or others use a file that is there.
    pub fn at(path: &Path) -> anyhow::Result<NewFile> {
        let path = link_target(path);
        if path.exists() {
            // Fails if others use it; the lock goes again at once.
            HostFile::open(&path, Access::Write)?;
        }
        let folder = folder_of(&path);
        let failed = || format!("Could not create '{}'", path.display());
        fs::metadata(folder).with_context(failed)?;
        let file = temporary(folder).with_context(failed)?;
        let storage = HostFile::from_file(file.as_file().try_clone()?)?;
        Ok(NewFile { file, path, storage })
    }

    /// Another handle of the file.
    ///
    /// # Errors
    /// If the host has none left.
    pub fn host(&self) -> std::io::Result<fs::File> {
        self.file.as_file().try_clone()
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// If that cannot be; what was there before is then still there.
    pub fn publish(self) -> anyhow::Result<()> {
        let NewFile { file, path, storage } = self;
        drop(storage);
        let failed = format!("Could not create '{}'", path.display());
        file.persist(path).map_err(|error| error.error).context(failed)?;
        Ok(())
    }
}

/// A new qcow2 image, with its external data file if it has one.
pub struct NewImage {
    name: String,
    image: NewFile,
    data: Option<NewFile>,
    cluster_size: u64,
}

impl NewImage {
    /// Makes an empty image that is to be at `path`; errors speak of it as `name`.
    ///
    /// # Errors
    /// If the format cannot have such an image, or a file cannot be written.
    pub fn make(
        path: &Path,
        name: &str,
        options: &CreateOptions,
        preallocation: Preallocation,
        runtime: &Rc<LocalRuntime>,
    ) -> anyhow::Result<NewImage> {
        let image = NewFile::at(path)?;
        let data =
            options.data_file.as_ref().map(|data| NewImage::data_file(path, &data.name)).transpose()?;
        runtime.block_on(async {
            qcow2::create(&image.storage, name, options).await?;
            let header = qcow2::read_header(&image.storage, name).await?;
            if options.cache.is_none() {
                // As QEMU leaves it: an empty image ends with its last table.
                image.storage.set_len(header.l1_table_offset + u64::from(header.l1_size) * 8).await?;
            }
            if let Some(data) = &data {
                data.storage.set_len(options.size).await?;
            }
            anyhow::Ok(())
        })?;
        let new = NewImage { name: name.to_owned(), image, data, cluster_size: options.cluster_size };
        if preallocation != Preallocation::Off {
            runtime.block_on(new.preallocate(preallocation, options.size, runtime))?;
        }
        Ok(new)
    }

    /// Makes the external data file of the image at `image`.
    fn data_file(image: &Path, name: &str) -> anyhow::Result<NewFile> {
        let path = resolve(image, name).map_err(|problem| anyhow!(problem))?;
        let identity = |path: &Path| FileFacts::of(path).ok().map(|facts| facts.identity);
        let is_image = path == image || identity(&path).is_some_and(|data| identity(image) == Some(data));
        ensure!(!is_image, "the external data file would be the image itself");
        NewFile::at(&path).with_context(|| format!("external data file {name:?}"))
    }

    async fn preallocate(
        &self,
        mode: Preallocation,
        size: u64,
        runtime: &Rc<LocalRuntime>,
    ) -> anyhow::Result<()> {
        let allocating =
            |file: &NewFile| anyhow::Ok(Allocating::new(file.storage.clone(), Some(file.host()?)));
        let image = allocating(&self.image)?;
        let data = self.data.as_ref().map(allocating).transpose()?;
        let opened = Image::open_with_data_file(
            image.clone(),
            data.clone(),
            &self.name,
            Mode::Write,
            unseen(self.cluster_size),
            runtime.clone(),
        );
        let layer = Rc::new(Layer::Qcow2(opened.await?));
        let disk = Disk::new(vec![layer], Filling::default(), runtime.clone())?;
        preallocate(&disk, data.as_ref().unwrap_or(&image), mode, 0..size).await?;
        disk.close().await?;
        Ok(())
    }

    /// Opens the image to write it; without what it is backed by.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub async fn open(&self, runtime: &Rc<LocalRuntime>) -> anyhow::Result<Rc<Image<HostFile>>> {
        let data = self.data.as_ref().map(|data| data.storage.clone());
        let options = unseen(self.cluster_size);
        let image = self.image.storage.clone();
        Ok(Image::open_with_data_file(image, data, &self.name, Mode::Write, options, runtime.clone()).await?)
    }

    /// Gives the image its name, once nobody writes it any more.
    ///
    /// # Errors
    /// If that cannot be; what was there before is then still there.
    pub fn publish(self) -> anyhow::Result<()> {
        if let Some(data) = self.data {
            data.publish()?;
        }
        self.image.publish()
    }
}
