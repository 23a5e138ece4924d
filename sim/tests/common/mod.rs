//! Hardware and guests of round numbers, for arithmetic that a reader can redo.
#![allow(dead_code, reason = "each test uses a part")]

use std::path::Path;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::{Dependencies, Trace};
use vmicache_sim::engine::Span;
use vmicache_sim::hardware::{
    CacheMode, ComputeNode, DeviceProfile, HardDiskProfile, MemoryProfile, Network, Nfs, Profile, StorageNode,
};
use vmicache_sim::storm::{
    BootOptions, Cache, Deployment, Filling, Guest, Outcome, Recording, Start, Storm, run,
};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
/// Payload bytes a second of the test network.
pub const RATE: f64 = 125e6;

/// So fast that it does not count: 1 TB/s.
pub fn instant_memory() -> MemoryProfile {
    MemoryProfile { latency: Span::ZERO, bytes_per_s: 1e12 }
}

/// A disk that takes 0.1 ms of overhead, 8 ms for any seek, 8 ms a turn, and moves 100 MB/s everywhere.
pub fn even_disk() -> HardDiskProfile {
    HardDiskProfile {
        capacity_bytes: 1000 * GIB,
        rotation: Span::from_microseconds(8000),
        overhead: Span::from_microseconds(100),
        seek_track_to_track: Span::from_microseconds(8000),
        seek_average: Span::from_microseconds(8000),
        seek_full_stroke: Span::from_microseconds(8000),
        outer_bytes_per_s: 100e6,
        inner_bytes_per_s: 100e6,
    }
}

/// A network of 125 MB/s whose round trip takes 100 µs, NFS whose server takes 10 µs a request, and devices that
/// take no time; no page cache at the compute nodes and no readahead anywhere.
pub fn profile() -> Profile {
    let memory = DeviceProfile::Memory(instant_memory());
    Profile {
        name: "test".into(),
        title: "Test hardware".into(),
        compute_node: ComputeNode {
            memory_bytes: 24 * GIB,
            cores: 8,
            cache_mode: CacheMode::None,
            disk: memory.clone(),
            memory: instant_memory(),
            readahead_bytes: 0,
        },
        storage_node: StorageNode {
            memory_bytes: 24 * GIB,
            disk: memory,
            memory: instant_memory(),
            readahead_bytes: 0,
        },
        networks: vec![Network {
            name: "test".into(),
            title: "Test network".into(),
            bits_per_s: 8.0 * RATE,
            payload_share: 1.0,
            round_trip: Span::from_microseconds(100),
        }],
        nfs: Nfs {
            rsize_bytes: MIB,
            slots: 64,
            server_threads: 64,
            server_cpu: Span::from_microseconds(10),
            client_readahead_bytes: 0,
        },
        facts: vec![],
    }
}

pub fn recording(name: &str) -> Trace {
    let file = format!("../data/traces/{name}.csv.gz");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    Trace::open(&path).expect("the recorded boots ship with the project")
}

pub fn slowed() -> Trace {
    recording("debian-12-extlinux-slowed-20ms")
}

/// The recorded guest with its first `boots` boots and the dependencies that the slowed recording teaches.
pub fn debian(boots: usize) -> Guest {
    let slowed = [slowed()];
    let boot = |number| {
        let boot = recording(&format!("debian-12-extlinux-{number}"));
        let dependencies = Dependencies::learn(&boot, &slowed).dependencies;
        (boot, dependencies)
    };
    Guest { disk_bytes: 2 * GIB, allocated_bytes: 382_000_000, boots: (1..=boots).map(boot).collect() }
}

/// Plain overlays, one recording, everything at once, no noise.
pub fn storm<'a>(hardware: &'a Profile, guest: &'a Guest) -> Storm<'a> {
    Storm {
        hardware,
        network: &hardware.networks[0],
        guest,
        nodes: 1,
        vms_per_node: 1,
        vm_memory_bytes: GIB,
        images: 1,
        deployment: Deployment::PlainOverlay,
        cache_mode: hardware.compute_node.cache_mode,
        boot: BootOptions { cpu_seconds: None, think_noise: 0.0, recording: Recording::Only(0) },
        start: Start::AtOnce,
        seed: 1,
        replication: 0,
        timeline: false,
    }
}

pub fn cache(cluster_size: u64) -> Cache {
    let clusters = ClusterLayout::standard(cluster_size);
    Cache { clusters, quota_bytes: None, filling: Filling::Beside }
}

pub fn outcome(storm: &Storm<'_>) -> Outcome {
    run(storm).expect("the storm can be run")
}

/// Whether `value` is within `share` of `expected`.
pub fn close(value: f64, expected: f64, share: f64) -> bool {
    (value - expected).abs() <= share * expected
}
