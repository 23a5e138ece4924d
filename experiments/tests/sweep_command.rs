//! `vmicache sweep`, run as a user runs it, and stopped as machines stop it.

mod storms;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::thread::sleep;
use std::time::Instant;
use storms::{Folder, assert_says, content, succeed};

/// 2 × 2 × 3 points, two replications each.
const SWEEP: &str = "guest = \"tiny\"\nreplications = 2\n\n[axes]\nnodes = [1, 3]\nnetwork = [\"1gbe\", \"ib-qdr\"]\n\
                     deployment = [\n{ kind = \"plain-overlay\" },\n\
                     { kind = \"compute-disk-cache\", state = \"cold\" },\n\
                     { kind = \"compute-disk-cache\", state = \"warm\", quota = \"2M\" },\n]\n";

/// The rows of a CSV file, by column.
fn rows(folder: &Folder, file: &str) -> Vec<BTreeMap<String, String>> {
    let text = folder.read(file);
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned));
    let header: Vec<String> = lines.next().unwrap().collect();
    lines.map(|line| header.iter().cloned().zip(line).collect()).collect()
}

fn number(row: &BTreeMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} is {:?}", row[column]))
}

#[test]
fn a_row_a_cell_in_the_order_of_the_axes_whatever_the_threads() {
    let folder = Folder::new();
    let text = folder.sweep(SWEEP, "one", &["--threads", "1"]);
    assert_says(&text, &["24 cells, 0 of them from before"]);
    folder.sweep(SWEEP, "two", &["--threads", "2"]);
    assert!(content(&folder.path("one")) == content(&folder.path("two")), "two threads give other bytes");
    let results = rows(&folder, "one/results.csv");
    let at = |row: &BTreeMap<String, String>| -> String {
        let columns = ["nodes", "network", "deployment_axis", "replication"];
        columns.map(|column| row[column].as_str()).join(" | ")
    };
    assert_eq!(results.len(), 24);
    assert_eq!(at(&results[0]), "1 | 1gbe | plain-overlay | 0");
    assert_eq!(at(&results[3]), "1 | 1gbe | compute-disk-cache state=cold | 1");
    assert_eq!(at(&results[23]), "3 | ib-qdr | compute-disk-cache state=warm quota=2M | 1");
    assert_eq!(results[23]["quota_bytes"], "2097152");
}

#[test]
fn the_summary_has_means_and_paired_differences_to_the_first_deployment() {
    let folder = Folder::new();
    folder.sweep(SWEEP, "out", &[]);
    let (results, summary) = (rows(&folder, "out/results.csv"), rows(&folder, "out/summary.csv"));
    assert_eq!(summary.len(), 12);
    for (point, row) in summary.iter().enumerate() {
        let mean = |point: usize, column: &str| {
            (number(&results[2 * point], column) + number(&results[2 * point + 1], column)) / 2.0
        };
        let reference = point - point % 3;
        for column in ["boot_mean_s", "makespan_s", "base_bytes"] {
            let close = |one: f64, other: f64| {
                assert!((one - other).abs() <= 1e-9 * other.abs().max(1.0), "{column}")
            };
            close(number(row, column), mean(point, column));
            let difference = mean(point, column) - mean(reference, column);
            close(number(row, &format!("{column}_difference")), difference);
        }
        assert_eq!(row["replications"], "2");
        assert!(number(row, "boot_mean_s_half_width") > 0.0);
    }
    // Where the deployment is no axis there is nothing to compare with.
    let plain = SWEEP
        .split("deployment = ")
        .next()
        .unwrap()
        .replace("replications", "deployment.kind = \"plain-overlay\"\nreplications");
    folder.sweep(&plain, "plain", &[]);
    assert!(!folder.read("plain/summary.csv").contains("difference"));
}

