//! Files that images name: their backing files and external data files.

use crate::error::{Blame, Result};
use crate::qcow2::header::Header;
use std::path::{Path, PathBuf};

/// Whether an image may say which other files are opened. A guest that could make the image's header could otherwise
/// have any file of the host read, or written, in its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamedFiles {
    /// An image that names another file is refused.
    #[default]
    Deny,
    /// What an image names is opened: its backing file for reading, its external data file for what it is opened for
    /// itself.
    Allow,
}

impl NamedFiles {
    /// Refuses an image that names a file which it may not.
    pub(super) fn check(self, header: &Header, blame: &Blame) -> Result<()> {
        let data_file = header.data_file().map(|name| ("external data file", name));
        let backing_file = header.backing_file.clone().map(|name| ("backing file", name));
        match data_file.or(backing_file) {
            Some((what, name)) if self == NamedFiles::Deny => Err(blame
                .refused(format!("it names the {what} {name:?}, and images may name no other files here"))),
            _ => Ok(()),
        }
    }
}

/// Where a backing file named in the image at `image` lies: relative names start at the image's folder.
///
/// # Errors
/// If the name is no file's (a URL or a QEMU block device description), or relative behind `file:`, which
/// QEMU takes from the folder that the program happens to run in.
pub fn resolve(image: &Path, backing: &str) -> Result<PathBuf, String> {
    let name = match backing.strip_prefix("file:") {
        Some(name) if !name.starts_with('/') => {
            return Err(format!(
                "the backing file {backing:?} is relative to no image: name it without \"file:\""
            ));
        }
        Some(name) => name,
        None => backing,
    };
    let scheme = name.split_once(':').map(|(scheme, _)| scheme);
    if scheme.is_some_and(|scheme| !scheme.is_empty() && !scheme.contains('/')) {
        return Err(format!("the backing file {backing:?} is no file of the host"));
    }
    Ok(image.parent().unwrap_or(Path::new("")).join(name))
}
