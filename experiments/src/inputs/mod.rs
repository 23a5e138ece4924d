//! What the experiments start from: recorded boots and hardware profiles.

mod guests;
mod hardware;

pub use guests::{Boot, Guest, find_traces, load_guests};
pub use hardware::Hardware;

use crate::memo::Memo;
use crate::units::hex;
use anyhow::Context;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vmicache_sim::storm;

/// Everything that scenarios refer to by name.
pub struct Inputs {
    guests: Vec<Arc<Replayable>>,
    /// Profiles that have been read, by file.
    hardware: Memo<PathBuf, Arc<Hardware>>,
    /// The folder of profiles, where there is one.
    profiles: Option<PathBuf>,
    /// Boot times in seconds of virtual machines that were alone, by what determines them: what slowdowns are
    /// against.
    pub alone: Memo<String, f64>,
}

/// A guest, and what boot storms make of it.
#[derive(Debug)]
pub struct Replayable {
    /// The guest as it was recorded.
    pub guest: Guest,
    /// The guest as boot storms replay it.
    pub replayed: storm::Guest,
}

impl Inputs {
    /// These guests, and the hardware profiles of the repository.
    pub fn new(guests: &[Guest]) -> Inputs {
        let replayable =
            |guest: &Guest| Arc::new(Replayable { guest: guest.clone(), replayed: guest.replayed() });
        Inputs {
            guests: guests.iter().map(replayable).collect(),
            hardware: Memo::default(),
            profiles: hardware::find_profiles(),
            alone: Memo::default(),
        }
    }

    /// The guests in the folder `data`, or in that of the repository.
    ///
    /// # Errors
    /// If there is no such folder, or a guest in it is not right.
    pub fn load(data: Option<&Path>) -> anyhow::Result<Inputs> {
        Ok(Inputs::new(&load_guests(&find_traces(data)?, usize::MAX)?))
    }

    /// The guest that is called so.
    pub fn guest(&self, name: &str) -> Option<Arc<Replayable>> {
        self.guests.iter().find(|replayable| replayable.guest.name == name).cloned()
    }

    /// The names of all guests.
    pub fn guest_names(&self) -> Vec<&str> {
        self.guests.iter().map(|replayable| replayable.guest.name.as_str()).collect()
    }

    /// The profile that is called `name`; if that has a slash or ends in `.toml`, the one in that file, seen from
    /// the folder `from`.
    ///
    /// # Errors
    /// If there is none, or it is not right.
    pub fn hardware(&self, name: &str, from: &Path) -> anyhow::Result<Arc<Hardware>> {
        let path = hardware::path_of(name, from, self.profiles.as_deref())?;
        self.hardware.get(path.clone(), || Ok(Arc::new(Hardware::read(&path)?)))
    }
}

/// The folder `wanted` in the current folder or the nearest one above.
///
/// # Errors
/// If there is none; `instead` says what else would do.
fn find_above(wanted: &str, instead: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("the current folder cannot be found")?;
    here.ancestors().map(|folder| folder.join(wanted)).find(|folder| folder.is_dir()).with_context(|| {
        format!(
            "no {wanted} in {} or in a folder above it; run this inside the repository, or name {instead}",
            here.display()
        )
    })
}

/// SHA-256 of `bytes` in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
