//! What nodes, images and virtual machines have counted, summed up at the moment when the last one has booted.

use super::{Layer, LayerUse, Outcome, ResourceUse, VmOutcome};
use crate::deployment::{Chain, Site};
use crate::engine::{Span, Time, Usage};
use crate::models::{Device, Local, PageCache};
use std::rc::Rc;

/// A resource and what it did.
type Used = (String, Usage);

/// The storm's outcome as it stands when everything has booted.
pub(super) fn measure(site: &Site, vms: &[Option<VmOutcome>], chains: &[Rc<Chain>]) -> Outcome {
    let vms: Vec<VmOutcome> = vms.iter().copied().flatten().collect();
    let first = vms.iter().map(|vm| vm.started).min().unwrap_or_default();
    let last = vms.iter().map(|vm| vm.booted).max().unwrap_or_default();
    let makespan = last.since(first);
    let resources = resources(site, &vms, makespan);
    let (base_bytes, base_requests) = asked_of_bases(chains);
    Outcome {
        makespan,
        settled: makespan,
        layers: layers(site, chains, base_bytes),
        bottleneck: bottleneck(&resources),
        resources,
        base_bytes,
        base_requests,
        guest_requests: vms.iter().map(|vm| site.guest.boots[vm.recording].0.requests.len() as u64).sum(),
        vms,
        timeline: None,
    }
}

impl Outcome {
    /// When the first virtual machine started.
    pub(super) fn first_start(&self) -> Time {
        self.vms.iter().map(|vm| vm.started).min().unwrap_or_default()
    }
}

/// The chains, each set of images that virtual machines share counted once.
fn distinct(chains: &[Rc<Chain>]) -> Vec<&Rc<Chain>> {
    let mut distinct: Vec<&Rc<Chain>> = chains.iter().collect();
    distinct.sort_by_key(|chain| Rc::as_ptr(&chain.below) as usize);
    distinct.dedup_by_key(|chain| Rc::as_ptr(&chain.below));
    distinct
}

fn asked_of_bases(chains: &[Rc<Chain>]) -> (u64, u64) {
    let reads = distinct(chains).into_iter().map(|chain| chain.below.base.counts().guest_reads);
    reads.fold((0, 0), |(bytes, requests), reads| (bytes + reads.bytes, requests + reads.requests))
}

fn layers(site: &Site, chains: &[Rc<Chain>], base_bytes: u64) -> Vec<LayerUse> {
    let overlay: u64 = chains.iter().map(|chain| chain.overlay.counts().guest_reads.bytes).sum();
    let caches = distinct(chains).into_iter().filter_map(|chain| chain.below.cache.as_ref());
    let cache: u64 = caches.map(|cache| cache.counts().guest_reads.bytes).sum();
    let pages = |layer, caches: &mut dyn Iterator<Item = &PageCache>| {
        let (mut asked_bytes, mut served_bytes) = (0, 0);
        for cache in caches {
            let usage = cache.usage();
            asked_bytes += usage.asked_bytes;
            served_bytes += usage.hit_bytes;
        }
        LayerUse { layer, asked_bytes, served_bytes }
    };
    let mut layers = vec![
        LayerUse { layer: Layer::Overlay, asked_bytes: overlay + cache + base_bytes, served_bytes: overlay },
        LayerUse { layer: Layer::CacheImage, asked_bytes: cache + base_bytes, served_bytes: cache },
        LayerUse { layer: Layer::Base, asked_bytes: base_bytes, served_bytes: base_bytes },
        pages(Layer::ComputePageCache, &mut site.nodes.iter().map(|node| node.local().page_cache())),
        pages(Layer::StoragePageCache, &mut std::iter::once(site.storage.local().page_cache())),
    ];
    if chains.iter().all(|chain| chain.below.cache.is_none()) {
        layers.retain(|used| used.layer != Layer::CacheImage);
    }
    layers
}

fn resources(site: &Site, vms: &[VmOutcome], makespan: Span) -> Vec<ResourceUse> {
    let storage = &site.storage;
    let mut resources = vec![
        group("storage node network port", vec![("port".into(), storage.server().port_usage())], makespan),
        group("storage node disk", storage.local().disk().usages(), makespan),
        group("storage node memory", storage.local().memory().usages(), makespan),
    ];
    let all = |device: &dyn Fn(&Local) -> &Device| {
        site.nodes.iter().flat_map(|node| device(node.local()).usages()).collect::<Vec<Used>>()
    };
    resources.push(group("compute node disks", all(&Local::disk), makespan));
    resources.push(group("compute node memory", all(&Local::memory), makespan));
    resources.push(guests(vms));
    resources.retain(|resource| resource.requests > 0);
    resources
}

/// Several of a kind: sums, and of the rest what the busiest has.
fn group(name: &str, used: Vec<Used>, makespan: Span) -> ResourceUse {
    let usages = || used.iter().map(|(_, usage)| usage);
    let most = |value: &dyn Fn(&Usage) -> f64| usages().map(value).fold(0.0, f64::max);
    ResourceUse {
        name: name.to_owned(),
        count: used.len() as u32,
        requests: usages().map(|usage| usage.requests).sum(),
        bytes: usages().map(|usage| usage.amount).sum(),
        utilisation: most(&|usage| usage.utilisation(makespan)),
        mean_queue: most(&|usage| usage.mean_in_system(makespan)),
    }
}

/// The guests themselves: the share of their boot times in which they compute.
fn guests(vms: &[VmOutcome]) -> ResourceUse {
    let share = |vm: &VmOutcome| match vm.boot_time().seconds() {
        0.0 => 1.0,
        seconds => vm.cpu.seconds() / seconds,
    };
    let mean = vms.iter().map(share).sum::<f64>() / vms.len().max(1) as f64;
    ResourceUse {
        name: GUESTS.to_owned(),
        count: vms.len() as u32,
        requests: vms.len() as u64,
        bytes: 0,
        utilisation: mean,
        mean_queue: 0.0,
    }
}

const GUESTS: &str = "guests' own computing";

/// The busiest resource; the first of several.
fn bottleneck(resources: &[ResourceUse]) -> String {
    let mut busiest = None;
    for resource in resources {
        if busiest.is_none_or(|other: &ResourceUse| resource.utilisation > other.utilisation) {
            busiest = Some(resource);
        }
    }
    busiest.map(|resource| resource.name.clone()).unwrap_or_default()
}
