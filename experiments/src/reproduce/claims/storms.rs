//! Verdicts on boot storms.

use super::court::{Change, Court, axis, verdict, waiting_s, worst};
use super::{Judgement, Verdict};
use crate::reproduce::storms::Group;
use crate::stats::Summary;
use crate::units::{percent, percent_summary};
use vmicache_sim::hardware::DeviceProfile;
use vmicache_sim::storm::State;

/// What the storage node's connection to the network is called among a storm's resources.
const PORT: &str = "storage node network port";
/// What its disk is called.
const DISK: &str = "storage node disk";

/// C4.
pub fn network_bound(court: &Court, network: &str) -> Option<Judgement> {
    let judge = |court: &Court| {
        let all = court.nodes_cell("F1", None, network, court.at.nodes)?;
        let change = court.over_nodes("F1", None, network)?;
        let measured = vec![
            change.sentence(&format!("Plain, {}, {}", court.title(network), court.all_nodes())),
            bottleneck(&all, &format!("With {} nodes", court.at.nodes), PORT)?,
        ];
        let verdict = verdict(&[all.is_bound_by(PORT), change.grows()]);
        Some(Judgement { verdict, measured })
    };
    let mut judgement = judge(court)?;
    judgement.measured.extend(court.elsewhere(judge));
    Some(judgement)
}

/// C5.
pub fn disk_bound(court: &Court, most_sequential_share: f64) -> Option<Judgement> {
    let (mut measured, mut holds) = (Vec::new(), Vec::new());
    for network in court.storms.networks("F2") {
        let all = court.images_cell("F2", None, network, court.at.images)?;
        let change = court.over_images("F2", None, network)?;
        let title = court.title(network);
        measured.push(change.sentence(&format!("Plain, {title}, {}", court.all_images())));
        measured.push(bottleneck(&all, &format!("With {} images", court.at.images), DISK)?);
        let rate = sequential_share(court, &all);
        if let Some(rate) = &rate {
            measured.push(format!(
                "While it is busy, the disk moves {} of what it would move sequentially.",
                percent_summary(rate)
            ));
        }
        let random = rate.is_some_and(|rate| rate.high() <= most_sequential_share);
        holds.push((all.is_bound_by(DISK) && change.grows(), random));
    }
    let verdict = if holds.iter().all(|(bound, random)| *bound && *random) {
        Verdict::Reproduced
    } else if holds.iter().any(|(bound, _)| *bound) {
        Verdict::Partly
    } else {
        Verdict::NotReproduced
    };
    Some(Judgement { verdict, measured })
}

/// Bytes that the storage node's disk moves while it is busy, as a share of its rate at its outermost track; `None`
/// of a device without tracks.
fn sequential_share(court: &Court, group: &Group) -> Option<Summary> {
    let outer = match &court.storms.hardware().profile.storage_node.disk {
        DeviceProfile::HardDisk(disk) => disk.outer_bytes_per_s,
        DeviceProfile::Raid0 { member, .. } => member.outer_bytes_per_s,
        DeviceProfile::SolidState(_) | DeviceProfile::Memory(_) => return None,
    };
    group.of(|row| {
        row.resource(DISK).map_or(f64::NAN, |disk| {
            disk.bytes as f64 / f64::from(disk.count) / (disk.utilisation * row.makespan_s) / outer
        })
    })
}

/// C6.
pub fn removes_bottlenecks(court: &Court, network: &str) -> Option<Judgement> {
    let warm = Some(State::Warm);
    let (mut measured, mut local, mut storage) = (Vec::new(), Vec::new(), Vec::new());
    let mut compare = |what: &str, plain: Change, cached: Change| {
        measured.push(plain.sentence(&format!("{what}, plain")));
        measured.push(cached.sentence(&format!("{what}, cached")));
        plain.grows().then(|| cached.is_flat())
    };
    let what = |network, axis| format!("{}, {axis}", court.title(network));
    local.extend(compare(
        &format!("Compute nodes' disks, {}", what(network, court.all_nodes())),
        court.over_nodes("F1", None, network)?,
        court.over_nodes("F5", warm, network)?,
    ));
    for network in court.storms.networks("F2") {
        let plain = || court.over_images("F2", None, network);
        let axis = what(network, court.all_images());
        let cached = court.over_images("F6", warm, network)?;
        local.extend(compare(&format!("Compute nodes' disks, {axis}"), plain()?, cached));
        let cached = court.over_images("F7", None, network)?;
        storage.extend(compare(&format!("Storage node's memory, {axis}"), plain()?, cached));
    }
    let removed = |counting: &[bool]| !counting.is_empty() && counting.iter().all(|removed| *removed);
    let verdict = verdict(&[removed(&local), removed(&storage)]);
    let what = format!("compute nodes' disks, {}, {}, cached", court.title(network), court.all_nodes());
    measured.extend(court.change_elsewhere(&what, |court| court.over_nodes("F5", warm, network)));
    Some(Judgement { verdict, measured })
}

