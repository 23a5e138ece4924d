//! `vmicache trace`, as its users run it.

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

fn json(command: &mut Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs what must fail with exit code 2; its message, which is all that it prints.
fn failure(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// A trace of the rows given, in a file that lives as long as the folder.
fn trace(folder: &tempfile::TempDir, rows: &str) -> PathBuf {
    let path = folder.path().join("boot.csv");
    fs::write(&path, format!("start_us,end_us,op,offset,length\n{rows}")).unwrap();
    path
}

#[test]
fn info_counts_the_recorded_boots() {
    let report =
        json(vmicache().args(["trace", "info", "--granularity", "512,4K,64K"]).args((1..=6).map(boot)));
    let first = &report["traces"][0];
    assert_eq!(first["requests"], 1841);
    assert_eq!(first["operations"][0]["op"], "read");
    assert_eq!(first["operations"][0]["bytes"], 65_373_696);
    assert_eq!(first["working_set"][0]["bytes"], 63_554_560);
    assert_eq!(first["working_set"][2]["granularity"], 65_536);
    assert_eq!(first["span_us"], 11_796_866);
    assert_eq!(first["smallest_disk"], 2u64 << 30);
    assert_eq!(report["overlap"][1]["intersection_bytes"], 63_180_800);
    assert!(report["overlap"][1]["jaccard"].as_f64().unwrap() > 0.993);
}

#[test]
fn info_is_a_table_for_people() {
    let output = vmicache().args(["trace", "info"]).args([boot(1), boot(6)]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["read requests", "65.37 MB", "working set at 64 KiB", "72.94 MB", "59.5 %", "Jaccard"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let alone = vmicache().args(["trace", "info"]).arg(boot(1)).output().unwrap();
    assert!(!String::from_utf8(alone.stdout).unwrap().contains("Jaccard"));
}

#[test]
fn plots_are_pictures_and_repeatable() {
    let folder = tempfile::tempdir().unwrap();
    for (name, magic) in [("boot.png", &b"\x89PNG"[..]), ("boot.svg", b"<svg")] {
        let path = folder.path().join(name);
        let draw = || {
            let status =
                vmicache().args(["trace", "info", "--plot"]).arg(&path).args([boot(1), boot(2)]).output();
            assert!(status.unwrap().status.success());
            fs::read(&path).unwrap()
        };
        let picture = draw();
        assert!(picture.starts_with(magic) && picture.len() > 10_000);
        assert_eq!(draw(), picture);
    }
}

#[test]
fn a_plot_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let other = failure(vmicache().args(["trace", "info", "--plot", "boot.pdf"]).arg(boot(1)));
    assert!(other.contains("boot.pdf") && other.contains(".png or .svg"), "{other}");
    let path = folder.path().join("none/boot.png");
    let missing = failure(vmicache().args(["trace", "info", "--plot"]).arg(&path).arg(boot(1)));
    assert!(missing.contains("none/boot.png"), "{missing}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_wrong_trace_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = [
        ("0,1,read,0,512\n5,4,read,0,512\n", "boot.csv, line 3, column end_us"),
        ("0,1,read,0,-512\n", "boot.csv, line 2, column length"),
        ("0,1,fetch,0,512\n", "boot.csv, line 2, column op"),
        ("0,1,read,9223372036854775807,512\n", "boot.csv, line 2, column length"),
        ("0,1,read,0\n", "boot.csv, line 2: 4 fields"),
        ("", "boot.csv: no request"),
    ];
    let picture = folder.path().join("boot.svg");
    for (rows, expected) in wrong {
        let path = trace(&folder, rows);
        for command in [&["trace", "info"][..], &["trace", "replay", "--layout", "cold"]] {
            let message = failure(vmicache().args(command).arg(&path));
            assert!(message.contains(expected), "{message}");
        }
        failure(vmicache().args(["trace", "info", "--plot"]).args([&picture, &path]));
        assert!(!picture.exists());
    }
    let missing = failure(vmicache().args(["trace", "info", "no/such/file"]));
    assert!(missing.contains("no/such/file"), "{missing}");
}

#[test]
fn replay_counts_what_the_base_serves() {
    let replay = |layout: &str, more: &[&str]| {
        json(vmicache().args(["trace", "replay", "--layout", layout]).args(more).arg(boot(1)))
    };
    let plain = replay("plain", &[]);
    assert_eq!(plain["layout"], "plain");
    assert_eq!(plain["guest_bytes_read"], 65_373_696);
    assert_eq!(plain["disk_size"], 2u64 << 30);
    assert_eq!(plain["cache_file_bytes"], 0);
    assert_eq!(plain["cluster_size"], Value::Null);
    let plain_bytes = plain["base_bytes_read"].as_u64().unwrap();
    assert!((60_000_000..=66_000_000).contains(&plain_bytes), "{plain_bytes}");

    let cold = replay("cold", &[]);
    assert_eq!(cold["cluster_size"], 512);
    assert!(cold["base_bytes_read"].as_u64().unwrap() <= plain_bytes);
    let in_use = cold["cache_bytes_in_use"].as_u64().unwrap();
    assert!(in_use > 63_000_000 && cold["cache_file_bytes"].as_u64().unwrap() >= in_use);
    assert!(cold["overlay_file_bytes"].as_u64().unwrap() > 0);

    let warm = replay("warm", &[]);
    assert_eq!(warm["base_bytes_read"], 0);
    assert_eq!(warm["base_requests"], 0);
    let other = replay("warm", &["--fill", boot(6).to_str().unwrap(), "--cluster-size", "4K"]);
    assert_eq!(other["cluster_size"], 4096);
    assert!(other["base_bytes_read"].as_u64().unwrap() >= 380_000, "{other}");
    let clusters = |extended: &[&str]| replay("cold", &[&["--cluster-size", "128K"], extended].concat());
    let (whole, parts) = (clusters(&[]), clusters(&["--extended-l2"]));
    assert_eq!((&whole["extended_l2"], &parts["extended_l2"]), (&false.into(), &true.into()));
    assert_eq!((&plain["extended_l2"], &parts["cluster_size"]), (&Value::Null, &131_072.into()));
    assert_eq!(whole["cache_data_bytes"], parts["cache_data_bytes"]);
    assert!(parts["base_bytes_read"].as_u64().unwrap() < plain_bytes, "{parts}");
    assert!(whole["base_bytes_read"].as_u64().unwrap() > plain_bytes + 10_000_000, "{whole}");
    let small = replay("warm", &["--quota", "40M"]);
    assert_eq!(small["quota"], 40 << 20);
    assert!(small["cache_file_bytes"].as_u64().unwrap() <= 40 << 20);
    assert!(small["base_bytes_read"].as_u64().unwrap() > 20_000_000);
}

#[test]
fn holes_of_a_given_base_cost_a_replayed_boot_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let boot = trace(&folder, "0,1,read,0,131072\n2,3,read,1048576,4096\n");
    let base = folder.path().join("base.raw");
    fs::write(&base, [7; 65_536]).unwrap();
    fs::File::options().write(true).open(&base).unwrap().set_len(2 << 20).unwrap();
    let replay = |layout: &str, more: &[&str]| {
        json(vmicache().args(["trace", "replay", "--layout", layout]).args(more).arg(&boot))
    };
    let base = base.to_str().unwrap();
    for layout in ["plain", "cold"] {
        let over = replay(layout, &["--base", base]);
        assert_eq!(
            (&over["base_bytes_read"], &over["disk_size"]),
            (&65_536.into(), &(2 << 20).into()),
            "{layout}"
        );
        assert_eq!(replay(layout, &[])["base_bytes_read"], 131_072 + 4096, "{layout}");
    }
    assert_eq!(replay("cold", &["--base", base])["cache_data_bytes"], 65_536);
    let both = failure(
        vmicache()
            .args(["trace", "replay", "--layout", "cold", "--base", base, "--disk-size", "2M"])
            .arg(&boot),
    );
    assert!(both.contains("--disk-size") && both.contains("--base"), "{both}");
    let small = trace(&folder, "0,1,read,2097152,512\n");
    let beyond = failure(vmicache().args(["trace", "replay", "--layout", "cold", "--base", base]).arg(small));
    assert!(beyond.contains("beyond the disk of 2097152 bytes"), "{beyond}");
}

#[test]
fn replay_refuses_what_makes_no_sense() {
    let replay = |options: &[&str]| failure(vmicache().args(["trace", "replay"]).args(options).arg(boot(1)));
    let fill = boot(2);
    let fill = fill.to_str().unwrap();
    for (options, expected) in [
        (&["--layout", "cold", "--fill", fill][..], "--layout warm"),
        (&["--layout", "hot"], "plain"),
        (&["--layout", "cold", "--quota", "lots"], "not a size"),
        (&["--layout", "cold", "--quota", "-64K"], "negative"),
        (&["--layout", "cold", "--quota", "9E"], "too large"),
        (&["--layout", "cold", "--quota", "0"], "metadata"),
        (&["--layout", "cold", "--quota", "100K"], "metadata"),
        (&["--layout", "cold", "--cluster-size", "1000"], "power of two from 512"),
        (&["--layout", "plain", "--disk-size", "1000"], "multiple of 512"),
        (&["--layout", "plain", "--disk-size", "1G"], "beyond the disk of 1073741824 bytes"),
        (&["--layout", "plain", "--speed", "1"], "--speed"),
        (&[], "--layout"),
    ] {
        let message = replay(options);
        assert!(message.contains(expected), "{options:?}: {message}");
    }
    let message = replay(&["--layout", "plain", "--disk-size", "1G"]);
    assert!(message.contains("debian-12-extlinux-1.csv.gz"), "{message}");
}

#[test]
fn help_has_examples() {
    for command in [&["trace", "info"][..], &["trace", "replay"], &["quota"]] {
        let output = vmicache().args(command).arg("--help").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Examples:") && text.contains("qemu-img"), "{text}");
    }
}

/// A log of nbdkit with one read of 4 KiB.
fn nbdkit_log(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("nbdkit.log");
    let log = "\
2026-11-24 02:26:24.400152 connection=1 Connect export=\"\" tls=0 size=0x800000
2026-11-24 02:26:24.400394 connection=1 Read id=1 offset=0x1000 count=0x1000 ...
2026-11-24 02:26:24.403531 connection=1 ...Read id=1 return=0
";
    fs::write(&path, log).unwrap();
    path
}

#[test]
fn convert_makes_a_trace_that_info_knows_the_origin_of() {
    let folder = tempfile::tempdir().unwrap();
    let (log, boot) = (nbdkit_log(&folder), folder.path().join("boot.csv.gz"));
    let report = json(vmicache().args(["trace", "convert"]).args([&log, &boot]));
    assert_eq!(report["from"], "nbdkit-log");
    assert_eq!(report["requests"], 1);
    assert_eq!(report["bytes"], 4096);
    assert!(report["lacks"][0].as_str().unwrap().contains("guest"));

    let info = json(vmicache().args(["trace", "info"]).arg(&boot));
    assert_eq!(info["traces"][0]["metadata"]["source"], "nbdkit-log");
    assert_eq!(info["traces"][0]["span_us"], 3137);
    let output = vmicache().args(["trace", "info"]).arg(&boot).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("  recorded: 2026-11-24\n"), "{text}");

    let output = vmicache().args(["trace", "convert", "--from", "nbdkit-log"]).args([&log, &boot]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.contains("does not tell") && text.contains("4096"), "{text}");
}

#[test]
fn convert_names_what_is_wrong_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (log, boot) = (nbdkit_log(&folder), folder.path().join("boot.csv"));
    let other = failure(vmicache().args(["trace", "convert", "--from", "blktrace"]).args([&log, &boot]));
    assert!(other.contains("nbdkit.log: no request of blktrace in it"), "{other}");
    let same = failure(vmicache().args(["trace", "convert"]).args([&log, &log]));
    assert!(same.contains("another name"), "{same}");
    fs::write(&log, "nothing\n").unwrap();
    let unknown = failure(vmicache().args(["trace", "convert"]).args([&log, &boot]));
    assert!(unknown.contains("nbdkit-log, qemu-events and blktrace"), "{unknown}");
    assert!(!boot.exists());
}
