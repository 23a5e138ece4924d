//! Files that appear whole or not at all.

use anyhow::Context;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// How the name of a file begins that is not whole yet.
pub const TEMPORARY: &str = ".vmicache-";

/// A file to be written: its name within the folder, and its bytes.
pub type Named = (String, Vec<u8>);

/// A folder that results go to.
pub struct Folder {
    path: PathBuf,
    /// Folders that were made for this one, innermost first; they go again if nothing gets written.
    made: Vec<PathBuf>,
}

impl Folder {
    /// Makes the folder if it is missing, and checks that files can be made in it: better now than after
    /// all the work.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub fn open(path: &Path) -> anyhow::Result<Folder> {
        let missing = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists());
        let made = missing.map(Path::to_path_buf).collect();
        let folder = Folder { path: path.to_path_buf(), made };
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make the output folder {}", path.display()))?;
        temporary(path).with_context(|| format!("cannot write to the output folder {}", path.display()))?;
        Ok(folder)
    }

    /// Writes all `files`; none of them appears before every one has been written whole.
    ///
    /// # Errors
    /// If one cannot be written; what was there before is then still whole.
    pub fn publish(mut self, files: &[Named]) -> anyhow::Result<()> {
        let written = files
            .iter()
            .map(|(name, bytes)| {
                let target = self.path.join(name);
                Ok((write_beside(&target, bytes)?, target))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        for (file, target) in written {
            persist(file, &target)?;
            self.made.clear();
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for folder in &self.made {
            // Fails, as it should, for a folder that holds something.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Writes one file whole or not at all.
///
/// # Errors
/// If it cannot be written; what was there before is then still whole.
pub fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    persist(write_beside(path, bytes)?, path)
}

fn write_beside(target: &Path, bytes: &[u8]) -> anyhow::Result<NamedTempFile> {
    let write = || {
        let mut file = temporary(folder_of(target))?;
        file.as_file_mut().write_all(bytes)?;
        file.as_file().sync_all()?;
        Ok::<_, io::Error>(file)
    };
    write().with_context(|| format!("cannot write {}", target.display()))
}

/// The folder that a file lies in.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn persist(file: NamedTempFile, target: &Path) -> anyhow::Result<()> {
    file.persist(target)
        .map_err(|e| e.error)
        .with_context(|| format!("cannot write {}", target.display()))?;
    Ok(())
}

/// A new file in `folder`, which goes again unless it is given its place.
///
/// # Errors
/// If it cannot be made.
pub fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    // As readable as the umask lets any new file be.
    let file = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder);
    file.map_err(without_path)
}

/// What the host said, without the name of the temporary file, which nobody has asked for.
fn without_path(error: io::Error) -> io::Error {
    match error.to_string().split_once(" at path ") {
        Some((reason, _)) => io::Error::new(error.kind(), reason),
        None => error,
    }
}
