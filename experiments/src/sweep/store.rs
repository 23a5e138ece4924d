//! The folder of a sweep: every finished cell in a file of its own, so that a sweep can go on where it was stopped.

use super::{Cell, Row, Sweep, VERSION};
use crate::inputs::sha256;
use crate::output::{TEMPORARY, write_file};
use crate::scenario::{InputHashes, Settings};
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The file that says which sweep a folder belongs to.
const DESCRIPTION: &str = "sweep.json";
/// The folder of stored cells.
const CELLS: &str = "cells";
/// What else a sweep writes.
const RESULTS: [&str; 4] = ["results.csv", "results.parquet", "summary.csv", "summary.parquet"];

/// The folder of a sweep.
pub struct Store {
    folder: PathBuf,
    description: Description,
    keys: Vec<String>,
}

/// A cell as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// What it was stored by.
    key: String,
    /// SHA-256 of the row.
    digest: String,
    row: Row,
}

/// What is known of a sweep whose folder is found.
#[derive(Deserialize)]
struct Found {
    vmicache_version: String,
    file: String,
    axes: Vec<(String, Vec<String>)>,
    points: Vec<FoundPoint>,
}

#[derive(Deserialize)]
struct FoundPoint {
    scenario: serde_json::Value,
    cells: Vec<String>,
}

/// A sweep with everything filled in.
#[derive(Serialize)]
struct Description {
    vmicache_version: &'static str,
    file: String,
    axes: Vec<(String, Vec<String>)>,
    points: Vec<DescribedPoint>,
}

#[derive(Serialize)]
struct DescribedPoint {
    at: Vec<(String, String)>,
    scenario: Settings,
    inputs: InputHashes,
    /// What the replications are stored by.
    cells: Vec<String>,
}

impl Store {
    /// The folder `folder` for the cells of `sweep`. Nothing is written yet.
    ///
    /// # Errors
    /// If the folder belongs to another sweep, or cannot be read.
    pub fn new(folder: &Path, sweep: &Sweep, cells: &[Cell]) -> anyhow::Result<Store> {
        let keys = cells.iter().map(Cell::key).collect::<anyhow::Result<Vec<_>>>()?;
        let description = Description::new(sweep, cells, &keys);
        let store = Store { folder: folder.to_path_buf(), description, keys };
        store.check_owner()?;
        Ok(store)
    }

    /// The row of each cell that is stored whole, in the order of the cells.
    pub fn stored(&self) -> Vec<Option<Row>> {
        self.keys.iter().map(|key| read_cell(&self.cell(key), key)).collect()
    }

    /// Makes the folder, if it is missing, and takes it for this sweep until the answer is dropped. What a
    /// process that was killed has left half-written goes.
    ///
    /// # Errors
    /// If the folder cannot be made or written, or another process has it or had it meanwhile.
    pub fn open(&self) -> anyhow::Result<File> {
        let shown = self.folder.display();
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot make the folder {shown}"))?;
        let lock = File::open(&self.folder).with_context(|| format!("cannot open the folder {shown}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "{shown}: another sweep is running there; wait for it, or name another folder with --out"
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock the folder {shown}"));
            }
        }
        self.check_owner()?;
        write_file(&self.folder.join(DESCRIPTION), self.resolved()?.as_bytes())?;
        let cells = self.folder.join(CELLS);
        fs::create_dir_all(&cells).with_context(|| format!("cannot make the folder {}", cells.display()))?;
        for folder in [&self.folder, &cells] {
            remove_temporary(folder)
                .with_context(|| format!("cannot clear the folder {}", folder.display()))?;
        }
        Ok(lock)
    }

