//! Filling a cache image with recorded boots, and what came of it.

use super::boot::{Outcome, replay};
use crate::terminal::Progress;
use anyhow::Context;
use std::path::Path;
use vmicache_format::cache::{Description, describe};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};
use vmicache_format::trace::Trace;

/// A recorded boot and its file.
#[derive(Clone, Copy)]
pub struct Recorded<'a> {
    /// Where it was read from.
    pub path: &'a Path,
    /// Its requests.
    pub trace: &'a Trace,
}

/// What boots did to a cache image, and what it holds since.
pub struct Warmed {
    /// Each boot, while it filled the cache.
    pub filled: Vec<Outcome>,
    /// Each boot again, after all of them have filled the cache, which keeps nothing more.
    pub again: Vec<Outcome>,
    /// The cache afterwards.
    pub cache: Description,
}

impl Warmed {
    /// Replays every boot to fill the image at `cache`, and every one again to see what is missing.
    ///
    /// # Errors
    /// If the chain cannot be opened, among others since the cache is another base's, or a request fails.
    pub fn of(cache: &Path, base_version: Option<&str>, boots: &[Recorded]) -> anyhow::Result<Warmed> {
        let requests: usize = boots.iter().map(|boot| boot.trace.requests.len()).sum();
        let progress = Progress::of_steps("warming", "requests", 2 * requests as u64);
        let replay_all = |fill| {
            let outcomes = boots.iter().map(|boot| {
                let outcome = replay(cache, base_version, boot.trace, fill, &progress);
                outcome.with_context(|| format!("cannot replay {}", boot.path.display()))
            });
            outcomes.collect::<anyhow::Result<Vec<_>>>()
        };
        Ok(Warmed { filled: replay_all(true)?, again: replay_all(false)?, cache: description(cache)? })
    }
}

fn description(cache: &Path) -> anyhow::Result<Description> {
    let name = cache.display().to_string();
    let storage = HostFile::open(cache, Access::Inspect).with_context(|| name.clone())?;
    let runtime = LocalRuntime::new();
    Ok(runtime.block_on(describe(storage, &name, runtime.clone()))?)
}
