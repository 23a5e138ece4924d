//! The rules in words, with their thresholds.

use super::{FlatThenLinear, JudgedAt, Rule};
use crate::units::{cluster, mb, set_percent};

/// The rule in words, with its thresholds.
pub fn rule(rule: &Rule, at: &JudgedAt) -> String {
    match rule {
        Rule::QuotaSuffices { quota_bytes } => format!(
            "reproduced if, at every cluster size (without subclusters, as in all these rules), a quota of {} ({quota_bytes} bytes, the patch's own example) holds \
             what all boots read, one after the other; partly if it holds what any single boot reads.",
            mb(*quota_bytes as f64)
        ),
        Rule::WarmReadsNothing { most_share } => format!(
            "reproduced if the boot that warmed the cache reads nothing when it is repeated, and no boot after any \
             other reads more than {} of the plain overlay's traffic; partly if the mean over the pairs stays below.",
            set_percent(*most_share)
        ),
        Rule::SmallWorkingSet { most_share } => format!(
            "reproduced if every boot's working set is at most {} of what the image has allocated, at every \
             granularity; partly if it is at most that share of the virtual disk.",
            set_percent(*most_share)
        ),
        Rule::SmallClustersSave { larger_cluster_bytes, smaller_cluster_bytes } => format!(
            "cold minus plain, boot by boot, at the largest quota: reproduced if the 95 % confidence interval of the \
             mean lies above zero at clusters of {} and reaches nowhere above zero at {}; partly if one holds; not \
             testable with a single boot, which has no interval.",
            cluster(*larger_cluster_bytes),
            cluster(*smaller_cluster_bytes)
        ),
        Rule::FallsThenFlat { traffic_tolerance_share, boot_time_tolerance_share, nodes, network } => {
            format!(
                "warm boots, mean against quota: no step up to the smallest sufficient quota rises by more than {} of the \
             plain overlay's traffic and the last point lies below the first; all points beyond differ by no more than \
             that; at every cluster size. The same of boot time, {nodes} nodes over {network}, on disk and in memory, \
             within {} of the plain overlay's. Reproduced if all four hold, partly if some do.",
                set_percent(*traffic_tolerance_share),
                set_percent(*boot_time_tolerance_share)
            )
        }
        Rule::NotTestableHere { .. } => "none; no result here bears on it.".to_owned(),
        _ => storm_rule(rule, at),
    }
}

fn storm_rule(rule: &Rule, at: &JudgedAt) -> String {
    let JudgedAt { nodes, images, .. } = at;
    match rule {
        Rule::NetworkBound { network } => format!(
            "plain overlays, one image, {network}: with {nodes} nodes the storage node's port is the bottleneck in \
             every replication, and boot time grows from one node to all. Reproduced if both hold, partly if one does."
        ),
        Rule::DiskBound { most_sequential_share } => format!(
            "plain overlays, {nodes} nodes, each network: with {images} images the storage node's disk is the \
             bottleneck in every replication; boot time grows from one image to all; while busy, the disk moves at \
             most {} of what it would move sequentially. Reproduced if all hold on every network, partly if the first \
             two hold on one.",
            set_percent(*most_sequential_share)
        ),
        Rule::RemovesBottlenecks { network } => format!(
            "where boot time grows with plain overlays, it is flat with warm caches: on the compute nodes' disks from \
             one node to {nodes} over {network} and from one image to {images} on every network; in the storage node's \
             memory from one image to {images} on every network. Reproduced if so for both placements, partly if for \
             one."
        ),
        Rule::AsOneVm => format!(
            "warm caches on the compute nodes' disks against one virtual machine with a plain overlay: no slower with \
             up to {nodes} nodes (one image) and up to {images} images (all nodes), on every network. Partly if so \
             with one image on every network, or with any number of images on one."
        ),
        Rule::WaitsForStorage { least_share } => format!(
            "plain overlays, one image, {nodes} nodes: of the boot time, the interval of the share that is waiting \
             lies above {}. Reproduced if so on every network, partly if on one.",
            set_percent(*least_share)
        ),
        Rule::FillingSlows { network, nodes } => format!(
            "cold boots with {nodes} node over {network} against plain overlays in the same cache mode, the cache \
             filled in the read's path and written through, as the patch does: slower on disk, no slower in memory. \
             Partly if one of the two."
        ),
        Rule::FlatThenLinear(FlatThenLinear { slower, faster, few_nodes, least_ratio, most_ratio }) => {
            format!(
                "plain overlays, one image: over {slower} flat from 1 to {few_nodes} nodes, and from half of {nodes} nodes \
             to all multiplied by {least_ratio} to {most_ratio}; over {faster} flat up to {nodes}. Partly if some of \
             the three hold."
            )
        }
        Rule::DiskSaturates { least_utilisation } => format!(
            "plain overlays, {nodes} nodes, each network: boot time grows from one image to {images}, and with all of \
             them the storage node's busiest disk is in use for at least {} of the storm. Partly if it grows on one.",
            set_percent(*least_utilisation)
        ),
        Rule::CachesByPlace { network } => format!(
            "warm caches. In the storage node's memory: (1) flat from one image to {images} on every network, (2) over \
             {network} {nodes} nodes are slower than one plain virtual machine. On the compute nodes' disks: (3) flat \
             from one image to {images} on every network, (4) flat from one node to {nodes} over {network}. Partly if \
             some hold."
        ),
        _ => String::new(),
    }
}

/// Where rules on boot storms are applied, and what their words mean.
pub fn storms(at: &JudgedAt) -> String {
    format!(
        "Rules on boot storms are applied on the hardware profile {}, to guests that compute {} s themselves in a boot. \
         Compared is waiting, boot time less that computing, replication by replication. Grows, slower: the 95 % \
         interval of the difference lies above {share} of one virtual machine's boot time; flat, no slower: it reaches \
         at most that; between the two nothing is decided, which counts as neither.",
        at.hardware,
        at.cpu_seconds,
        share = set_percent(at.flat_share)
    )
}