    /// Stores the row of the cell with this number.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn store(&self, number: usize, row: &Row) -> anyhow::Result<()> {
        let key = self.keys.get(number).context("there is no such cell")?;
        let stored = Stored { key: key.clone(), digest: digest(row)?, row: row.clone() };
        write_file(&self.cell(key), &serde_json::to_vec(&stored)?)
    }

    /// Version and resolved sweep, for the metadata of its results.
    ///
    /// # Errors
    /// None that is known: a sweep can be written down.
    pub fn provenance(&self) -> anyhow::Result<Vec<(String, String)>> {
        let version = ("vmicache_version".to_owned(), VERSION.to_owned());
        Ok(vec![version, ("sweep".to_owned(), self.resolved()?)])
    }

    /// The sweep with everything filled in.
    fn resolved(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(&self.description)? + "\n")
    }

    fn cell(&self, key: &str) -> PathBuf {
        self.folder.join(CELLS).join(format!("{key}.json"))
    }

    /// Refuses a folder with results that this sweep would not have.
    fn check_owner(&self) -> anyhow::Result<()> {
        let path = self.folder.join(DESCRIPTION);
        let advice = "nothing in it was changed; name another folder with --out, or remove this one first";
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let left = RESULTS.iter().chain([&CELLS]).find(|name| self.folder.join(name).exists());
                return match left {
                    Some(name) => bail!(
                        "{}: there is {name}, but no {DESCRIPTION} that says of which sweep; {advice}",
                        self.folder.display()
                    ),
                    None => Ok(()),
                };
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                bail!(
                    "{}: this is no folder, and cannot be one; name another with --out",
                    self.folder.display()
                )
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let found: Found = serde_json::from_slice(&text)
            .with_context(|| format!("{} does not describe a sweep; {advice}", path.display()))?;
        match found.difference(&self.description, &self.keys) {
            None => Ok(()),
            Some(difference) => bail!(
                "{}: this is the folder of another sweep, {} ({}): {difference}; {advice}",
                self.folder.display(),
                found.file,
                found.axes_in_words()
            ),
        }
    }
}

impl Description {
    fn new(sweep: &Sweep, cells: &[Cell], keys: &[String]) -> Description {
        let mut keys = keys.iter();
        let points = cells.chunk_by(|one, other| one.settings == other.settings).filter_map(|point| {
            let first = point.first()?;
            Some(DescribedPoint {
                at: first.settings.clone(),
                scenario: first.scenario.settings.clone(),
                inputs: first.scenario.input_hashes(),
                cells: keys.by_ref().take(point.len()).cloned().collect(),
            })
        });
        // Where a file lies says nothing about the sweep.
        let file = Path::new(&sweep.file).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Description { vmicache_version: VERSION, file, axes: sweep.axes(), points: points.collect() }
    }
}

impl Found {
    /// What this sweep has that another with `keys` has not; `None` if that one has all of it.
    fn difference(&self, own: &Description, keys: &[String]) -> Option<String> {
        let known: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
        let cells = || self.points.iter().flat_map(|point| &point.cells);
        let foreign = cells().filter(|key| !known.contains(key.as_str())).count();
        if foreign == 0 {
            return None;
        }
        let of = format!("{foreign} of its {} cells are not in this sweep", cells().count());
        let scenarios = own.points.iter().filter_map(|point| serde_json::to_value(&point.scenario).ok());
        let scenarios: BTreeSet<String> = scenarios.map(|scenario| scenario.to_string()).collect();
        let same_scenarios = self.points.iter().all(|point| scenarios.contains(&point.scenario.to_string()));
        Some(if self.vmicache_version != own.vmicache_version {
            format!("{of}, for version {} ran it and this is {VERSION}", self.vmicache_version)
        } else if same_scenarios {
            format!("{of}, for files that it read have changed since")
        } else {
            of
        })
    }

    fn axes_in_words(&self) -> String {
        let axes = self.axes.iter().map(|(key, values)| format!("{key}: {}", values.join(", ")));
        axes.collect::<Vec<_>>().join("; ")
    }
}

/// The stored row, if it is whole.
fn read_cell(path: &Path, key: &str) -> Option<Row> {
    let stored: Stored = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (stored.key == key && digest(&stored.row).ok()? == stored.digest).then_some(stored.row)
}

fn digest(row: &Row) -> anyhow::Result<String> {
    let json = serde_json::to_vec(row)?;
    // A number that JSON does not have would come back as none.
    ensure!(serde_json::from_slice::<Row>(&json).is_ok_and(|read| read == *row), "a result is not a number");
    Ok(sha256(&json))
}

/// Removes what a process that was killed while it wrote has left.
fn remove_temporary(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
