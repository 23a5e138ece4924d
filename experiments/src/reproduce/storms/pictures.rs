//! The figures of boot storms: mean boot times with their intervals.

use super::{Group, Storms, cpu_seconds};
use crate::figures::boot_times::{Abscissa, BootTimes, Panel};
use crate::figures::{Curve, LOOKS, Look, REFERENCE};
use crate::reproduce::plan::Experiment;
use crate::scenario::{DeploymentKind, Settings};
use crate::units::{MB, counted};
use vmicache_sim::hardware::CacheMode;
use vmicache_sim::storm::State;

const NODES: Abscissa = Abscissa::Doublings("compute nodes, a virtual machine on each");
const IMAGES: Abscissa = Abscissa::Doublings("base images");
const QUOTA: Abscissa = Abscissa::Linear("quota of the cache image (MB)");

/// A curve of the legend: its name, the sweep it is from, and what its caches hold at first.
type Variant = (&'static str, &'static str, Option<State>, Look);

/// The figure of an experiment; `None` if it has no storms, or is not to be shown.
pub fn figure(storms: &Storms, experiment: Experiment, guest: &str) -> Option<BootTimes> {
    storms.sweeps_of(experiment).next()?;
    let plain = |sweep| ("plain overlays", sweep, None, LOOKS[0]);
    let on_disks = |plain_sweep, sweep| {
        vec![
            plain(plain_sweep),
            ("cold caches on the compute nodes' disks", sweep, Some(State::Cold), LOOKS[1]),
            ("warm ones", sweep, Some(State::Warm), LOOKS[2]),
        ]
    };
    Some(match experiment {
        Experiment::F1 => by_cpu(storms, guest),
        Experiment::F2 => by_network(storms, guest),
        Experiment::F3 => by_quota(storms, guest),
        Experiment::F5 => {
            let cpu = storms.cpu_axis("F5");
            let title = "Boot time against nodes, with caches on the compute nodes' disks";
            panels(storms, title, guest, NODES, &on_disks("F1", "F5"), &cpu)
        }
        Experiment::F6 => {
            let cpu = storms.cpu_axis("F6");
            let title = "Boot time against images, with caches on the compute nodes' disks";
            panels(storms, title, guest, IMAGES, &on_disks("F2", "F6"), &cpu)
        }
        Experiment::F7 => {
            let cpu = storms.cpu_axis("F7");
            let title = "Boot time against images, with caches in the storage node's memory";
            let cached = ("warm caches in the storage node's memory", "F7", Some(State::Warm), LOOKS[3]);
            panels(storms, title, guest, IMAGES, &[plain("F2"), cached], &cpu)
        }
        Experiment::T1 | Experiment::T2 | Experiment::F4 | Experiment::V1 => return None,
    })
}

/// F1: a panel a network, a curve a number of CPU seconds.
fn by_cpu(storms: &Storms, guest: &str) -> BootTimes {
    let looks = || storms.cpu_axis("F1").into_iter().zip(LOOKS);
    let panel = |network: &str| {
        let curve = |cpu| {
            over(storms, "F1", NODES, |settings| {
                settings.network == network && cpu_seconds(settings) == Some(cpu)
            })
        };
        let heading = format!("Plain overlays, {}", storms.network_title(network));
        Panel { heading, curves: looks().map(|(cpu, look)| (curve(cpu), look)).collect() }
    };
    BootTimes {
        title: format!("Boot time against nodes, plain overlays: {guest}"),
        abscissa: NODES,
        legend: looks().map(|(cpu, look)| (format!("{cpu} s of CPU a boot"), look)).collect(),
        rows: vec![storms.networks("F1").into_iter().map(panel).collect()],
        same_axes: false,
    }
}

/// F2: a curve a network.
fn by_network(storms: &Storms, guest: &str) -> BootTimes {
    let looks = || storms.networks("F2").into_iter().zip(LOOKS);
    let curve = |network: &str| over(storms, "F2", IMAGES, |settings| settings.network == network);
    let nodes = storms.values("F2", |settings| Some(settings.nodes)).into_iter().max().unwrap_or(0);
    let heading = format!("Plain overlays, {}", counted(nodes as usize, "node"));
    BootTimes {
        title: format!("Boot time against images, plain overlays: {guest}"),
        abscissa: IMAGES,
        legend: looks().map(|(network, look)| (storms.network_title(network).to_owned(), look)).collect(),
        rows: vec![vec![Panel {
            heading,
            curves: looks().map(|(network, look)| (curve(network), look)).collect(),
        }]],
        same_axes: true,
    }
}

