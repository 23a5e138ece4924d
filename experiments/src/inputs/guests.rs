//! Guests, and the boots that were recorded of them.

use super::{find_above, sha256};
use crate::recording;
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vmicache_format::trace::{Dependencies, Metadata, Trace};
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
    /// Whether `reproduce` sends it through boot storms, which take minutes for a guest.
    pub storms: bool,
    /// Which of the slowed boots are learnt from: those with reads delayed by so much; `None`: all.
    pub learn_from: Option<Duration>,
    /// The recorded boots: the replications.
    pub boots: Vec<Boot>,
    /// Boots on slowed storage, no replications: which request waits for which is learnt from them.
    pub slowed: Vec<Boot>,
}

impl Guest {
    /// The guest as boot storms replay it.
    pub fn replayed(&self) -> storm::Guest {
        let mut teachers: Vec<Trace> = self.teachers().map(|boot| boot.trace.clone()).collect();
        let mut learn = |boot: &Boot| {
            let dependencies = Dependencies::learn(&boot.trace, &teachers).dependencies;
            // Each boot learns from another recording first, so that think times differ from boot to boot.
            let next = teachers.len().min(1);
            teachers.rotate_left(next);
            (boot.trace.clone(), dependencies)
        };
        storm::Guest {
            disk_bytes: self.disk_bytes,
            allocated_bytes: self.allocated_bytes,
            boots: self.boots.iter().map(&mut learn).collect(),
        }
    }

    /// The slowed boots that dependencies are learnt from.
    fn teachers(&self) -> impl Iterator<Item = &Boot> {
        self.slowed.iter().filter(|boot| self.learn_from.is_none() || boot.delay == self.learn_from)
    }

    /// By how much reads were delayed in the boots that dependencies are learnt from, if that is known and one delay.
    pub fn learnt_at(&self) -> Option<Duration> {
        let mut delays = self.teachers().map(|boot| boot.delay);
        let first = delays.next()??;
        delays.all(|delay| delay == Some(first)).then_some(first)
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
    /// By how much the storage delayed each read, if its metadata say so.
    pub delay: Option<Duration>,
    /// Seconds from power-on until the guest told that it was up, if its metadata say so.
    pub seconds: Option<f64>,
}

/// The description of a guest, as its file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    title: String,
    disk_bytes: u64,
    allocated_bytes: u64,
    #[serde(default = "yes")]
    storms: bool,
    boots: Vec<String>,
    #[serde(default)]
    slowed: Vec<String>,
    learn_from_delay_ms: Option<f64>,
}

fn yes() -> bool {
    true
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
    let Description { name, title, disk_bytes, allocated_bytes, storms, boots, slowed, learn_from_delay_ms } =
        description;
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
    let learn_from = learn_from_delay_ms.map(milliseconds).transpose();
    let learn_from = learn_from.with_context(|| format!("{}: learn_from_delay_ms", path.display()))?;
    let sha256 = sha256(&bytes);
    let guest = Guest { name, title, disk_bytes, allocated_bytes, sha256, storms, learn_from, boots, slowed };
    ensure!(
        guest.learn_from.is_none() || guest.teachers().next().is_some(),
        "{}: no slowed boot has the storage delay that learn_from_delay_ms names",
        path.display()
    );
    Ok(guest)
}

/// The first of `names` that was there before.
fn repeated<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.find(|name| !seen.insert(*name))
}

fn load_boot(path: &Path, disk_bytes: u64) -> anyhow::Result<Boot> {
    let bytes = read(path)?;
    let shown = path.display().to_string();
    let (metadata, trace) = Trace::parse_with_metadata(bytes.as_slice(), &shown)?;
    trace.check_within(disk_bytes).with_context(|| shown.clone())?;
    let number = |key| number(&metadata, key).with_context(|| shown.clone());
    let delay =
        number(Metadata::STORAGE_DELAY_MS)?.map(milliseconds).transpose().with_context(|| shown.clone())?;
    let seconds = number(Metadata::BOOT_SECONDS)?;
    Ok(Boot { name: recording::name(path), sha256: sha256(&bytes), trace, delay, seconds })
}

/// The number that the metadata have under `key`.
fn number(metadata: &Metadata, key: &str) -> anyhow::Result<Option<f64>> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let number = value.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    Ok(Some(number.with_context(|| format!("{key} is {value:?}; a number from 0 on would be right"))?))
}

fn milliseconds(ms: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(ms / 1000.0)
        .with_context(|| format!("a delay of {ms} ms cannot be; from 0 on would be right"))
}

/// The bytes of a file.
///
/// # Errors
/// If it cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
