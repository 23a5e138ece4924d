//! Hardware profiles, by name or by file.

use super::guests::read;
use super::{find_above, sha256};
use crate::did_you_mean::among;
use anyhow::{Context, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use vmicache_sim::hardware::Profile;

/// Where the profiles lie in the repository.
const PROFILES: &str = "data/hardware";
/// How a profile's file ends.
const ENDING: &str = "toml";

/// A hardware profile and the file that it is from.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// What the file says.
    pub profile: Profile,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl Hardware {
    /// Reads the profile in the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read or is not right.
    pub fn read(path: &Path) -> anyhow::Result<Hardware> {
        let bytes = read(path)?;
        let shown = path.display().to_string();
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{shown} is not UTF-8 text"))?;
        Ok(Hardware { profile: Profile::parse(text, &shown)?, sha256: sha256(&bytes) })
    }
}

/// The folder of profiles, if this runs inside the repository.
pub fn find_profiles() -> Option<PathBuf> {
    find_above(PROFILES, "a file").ok()
}

/// The file of the profile `name`: one of those in `folder`, or a path seen from `from`.
///
/// # Errors
/// If there is no such profile.
pub fn path_of(name: &str, from: &Path, folder: Option<&Path>) -> anyhow::Result<PathBuf> {
    if name.contains('/') || name.ends_with(&format!(".{ENDING}")) {
        return Ok(from.join(name));
    }
    let folder = folder.with_context(|| {
        format!(
            "there is no {PROFILES} in this folder or in one above it; the path of a profile's file would be right"
        )
    })?;
    let known = names(folder)?;
    ensure!(
        known.iter().any(|known| known == name),
        "{}; the path of a profile's file would be right, too",
        among(name, &known)
    );
    Ok(folder.join(format!("{name}.{ENDING}")))
}

/// The names of the profiles in `folder`.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let cannot_list = || format!("cannot list {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot_list)? {
        let path = entry.with_context(cannot_list)?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    Ok(names)
}