/// F5, F6 and F7: a row for each number of CPU seconds, a column for each network, a curve for each variant.
fn panels(
    storms: &Storms,
    title: &str,
    guest: &str,
    abscissa: Abscissa,
    variants: &[Variant],
    cpu: &[f64],
) -> BootTimes {
    let networks = variants.first().map_or_else(Vec::new, |(_, sweep, ..)| storms.networks(sweep));
    let panel = |cpu: f64, network: &str| {
        let curve = |(_, sweep, state, look): &Variant| {
            let wanted = |settings: &Settings| {
                settings.network == network
                    && cpu_seconds(settings) == Some(cpu)
                    && settings.deployment.state.map(State::from) == *state
            };
            (over(storms, sweep, abscissa, wanted), *look)
        };
        let heading = format!("{}, {cpu} s of CPU a boot", storms.network_title(network));
        Panel { heading, curves: variants.iter().map(curve).collect() }
    };
    BootTimes {
        title: format!("{title}: {guest}"),
        abscissa,
        legend: variants.iter().map(|(name, _, _, look)| ((*name).to_owned(), *look)).collect(),
        rows: cpu.iter().map(|cpu| networks.iter().map(|network| panel(*cpu, network)).collect()).collect(),
        same_axes: false,
    }
}

/// F3: a row for each number of nodes; columns for ways of filling, and for warm caches.
fn by_quota(storms: &Storms, guest: &str) -> BootTimes {
    let places = [
        ("cache on the compute node's disk", DeploymentKind::ComputeDiskCache, LOOKS[0]),
        ("cache in its memory", DeploymentKind::ComputeMemoryCache, LOOKS[1]),
    ];
    let columns = [
        ("cold, filled beside reads", "F3-beside", State::Cold, CacheMode::Writeback),
        ("cold, in their path", "F3-in-path", State::Cold, CacheMode::Writethrough),
        ("warm", "F3-beside", State::Warm, CacheMode::Writeback),
    ];
    let right = 1.04 * storms.quotas("F3-beside").into_iter().max().unwrap_or(0) as f64 / MB;
    let panel = |nodes: u32, (how, sweep, state, mode): (&str, &str, State, CacheMode)| {
        let cached = places.map(|(_, kind, look)| {
            let wanted = |settings: &Settings| {
                settings.nodes == nodes
                    && settings.deployment.kind == kind
                    && settings.deployment.state.map(State::from) == Some(state)
            };
            (over(storms, sweep, QUOTA, wanted), look)
        });
        let plain = storms.group("F3-plain", |settings| {
            settings.nodes == nodes && CacheMode::from(settings.cache_mode) == mode
        });
        let across = |boot| vec![(0.0, boot), (right, boot)];
        let plain = plain.and_then(|group| group.boot()).map_or_else(Vec::new, across);
        let mut curves = vec![(Curve { label: String::new(), points: plain }, REFERENCE)];
        curves.extend(cached);
        Panel { heading: format!("{}, {how}", counted(nodes as usize, "node")), curves }
    };
    let nodes = storms.values("F3-plain", |settings| Some(settings.nodes));
    let mut legend = vec![("plain overlay".to_owned(), REFERENCE)];
    legend.extend(places.map(|(name, _, look)| (name.to_owned(), look)));
    BootTimes {
        title: format!("Boot time against quota: {guest}"),
        abscissa: QUOTA,
        legend,
        rows: nodes.iter().map(|nodes| columns.map(|column| panel(*nodes, column)).into()).collect(),
        same_axes: true,
    }
}

/// The curve of those runs of a sweep that are `wanted`.
fn over(storms: &Storms, sweep: &str, abscissa: Abscissa, wanted: impl Fn(&Settings) -> bool) -> Curve {
    let number = |settings: &Settings| match abscissa {
        NODES => Some(u64::from(settings.nodes)),
        IMAGES => Some(u64::from(settings.images)),
        _ => settings.deployment.quota,
    };
    let scale = if abscissa == QUOTA { 1.0 / MB } else { 1.0 };
    let mut numbers = storms.values(sweep, |settings| number(settings).filter(|_| wanted(settings)));
    numbers.sort_unstable();
    let point = |value: u64| {
        let group = storms.group(sweep, |settings| wanted(settings) && number(settings) == Some(value));
        Some((abscissa.at(value as f64 * scale), group.and_then(|group: Group| group.boot())?))
    };
    Curve { label: String::new(), points: numbers.into_iter().filter_map(point).collect() }
}