/// Boots that read 4 KiB at places 64 KiB apart: whole clusters take sixteen times that from the base.
#[test]
fn extended_l2_can_be_an_axis() {
    let folder = Folder::new();
    let sweep = "guest = \"tiny\"\nnodes = 1\nboot.recording = \"tiny-1\"\nreplications = 1\n[axes]\n\
                 deployment.extended_l2 = [false, true]\n[deployment]\nkind = \"compute-disk-cache\"\n\
                 state = \"cold\"\ncluster_size = \"64K\"\n";
    folder.sweep(sweep, "out", &[]);
    let results = rows(&folder, "out/results.csv");
    let read = |row: usize| (results[row]["extended_l2"].as_str(), number(&results[row], "base_bytes"));
    assert_eq!([read(0), read(1)], [("0", 40.0 * 65_536.0), ("1", 40.0 * 4096.0)]);
    // Without a cache there is nothing to be laid out.
    folder.sweep(SWEEP, "other", &[]);
    let results = rows(&folder, "other/results.csv");
    assert_eq!((results[0]["extended_l2"].as_str(), results[2]["extended_l2"].as_str()), ("", "0"));
}

#[test]
fn the_folder_says_what_ran() {
    let folder = Folder::new();
    folder.sweep(SWEEP, "out", &[]);
    let sweep: Value = serde_json::from_str(&folder.read("out/sweep.json")).unwrap();
    assert_eq!(sweep["file"], "sweep.toml");
    let points = sweep["points"].as_array().unwrap();
    assert_eq!(points.len(), 12);
    assert_eq!(points[0]["scenario"]["boot"]["think_noise"], 0.15);
    assert_eq!(points[0]["inputs"]["boots"].as_object().unwrap().len(), 3);
    for point in points {
        for key in point["cells"].as_array().unwrap() {
            assert!(folder.path(&format!("out/cells/{}.json", key.as_str().unwrap())).exists());
        }
    }
    let everything = content(&folder.path("out"));
    let place = folder.path("").display().to_string();
    for (name, bytes) in everything {
        assert!(
            !String::from_utf8_lossy(&bytes).contains(place.trim_end_matches('/')),
            "{name:?} names a folder"
        );
    }
}

#[test]
fn a_dry_run_says_what_is_missing_and_writes_nothing() {
    let folder = Folder::new();
    let text = folder.sweep(SWEEP, "out", &["--dry-run"]);
    assert_says(&text, &["24 cells, 0 of them run, 24 missing", "nodes = 1, network = 1gbe", "and 4 more"]);
    assert!(!folder.path("out").exists());
    folder.sweep(SWEEP, "out", &[]);
    let before = content(&folder.path("out"));
    assert_says(&folder.sweep(SWEEP, "out", &["--dry-run"]), &["24 of them run, 0 missing"]);
    assert!(content(&folder.path("out")) == before);
}

/// Whether every stored cell is whole, and how many there are.
fn stored(out: &Path) -> usize {
    let Ok(cells) = fs::read_dir(out.join("cells")) else { return 0 };
    let cells = cells.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some());
    cells
        .map(|path| {
            let whole = serde_json::from_slice::<Value>(&fs::read(&path).unwrap());
            assert!(whole.is_ok(), "{} is half-written", path.display());
        })
        .count()
}

#[test]
fn a_sweep_that_is_killed_again_and_again_gives_the_bytes_of_one_that_never_was() {
    const KILLS: usize = 20;
    let folder = Folder::new();
    // Many cells, so that there is something left after most of the kills.
    let sweep = SWEEP
        .replace("replications = 2", "replications = 4")
        .replace("nodes = [1, 3]", "nodes = [1, 2, 3, 4]");
    let started = Instant::now();
    folder.sweep(&sweep, "never", &[]);
    let whole = started.elapsed();
    let never = content(&folder.path("never"));
    let out = folder.path("killed");
    // Any sequence would do; time makes it random enough.
    let mut random = 1u64;
    let (mut kills, mut halfway) = (0, 0);
    while kills < KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = (random >> 40) as f64 / (1u64 << 24) as f64;
        let command = folder.sweep_command(&sweep, "killed", &[]);
        let mut process = Process::new(command.get_program());
        let mut process = process.args(command.get_args()).stdout(Stdio::null()).spawn().unwrap();
        sleep(whole.mul_f64(share * 0.6));
        process.kill().unwrap();
        if process.wait().unwrap().success() {
            assert!(content(&out) == never, "after {kills} kills the results differ");
            fs::remove_dir_all(&out).unwrap();
            continue;
        }
        kills += 1;
        halfway += usize::from((1..96).contains(&stored(&out)));
    }
    assert!(halfway > 0, "no kill came while cells were being run");
    folder.sweep(&sweep, "killed", &[]);
    assert!(content(&out) == never, "the results differ");
}

