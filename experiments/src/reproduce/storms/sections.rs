//! The report's sections on boot storms.

use super::{Group, Place, Run, Storms, cpu_seconds};
use crate::reproduce::pictures::Figure;
use crate::reproduce::plan::Experiment;
use crate::reproduce::sections::picture;
use crate::scenario::{DeploymentKind, Settings, StartSettings};
use crate::stats::Summary;
use crate::sweep::Row;
use crate::units::{MB, counted, mb_summary, percent, seconds_summary, set_percent};
use maud::{Markup, html};
use vmicache_sim::hardware::{CacheMode, Fact};
use vmicache_sim::storm::{Filling, State};

/// Resources whose utilisation the tables tell, by name and heading.
const RESOURCES: [(&str, &str); 3] = [
    ("storage node network port", "port"),
    ("storage node disk", "storage"),
    ("compute node disks", "nodes"),
];

/// What matters most at so many CPU seconds, in a sentence each.
pub fn findings(storms: &Storms, cpu: f64) -> Vec<String> {
    let mut findings = Vec::new();
    for network in storms.networks("F5") {
        let nodes = storms.values("F5", |settings| Some(settings.nodes)).into_iter().max();
        let boot = |sweep, state, nodes| {
            let place = Place { network, nodes, images: 1, cpu_seconds: cpu, state };
            storms.cell(sweep, &place)?.boot().map(|boot| seconds_summary(&boot))
        };
        let sentence = || {
            let nodes = nodes?;
            Some(format!(
                "{}, {cpu} s of CPU a boot: {nodes} nodes boot one image in {} from plain overlays, in {} while they \
                 fill caches on their disks, and in {} from warm ones; a plain virtual machine alone takes {}.",
                storms.network_title(network),
                boot("F1", None, nodes)?,
                boot("F5", Some(State::Cold), nodes)?,
                boot("F5", Some(State::Warm), nodes)?,
                boot("F1", None, 1)?
            ))
        };
        findings.extend(sentence());
    }
    for network in storms.networks("F7") {
        let nodes = storms.values("F7", |settings| Some(settings.nodes)).into_iter().max();
        let images = storms.values("F7", |settings| Some(settings.images)).into_iter().max();
        let boot = |sweep, state| {
            let place = Place { network, nodes: nodes?, images: images?, cpu_seconds: cpu, state };
            storms.cell(sweep, &place)?.boot().map(|boot| seconds_summary(&boot))
        };
        let sentence = || {
            Some(format!(
                "{}, {cpu} s of CPU a boot: {} nodes boot {} images in {} from plain overlays, in {} from warm caches \
                 on their disks, and in {} from warm caches in the storage node's memory.",
                storms.network_title(network),
                nodes?,
                images?,
                boot("F2", None)?,
                boot("F6", Some(State::Warm))?,
                boot("F7", None)?
            ))
        };
        findings.extend(sentence());
    }
    findings
}

/// The section on one experiment; nothing if it has not been run.
pub fn section(
    storms: &Storms,
    experiment: Experiment,
    guest: &str,
    figure: Option<&Figure>,
) -> Option<Markup> {
    let (title, what) = texts(experiment)?;
    let runs = || storms.sweeps_of(experiment).flat_map(|(_, runs)| runs);
    runs().next()?;
    let caption = caption(storms, guest, runs);
    Some(html! {
        h2 { (experiment) ": " (title) }
        @if let Some(figure) = figure {
            @let class = if experiment == Experiment::F2 { "narrow" } else { "wide" };
            (picture(figure, class, html! { (what) " " (caption) }))
        }
        @if experiment == Experiment::F1 {
            @for note in readahead_notes(storms) { p { (note) } }
        }
        details {
            summary { "The numbers of " (experiment) }
            (numbers(storms, experiment))
        }
    })
}

/// How much of F1 is due to the readahead of the NFS client, about which nothing is known of the testbed.
fn readahead_notes(storms: &Storms) -> Vec<String> {
    let sweep = "F1-past-page-cache";
    let note = |network: &str| {
        let nodes = storms.values(sweep, |settings| Some(settings.nodes)).into_iter().max()?;
        let cpu = storms.cpu_axis(sweep).first().copied()?;
        let place = Place { network, nodes, images: 1, cpu_seconds: cpu, state: None };
        let (cached, past) = (storms.cell("F1", &place)?, storms.cell(sweep, &place)?);
        let port = |row: &Row| row.resource(RESOURCES[0].0).map_or(0.0, |port| port.bytes as f64);
        let a_vm = |group: &Group, bytes: &dyn Fn(&Row) -> f64| {
            Some(mb_summary(&group.of(|row| bytes(row) / row.vms as f64)?))
        };
        Some(format!(
            "{}, {nodes} nodes, {cpu} s of CPU a boot: a virtual machine asks for {} and {} cross the port for it, since \
             the NFS client reads ahead (how far is assumed); boots take {}. Past the page cache, where nothing is \
             read ahead, {} cross the port and boots take {}.",
            storms.network_title(network),
            a_vm(&cached, &|row| row.base_bytes as f64)?,
            a_vm(&cached, &port)?,
            seconds_summary(&cached.boot()?),
            a_vm(&past, &port)?,
            seconds_summary(&past.boot()?),
        ))
    };
    storms.networks(sweep).into_iter().filter_map(note).collect()
}

