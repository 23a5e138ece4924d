//! Scenario files that are wrong, each with a message that says where, what, and what would be right; and those of
//! the repository, which are right.

mod storms;

use assert_cmd::Command;
use std::fs;
use std::path::Path;
use storms::{Folder, assert_says, succeed};

/// A scenario that can be; it has no line 4.
const RIGHT: &str = "guest = \"tiny\"\nnodes = 2\ndeployment.kind = \"plain-overlay\"\n";

/// The right scenario with more lines.
fn with(lines: &str) -> String {
    format!("{RIGHT}{lines}\n")
}

/// A scenario with a cache that these lines describe.
fn cached(lines: &str) -> String {
    format!("guest = \"tiny\"\nnodes = 2\n[deployment]\n{lines}\n")
}

#[test]
fn a_right_scenario_runs() {
    let text = Folder::new().run(RIGHT, &["--replications", "2"]);
    assert_says(
        &text,
        &["Tiny: 2 nodes, 1 VM on each", "DAS-4", "plain overlays", "(assumed)", "2 replications"],
    );
}

#[test]
fn keys_that_there_are_not_are_refused() {
    let folder = Folder::new();
    for (lines, parts) in [
        ("node = 4", &["storm.toml:4: there is no key node; did you mean nodes?", "from 1"][..]),
        ("vm_memory_gib = 1", &["storm.toml:4: ", "did you mean vm_memory_mib?", "MiB"]),
        (
            "start.jitter_ms = 5",
            &["storm.toml:4: ", "start.jitter_ms", "did you mean start.jitter_s?", "seconds"],
        ),
        ("cpu_seconds = 5", &["storm.toml:4: ", "did you mean boot.cpu_seconds?"]),
        ("[start]\nkin = \"jitter\"", &["storm.toml:5: ", "did you mean start.kind?"]),
        ("xyzzy = 1", &["storm.toml:4: there is no key xyzzy; there are hardware, network, guest"]),
        ("[xyzzy]\na = 1", &["storm.toml:4: there is no key xyzzy"]),
        ("axes.nodes = [1]", &["storm.toml:4: there is no key axes"]),
    ] {
        assert_says(&folder.run_refused(&with(lines), &[]), parts);
    }
}

#[test]
fn values_that_cannot_be_are_refused() {
    let folder = Folder::new();
    for (lines, parts) in [
        ("vms_per_node = \"two\"", &["storm.toml:4: vms_per_node = \"two\"", "a whole number"][..]),
        ("vms_per_node = 0", &["vms_per_node = 0", "from 1"]),
        ("vms_per_node = -1", &["vms_per_node = -1", "from 1"]),
        ("vms_per_node = 1.5", &["vms_per_node = 1.5", "whole number"]),
        ("vms_per_node = 5000000000", &["vms_per_node = 5000000000", "whole number"]),
        ("images = 3", &["storm.toml:4: images = 3", "2 virtual machines"]),
        ("seed = -1", &["seed = -1", "from 0"]),
        ("replications = 0", &["replications = 0", "1 to 10000"]),
        ("replications = 10001", &["replications = 10001", "1 to 10000"]),
        (
            "cache_mode = \"unsafe\"",
            &["cache_mode = \"unsafe\"", "\"writeback\"", "\"writethrough\"", "\"none\""],
        ),
        ("boot.cpu_seconds = -1", &["boot.cpu_seconds = -1", "from 0", "as-recorded"]),
        ("boot.cpu_seconds = nan", &["boot.cpu_seconds = nan", "from 0"]),
        ("boot.cpu_seconds = \"5s\"", &["boot.cpu_seconds = \"5s\"", "a number of seconds"]),
        ("boot.think_noise = 1", &["boot.think_noise = 1", "less than 1"]),
        ("start.jitter_s = inf", &["start.jitter_s = inf", "86400"]),
        ("start.kind = \"random\"", &["start.kind = \"random\"", "\"at-once\", \"jitter\" or \"staggered\""]),
        ("start = \"jitter\"", &["storm.toml:4: start = \"jitter\"", "a table would be right", "start.kind"]),
        ("images = [1, 2]", &["storm.toml:4: images = [1, 2]", "a whole number"]),
        ("[images]\nx = 1", &["storm.toml:4: images = { x = 1 }", "a whole number"]),
        ("nodes = 3", &["storm.toml:4: ", "duplicate key"]),
        ("images = = 3", &["storm.toml:4: "]),
    ] {
        assert_says(&folder.run_refused(&with(lines), &[]), parts);
    }
}

#[test]
fn names_that_there_are_not_are_answered_with_those_there_are() {
    let folder = Folder::new();
    for (lines, parts) in [
        (
            "hardware = \"das4\"",
            &["storm.toml:4: hardware = \"das4\"", "did you mean \"das-4\"?", "modern"][..],
        ),
        ("network = \"10gbe\"", &["storm.toml:4: network = \"10gbe\"", "did you mean \"1gbe\"?", "ib-qdr"]),
        ("boot.recording = \"tiny-3\"", &["storm.toml:4: boot.recording", "There are drawn, tiny-1, tiny-2"]),
        ("boot.recording = \"tiny-slowed\"", &["there is no \"tiny-slowed\""]),
        ("hardware = \"missing.toml\"", &["storm.toml:4: hardware", "cannot read", "missing.toml"]),
        ("hardware = \"./broken.toml\"", &["storm.toml:4: hardware", "broken.toml"]),
    ] {
        folder.write("broken.toml", "name = 1\n");
        assert_says(&folder.run_refused(&with(lines), &[]), parts);
    }
    let other = RIGHT.replace("tiny", "tinny");
    assert_says(
        &folder.run_refused(&other, &[]),
        &["storm.toml:1: guest = \"tinny\"", "did you mean \"tiny\"?"],
    );
}

