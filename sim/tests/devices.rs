//! Devices take the time that their parts add up to.

use std::cell::Cell;
use std::rc::Rc;

use futures_util::future::join_all;
use rand::RngExt;
use vmicache_sim::engine::{Simulation, Span, Streams, Time};
use vmicache_sim::hardware::{DeviceProfile, HardDiskProfile, MemoryProfile, SolidStateProfile};
use vmicache_sim::models::{Device, Direction, seek_time, transfer_time};

const MIB: u64 = 1 << 20;

fn milliseconds(ms: f64) -> Span {
    Span::from_seconds(ms / 1e3)
}

/// Round numbers: 900 GB, 100 MB/s outside, 50 MB/s inside.
fn disk() -> HardDiskProfile {
    HardDiskProfile {
        capacity_bytes: 900_000_000_000,
        rotation: milliseconds(8.0),
        overhead: milliseconds(0.5),
        seek_track_to_track: milliseconds(1.0),
        seek_average: milliseconds(9.0),
        seek_full_stroke: milliseconds(17.0),
        outer_bytes_per_s: 100e6,
        inner_bytes_per_s: 50e6,
    }
}

fn streams() -> Streams {
    Streams::new(1, 0)
}

/// What accesses one after the other take.
fn time_of(profile: &DeviceProfile, accesses: &[(Direction, u64, u64)]) -> Span {
    let sim = Simulation::new();
    let device = Device::new(&sim, "disk", profile, &streams());
    sim.block_on(async {
        for (direction, offset, bytes) in accesses {
            device.access(*direction, *offset, *bytes).await;
        }
    })
    .unwrap();
    device.check().unwrap();
    let bytes: u64 = device.usages().iter().map(|(_, usage)| usage.amount).sum();
    assert!(bytes >= accesses.iter().map(|(_, _, bytes)| bytes).sum());
    sim.now().since(Time::ZERO)
}

#[test]
fn seeks_follow_the_square_root_up_to_a_third_and_a_line_from_there() {
    let profile = disk();
    let seek = |gigabytes: u64| seek_time(&profile, gigabytes * 1_000_000_000);
    assert_eq!(seek_time(&profile, 0), Span::ZERO);
    // 12 GB are 1/25 of the third of 300 GB: 1 ms + (9 - 1) ms x 1/5 = 2.6 ms.
    assert_eq!(seek(12), milliseconds(2.6));
    // 75 GB, a quarter of the third: 1 + 8 x 1/2.
    assert_eq!(seek(75), milliseconds(5.0));
    assert_eq!(seek(300), milliseconds(9.0));
    // Half of the rest: (9 + 17) / 2.
    assert_eq!(seek(600), milliseconds(13.0));
    assert_eq!(seek(900), milliseconds(17.0));
    assert_eq!(seek(5000), milliseconds(17.0));
    assert!(seek_time(&profile, 1) >= profile.seek_track_to_track);
}

#[test]
fn the_mean_of_random_seeks_is_near_the_average_seek() {
    // Two independent places on a line of length 1 are x apart with density 2 (1 - x), so the mean is
    //   the integral of (1 + 8 sqrt(3x)) 2 (1 - x) up to 1/3:        5/9 + 8 x 16/45 = 3.4 ms
    //   and that of (9 + 4 (3x - 1)) 2 (1 - x) from there to 1:      140/27 = 5.185 ms
    // and 8.585 ms in all: a little less than the seek over the mean distance, as the curve is concave.
    let profile = disk();
    let mut random = streams().stream("places");
    let mut place = || random.random_range(0..profile.capacity_bytes);
    let sum: f64 = (0..100_000).map(|_| seek_time(&profile, place().abs_diff(place())).seconds()).sum();
    let mean_ms = sum / 100.0;
    assert!((mean_ms - 8.585).abs() < 0.05, "{mean_ms}");
}

#[test]
fn the_rate_falls_evenly_from_the_outer_to_the_inner_tracks() {
    // 75 MB: at 100, 75 and 50 MB/s.
    assert_eq!(transfer_time(&disk(), 0, 75_000_000), milliseconds(750.0));
    assert_eq!(transfer_time(&disk(), 450_000_000_000, 75_000_000), milliseconds(1000.0));
    assert_eq!(transfer_time(&disk(), 900_000_000_000, 75_000_000), milliseconds(1500.0));
}