/// C7.
pub fn as_one_vm(court: &Court) -> Option<Judgement> {
    let warm = Some(State::Warm);
    let (mut measured, mut one_image, mut many_images) = (Vec::new(), Vec::new(), Vec::new());
    for network in court.storms.networks("F5") {
        let title = court.title(network);
        let worst_of_nodes = |court: &Court| {
            let alone = court.nodes_cell("F1", None, network, 1)?;
            let nodes = axis(court, "F5", |settings| settings.nodes, court.at.nodes);
            worst(
                nodes
                    .into_iter()
                    .map(|nodes| court.change(&alone, &court.nodes_cell("F5", warm, network, nodes)?)),
            )
        };
        let alone = court.nodes_cell("F1", None, network, 1)?;
        court.nodes_cell("F5", warm, network, court.at.nodes)?;
        let nodes = worst_of_nodes(court)?;
        let images = axis(court, "F6", |settings| settings.images, court.at.images);
        court.images_cell("F6", warm, network, court.at.images)?;
        let images = worst(
            images
                .into_iter()
                .map(|images| court.change(&alone, &court.images_cell("F6", warm, network, images)?)),
        )?;
        let against = format!("{title}, one plain virtual machine against warm caches");
        measured.push(nodes.sentence(&format!("{against}, one image, the worst number of nodes")));
        measured.push(
            images.sentence(&format!("{against}, {} nodes, the worst number of images", court.at.nodes)),
        );
        let same = court.over_nodes("F5", warm, network)?;
        measured.push(same.sentence(&format!("{title}, warm caches, {}", court.all_nodes())));
        let what = format!("{against}, one image, the worst number of nodes");
        measured.extend(court.change_elsewhere(&what, worst_of_nodes));
        one_image.push(nodes.is_flat());
        many_images.push(images.is_flat());
    }
    let every = |holds: &[bool]| !holds.is_empty() && holds.iter().all(|holds| *holds);
    let verdict = if every(&one_image) && every(&many_images) {
        Verdict::Reproduced
    } else if every(&one_image) || many_images.contains(&true) {
        Verdict::Partly
    } else {
        Verdict::NotReproduced
    };
    Some(Judgement { verdict, measured })
}

/// C8.
pub fn waits_for_storage(court: &Court, least_share: f64) -> Option<Judgement> {
    let judge = |court: &Court| {
        let (mut measured, mut holds) = (Vec::new(), Vec::new());
        for network in court.storms.networks("F1") {
            let share = |nodes| {
                let cell = court.nodes_cell("F1", None, network, nodes)?;
                cell.of(|row| waiting_s(row) / row.boot_mean_s)
            };
            let (one, all) = (share(1)?, share(court.at.nodes)?);
            measured.push(format!(
                "{}, plain: {} of the boot time is waiting with {} nodes, {} with one.",
                court.title(network),
                percent_summary(&all),
                court.at.nodes,
                percent_summary(&one)
            ));
            holds.push(all.low() > least_share);
        }
        Some(Judgement { verdict: verdict(&holds), measured })
    };
    let mut judgement = judge(court)?;
    judgement.measured.extend(court.elsewhere(judge));
    Some(judgement)
}

