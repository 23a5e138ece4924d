//! Guests, and the boots that were recorded of them.

use super::{find_above, sha256};
use crate::recording;
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use vmicache_format::trace::{Dependencies, Trace};
use vmicache_sim::storm;

/// Where the recorded boots lie in the repository.
const TRACES: &str = "data/traces";

/// A guest and its boots.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Short name, as in the names of the files.
    pub name: String,
    /// The name that people read.
    pub title: String,
    /// Virtual size of the disk in bytes.
    pub disk_bytes: u64,
    /// Bytes of the disk that the base image has allocated.
    pub allocated_bytes: u64,
    /// SHA-256 of the file that describes the guest.
    pub sha256: String,
    /// The recorded boots: the replications.
    pub boots: Vec<Boot>,
    /// Boots on slowed storage, no replications: which request waits for which is learnt from them.
    pub slowed: Vec<Boot>,
}

impl Guest {
    /// The guest as boot storms replay it.
    pub fn replayed(&self) -> storm::Guest {
        let slowed: Vec<Trace> = self.slowed.iter().map(|boot| boot.trace.clone()).collect();
        let learn = |boot: &Boot| {
            let dependencies = Dependencies::learn(&boot.trace, &slowed).dependencies;
            (boot.trace.clone(), dependencies)
        };
        storm::Guest {
            disk_bytes: self.disk_bytes,
            allocated_bytes: self.allocated_bytes,
            boots: self.boots.iter().map(learn).collect(),
        }
    }
}

/// One recorded boot.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The file's name without its folder and endings.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Its requests.
    pub trace: Trace,
}

/// The description of a guest, as its file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    title: String,
    disk_bytes: u64,
    allocated_bytes: u64,
    boots: Vec<String>,
    #[serde(default)]
    slowed: Vec<String>,
}

/// The folder of recorded boots: `given`, or `data/traces` in the current folder or the nearest one above.
///
/// # Errors
/// If there is none.
pub fn find_traces(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = given {
        ensure!(
            folder.is_dir(),
            "{} is not a folder; --data takes the folder of recorded boots",
            folder.display()
        );
        return Ok(folder.to_path_buf());
    }
    find_above(TRACES, "the folder of recorded boots with --data")
}

/// Reads every guest that a `.toml` file in `folder` describes, in the order of their files' names, each with
/// its first `most_boots` boots.
///
/// # Errors
/// If there is no guest, or a file of one cannot be read, is not right, or does not fit its disk.
pub fn load_guests(folder: &Path, most_boots: usize) -> anyhow::Result<Vec<Guest>> {
    let cannot_list = || format!("cannot list {}", folder.display());
    let mut descriptions = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot_list)? {
        let path = entry.with_context(cannot_list)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            descriptions.push(path);
        }
    }
    descriptions.sort();
    if descriptions.is_empty() {
        bail!(
            "no guest is described in {}: a .toml file there names a guest and its boots",
            folder.display()
        );
    }
    let guests = descriptions.iter().map(|path| load_guest(path, most_boots));
    let guests = guests.collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(name) = repeated(guests.iter().map(|guest| guest.name.as_str())) {
        bail!("{}: two guests have the name {name:?}; their files would be the same", folder.display());
    }
    Ok(guests)
}

fn load_guest(path: &Path, most_boots: usize) -> anyhow::Result<Guest> {
    let bytes = read(path)?;
    let text =
        std::str::from_utf8(&bytes).with_context(|| format!("{} is not UTF-8 text", path.display()))?;
    let description: Description =
        toml::from_str(text).with_context(|| format!("{} does not describe a guest", path.display()))?;
    let Description { name, title, disk_bytes, allocated_bytes, boots, slowed } = description;
    ensure!(
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
        "{}: name is {name:?}; letters, digits and any of - _ . would be right, for files are called by it",
        path.display()
    );
    ensure!(
        disk_bytes > 0 && disk_bytes.is_multiple_of(512),
        "{}: disk_bytes is {disk_bytes}; a multiple of 512 would be right",
        path.display()
    );
    ensure!(!boots.is_empty(), "{}: boots is empty; it lists the guest's traces", path.display());
    ensure!(
        0 < allocated_bytes && allocated_bytes <= disk_bytes,
        "{}: allocated_bytes is {allocated_bytes}; from 1 to disk_bytes, {disk_bytes}, would be right",
        path.display()
    );
    let folder = path.parent().unwrap_or(Path::new(""));
    let load = |files: &[String]| {
        let boots = files.iter().map(|file| load_boot(&folder.join(file), disk_bytes));
        boots.collect::<anyhow::Result<Vec<_>>>()
    };
    let boots = load(boots.get(..most_boots).unwrap_or(&boots))?;
    let slowed = load(&slowed)?;
    if let Some(name) = repeated(boots.iter().chain(&slowed).map(|boot| boot.name.as_str())) {
        bail!("{}: boots has {name} twice, or slowed has it again; a boot counts once", path.display());
    }
    Ok(Guest { name, title, disk_bytes, allocated_bytes, sha256: sha256(&bytes), boots, slowed })
}

/// The first of `names` that was there before.
fn repeated<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.find(|name| !seen.insert(*name))
}

fn load_boot(path: &Path, disk_bytes: u64) -> anyhow::Result<Boot> {
    let bytes = read(path)?;
    let shown = path.display().to_string();
    let trace = Trace::parse(bytes.as_slice(), &shown)?;
    trace.check_within(disk_bytes).context(shown)?;
    Ok(Boot { name: recording::name(path), sha256: sha256(&bytes), trace })
}

/// The bytes of a file.
///
/// # Errors
/// If it cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