#[test]
fn random_requests_take_overheads_seeks_turns_and_transfers() {
    let profile = disk();
    let mut random = streams().stream("places");
    let accesses: Vec<_> = (0..500)
        .map(|number| {
            let direction = if number % 3 == 0 { Direction::Write } else { Direction::Read };
            (direction, random.random_range(1..profile.capacity_bytes - MIB), random.random_range(1..MIB))
        })
        .collect();
    // The turns are the draws of the disk's own stream, one for each request; the heads begin at 0.
    let mut rotation = streams().stream("disk rotation disk");
    let mut head = 0;
    let expected: Span = accesses
        .iter()
        .map(|(_, offset, bytes)| {
            let seek = seek_time(&profile, offset.abs_diff(head));
            let turn = profile.rotation.scaled(rotation.random());
            head = offset + bytes;
            profile.overhead + seek + turn + transfer_time(&profile, *offset, *bytes)
        })
        .sum();
    assert_eq!(time_of(&DeviceProfile::HardDisk(profile), &accesses), expected);
}

#[test]
fn sequential_requests_skip_seek_and_turn() {
    let profile = disk();
    let accesses: Vec<_> = (0..64).map(|number| (Direction::Read, number * MIB, MIB)).collect();
    // Nothing but overheads and transfers, the first one too: the heads begin at offset 0.
    let expected: Span =
        (0..64).map(|number| profile.overhead + transfer_time(&profile, number * MIB, MIB)).sum();
    assert_eq!(time_of(&DeviceProfile::HardDisk(profile), &accesses), expected);
}

#[test]
fn where_the_heads_are_is_known_when_service_begins() {
    // Requests A (offset 0), B (half-way) and C (right behind A) come at once and are served in this order,
    // so that C is not sequential: three overheads, two seeks over about half the disk, two turns.
    let profile = disk();
    let half = profile.capacity_bytes / 2;
    let sim = Simulation::new();
    let device = Device::new(&sim, "disk", &DeviceProfile::HardDisk(profile.clone()), &streams());
    let places = [0, half, MIB];
    sim.block_on(join_all(places.map(|offset| device.access(Direction::Read, offset, MIB)))).unwrap();
    let mut rotation = streams().stream("disk rotation disk");
    let mut turn = || profile.rotation.scaled(rotation.random());
    let positioning = seek_time(&profile, half - MIB) + turn() + seek_time(&profile, half) + turn();
    let transfers: Span = places.iter().map(|offset| transfer_time(&profile, *offset, MIB)).sum();
    let overheads = milliseconds(1.5);
    assert_eq!(sim.now().since(Time::ZERO), overheads + positioning + transfers);
    device.check().unwrap();
}

fn raid(members: u32) -> DeviceProfile {
    DeviceProfile::Raid0 { members, chunk_bytes: 64 << 10, member: disk() }
}

#[test]
fn raid_0_halves_a_large_read() {
    // 64 MiB from offset 0: each of two members reads its 32 MiB in one request, both at once.
    let profile = disk();
    let expected = profile.overhead + transfer_time(&profile, 0, 32 * MIB);
    assert_eq!(time_of(&raid(2), &[(Direction::Read, 0, 64 * MIB)]), expected);
    let expected = profile.overhead + transfer_time(&profile, 0, 16 * MIB);
    assert_eq!(time_of(&raid(4), &[(Direction::Read, 0, 64 * MIB)]), expected);
}

#[test]
fn raid_0_sends_each_chunk_to_its_member() {
    let sim = Simulation::new();
    let device = Device::new(&sim, "disk", &raid(2), &streams());
    let requests =
        |device: &Device| device.usages().iter().map(|(_, u)| (u.requests, u.amount)).collect::<Vec<_>>();
    let names: Vec<_> = device.usages().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["disk member 0", "disk member 1"]);
    assert_eq!(device.capacity(), Some(1_800_000_000_000));
    let chunk = 64 << 10;
    sim.block_on(async {
        // Within chunk 0, within chunk 1, within chunk 2: members 0, 1, 0.
        device.access(Direction::Read, 0, 4096).await;
        device.access(Direction::Read, chunk, 8192).await;
        device.access(Direction::Write, 2 * chunk, 512).await;
        assert_eq!(requests(&device), [(2, 4608), (1, 8192)]);
        // From the middle of chunk 1 to the middle of chunk 4: chunks 1/2 and 3, and chunks 2 and 4/2.
        device.access(Direction::Read, chunk + chunk / 2, 3 * chunk).await;
        assert_eq!(requests(&device), [(3, 4608 + chunk + chunk / 2), (2, 8192 + chunk + chunk / 2)]);
        device.access(Direction::Read, 5 * chunk, 0).await;
    })
    .unwrap();
    assert_eq!(requests(&device), [(3, 4608 + chunk + chunk / 2), (2, 8192 + chunk + chunk / 2)]);
    device.check().unwrap();
}

