//! `vmicache run`, run as a user runs it.

mod storms;

use serde_json::Value;
use std::collections::BTreeSet;
use storms::{Folder, assert_says};

const SCENARIO: &str = "guest = \"tiny\"\nnodes = 3\nvms_per_node = 2\nimages = 2\nreplications = 3\n\
                        deployment.kind = \"plain-overlay\"\n";

fn json(folder: &Folder, args: &[&str]) -> Value {
    serde_json::from_str(&folder.run(SCENARIO, &[&["--json"], args].concat())).unwrap()
}

#[test]
fn the_same_bytes_come_out_on_any_number_of_threads() {
    let folder = Folder::new();
    for format in [&["--json"][..], &[]] {
        let outputs =
            ["1", "2", "3"].map(|threads| folder.run(SCENARIO, &[format, &["--threads", threads]].concat()));
        assert_eq!(outputs[0], outputs[1]);
        assert_eq!(outputs[0], outputs[2]);
    }
    assert_ne!(json(&folder, &[])["summary"], json(&folder, &["--set", "seed=2"])["summary"]);
}

#[test]
fn json_has_the_resolved_scenario_the_inputs_and_every_virtual_machine() {
    let folder = Folder::new();
    let json = json(&folder, &[]);
    assert_eq!(json["scenario"]["hardware"], "das-4");
    assert_eq!(json["scenario"]["network"], "1gbe");
    assert_eq!(json["scenario"]["start"], serde_json::json!({ "kind": "jitter", "jitter_s": 1.0 }));
    assert_eq!(json["scenario"]["boot"]["cpu_seconds"], 3.0);
    assert_eq!(json["inputs"]["boots"].as_object().unwrap().len(), 3);
    let replications = json["replications"].as_array().unwrap();
    assert_eq!(replications.len(), 3);
    for replication in replications {
        let vms = replication["virtual_machines"].as_array().unwrap();
        assert_eq!(vms.len(), 6);
        let mean = vms.iter().map(|vm| vm["boot_s"].as_f64().unwrap()).sum::<f64>() / 6.0;
        assert!((mean - replication["boot_mean_s"].as_f64().unwrap()).abs() < 1e-9);
        let ratio = mean / replication["alone_s"].as_f64().unwrap();
        assert!((ratio - replication["slowdown"].as_f64().unwrap()).abs() < 1e-9);
        // Three seconds of computing, give or take the noise, and 40 small reads.
        assert!((2.5..4.5).contains(&mean), "{mean}");
    }
    let summary = &json["summary"]["boot_mean_s"];
    assert_eq!(summary["count"], 3);
    assert!(summary["half_width"].as_f64().unwrap() > 0.0);
}

/// Two deployments differ in what they do, never in what chance does.
#[test]
fn variants_have_their_random_numbers_in_common() {
    let folder = Folder::new();
    let drawn = |args: &[&str]| -> Vec<Value> {
        let json = json(&folder, args);
        let replications = json["replications"].as_array().unwrap().iter();
        let vms =
            replications.flat_map(|replication| replication["virtual_machines"].as_array().unwrap().clone());
        vms.map(|vm| serde_json::json!([vm["recording"], vm["started_s"], vm["cpu_s"]])).collect()
    };
    let plain = drawn(&[]);
    let cache = "deployment={ kind = \"compute-disk-cache\", state = \"cold\" }";
    assert_eq!(plain, drawn(&["--set", cache]));
    assert_eq!(plain, drawn(&["--set", "network=ib-qdr"]));
    assert_ne!(plain, drawn(&["--set", "seed=7"]));
    let recordings: BTreeSet<String> = plain.iter().map(|vm| vm[0].to_string()).collect();
    assert_eq!(recordings.len(), 2, "both boots are drawn");
}

#[test]
fn keys_set_on_the_command_line_hold() {
    let folder = Folder::new();
    let set =
        ["--set", "nodes=1", "--set", "boot.recording=tiny-2", "--set", "deployment={kind=\"full-copy\"}"];
    let json = json(&folder, &[&set[..], &["--replications", "1"]].concat());
    assert_eq!(json["scenario"]["nodes"], 1);
    assert_eq!(json["scenario"]["deployment"], serde_json::json!({ "kind": "full-copy" }));
    assert_eq!(json["replications"].as_array().unwrap().len(), 1);
    assert_eq!(json["replications"][0]["virtual_machines"][0]["recording"], "tiny-2");
}

#[test]
fn a_resolved_scenario_is_a_scenario_that_gives_the_same() {
    let folder = Folder::new();
    let first = json(&folder, &[]);
    let resolved = toml::to_string(&first["scenario"]).unwrap();
    let again: Value = serde_json::from_str(&folder.run(&resolved, &["--json"])).unwrap();
    assert_eq!(first, again);
}

#[test]
fn the_table_has_an_interval_beside_every_number() {
    let folder = Folder::new();
    let text = folder.run(SCENARIO, &[]);
    assert_says(
        &text,
        &["boot time (s), mean over the VMs", "slowdown", "bottleneck: ", "hits, %", "mean queue"],
    );
    for line in
        text.lines().filter(|line| line.starts_with("  boot time") || line.starts_with("  storage node disk"))
    {
        assert!(line.contains('±'), "{line}");
    }
    // One replication has no spread.
    assert!(!folder.run(SCENARIO, &["--replications", "1"]).lines().skip(4).any(|line| line.contains('±')));
}

#[test]
fn a_timeline_has_named_tracks_and_every_boot() {
    let folder = Folder::new();
    let path = folder.path("timeline.json");
    folder.run(SCENARIO, &["--timeline", path.to_str().unwrap()]);
    let trace: Value = serde_json::from_str(&folder.read("timeline.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    assert!(of("process_name") >= 4, "three compute nodes and the storage node");
    assert_eq!(of("boot"), 6);
    let threads: BTreeSet<(u64, u64)> = events
        .iter()
        .filter(|event| event["ph"] == "M" && event["name"] == "thread_name")
        .map(|event| (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap()))
        .collect();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        assert!(
            threads.contains(&(event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap())),
            "{event}"
        );
        assert!(event["ts"].as_f64().unwrap() >= 0.0 && event["dur"].as_f64().unwrap() >= 0.0);
    }
    for thread in threads {
        assert_drawable(events, thread);
    }
}

/// Spans of one thread follow each other or enclose each other.
fn assert_drawable(events: &[Value], thread: (u64, u64)) {
    let nanoseconds = |value: &Value| (value.as_f64().unwrap() * 1000.0).round() as u64;
    let of_thread = |event: &&Value| {
        event["ph"] == "X"
            && (event["pid"].as_u64(), event["tid"].as_u64()) == (Some(thread.0), Some(thread.1))
    };
    let mut open: Vec<u64> = Vec::new();
    for event in events.iter().filter(of_thread) {
        let start = nanoseconds(&event["ts"]);
        let end = start + nanoseconds(&event["dur"]);
        while open.last().is_some_and(|end| *end <= start) {
            open.pop();
        }
        assert!(open.last().is_none_or(|outer| end <= *outer), "{event} overlaps what is open on its thread");
        open.push(end);
    }
}