/// C14.
pub fn flat_then_linear(court: &Court, rule: &FlatThenLinear) -> Option<Judgement> {
    let judge = |court: &Court| {
        let slower = |nodes| court.nodes_cell("F1", None, &rule.slower, nodes);
        let faster = |nodes| court.nodes_cell("F1", None, &rule.faster, nodes);
        let few = court.change(&slower(1)?, &slower(rule.few_nodes)?)?;
        let half = court.at.nodes / 2;
        let ratio = slower(court.at.nodes)?.over(&slower(half)?, |row| row.boot_mean_s)?;
        let nodes = axis(court, "F1", |settings| settings.nodes, court.at.nodes);
        faster(court.at.nodes)?;
        let alone = faster(1)?;
        let most = worst(nodes.into_iter().map(|nodes| court.change(&alone, &faster(nodes)?)))?;
        let measured = vec![
            few.sentence(&format!("{}, 1 to {} nodes", court.title(&rule.slower), rule.few_nodes)),
            format!(
                "{}: from {half} to {} nodes boot time is multiplied by {:.2}{}.",
                court.title(&rule.slower),
                court.at.nodes,
                ratio.mean,
                ratio.half_width.map(|half| format!(" ± {half:.2}")).unwrap_or_default()
            ),
            most.sentence(&format!("{}, 1 to the worst number of nodes", court.title(&rule.faster))),
        ];
        let linear = ratio.low() >= rule.least_ratio && ratio.high() <= rule.most_ratio;
        Some(Judgement { verdict: verdict(&[few.is_flat(), linear, most.is_flat()]), measured })
    };
    let mut judgement = judge(court)?;
    judgement.measured.extend(court.elsewhere(judge));
    Some(judgement)
}

/// The parameters of the rule for C14.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlatThenLinear {
    /// The network over which boot time grows.
    pub slower: String,
    /// The network over which it does not.
    pub faster: String,
    /// Up to so many nodes it is flat on the slower network, too.
    pub few_nodes: u32,
    /// Least factor when the nodes double.
    pub least_ratio: f64,
    /// Largest factor.
    pub most_ratio: f64,
}

/// C15.
pub fn disk_saturates(court: &Court, least_utilisation: f64) -> Option<Judgement> {
    let (mut measured, mut grows, mut saturates) = (Vec::new(), Vec::new(), Vec::new());
    for network in court.storms.networks("F2") {
        let all = court.images_cell("F2", None, network, court.at.images)?;
        let change = court.over_images("F2", None, network)?;
        let utilisation = all.of(|row| row.resource(DISK).map_or(0.0, |disk| disk.utilisation))?;
        measured.push(change.sentence(&format!("{}, {}", court.title(network), court.all_images())));
        measured.push(format!(
            "With {} images the busiest disk of the storage node is in use for {} of the storm.",
            court.at.images,
            percent_summary(&utilisation)
        ));
        grows.push(change.grows());
        saturates.push(change.grows() && utilisation.mean >= least_utilisation);
    }
    let verdict = if saturates.iter().all(|holds| *holds) {
        Verdict::Reproduced
    } else if grows.contains(&true) {
        Verdict::Partly
    } else {
        Verdict::NotReproduced
    };
    Some(Judgement { verdict, measured })
}

/// C16.
pub fn caches_by_place(court: &Court, network: &str) -> Option<Judgement> {
    let warm = Some(State::Warm);
    let mut measured = Vec::new();
    let mut flat_on_every_network = |sweep: &str, state, place: &str| {
        let mut flat = Vec::new();
        for network in court.storms.networks(sweep) {
            let change = court.over_images(sweep, state, network)?;
            let what = format!("{place}, {}, {}", court.title(network), court.all_images());
            measured.push(change.sentence(&what));
            flat.push(change.is_flat());
        }
        Some(flat.iter().all(|flat| *flat))
    };
    let storage_removes_disk = flat_on_every_network("F7", None, "(1) Storage node's memory")?;
    let local_removes_disk = flat_on_every_network("F6", warm, "(3) Compute nodes' disks")?;
    let alone = court.nodes_cell("F1", None, network, 1)?;
    let title = court.title(network);
    let storm = court.change(&alone, &court.images_cell("F7", None, network, 1)?)?;
    let nodes = court.at.nodes;
    measured.push(storm.sentence(&format!(
        "(2) Storage node's memory, {title}, one plain virtual machine against {nodes} nodes"
    )));
    let local = court.over_nodes("F5", warm, network)?;
    let what = format!("(4) Compute nodes' disks, {title}, {}", court.all_nodes());
    measured.push(local.sentence(&what));
    measured.extend(court.change_elsewhere(&what, |court| court.over_nodes("F5", warm, network)));
    let verdict = verdict(&[storage_removes_disk, storm.grows(), local_removes_disk, local.is_flat()]);
    Some(Judgement { verdict, measured })
}

/// Which resource the replications of a cell are bound by, and how busy the expected one is.
fn bottleneck(group: &Group, when: &str, expected: &str) -> Option<String> {
    let busy = group.of(|row| row.resource(expected).map_or(0.0, |used| used.utilisation))?;
    Some(format!(
        "{when}, the bottleneck is {}; the {expected} is in use for {} of the storm.",
        group.bottlenecks(),
        percent(busy.mean)
    ))
}
