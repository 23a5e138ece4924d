//! Storms come out the same to the picosecond on every machine, in debug and in release builds: the outcomes lie
//! beside this file. A change of a model changes them; look at the difference, and if it is meant, run
//! `UPDATE_OUTCOMES=1 cargo test --release -p vmicache-sim --test recorded_outcomes`.

mod common;

use common::*;
use std::fmt::Write;
use std::path::Path;
use vmicache_format::disk::Filling;
use vmicache_sim::engine::Span;
use vmicache_sim::hardware::{CacheMode, Profile};
use vmicache_sim::storm::{Deployment, Outcome, Recording, Start, State};

fn deployments() -> Vec<(&'static str, Deployment)> {
    let small = cache(512);
    let mut limited = cache(4096);
    limited.quota_bytes = Some(30 * MIB);
    limited.filling = Filling::InPath;
    vec![
        ("plain overlay", Deployment::PlainOverlay),
        ("cold cache on the compute node's disk", Deployment::ComputeDiskCache(small, State::Cold)),
        ("warm cache on the compute node's disk", Deployment::ComputeDiskCache(small, State::Warm)),
        (
            "cold cache of 30 MiB, filled in the read's path",
            Deployment::ComputeDiskCache(limited, State::Cold),
        ),
        ("cold cache in the compute node's memory", Deployment::ComputeMemoryCache(small, State::Cold)),
        ("warm cache in the storage node's memory", Deployment::StorageMemoryCache(small)),
        ("full copy", Deployment::FullCopy),
    ]
}

fn write_outcome(text: &mut String, title: &str, outcome: &Outcome) {
    writeln!(text, "{title}").unwrap();
    writeln!(
        text,
        "  makespan {} ps, settled {} ps",
        outcome.makespan.picoseconds(),
        outcome.settled.picoseconds()
    )
    .unwrap();
    writeln!(text, "  base {} bytes in {} requests", outcome.base_bytes, outcome.base_requests).unwrap();
    for vm in &outcome.vms {
        writeln!(text, "  recording {} booted at {} ps", vm.recording, vm.booted.picoseconds()).unwrap();
    }
    for resource in &outcome.resources {
        let (requests, bytes) = (resource.requests, resource.bytes);
        writeln!(
            text,
            "  {}: {requests} requests, {bytes} bytes, busy {:e}",
            resource.name, resource.utilisation
        )
        .unwrap();
    }
}

#[test]
fn outcomes_are_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guest = debian(3);
    let mut text = String::new();
    let settings = [
        ("das-4", "1gbe", CacheMode::Writeback),
        ("das-4", "ib-qdr", CacheMode::None),
        ("modern", "25gbe", CacheMode::Writethrough),
    ];
    for (file, name, cache_mode) in settings {
        let hardware = Profile::read(&folder.join(format!("../data/hardware/{file}.toml"))).unwrap();
        let network = hardware.networks.iter().find(|network| network.name == name).unwrap();
        for (title, deployment) in deployments() {
            let mut four = storm(&hardware, &guest);
            (four.network, four.cache_mode) = (network, cache_mode);
            (four.nodes, four.images) = (4, 2);
            four.deployment = deployment;
            four.boot.cpu_seconds = Some(1.0);
            four.boot.think_noise = 0.15;
            four.boot.recording = Recording::Drawn;
            four.start = Start::Jitter(Span::from_seconds(0.5));
            write_outcome(&mut text, &format!("{file}, {name}, {cache_mode:?}: {title}"), &outcome(&four));
        }
    }
    let recorded = folder.join("tests/recorded_outcomes.txt");
    if std::env::var_os("UPDATE_OUTCOMES").is_some() {
        std::fs::write(&recorded, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&recorded).unwrap_or_default();
    for (number, (now, then)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(now, then, "line {} of {}", number + 1, recorded.display());
    }
    assert_eq!(text.lines().count(), expected.lines().count());
}
