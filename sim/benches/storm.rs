//! How long one boot storm takes to simulate, and how many requests of guests that is a second.
//!
//! `cargo bench -p vmicache-sim --bench storm`

#[path = "../tests/common/mod.rs"]
mod common;

use common::{cache, debian, profile, storm};
use divan::Bencher;
use divan::counter::ItemsCount;
use vmicache_sim::hardware::{DeviceProfile, Profile};
use vmicache_sim::storm::{Deployment, State, run};

fn main() {
    divan::main();
}

fn hardware() -> Profile {
    let mut hardware = profile();
    hardware.storage_node.disk = DeviceProfile::HardDisk(common::even_disk());
    hardware.compute_node.disk = DeviceProfile::HardDisk(common::even_disk());
    hardware.compute_node.cache_mode = Default::default();
    hardware.compute_node.readahead_bytes = 128 << 10;
    hardware.storage_node.readahead_bytes = 128 << 10;
    hardware
}

fn bench(bencher: Bencher<'_, '_>, nodes: u32, deployment: Deployment) {
    let (hardware, guest) = (hardware(), debian(6));
    let mut many = storm(&hardware, &guest);
    many.nodes = nodes;
    many.deployment = deployment;
    many.boot.recording = Default::default();
    many.boot.think_noise = 0.15;
    let requests = run(&many).expect("the storm can be run").guest_requests;
    bencher
        .counter(ItemsCount::new(requests))
        .bench_local(|| run(&many).expect("the storm can be run").makespan);
}

#[divan::bench(args = [1, 64, 1000], sample_count = 5, sample_size = 1)]
fn plain_overlays(bencher: Bencher<'_, '_>, nodes: u32) {
    bench(bencher, nodes, Deployment::PlainOverlay);
}

#[divan::bench(args = [1, 64], sample_count = 5, sample_size = 1)]
fn cold_caches_of_512_bytes(bencher: Bencher<'_, '_>, nodes: u32) {
    bench(bencher, nodes, Deployment::ComputeDiskCache(cache(512), State::Cold));
}

#[divan::bench(args = [1, 64, 1000], sample_count = 5, sample_size = 1)]
fn warm_caches_of_512_bytes(bencher: Bencher<'_, '_>, nodes: u32) {
    bench(bencher, nodes, Deployment::ComputeDiskCache(cache(512), State::Warm));
}