#[test]
fn raid_0_of_one_is_the_disk_alone() {
    // Its stream has another name, so the turns are left out: sequential requests only.
    let accesses: Vec<_> = (0..10).map(|number| (Direction::Read, number * 3 * MIB, 3 * MIB)).collect();
    assert_eq!(time_of(&raid(1), &accesses), time_of(&DeviceProfile::HardDisk(disk()), &accesses));
}

#[test]
fn a_solid_state_drive_works_on_a_few_commands_and_shares_its_bandwidth() {
    let profile = DeviceProfile::SolidState(SolidStateProfile {
        read_latency: milliseconds(0.1),
        write_latency: milliseconds(0.05),
        channels: 4,
        read_bytes_per_s: 1e9,
        write_bytes_per_s: 0.5e9,
    });
    // 0.1 ms, then 1 MB at 1 GB/s; 0.05 ms, then 1 MB at 0.5 GB/s.
    let [read, write] = [(Direction::Read, 7, 1_000_000), (Direction::Write, 9, 1_000_000)];
    assert_eq!(time_of(&profile, &[read]), milliseconds(1.1));
    assert_eq!(time_of(&profile, &[write]), milliseconds(2.05));
    // Eight tiny reads at once in two lots of four: 0.2 ms, and no more than a microsecond for the data.
    let sim = Simulation::new();
    let drive = Device::new(&sim, "drive", &profile, &streams());
    sim.block_on(join_all((0..8).map(|number| drive.access(Direction::Read, number, 100)))).unwrap();
    let took = sim.now().since(Time::ZERO);
    assert!(took >= milliseconds(0.2) && took <= milliseconds(0.201), "{took}");
    // Four large ones at once: 0.1 ms of latency together, and 4 MB at 1 GB/s.
    let sim = Simulation::new();
    let drive = Device::new(&sim, "drive", &profile, &streams());
    sim.block_on(join_all((0..4).map(|number| drive.access(Direction::Read, number, 1_000_000)))).unwrap();
    assert_eq!(sim.now().since(Time::ZERO), milliseconds(4.1));
    drive.check().unwrap();
    assert_eq!(drive.capacity(), None);
}

#[test]
fn memory_shares_its_copying_rate() {
    let profile = DeviceProfile::Memory(MemoryProfile { latency: milliseconds(0.001), bytes_per_s: 10e9 });
    let sim = Simulation::new();
    let memory = Device::new(&sim, "memory", &profile, &streams());
    // 100 requests of 1 MB at once: 1 us together, and 100 MB at 10 GB/s.
    sim.block_on(join_all((0..100).map(|number| memory.access(Direction::Read, number, 1_000_000)))).unwrap();
    assert_eq!(sim.now().since(Time::ZERO), milliseconds(10.001));
    memory.check().unwrap();
}

#[test]
fn a_dropped_request_frees_the_disk() {
    let sim = Simulation::new();
    let device = Device::new(&sim, "disk", &DeviceProfile::HardDisk(disk()), &streams());
    let done = Rc::new(Cell::new(Time::ZERO));
    let (other, ended, clock) = (device.clone(), done.clone(), sim.clone());
    sim.spawn("other", async move {
        clock.sleep(milliseconds(1.0)).await;
        other.access(Direction::Read, MIB, MIB).await;
        ended.set(clock.now());
    });
    sim.block_on(async {
        let read = device.access(Direction::Read, 0, 100 * MIB);
        futures_util::future::select(Box::pin(read), sim.sleep(milliseconds(5.0))).await;
    })
    .unwrap();
    sim.run().unwrap();
    // It began at 5 ms, when the first, that would have taken a second, was dropped.
    let took = done.get().since(Time::ZERO);
    assert!(took < milliseconds(60.0), "{took}");
    device.check().unwrap();
}
