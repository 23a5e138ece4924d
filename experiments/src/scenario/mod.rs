//! Scenario files: one boot storm and how often it is replicated.

mod defaults;
mod document;
mod draft;
mod keys;
mod resolve;
mod settings;

pub use document::{Content, Node, Place};
pub use draft::{Draft, Setting};
pub use keys::{help, is_table};
pub use resolve::resolve;
pub use settings::{CpuSeconds, DeploymentKind, Settings, StartSettings};

use crate::inputs::{Hardware, Inputs, Replayable};
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use vmicache_sim::engine::Span;
use vmicache_sim::hardware::Network;
use vmicache_sim::storm::{BootOptions, Deployment, Recording, Start, Storm};

const MIB: u64 = 1 << 20;

/// A scenario: its settings, and what they name.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Every key, with defaults filled in.
    pub settings: Settings,
    /// The hardware profile.
    pub hardware: Arc<Hardware>,
    /// The network: one of the profile's.
    pub network: Network,
    /// The guest.
    pub guest: Arc<Replayable>,
    deployment: Deployment,
    recording: Recording,
}

/// SHA-256 of every file that a scenario depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InputHashes {
    /// The hardware profile.
    pub hardware: String,
    /// The description of the guest.
    pub guest: String,
    /// The recorded boots by name, those on slowed storage included.
    pub boots: BTreeMap<String, String>,
}

impl Scenario {
    /// The scenario in the file at `path`, after `set`, each a key and its value, has overridden some of it.
    ///
    /// # Errors
    /// If the file cannot be read, or the scenario cannot be.
    pub fn read(path: &Path, set: &[(String, String)], inputs: &Inputs) -> anyhow::Result<Scenario> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
        Scenario::parse(&text, &file, set, inputs)
    }

    /// The scenario `text`, which is from the file `file`; see [`read`](Scenario::read).
    ///
    /// # Errors
    /// If the scenario cannot be.
    pub fn parse(
        text: &str,
        file: &str,
        set: &[(String, String)],
        inputs: &Inputs,
    ) -> anyhow::Result<Scenario> {
        let mut draft = Draft::new(Place::whole(file));
        draft.set("", &Draft::setting("", Node::parse(text, file)?)?);
        for (key, value) in set {
            draft.set(key, &Draft::setting(key, Node::argument(value, "--set"))?);
        }
        resolve(&draft, inputs)
    }

    /// One replication of the scenario.
    pub fn storm(&self, replication: u64, timeline: bool) -> Storm<'_> {
        let settings = &self.settings;
        Storm {
            hardware: &self.hardware.profile,
            network: &self.network,
            guest: &self.guest.replayed,
            nodes: settings.nodes,
            vms_per_node: settings.vms_per_node,
            vm_memory_bytes: u64::from(settings.vm_memory_mib) * MIB,
            images: settings.images,
            deployment: self.deployment,
            cache_mode: settings.cache_mode.into(),
            boot: BootOptions {
                cpu_seconds: match settings.boot.cpu_seconds {
                    CpuSeconds::Seconds(seconds) => Some(seconds),
                    CpuSeconds::Recorded(_) => None,
                },
                think_noise: settings.boot.think_noise,
                recording: self.recording,
            },
            start: match settings.start {
                StartSettings::AtOnce => Start::AtOnce,
                StartSettings::Jitter { jitter_s } => Start::Jitter(Span::from_seconds(jitter_s)),
                StartSettings::Staggered { interval_s } => Start::Staggered(Span::from_seconds(interval_s)),
            },
            seed: settings.seed,
            replication,
            timeline,
        }
    }

    /// The same scenario with one virtual machine, alone on one node: what slowdowns are against.
    pub fn alone(&self) -> Scenario {
        let mut alone = self.clone();
        alone.settings =
            Settings { nodes: 1, vms_per_node: 1, images: 1, start: StartSettings::AtOnce, ..alone.settings };
        alone
    }

    /// The hashes of the files that it depends on.
    pub fn input_hashes(&self) -> InputHashes {
        let guest = &self.guest.guest;
        let boots = guest.boots.iter().chain(&guest.slowed);
        InputHashes {
            hardware: self.hardware.sha256.clone(),
            guest: guest.sha256.clone(),
            boots: boots.map(|boot| (boot.name.clone(), boot.sha256.clone())).collect(),
        }
    }
}