/// Title, and what the figure shows.
fn texts(experiment: Experiment) -> Option<(&'static str, &'static str)> {
    Some(match experiment {
        Experiment::F1 => (
            "boot time against the number of nodes",
            "Mean boot time of the virtual machines of a storm, all from one base image with plain overlays, by what \
             the guests themselves compute in a boot. The vertical axes differ.",
        ),
        Experiment::F2 => (
            "boot time against the number of images",
            "Mean boot time of the virtual machines of a storm with plain overlays, which boot from so many distinct \
             base images.",
        ),
        Experiment::F3 => (
            "boot time against quota",
            "Mean boot time of the virtual machines of a storm against the quota of their cache images, for one node \
             that has everything to itself and for several. Left: filling beside the guest's reads, nobody waits for \
             it. Middle: filling in the read's path and written through, as the patch does. Right: from caches that \
             an earlier boot has filled. Dashed: plain overlays in the same cache mode.",
        ),
        Experiment::F5 => (
            "F1 with caches on the compute nodes' disks",
            "Mean boot time of the virtual machines of a storm, all from one base image. Each row has another number \
             of seconds that the guests themselves compute in a boot. The vertical axes differ.",
        ),
        Experiment::F6 => (
            "F2 with caches on the compute nodes' disks",
            "Mean boot time of the virtual machines of a storm, which boot from so many distinct base images. The \
             vertical axes differ.",
        ),
        Experiment::F7 => (
            "F2 with warm caches in the storage node's memory",
            "Mean boot time of the virtual machines of a storm, which boot from so many distinct base images. The \
             vertical axes differ.",
        ),
        Experiment::T1 | Experiment::T2 | Experiment::F4 | Experiment::V1 => return None,
    })
}

/// What all runs have in common: guest, hardware, replications, CPU seconds, assumptions.
fn caption<'r, I: Iterator<Item = &'r Run>>(storms: &Storms, guest: &str, runs: impl Fn() -> I) -> String {
    let all = |value: &dyn Fn(&Settings) -> Option<String>| {
        let mut values: Vec<String> = Vec::new();
        for value in runs().filter_map(|run| value(run.settings())) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        listed(&values)
    };
    let clusters = all(&|settings| settings.deployment.clusters().map(|clusters| clusters.to_string()));
    let caches =
        if clusters.is_empty() { String::new() } else { format!(" caches have clusters of {clusters};") };
    let profile = &storms.hardware().profile;
    let assumed = profile.facts.iter().filter(|fact| is_assumed(fact)).count();
    format!(
        "{guest}; hardware profile {} ({}); {}; {} replications a point; CPU seconds a boot: {};{caches} lines are \
         means, bands 95 % intervals over replications. Assumed: the CPU seconds, noise on think times \
         (triangle of ± {}), starts ({}), and {assumed} of {} values of the profile, as marked there.",
        profile.title,
        profile.name,
        all(&|settings| Some(storms.network_title(&settings.network).to_owned())),
        all(&|settings| Some(settings.replications.to_string())),
        all(&|settings| cpu_seconds(settings).map(|cpu| cpu.to_string())),
        all(&|settings| Some(set_percent(settings.boot.think_noise))),
        all(&|settings| Some(start(settings.start))),
        profile.facts.len()
    )
}

/// `1, 3 and 10`
fn listed(values: &[String]) -> String {
    match values {
        [several @ .., last] if !several.is_empty() => format!("{} and {last}", several.join(", ")),
        [only] => only.clone(),
        _ => String::new(),
    }
}

fn start(start: StartSettings) -> String {
    match start {
        StartSettings::AtOnce => "all at once".to_owned(),
        StartSettings::Jitter { jitter_s } => format!("each at random within {jitter_s} s"),
        StartSettings::Staggered { interval_s } => format!("one every {interval_s} s"),
    }
}

fn is_assumed(fact: &Fact) -> bool {
    fact.source.starts_with("assumed")
}