#[test]
fn a_stored_cell_that_is_not_whole_runs_again() {
    let folder = Folder::new();
    folder.sweep(SWEEP, "out", &[]);
    let before = content(&folder.path("out"));
    let mut cells = before.keys().filter(|name| name.starts_with("cells"));
    let [truncated, changed, renamed, empty] =
        [(); 4].map(|()| folder.path("out").join(cells.next().unwrap()));
    let other = folder.path("out").join(cells.next().unwrap());
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    fs::write(&truncated, &text(&truncated)[..300]).unwrap();
    let altered = text(&changed).replacen("\"boot_mean_s\":", "\"boot_mean_s\":1", 1);
    assert_ne!(altered, text(&changed));
    fs::write(&changed, altered).unwrap();
    fs::copy(&other, &renamed).unwrap();
    fs::write(&empty, "").unwrap();
    assert_says(&folder.sweep(SWEEP, "out", &["--dry-run"]), &["20 of them run, 4 missing"]);
    assert_says(&folder.sweep(SWEEP, "out", &[]), &["24 cells, 20 of them from before"]);
    assert!(content(&folder.path("out")) == before);
}

#[test]
fn a_sweep_that_has_grown_runs_only_what_is_new() {
    let folder = Folder::new();
    folder.sweep(SWEEP, "out", &[]);
    let longer =
        SWEEP.replace("nodes = [1, 3]", "nodes = [1, 2, 3]").replace("replications = 2", "replications = 3");
    assert_says(&folder.sweep(&longer, "out", &[]), &["54 cells, 24 of them from before"]);
    folder.sweep(&longer, "new", &[]);
    assert!(content(&folder.path("out")) == content(&folder.path("new")));
}

