//! From a draft to a scenario: defaults, names, and what cannot be together.

use super::draft::Draft;
use super::keys::{self, Key};
use super::settings::{
    BootSettings, CacheModeName, CpuSeconds, DeploymentKind, DeploymentSettings, FillingName, Settings,
    StartKind, StartSettings, StateName,
};
use super::{Scenario, defaults};
use crate::did_you_mean::among;
use crate::inputs::{Inputs, Replayable};
use crate::size::{SizeError, cluster_layout, parse_cluster_size, parse_positive};
use crate::units::cluster;
use serde::Deserialize;
use std::num::NonZero;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_sim::hardware::{Network, Profile};
use vmicache_sim::replay::{self, Chain, Layout};
use vmicache_sim::storm::{Cache, Deployment, Recording, State, StormError};

/// A day: far more than any boot takes, and far less than where simulated time ends.
const MOST_SECONDS: f64 = 86_400.0;
/// More would be a slip.
const MOST_REPLICATIONS: u32 = 10_000;

/// Fills in defaults, looks up names, and checks that such a storm can be.
///
/// # Errors
/// The first thing that is wrong: where it is set, and what would be right.
pub fn resolve(draft: &Draft, inputs: &Inputs) -> anyhow::Result<Scenario> {
    let hardware = draft.read(keys::HARDWARE)?.unwrap_or_else(|| defaults::HARDWARE.to_owned());
    let from = draft.place(keys::HARDWARE.name).unwrap_or(&draft.whole).folder();
    let profile = inputs
        .hardware(&hardware, from)
        .map_err(|error| draft.wrong(keys::HARDWARE.name, format_args!("{error:#}")))?;
    let network = network(draft, &profile.profile)?;
    let guest = draft.read(keys::GUEST)?.unwrap_or_else(|| defaults::GUEST.to_owned());
    let replayable = inputs
        .guest(&guest)
        .ok_or_else(|| draft.wrong(keys::GUEST.name, among(&guest, &inputs.guest_names())))?;
    let boot = boot(draft)?;
    let (deployment, deployed) = deployment(draft)?;
    let cache_mode: Option<CacheModeName> = draft.read(keys::CACHE_MODE)?;
    let scenario = Scenario {
        recording: recording(draft, &boot.recording, &replayable)?,
        settings: Settings {
            hardware,
            network: network.name.clone(),
            guest,
            nodes: whole(draft, keys::NODES)?.ok_or_else(|| draft.missing(keys::NODES))?,
            vms_per_node: whole(draft, keys::VMS_PER_NODE)?.unwrap_or(defaults::VMS_PER_NODE),
            vm_memory_mib: whole(draft, keys::VM_MEMORY)?.unwrap_or(defaults::VM_MEMORY_MIB),
            images: whole(draft, keys::IMAGES)?.unwrap_or(defaults::IMAGES),
            seed: draft.read(keys::SEED)?.unwrap_or(defaults::SEED),
            replications: replications(draft)?,
            cache_mode: cache_mode.unwrap_or_else(|| profile.profile.compute_node.cache_mode.into()),
            boot,
            start: start(draft)?,
            deployment,
        },
        network: network.clone(),
        hardware: profile,
        guest: replayable,
        deployment: deployed,
    };
    check_quota(draft, &scenario)?;
    match scenario.storm(0, false).check() {
        Ok(()) => Ok(scenario),
        Err(StormError::Impossible { key, problem }) => Err(draft.wrong(key, problem)),
        Err(error) => Err(anyhow::Error::from(error).context(draft.whole.to_string())),
    }
}

/// A whole number from 1.
fn whole(draft: &Draft, key: &Key) -> anyhow::Result<Option<u32>> {
    Ok(draft.read::<NonZero<u32>>(key)?.map(NonZero::get))
}

fn replications(draft: &Draft) -> anyhow::Result<u32> {
    match whole(draft, keys::REPLICATIONS)? {
        Some(number) if number > MOST_REPLICATIONS => Err(draft.not_allowed(keys::REPLICATIONS)),
        number => Ok(number.unwrap_or(defaults::REPLICATIONS)),
    }
}