/// A parameter of runs: its heading, and what a run has of it.
type Parameter = (&'static str, fn(&Settings) -> String);

/// The parameters of runs; a table shows those that vary in it.
const PARAMETERS: [Parameter; 5] = [
    ("deployment", deployment),
    ("network", |settings| settings.network.clone()),
    ("CPU (s)", |settings| cpu_seconds(settings).map(|cpu| cpu.to_string()).unwrap_or_default()),
    ("nodes", |settings| settings.nodes.to_string()),
    ("images", |settings| settings.images.to_string()),
];

fn numbers(storms: &Storms, experiment: Experiment) -> Markup {
    let runs: Vec<&Run> = storms.sweeps_of(experiment).flat_map(|(_, runs)| runs).collect();
    let varies =
        |(_, of): &Parameter| runs.windows(2).any(|pair| of(pair[0].settings()) != of(pair[1].settings()));
    let parameters: Vec<Parameter> = PARAMETERS.into_iter().filter(varies).collect();
    html! {
        div.table { table {
            thead { tr {
                @for (heading, _) in &parameters { th { (heading) } }
                th.number { "mean boot (s)" } th.number { "± 95 %" } th.number { "p95 (s)" } th.number { "max (s)" }
                th.number { "slowdown" } th { "bottleneck" }
                @for (_, heading) in RESOURCES { th.number { (heading) } }
            } }
            tbody { @for (_, runs) in storms.sweeps_of(experiment) {
                @for group in groups(runs) { (line(&group, &parameters)) }
            } }
            caption { "Mean over the replications; p95 and max are those of the virtual machines of a run. Slowdown: \
                against one virtual machine of the same scenario that is alone. Bottleneck: the busiest resource, with \
                the number of replications where they differ. Port, storage and nodes: the share of the storm's length \
                in which the storage node's network port, the busiest of its disks and the busiest of the compute \
                nodes' disks are in use." }
        } }
    }
}

/// The cells of a sweep, in its order.
fn groups(runs: &[Run]) -> Vec<Group<'_>> {
    let mut starts: Vec<usize> = (0..runs.len()).filter(|index| runs[*index].cell.replication == 0).collect();
    starts.push(runs.len());
    starts.windows(2).filter_map(|ends| Group::new(runs[ends[0]..ends[1]].iter())).collect()
}

fn line(group: &Group, parameters: &[Parameter]) -> Markup {
    let Some(first) = group.first() else { return html! {} };
    let settings = first.settings();
    let number = |value: fn(&Row) -> f64| group.of(value).map(|summary| format!("{:.2}", summary.mean));
    let boot = group.boot();
    let half_width = boot.as_ref().and_then(|boot: &Summary| boot.half_width);
    html! {
        tr {
            @for (_, of) in parameters { td { (of(settings)) } }
            td.number { @if let Some(boot) = &boot { (format!("{:.2}", boot.mean)) } }
            td.number { @match half_width { Some(half_width) => (format!("{half_width:.2}")), None => "–" } }
            td.number { @if let Some(p95) = number(|row| row.boot_p95_s) { (p95) } }
            td.number { @if let Some(max) = number(|row| row.boot_max_s) { (max) } }
            td.number { @if let Some(slowdown) = number(|row| row.slowdown) { (slowdown) } }
            td.bottleneck { (group.bottlenecks()) }
            @for (name, _) in RESOURCES {
                td.number { @match group.of(|row| row.resource(name).map_or(0.0, |used| used.utilisation)) {
                    Some(used) => (percent(used.mean)), None => "–" } }
            }
        }
    }
}

/// `cold, on disk, 41.9 MB, in-path, writethrough`
fn deployment(settings: &Settings) -> String {
    let kind = match settings.deployment.kind {
        DeploymentKind::PlainOverlay => "plain overlay",
        DeploymentKind::ComputeDiskCache => "cache on the node's disk",
        DeploymentKind::ComputeMemoryCache => "cache in the node's memory",
        DeploymentKind::StorageMemoryCache => "cache in the storage node's memory",
        DeploymentKind::FullCopy => "full copy",
    };
    let state = settings.deployment.state.map(|state| match State::from(state) {
        State::Cold => "cold".to_owned(),
        State::Warm => "warm".to_owned(),
    });
    let quota = settings.deployment.quota.map(|quota| format!("{:.1} MB", quota as f64 / MB));
    let filling = settings.deployment.filling.map(Filling::from).and_then(|filling| match filling {
        Filling::Beside => None,
        Filling::InPath => Some("filled in the read's path".to_owned()),
    });
    let mode = match CacheMode::from(settings.cache_mode) {
        CacheMode::Writeback => None,
        CacheMode::Writethrough => Some("writethrough".to_owned()),
        CacheMode::None => Some("cache mode none".to_owned()),
    };
    let parts = [Some(kind.to_owned()), state, quota, filling, mode];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Every value of the hardware profile with its source.
pub fn hardware(storms: &Storms) -> Markup {
    let profile = &storms.hardware().profile;
    let assumed = profile.facts.iter().filter(|fact| is_assumed(fact)).count();
    html! {
        h2 { "Hardware of the storms: " (profile.title) }
        details {
            summary { (counted(profile.facts.len(), "value")) ", " (assumed) " of them assumed" }
            div.table { table {
                thead { tr { th { "Value" } th.number { "is" } th { "Source" } } }
                tbody { @for fact in &profile.facts {
                    tr { td { code { (fact.key) } } td.number { (fact.value) } td { (fact.source) } }
                } }
                caption { "The profile " code { "data/hardware/" (profile.name) ".toml" } ", units in the names." }
            } }
        }
    }
}

/// The sweeps as they were run.
pub fn inputs(storms: &Storms) -> Markup {
    html! {
        h2 { "Sweeps" }
        p { "Each experiment on boot storms is described by its sweep files alone, which are those in "
            code { "paper/experiments" } " as they were run here: axes, replications and seed. Replications of all cells \
            have the same random numbers for the same purposes." }
        @for (name, text) in storms.texts() {
            details { summary { (name) } pre { (text) } }
        }
    }
}
