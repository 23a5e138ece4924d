//! Storms whose length a reader can work out with pencil and paper.

mod common;

use common::*;
use std::time::Duration;
use vmicache_format::trace::{Dependencies, Link, Op, Request, Trace};
use vmicache_sim::engine::{Simulation, Span};
use vmicache_sim::hardware::{DeviceProfile, Profile};
use vmicache_sim::storm::{Deployment, Guest, State};
use vmicache_sim::vm::BootPlan;

/// Replays a boot, each request taking `latency`; seconds from the first request's issue to the last completion.
fn span_with(boot: &Trace, dependencies: &Dependencies, latency: impl Fn(&Request) -> Duration) -> f64 {
    let sim = Simulation::new();
    let plan = BootPlan::new(boot, dependencies);
    let think = async |span: Span| sim.sleep(span).await;
    let issue = async |_, request: &Request| {
        sim.sleep(latency(request).into()).await;
        Ok(())
    };
    sim.block_on(plan.replay(think, issue)).expect("no deadlock").expect("sleeping does not fail");
    sim.now().seconds()
}

/// The recorded span is the sum of think times and latencies along the chain of requests that waited for each
/// other, so giving every request its recorded latency must give the span back.
#[test]
fn the_slowed_recording_with_its_own_latencies_takes_its_own_span() {
    let slowed = slowed();
    let recorded = slowed.span().as_secs_f64();
    let replayed = span_with(&slowed, &Dependencies::infer(&slowed), Request::latency);
    println!("slowed recording: recorded {recorded:.6} s, replayed {replayed:.6} s");
    assert!(close(replayed, recorded, 0.001), "{replayed} s instead of {recorded} s");
}

/// 20 ms were added to each read at the server; without them the boot must be as long as boots are that nobody
/// slowed: between the shortest and the longest of the six.
#[test]
fn the_slowed_recording_without_its_delay_is_as_long_as_an_ordinary_boot() {
    let slowed = slowed();
    let without_delay = |request: &Request| match request.op {
        Op::Read => request.latency().saturating_sub(Duration::from_millis(20)),
        _ => request.latency(),
    };
    let replayed = span_with(&slowed, &Dependencies::infer(&slowed), without_delay);
    let spans: Vec<f64> = (1..=6)
        .map(|number| recording(&format!("debian-12-extlinux-{number}")).span().as_secs_f64())
        .collect();
    let shortest = spans.iter().copied().fold(f64::INFINITY, f64::min);
    let longest = spans.iter().copied().fold(0.0, f64::max);
    println!("without its delay: {replayed:.3} s; undelayed boots: {shortest:.3} to {longest:.3} s");
    assert!((shortest..=longest).contains(&replayed), "{replayed} s, not from {shortest} s to {longest} s");
}

/// A guest that reads `count` blocks of `bytes`, far from each other, one after the other, and computes for
/// `think` before each.
fn serial_reader(count: u64, bytes: u64, think: Duration) -> Guest {
    let request = |i| Request {
        start: Duration::ZERO,
        end: Duration::ZERO,
        op: Op::Read,
        offset: i * 2 * bytes,
        length: bytes,
    };
    let link = |i: u64| Link { waits_for: i.checked_sub(1).map(|before| before as usize), think };
    let boot = Trace { requests: (0..count).map(request).collect() };
    let dependencies = Dependencies { links: (0..count).map(link).collect() };
    Guest { disk_bytes: GIB, allocated_bytes: GIB / 2, boots: vec![(boot, dependencies)] }
}

/// 100 reads of 64 KiB: each 1 ms of thinking, 0.1 ms of round trip, 0.01 ms at the server and 65536 B at 125 MB/s =
/// 0.524288 ms; 100 × 1.634288 ms = 163.4288 ms. Memory at 1 TB/s adds 65.5 ns a read, 6.6 µs in all.
#[test]
fn one_machine_alone_takes_its_think_time_and_its_serial_transfers() {
    let (hardware, guest) = (profile(), serial_reader(100, 64 << 10, Duration::from_millis(1)));
    let alone = outcome(&storm(&hardware, &guest)).makespan.seconds();
    assert!(close(alone, 0.163_428_8, 0.000_1), "{alone} s");
}

