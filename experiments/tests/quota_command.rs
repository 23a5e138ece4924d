//! `vmicache quota`, as its users run it.

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn vmicache() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("vmicache"))
}

fn boot(i: u32) -> PathBuf {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/traces"));
    folder.join(format!("debian-12-extlinux-{i}.csv.gz"))
}

fn quota(options: &[&str], traces: &[PathBuf]) -> std::process::Output {
    vmicache().arg("quota").args(options).arg("--trace").args(traces).output().unwrap()
}

fn advice(options: &[&str], traces: &[PathBuf]) -> Value {
    let output = quota(&[options, &["--json"]].concat(), traces);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Bytes that the boot reads from the base under a cache that it has filled at that quota.
fn read_again(trace: &Path, at: &Value, quota: u64) -> u64 {
    let mut command = vmicache();
    command.args(["trace", "replay", "--layout", "warm", "--json"]).arg(trace);
    command.args(["--cluster-size", &at["cluster_size"].to_string(), "--quota", &quota.to_string()]);
    command.args((at["extended_l2"] == true).then_some("--extended-l2"));
    let output = command.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["base_bytes_read"].as_u64().unwrap()
}

#[test]
fn the_quota_found_is_the_smallest() {
    let sizes = "4K,64K,16K+extended-l2,64K+extended-l2,2M+extended-l2";
    let advice = advice(&["--cluster-size", sizes], &[boot(1)]);
    let all = advice["cluster_sizes"].as_array().unwrap();
    let layouts: Vec<(u64, bool)> = all
        .iter()
        .map(|at| (at["cluster_size"].as_u64().unwrap(), at["extended_l2"].as_bool().unwrap()))
        .collect();
    assert_eq!(
        layouts,
        [(4096, false), (16_384, true), (65_536, false), (65_536, true), (2 << 20, true)],
        "the smallest clusters come first"
    );
    for at in all {
        let smallest = at["smallest_quota"].as_u64().unwrap();
        let cluster_size = &at["cluster_size"];
        assert_eq!(read_again(&boot(1), at, smallest), 0);
        let below = read_again(&boot(1), at, smallest - cluster_size.as_u64().unwrap());
        assert!(below > 0);
        assert_eq!(at["base_bytes_read_one_cluster_less"], below);
        assert_eq!(at["proof_base_bytes_read"], serde_json::json!([0]));
        assert!(at["cache_file_bytes"].as_u64().unwrap() <= smallest);
        assert_eq!(at["another_boot_base_bytes_read"], Value::Null);
    }
}

/// Subclusters make a cache copy less, and its quota counts clusters as whole as ever.
#[test]
fn extended_l2_is_said_of_all_sizes_at_once() {
    let advice = advice(&["--extended-l2"], &[boot(1)]);
    let [small, large] = advice["cluster_sizes"].as_array().unwrap().as_slice() else { panic!("{advice}") };
    assert_eq!((&small["cluster_size"], &large["cluster_size"]), (&65_536.into(), &131_072.into()));
    assert_eq!((&small["extended_l2"], &advice["recommended"]["extended_l2"]), (&true.into(), &true.into()));
    let output = quota(&["--extended-l2", "--cluster-size", "64K"], &[boot(1)]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.lines().next().unwrap().contains("clusters of 64 KiB with subclusters of 2 KiB; the boot"),
        "{text}"
    );
}

#[test]
fn several_boots_need_what_their_union_needs() {
    let advice = advice(&["--cluster-size", "64K"], &[boot(1), boot(6)]);
    let at = &advice["cluster_sizes"][0];
    assert_eq!(at["proof_base_bytes_read"], serde_json::json!([0, 0]));
    let alone: Vec<u64> =
        at["smallest_quota_alone"].as_array().unwrap().iter().map(|quota| quota.as_u64().unwrap()).collect();
    assert!(alone[1] < alone[0], "the sixth boot reads less: {alone:?}");
    assert!(at["smallest_quota"].as_u64().unwrap() >= alone[0]);
    // The sixth boot does without a file of 385 024 bytes; the clusters at its ends it may need for neighbours.
    let missing = at["another_boot_base_bytes_read"]["max"].as_f64().unwrap();
    assert!((385_024.0 - 131_072.0..=385_024.0 + 131_072.0).contains(&missing), "{missing}");
    assert_eq!(at["another_boot_base_bytes_read"]["count"], 2);

    let curve = at["curve"].as_array().unwrap();
    let means: Vec<f64> =
        curve.iter().map(|point| point["base_bytes_read"]["mean"].as_f64().unwrap()).collect();
    assert_eq!(curve.len(), 12);
    assert_eq!(curve[0]["quota"], at["empty_cache_bytes"]);
    assert_eq!(curve[11]["quota"], at["smallest_quota"]);
    assert!(means[0] > 60e6 && means[11] == 0.0, "{means:?}");
    assert!(means.windows(2).all(|pair| pair[0] >= pair[1]), "{means:?}");
}

#[test]
fn the_recommendation_comes_first_and_the_same_every_time() {
    let output = quota(&["--cluster-size", "4K,64K"], &[boot(1), boot(2)]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Recommended: a quota of "), "{text}");
    assert!(text.lines().next().unwrap().contains("clusters of 4 KiB"), "{text}");
    let again = vmicache()
        .env("RAYON_NUM_THREADS", "1")
        .args(["quota", "--cluster-size", "4K,64K", "--trace"])
        .args([boot(1), boot(2)])
        .output();
    assert_eq!(String::from_utf8(again.unwrap().stdout).unwrap(), text);
}

#[test]
fn check_answers_by_its_exit_code() {
    let check = |quota_size: &str| quota(&["--cluster-size", "4K,64K", "--check", quota_size], &[boot(1)]);
    let enough = check("100M");
    assert_eq!(enough.status.code(), Some(0));
    assert!(enough.stdout.starts_with(b"Enough: "), "{}", String::from_utf8_lossy(&enough.stdout));
    // Between what clusters of 4 KiB and of 64 KiB need.
    for (size, why) in
        [("68M", "with clusters of 64 KiB"), ("10K", "an empty cache"), ("0", "an empty cache")]
    {
        let short = check(size);
        assert_eq!(short.status.code(), Some(1), "{size}");
        let text = String::from_utf8(short.stdout).unwrap();
        assert!(text.starts_with("Not enough: ") && text.contains(why), "{text}");
    }
    let json = quota(&["--cluster-size", "64K", "--check", "10M", "--json"], &[boot(1)]);
    assert_eq!(json.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["check"]["sufficient"], false);
    assert!(json["check"]["cluster_sizes"][0]["base_bytes_read"].as_u64().unwrap() > 50_000_000);
}

#[test]
fn bad_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("boot.csv");
    fs::write(&path, "start_us,end_us,op,offset,length\n0,1,read,0,512\n9,8,read,0,512\n").unwrap();
    let cases: [(&[&str], &Path, &str); 9] = [
        (&[], &path, "boot.csv, line 3, column end_us"),
        (&["--check", "many"], &boot(1), "not a size"),
        (&["--check", "-1M"], &boot(1), "negative"),
        (&["--cluster-size", "512,700"], &boot(1), "power of two from 512"),
        (&["--cluster-size", "8K+extended-l2"], &boot(1), "extended L2 entries need clusters of 16K to 2M"),
        (&["--cluster-size", "64K+extended"], &boot(1), "not a size"),
        (&["--extended-l2", "--cluster-size", "64K,4K"], &boot(1), "--extended-l2 with --cluster-size 4096"),
        (&["--disk-size", "1G"], &boot(1), "debian-12-extlinux-1.csv.gz: request"),
        (&[], Path::new("no/such/boot"), "no/such/boot"),
    ];
    for (options, trace, expected) in cases {
        let output = quota(options, &[trace.to_path_buf()]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
        assert!(output.stdout.is_empty());
    }
    let none = vmicache().arg("quota").output().unwrap();
    assert_eq!(none.status.code(), Some(2));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