/// A number of seconds.
fn seconds(draft: &Draft, key: &Key) -> anyhow::Result<Option<f64>> {
    draft.number(key, |number| (0.0..=MOST_SECONDS).contains(&number))
}

fn network<'p>(draft: &Draft, profile: &'p Profile) -> anyhow::Result<&'p Network> {
    let name: Option<String> = draft.read(keys::NETWORK)?;
    let found = match &name {
        Some(name) => profile.networks.iter().find(|network| network.name == *name),
        None => profile.networks.first(),
    };
    found.ok_or_else(|| {
        let known: Vec<&str> = profile.networks.iter().map(|network| network.name.as_str()).collect();
        let problem =
            format!("{}, by the profile {}", among(&name.unwrap_or_default(), &known), profile.name);
        draft.wrong(keys::NETWORK.name, problem)
    })
}

fn boot(draft: &Draft) -> anyhow::Result<BootSettings> {
    let by_default = defaults::boot();
    let cpu_seconds = match draft.read(keys::CPU_SECONDS)? {
        Some(CpuSeconds::Seconds(_)) => seconds(draft, keys::CPU_SECONDS)?.map(CpuSeconds::Seconds),
        other => other,
    };
    let think_noise = draft.number(keys::THINK_NOISE, |number| (0.0..1.0).contains(&number))?;
    Ok(BootSettings {
        cpu_seconds: cpu_seconds.unwrap_or(by_default.cpu_seconds),
        think_noise: think_noise.unwrap_or(by_default.think_noise),
        recording: draft.read(keys::RECORDING)?.unwrap_or(by_default.recording),
    })
}

fn recording(draft: &Draft, name: &str, guest: &Replayable) -> anyhow::Result<Recording> {
    if name == defaults::DRAWN {
        return Ok(Recording::Drawn);
    }
    let mut boots = guest.guest.boots.iter();
    boots.position(|boot| boot.name == name).map(Recording::Only).ok_or_else(|| {
        let boots = guest.guest.boots.iter().map(|boot| boot.name.as_str());
        let known: Vec<&str> = std::iter::once(defaults::DRAWN).chain(boots).collect();
        draft.wrong(keys::RECORDING.name, among(name, &known))
    })
}

fn start(draft: &Draft) -> anyhow::Result<StartSettings> {
    let kind = draft.read(keys::START)?.unwrap_or(StartKind::Jitter);
    let foreign: &[&Key] = match kind {
        StartKind::AtOnce => &[keys::JITTER, keys::INTERVAL],
        StartKind::Jitter => &[keys::INTERVAL],
        StartKind::Staggered => &[keys::JITTER],
    };
    draft.refuse(foreign, "another kind of start has that; jitter_s belongs to kind = \"jitter\", interval_s to kind = \"staggered\"")?;
    Ok(match kind {
        StartKind::AtOnce => StartSettings::AtOnce,
        StartKind::Jitter => {
            StartSettings::Jitter { jitter_s: seconds(draft, keys::JITTER)?.unwrap_or(defaults::JITTER_S) }
        }
        StartKind::Staggered => {
            let interval_s = seconds(draft, keys::INTERVAL)?.ok_or_else(|| draft.missing(keys::INTERVAL))?;
            StartSettings::Staggered { interval_s }
        }
    })
}

fn deployment(draft: &Draft) -> anyhow::Result<(DeploymentSettings, Deployment)> {
    let kind = draft.need(keys::DEPLOYMENT)?;
    let without_cache = DeploymentSettings {
        kind,
        state: None,
        cluster_size: None,
        extended_l2: None,
        quota: None,
        filling: None,
    };
    let deployed = match kind {
        DeploymentKind::PlainOverlay => Deployment::PlainOverlay,
        DeploymentKind::FullCopy => Deployment::FullCopy,
        DeploymentKind::StorageMemoryCache => return shared_cache(draft, without_cache),
        DeploymentKind::ComputeDiskCache => {
            return own_cache(draft, without_cache, Deployment::ComputeDiskCache);
        }
        DeploymentKind::ComputeMemoryCache => {
            return own_cache(draft, without_cache, Deployment::ComputeMemoryCache);
        }
    };
    let foreign = [keys::STATE, keys::CLUSTER_SIZE, keys::EXTENDED_L2, keys::QUOTA, keys::FILLING];
    draft.refuse(&foreign, "this kind of deployment has no cache; to leave the key out would be right")?;
    Ok((without_cache, deployed))
}

