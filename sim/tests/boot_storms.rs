//! What storms ask for, how deployments differ, and what cannot be.

mod common;

use common::*;
use vmicache_format::disk::Filling;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_sim::hardware::{CacheMode, DeviceProfile};
use vmicache_sim::replay::{Chain, Layout, replay};
use vmicache_sim::storm::{Cache, Deployment, Layer, Recording, Start, State, StormError, run};

/// Above page cache and readahead a simulated virtual machine asks its base for exactly what the same boot asks
/// for without any clock.
#[test]
fn a_simulated_machine_asks_its_base_for_what_a_replay_asks_for() {
    let (hardware, guest) = (profile(), debian(3));
    for recording in 0..3 {
        let boot = &guest.boots[recording].0;
        let mut one = storm(&hardware, &guest);
        one.boot.recording = Recording::Only(recording);
        let mut cases = vec![(Deployment::PlainOverlay, Layout::Plain, ClusterLayout::standard(65536))];
        let standard = [512, 4096, 65536].map(ClusterLayout::standard);
        let extended = [65536, 2 << 20].map(ClusterLayout::extended);
        for clusters in standard.into_iter().chain(extended) {
            let cache = Cache { clusters, ..cache(512) };
            cases.push((Deployment::ComputeDiskCache(cache, State::Cold), Layout::Cold, clusters));
            cases.push((Deployment::ComputeDiskCache(cache, State::Warm), Layout::Warm, clusters));
        }
        for (deployment, layout, clusters) in cases {
            one.deployment = deployment;
            let chain = Chain { layout, clusters, quota: None, disk_size: guest.disk_bytes };
            let replayed = replay(boot, &[], &chain).expect("the boot can be replayed");
            let storm = outcome(&one);
            assert_eq!(storm.base_bytes, replayed.base_bytes_read, "recording {recording}, {deployment:?}");
            // Two reads that meet in one cluster may be one request or two, by who comes first.
            let difference = storm.base_requests.abs_diff(replayed.base_requests);
            assert!(difference * 200 <= replayed.base_requests, "{difference} requests, {deployment:?}");
        }
    }
}

#[test]
fn the_same_storm_has_the_same_outcome_and_another_replication_has_another() {
    let (mut hardware, guest) = (profile(), debian(3));
    hardware.storage_node.disk = DeviceProfile::HardDisk(even_disk());
    let mut many = storm(&hardware, &guest);
    (many.nodes, many.images) = (8, 4);
    many.boot.recording = Recording::Drawn;
    many.boot.think_noise = 0.15;
    many.start = Start::Jitter(vmicache_sim::engine::Span::from_seconds(1.0));
    let first = outcome(&many);
    assert_eq!(first, outcome(&many));
    many.replication = 1;
    assert_ne!(first, outcome(&many));
}

/// Common random numbers: a machine starts when it starts and replays what it replays, however its images are laid
/// out and however many others there are.
#[test]
fn variants_share_their_random_numbers() {
    let (hardware, guest) = (profile(), debian(3));
    let mut one = storm(&hardware, &guest);
    one.boot.recording = Recording::Drawn;
    one.boot.think_noise = 0.15;
    one.start = Start::Jitter(vmicache_sim::engine::Span::from_seconds(1.0));
    one.nodes = 4;
    let few = outcome(&one);
    one.nodes = 8;
    one.deployment = Deployment::ComputeMemoryCache(cache(4096), State::Cold);
    let many = outcome(&one);
    for (a, b) in few.vms.iter().zip(&many.vms) {
        assert_eq!((a.recording, a.started, a.cpu), (b.recording, b.started, b.cpu));
    }
}

#[test]
fn guests_compute_for_as_long_as_they_are_told() {
    let (hardware, guest) = (profile(), debian(2));
    let mut many = storm(&hardware, &guest);
    many.nodes = 2;
    many.boot.recording = Recording::Drawn;
    many.boot.cpu_seconds = Some(3.0);
    for vm in outcome(&many).vms {
        assert!(close(vm.cpu.seconds(), 3.0, 1e-9), "{}", vm.cpu);
        assert!(vm.boot_time() > vm.cpu);
    }
}

#[test]
fn warm_caches_take_the_load_off_the_base_and_shared_ones_stay_on_the_network() {
    let (hardware, guest) = (profile(), debian(1));
    let mut many = storm(&hardware, &guest);
    many.nodes = 4;
    let plain = outcome(&many);
    many.deployment = Deployment::ComputeMemoryCache(cache(4096), State::Warm);
    let local = outcome(&many);
    many.deployment = Deployment::StorageMemoryCache(cache(4096));
    let shared = outcome(&many);
    assert_eq!((local.base_bytes, shared.base_bytes), (0, 0));
    let port = |outcome: &vmicache_sim::storm::Outcome| {
        outcome.resources.iter().find(|r| r.name == "storage node network port").map_or(0, |r| r.bytes)
    };
    assert_eq!(port(&local), 0);
    assert_eq!(port(&plain), plain.base_bytes);
    // The cache's second-level tables cross the network too.
    assert!(port(&shared) > plain.base_bytes * 9 / 10, "{} and {}", port(&shared), plain.base_bytes);
    let cached =
        shared.layers.iter().find(|layer| layer.layer == Layer::CacheImage).and_then(|l| l.hit_ratio());
    assert_eq!(cached, Some(1.0));
}