#[test]
fn the_folder_of_another_sweep_is_refused() {
    let folder = Folder::new();
    folder.sweep(SWEEP, "out", &[]);
    let advice = ["out: ", "nothing in it was changed", "--out"];
    let other = SWEEP.replace("nodes = [1, 3]", "nodes = [1, 2]");
    let message = folder.sweep_refused(&other, "out");
    assert_says(
        &message,
        &["another sweep, sweep.toml (nodes: 1, 3; network: 1gbe, ib-qdr; deployment: plain-overlay,"],
    );
    assert_says(&message, &["12 of its 24 cells are not in this sweep"]);
    assert_says(&message, &advice);
    assert_says(&folder.refused(folder.sweep_command(&other, "out", &["--dry-run"])), &advice);

    let description = folder.read("out/sweep.json");
    let version = format!("\"vmicache_version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(description.contains(&version));
    let guest = folder.read("data/tiny.toml");
    folder.write("data/tiny.toml", &guest.replace("\"Tiny\"", "\"Tiny, changed\""));
    assert_says(
        &folder.sweep_refused(SWEEP, "out"),
        &["24 of its 24 cells", "files that it read have changed"],
    );
    folder.write("out/sweep.json", &description.replace(&version, "\"vmicache_version\": \"0.0.1\""));
    assert_says(&folder.sweep_refused(SWEEP, "out"), &["version 0.0.1 ran it"]);
    folder.write("data/tiny.toml", &guest);

    folder.write("out/sweep.json", "{}");
    assert_says(&folder.sweep_refused(SWEEP, "out"), &["sweep.json does not describe a sweep"]);
    fs::remove_file(folder.path("out/sweep.json")).unwrap();
    assert_says(&folder.sweep_refused(SWEEP, "out"), &["there is results.csv, but no sweep.json", advice[1]]);
}

#[test]
fn two_sweeps_do_not_write_to_one_folder_at_once() {
    let folder = Folder::new();
    folder.sweep(SWEEP, "out", &[]);
    let lock = fs::File::open(folder.path("out")).unwrap();
    lock.lock().unwrap();
    assert_says(&folder.sweep_refused(SWEEP, "out"), &["another sweep is running there"]);
    drop(lock);
    succeed(folder.sweep_command(SWEEP, "out", &[]));
}

#[test]
fn axes_that_cannot_be_are_refused_before_anything_runs() {
    let folder = Folder::new();
    let right = "guest = \"tiny\"\nnodes = 2\ndeployment.kind = \"plain-overlay\"\n";
    for (lines, parts) in [
        ("", &["sweep.toml: axes is missing", "[axes]"][..]),
        ("axes = 3", &["sweep.toml:4: axes = 3: a table would be right"]),
        ("[axes]", &["sweep.toml:4: axes is empty"]),
        ("[axes]\nnetwork = []", &["sweep.toml:5: axes.network = []", "is empty"]),
        ("[axes]\nnetwork = \"1gbe\"", &["sweep.toml:5: axes.network = \"1gbe\": a list would be right"]),
        ("[axes]\nnetworks = [\"1gbe\"]", &["sweep.toml:5: there is no key networks; did you mean network?"]),
        ("[axes]\nnetworks = []", &["sweep.toml:5: there is no key networks"]),
        ("[axes]\nvms_per_node = [1,\n2,\n1]", &["sweep.toml:7: axes.vms_per_node: 1 is there twice"]),
        (
            "[axes]\nvms_per_node = [1,\n0]",
            &["sweep.toml: at vms_per_node = 0", "sweep.toml:6: vms_per_node = 0"],
        ),
        ("[axes]\nnetwork = [\"1gbe\", \"2gbe\"]", &["at network = 2gbe", "did you mean \"1gbe\"?"]),
        ("[axes]\nnodes = [1, 2]", &["sweep.toml:5: axes.nodes: nodes is set in ", "sweep.toml:2, too"]),
        (
            "[axes]\ndeployment = [{ kind = \"full-copy\" }]",
            &["deployment.kind is set in ", "sweep.toml:3, too"],
        ),
        ("[axes]\nreplications = [1, 2]", &["sweep.toml:5: axes.replications: this cannot be an axis"]),
        (
            "[axes]\n\"boot.cpu_seconds\" = [1]\nboot = [{ think_noise = 0.1 }]",
            &["sweep.toml:6: axes.boot: axes.boot.cpu_seconds sets the same"],
        ),
        (
            "[axes]\nboot.cpu_seconds = [1, 1.0]",
            &["boot.cpu_seconds = 1 and boot.cpu_seconds = 1.0 are the same"],
        ),
        (
            "[axes]\nboot = [{ cpu = 1 }]",
            &["sweep.toml:5: there is no key boot.cpu; did you mean boot.cpu_seconds?"],
        ),
        ("[axes]\nboot = [3]", &["sweep.toml:5: boot = 3: a table would be right"]),
        ("[axes]\nimages = [1, 3]", &["at images = 3", "sweep.toml:5: images = 3"]),
    ] {
        let message = folder.sweep_refused(&format!("{right}{lines}\n"), "out");
        assert_says(&message, parts);
        assert!(!folder.path("out").exists());
    }
    let long: Vec<String> = (1..=1100).map(|n| n.to_string()).collect();
    let huge = format!("{right}[axes]\nseed = [{0}]\nvm_memory_mib = [{0}]\n", long.join(", "));
    assert_says(&folder.sweep_refused(&huge, "out"), &["more than 1000000 points"]);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = Folder::new();
    folder.write("file", "");
    for (out, part) in [
        ("file", "file: this is no folder"),
        ("file/deeper", "deeper: this is no folder"),
        ("/proc/no/such", "cannot make the folder /proc/no/such"),
    ] {
        assert_says(&folder.sweep_refused(SWEEP, out), &[part]);
    }
}