/// A cache that every compute node has of its own.
fn own_cache(
    draft: &Draft,
    settings: DeploymentSettings,
    deployment: impl Fn(Cache, State) -> Deployment,
) -> anyhow::Result<(DeploymentSettings, Deployment)> {
    let filling = draft.read(keys::FILLING)?.unwrap_or(FillingName::from(defaults::FILLING));
    let state: StateName = draft.need(keys::STATE)?;
    let cache = cache(draft, filling)?;
    let settings = DeploymentSettings { state: Some(state), filling: Some(filling), ..settings };
    Ok((with(settings, cache), deployment(cache, state.into())))
}

/// The cache that all compute nodes read at the storage node.
fn shared_cache(
    draft: &Draft,
    settings: DeploymentSettings,
) -> anyhow::Result<(DeploymentSettings, Deployment)> {
    let cannot_be =
        "nobody fills a cache that all read at the storage node; to leave the key out would be right";
    draft.refuse(&[keys::FILLING], cannot_be)?;
    if draft.read(keys::STATE)? == Some(StateName::Cold) {
        let problem = "a cache at the storage node has been filled before; \"warm\" would be right";
        return Err(draft.wrong(keys::STATE.name, problem));
    }
    let cache = cache(draft, defaults::FILLING.into())?;
    let settings = DeploymentSettings { state: Some(StateName::Warm), ..settings };
    Ok((with(settings, cache), Deployment::StorageMemoryCache(cache)))
}

fn cache(draft: &Draft, filling: FillingName) -> anyhow::Result<Cache> {
    Ok(Cache {
        clusters: clusters(draft)?,
        quota_bytes: size(draft, keys::QUOTA, parse_positive)?,
        filling: filling.into(),
    })
}

fn clusters(draft: &Draft) -> anyhow::Result<ClusterLayout> {
    let size = size(draft, keys::CLUSTER_SIZE, parse_cluster_size)?.unwrap_or(defaults::CLUSTER_BYTES);
    let extended_l2 = draft.read(keys::EXTENDED_L2)?.unwrap_or(false);
    cluster_layout(size, extended_l2).map_err(|error| {
        let problem = format!(
            "{error}; {} is {}: {} would be right",
            keys::CLUSTER_SIZE.name,
            cluster(size),
            keys::EXTENDED_L2.allowed
        );
        draft.wrong(keys::EXTENDED_L2.name, problem)
    })
}

fn with(settings: DeploymentSettings, cache: Cache) -> DeploymentSettings {
    let ClusterLayout { size, extended_l2 } = cache.clusters;
    DeploymentSettings {
        cluster_size: Some(size),
        extended_l2: Some(extended_l2),
        quota: cache.quota_bytes,
        ..settings
    }
}

/// Makes the empty cache, which a quota may be too small for.
fn check_quota(draft: &Draft, scenario: &Scenario) -> anyhow::Result<()> {
    let deployment = scenario.settings.deployment;
    let (Some(clusters), quota @ Some(_)) = (deployment.clusters(), deployment.quota) else { return Ok(()) };
    let disk_size = scenario.guest.guest.disk_bytes;
    let made = replay::Cache::new(&Chain { layout: Layout::Cold, clusters, quota, disk_size });
    made.map(drop).map_err(|error| draft.wrong(keys::QUOTA.name, error))
}

/// A size, as a number of bytes or as a text with a suffix.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

fn size(
    draft: &Draft,
    key: &Key,
    parse: impl Fn(&str) -> Result<u64, SizeError>,
) -> anyhow::Result<Option<u64>> {
    let Some(size) = draft.read(key)? else { return Ok(None) };
    let text = match size {
        Size::Bytes(bytes) => bytes.to_string(),
        Size::Text(text) => text,
    };
    parse(&text).map(Some).map_err(|error| draft.wrong(key.name, error))
}