/// 382 MB at 125 MB/s for each of 4 nodes through one port: 12.2 s before any guest starts.
#[test]
fn a_full_copy_moves_what_the_image_has_allocated_before_the_boot() {
    let (hardware, guest) = (profile(), debian(1));
    let mut many = storm(&hardware, &guest);
    many.nodes = 4;
    many.deployment = Deployment::FullCopy;
    let copied = outcome(&many);
    assert_eq!(copied.base_bytes, 4 * guest.allocated_bytes);
    let copying = 4.0 * guest.allocated_bytes as f64 / RATE;
    let boot = copied.vms[0].cpu.seconds();
    let took = copied.makespan.seconds();
    assert!(took > copying + boot && took < copying + boot + 1.0, "{took} s, {copying} s + {boot} s");
}

#[test]
fn a_cold_cache_in_memory_is_written_to_disk_after_the_boot_and_not_during_it() {
    let (mut hardware, guest) = (profile(), debian(1));
    hardware.compute_node.disk = DeviceProfile::HardDisk(even_disk());
    let mut one = storm(&hardware, &guest);
    one.deployment = Deployment::ComputeMemoryCache(cache(4096), State::Cold);
    let cold = outcome(&one);
    // About 69 MB at 100 MB/s; the copy begins after the boot.
    let after = (cold.settled - cold.makespan).seconds();
    assert!((0.5..2.0).contains(&after), "{after} s");
    one.deployment = Deployment::ComputeDiskCache(cache(4096), State::Cold);
    one.cache_mode = CacheMode::None;
    let mut in_path = cache(4096);
    in_path.filling = Filling::InPath;
    let beside = outcome(&one).makespan;
    one.deployment = Deployment::ComputeDiskCache(in_path, State::Cold);
    assert!(outcome(&one).makespan > beside, "a guest that waits for the disk takes longer");
    assert!(beside >= cold.makespan);
}

#[test]
fn machines_of_one_node_with_one_image_share_its_cache() {
    let (hardware, guest) = (profile(), debian(1));
    let mut shared = storm(&hardware, &guest);
    shared.vms_per_node = 4;
    shared.deployment = Deployment::ComputeMemoryCache(cache(4096), State::Cold);
    let together = outcome(&shared);
    shared.vms_per_node = 1;
    assert_eq!(together.base_bytes, outcome(&shared).base_bytes);
}

/// Sixteen guests on eight cores compute for twice as long.
#[test]
fn guests_share_the_cores_of_their_node() {
    let (hardware, guest) = (profile(), debian(1));
    let mut crowded = storm(&hardware, &guest);
    crowded.deployment = Deployment::ComputeMemoryCache(cache(4096), State::Warm);
    crowded.boot.cpu_seconds = Some(5.0);
    crowded.vms_per_node = 8;
    let roomy = outcome(&crowded).makespan.seconds();
    crowded.vms_per_node = 16;
    let took = outcome(&crowded).makespan.seconds();
    assert!(close(took, roomy + 5.0, 0.02), "{took} s, {roomy} s with a core for each");
}

#[test]
fn a_timeline_has_every_request_of_every_guest() {
    let (hardware, guest) = (profile(), debian(1));
    let mut one = storm(&hardware, &guest);
    one.nodes = 2;
    assert_eq!(outcome(&one).timeline, None);
    one.timeline = true;
    let recorded = outcome(&one);
    let timeline = recorded.timeline.expect("it was asked for");
    let named = |name| timeline.spans.iter().filter(|span| span.name == name).count();
    assert_eq!(named("boot"), 2);
    let guests = ["guest reads", "guest writes", "guest zeroes", "guest trims", "guest flushes"];
    assert_eq!(guests.map(named).iter().sum::<usize>() as u64, recorded.guest_requests);
    assert!(timeline.spans.is_sorted_by_key(|span| span.end));
    assert!(timeline.spans.iter().all(|span| span.start <= span.end && span.track < timeline.tracks.len()));
}

#[test]
fn what_cannot_be_is_refused_with_its_name() {
    let (hardware, guest) = (profile(), debian(1));
    let one = storm(&hardware, &guest);
    let refused = |change: &dyn Fn(&mut vmicache_sim::storm::Storm<'_>)| {
        let mut wrong = one.clone();
        change(&mut wrong);
        match run(&wrong) {
            Err(StormError::Impossible { key, problem }) => (key, problem),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|storm| storm.nodes = 0).0, "nodes");
    assert_eq!(refused(&|storm| storm.images = 2).0, "images");
    assert_eq!(refused(&|storm| storm.nodes = 1_000_000).0, "nodes");
    assert_eq!(refused(&|storm| storm.boot.think_noise = 1.0).0, "boot.think_noise");
    assert_eq!(refused(&|storm| storm.boot.cpu_seconds = Some(f64::NAN)).0, "boot.cpu_seconds");
    assert_eq!(refused(&|storm| storm.boot.recording = Recording::Only(1)).0, "boot.recording");
    let (key, problem) = refused(&|storm| storm.vms_per_node = 25);
    assert_eq!(key, "vms_per_node");
    assert!(
        problem.contains("25 virtual machines of 1024 MiB") && problem.contains("at most 24"),
        "{problem}"
    );
}