/// The same for a recorded boot: its own dependencies say which requests are serial. Nearly all are, so the few that
/// share the link move the result by little. Only reads are kept: what a guest has written, it reads back from
/// its overlay, at no cost here.
#[test]
fn a_recorded_boot_alone_takes_its_think_time_and_its_serial_transfers() {
    let hardware = profile();
    let reads = Trace { requests: recording("debian-12-extlinux-1").reads().copied().collect() };
    let dependencies = Dependencies::learn(&reads, &[slowed()]).dependencies;
    let transfer = |request: &Request| {
        Duration::from_micros(110) + Duration::from_secs_f64(request.length as f64 / RATE)
    };
    let expected = dependencies.predict_span(&reads, transfer).as_secs_f64();
    let guest = Guest { disk_bytes: 2 * GIB, allocated_bytes: GIB, boots: vec![(reads, dependencies)] };
    let alone = outcome(&storm(&hardware, &guest)).makespan.seconds();
    println!("recorded boot alone: {alone:.4} s, by hand {expected:.4} s");
    assert!(close(alone, expected, 0.005), "{alone} s instead of {expected} s");
}

/// 64 guests that compute for no time at all ask for 64 times what one asks for, through one port of 125 MB/s.
#[test]
fn a_transfer_bound_storm_takes_its_bytes_over_the_bandwidth() {
    let (hardware, guest) = (profile(), debian(1));
    let mut many = storm(&hardware, &guest);
    many.nodes = 64;
    many.boot.cpu_seconds = Some(0.0);
    let one = outcome(&storm(&hardware, &guest)).base_bytes;
    let storm = outcome(&many);
    assert_eq!(storm.base_bytes, 64 * one);
    let by_hand = (64 * one) as f64 / RATE;
    println!("transfer-bound: {:.3} s, by hand {by_hand:.3} s", storm.makespan.seconds());
    assert!(close(storm.makespan.seconds(), by_hand, 0.03), "{} instead of {by_hand} s", storm.makespan);
    assert_eq!(storm.bottleneck, "storage node network port");
}

fn with_disk(disk: DeviceProfile) -> Profile {
    let mut hardware = profile();
    hardware.storage_node.disk = disk;
    // Nothing but the disk is to count.
    hardware.networks[0].bits_per_s = 1e13;
    hardware
}

/// 32 guests, each with an image of its own, read 50 blocks of 64 KiB, none beside another, without thinking. The
/// disk always has someone waiting, and none of the 1600 requests begins where the last one ended: each takes
/// 0.1 ms overhead + 8 ms seek + 4 ms of half a turn in the mean + 65536 B / 100 MB/s = 0.65536 ms: 12.75536 ms;
/// 1600 of them take 20.41 s. Half a turn is a mean: over 1600 draws it is off by at most 3 × 2.3 ms / √1600.
#[test]
fn a_disk_bound_storm_takes_the_sum_of_its_seeks_and_transfers() {
    let hardware = with_disk(DeviceProfile::HardDisk(even_disk()));
    let guest = serial_reader(50, 64 << 10, Duration::ZERO);
    let mut many = storm(&hardware, &guest);
    (many.nodes, many.images) = (32, 32);
    let storm = outcome(&many);
    let by_hand = 1600.0 * 12.755_36e-3;
    println!("disk-bound: {:.3} s, by hand {by_hand:.3} s", storm.makespan.seconds());
    assert!(close(storm.makespan.seconds(), by_hand, 0.05), "{} instead of {by_hand} s", storm.makespan);
    assert_eq!(storm.bottleneck, "storage node disk");
}

/// 32 guests that share one image and read the same blocks at the same time cost the disk one guest's reads: the
/// page cache of the storage node fetches each once.
#[test]
fn guests_that_share_an_image_cost_the_disk_what_one_guest_costs() {
    let hardware = with_disk(DeviceProfile::HardDisk(even_disk()));
    let guest = serial_reader(50, 64 << 10, Duration::ZERO);
    let mut many = storm(&hardware, &guest);
    many.nodes = 32;
    let storm = outcome(&many);
    let by_hand = 50.0 * 12.755_36e-3;
    // Fifty draws of half a turn: 4 ms ± 2.3 ms / √50.
    assert!(close(storm.makespan.seconds(), by_hand, 0.1), "{} instead of {by_hand} s", storm.makespan);
}

/// A warm cache on each node's own disk leaves nothing to share: any number of nodes takes one node's time.
#[test]
fn warm_caches_on_the_nodes_take_one_machines_time_however_many_they_are() {
    let mut hardware = profile();
    hardware.compute_node.disk = DeviceProfile::HardDisk(even_disk());
    let guest = debian(1);
    let makespan = |nodes| {
        let mut warm = storm(&hardware, &guest);
        warm.nodes = nodes;
        warm.deployment = Deployment::ComputeDiskCache(cache(4096), State::Warm);
        outcome(&warm).makespan.seconds()
    };
    let alone = makespan(1);
    for nodes in [2, 16, 64] {
        let many = makespan(nodes);
        println!("warm: one node {alone:.3} s, {nodes} nodes {many:.3} s");
        assert!(close(many, alone, 0.02), "{nodes} nodes: {many} s, one node {alone} s");
    }
}