#[test]
fn what_cannot_be_together_is_refused() {
    let folder = Folder::new();
    for (scenario, parts) in [
        (with("deployment.state = \"warm\""), &["storm.toml:4: deployment.state = \"warm\"", "no cache"][..]),
        (with("deployment.quota = \"1M\""), &["storm.toml:4: deployment.quota = \"1M\"", "no cache"]),
        (with("start.interval_s = 1"), &["storm.toml:4: start.interval_s = 1", "kind = \"staggered\""]),
        (
            with("start.kind = \"at-once\"\nstart.jitter_s = 1"),
            &["storm.toml:5: start.jitter_s = 1", "kind = \"jitter\""],
        ),
        (
            cached("kind = \"storage-memory-cache\"\nstate = \"cold\""),
            &["storm.toml:5: deployment.state = \"cold\"", "\"warm\" would be right"],
        ),
        (
            cached("kind = \"storage-memory-cache\"\nfilling = \"beside\""),
            &["storm.toml:5: deployment.filling", "nobody fills"],
        ),
        (
            cached("kind = \"compute-disk-cache\"\nstate = \"cold\"\ncluster_size = 1000"),
            &["storm.toml:6: deployment.cluster_size = 1000", "a power of two from 512 to 2M"],
        ),
        (
            cached("kind = \"compute-disk-cache\"\nstate = \"cold\"\nextended_l2 = true"),
            &["storm.toml:6: deployment.extended_l2 = true", "cluster_size is 512 B", "from 16K to 2M"],
        ),
        (
            cached(
                "kind = \"compute-disk-cache\"\nstate = \"cold\"\ncluster_size = \"8K\"\nextended_l2 = true",
            ),
            &["storm.toml:7: deployment.extended_l2 = true", "cluster_size is 8 KiB", "from 16K to 2M"],
        ),
        (
            cached("kind = \"compute-disk-cache\"\nstate = \"cold\"\nextended_l2 = \"yes\""),
            &["storm.toml:6: deployment.extended_l2 = \"yes\"", "true or false"],
        ),
        (with("deployment.extended_l2 = true"), &["storm.toml:4: deployment.extended_l2 = true", "no cache"]),
        (
            cached("kind = \"compute-disk-cache\"\nstate = \"cold\"\nquota = \"1X\""),
            &["storm.toml:6: deployment.quota = \"1X\"", "not a size"],
        ),
        (
            cached("kind = \"compute-disk-cache\"\nstate = \"cold\"\nquota = 1024"),
            &["storm.toml:6: deployment.quota = 1024", "1024 bytes is below"],
        ),
        (
            with("vms_per_node = 30"),
            &["storm.toml:4: vms_per_node = 30", "30 virtual machines of 1024 MiB", "das-4", "at most"],
        ),
    ] {
        assert_says(&folder.run_refused(&scenario, &[]), parts);
    }
}

#[test]
fn what_has_to_be_chosen_is_asked_for() {
    let folder = Folder::new();
    for (scenario, parts) in [
        ("nodes = 1\n", &["storm.toml: deployment.kind is missing", "\"plain-overlay\""][..]),
        ("deployment.kind = \"full-copy\"\n", &["storm.toml: nodes is missing", "from 1"]),
        (
            "nodes = 1\ndeployment.kind = \"compute-memory-cache\"\n",
            &["storm.toml: deployment.state is missing", "\"cold\" or \"warm\""],
        ),
        (
            "nodes = 1\ndeployment.kind = \"plain-overlay\"\nstart.kind = \"staggered\"\n",
            &["storm.toml: start.interval_s is missing", "seconds"],
        ),
    ] {
        assert_says(&folder.run_refused(&format!("guest = \"tiny\"\n{scenario}"), &[]), parts);
    }
    // Without a name it is the guest on record, which this folder does not have.
    let nameless = "nodes = 1\ndeployment.kind = \"full-copy\"\n";
    assert_says(&folder.run_refused(nameless, &[]), &["storm.toml: guest: ", "debian-12-minimal", "tiny"]);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let folder = Folder::new();
    for (args, parts) in [
        (&["--set", "nodes"][..], &["nodes=4"][..]),
        (&["--set", "node=4"], &["--set: there is no key node; did you mean nodes?"]),
        (&["--set", "nodes=none"], &["--set: nodes = \"none\"", "a whole number"]),
        (&["--set", "deployment.state=warm"], &["--set: deployment.state = \"warm\"", "no cache"]),
        (&["--replications", "0"], &["--replications"]),
        (&["--threads", "0"], &["--threads"]),
        (&["--timeline", "/proc/no/such"], &["cannot write /proc/no/such"]),
    ] {
        assert_says(&folder.run_refused(RIGHT, args), parts);
    }
    assert_says(
        &folder.refused(folder.command("run", "missing.toml", &[])),
        &["cannot read", "missing.toml"],
    );
    fs::write(folder.path("latin.toml"), b"# \xe9\n").unwrap();
    assert_says(&folder.refused(folder.command("run", "latin.toml", &[])), &["latin.toml", "UTF-8"]);
}

#[test]
fn the_scenario_files_of_the_repository_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let out = tempfile::tempdir().unwrap();
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let sweep = fs::read_to_string(&file).unwrap().contains("\n[axes]\n");
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("vmicache"));
        match sweep {
            true => command.arg("sweep").arg(file).arg("--dry-run").arg("--out").arg(out.path().join("new")),
            false => command.arg("run").arg(file).args(["--set", "nodes=1", "--replications", "1"]),
        };
        assert!(!succeed(command).is_empty());
    }
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "a dry run wrote something");
}
