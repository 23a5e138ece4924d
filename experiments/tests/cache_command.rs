//! `vmicache warm` and `vmicache cache`, as their users run them, and what stock QEMU says of the caches.

mod images;

use assert_cmd::Command;
use images::{Folder, assert_says};
use serde_json::{Value, json};
use std::fs;
use std::process::Output;
use vmicache_format::storage::{Access, HostFile};

const MIB: u64 = 1 << 20;
const WARM: [&str; 5] = ["warm", "cache.qcow2", "--base", "base.raw", "--trace"];

fn vmicache(folder: &Folder, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("vmicache"));
    command.current_dir(folder.path("")).args(args);
    command
}

/// Runs a command, and checks its exit code.
fn run(folder: &Folder, args: &[&str], code: i32) -> Output {
    let output = vmicache(folder, args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn report(folder: &Folder, args: &[&str], code: i32) -> Value {
    serde_json::from_slice(&run(folder, &[args, &["--json"]].concat(), code).stdout).unwrap()
}

fn refused(folder: &Folder, args: &[&str]) -> String {
    folder.refused_command(vmicache(folder, args))
}

/// A folder with a base without holes, and two boots.
///
/// The first reads 68 KiB of the base, and one cluster of the overlay, for it writes a sector there; another
/// cluster it writes whole before it reads it, so that this is not the base's. The second reads another 128 KiB.
fn folder() -> Folder {
    let folder = Folder::with_base(8 * MIB);
    let content: Vec<u8> = (0..8 * MIB).map(|at| 1 + (at / 4096 % 250) as u8).collect();
    folder.change("base.raw", 0, &content);
    let boot = |name: &str, rows: &str| {
        fs::write(folder.path(name), format!("start_us,end_us,op,offset,length\n{rows}")).unwrap();
    };
    boot(
        "first.csv",
        "0,1,read,0,65536\n2,3,read,1048576,4096\n4,5,write,2097152,65536\n6,7,read,2097664,512\n\
         8,9,write,3146240,512\n10,11,read,3146240,512\n12,13,flush,0,0\n",
    );
    boot("second.csv", "0,1,read,4194304,131072\n");
    folder
}

const FIRST: u64 = 65536 + 4096 + 65536;
const SECOND: u64 = 131_072;

fn warm(folder: &Folder, options: &[&str]) -> Value {
    report(folder, &[&WARM[..], &["first.csv", "second.csv"], options].concat(), 0)
}

#[test]
fn a_warm_cache_holds_what_the_boots_read_and_stock_tools_take_it_for_whole() {
    let folder = folder();
    let made = warm(&folder, &["--quota", "4M"]);
    assert_eq!((&made["made"], &made["complete"]), (&json!(true), &json!(true)));
    assert_eq!((&made["cluster_size"], &made["quota"]), (&json!(512), &json!(4 * MIB)));
    assert_eq!(made["traces"][0]["base_bytes_read"], FIRST);
    assert_eq!(made["traces"][1]["base_bytes_read"], SECOND);
    assert_eq!(
        (&made["cached_bytes"], &made["base_bytes_read"]),
        (&json!(FIRST + SECOND), &json!(FIRST + SECOND))
    );
    folder.qemu_img(&["check", "cache.qcow2"]);
    folder.qemu_img(&["compare", "-f", "qcow2", "-F", "raw", "cache.qcow2", "base.raw"]);

    let found = report(&folder, &["cache", "verify", "cache.qcow2"], 0);
    assert_eq!((&found["right"], &found["compared_bytes"]), (&json!(true), &json!(FIRST + SECOND)));
    let info = report(&folder, &["cache", "info", "cache.qcow2"], 0);
    assert_eq!((&info["data_bytes"], &info["base"]), (&json!(FIRST + SECOND), &json!("base.raw")));
    assert_eq!(
        (&info["bytes_in_use"], &info["base_identity"]["length"]),
        (&made["cache_bytes_in_use"], &json!(8 * MIB))
    );
    assert_eq!(info["file_bytes"], fs::metadata(folder.path("cache.qcow2")).unwrap().len());

    // What was read comes from the cache itself, the rest from below.
    fs::File::create(folder.path("zero.raw")).unwrap().set_len(8 * MIB).unwrap();
    folder.qemu_img(&["rebase", "-u", "-b", "zero.raw", "-F", "raw", "cache.qcow2"]);
    let reads = ["read -P 1 0 4k", "read -P 7 1M 4k", "read -P 0 1028k 4k"];
    let output = folder
        .qemu("qemu-io", &["-f", "qcow2", "-c", reads[0], "-c", reads[1], "-c", reads[2], "cache.qcow2"]);
    assert!(!output.contains("verification failed"), "{output}");
}

/// The boots read 4 KiB where clusters have 64: a cache with subclusters copies those, and takes room for the cluster.
#[test]
fn a_cache_with_subclusters_copies_what_was_read_and_takes_room_by_clusters() {
    let folder = folder();
    let made = warm(&folder, &["--quota", "4M", "--cluster-size", "128K", "--extended-l2"]);
    assert_eq!((&made["cluster_size"], &made["extended_l2"]), (&json!(131_072), &json!(true)));
    assert_eq!((&made["cached_bytes"], &made["complete"]), (&json!(FIRST + SECOND), &json!(true)));
    assert_eq!(made["cache_data_bytes"], 4 * 131_072);
    folder.qemu_img(&["check", "cache.qcow2"]);
    folder.qemu_img(&["compare", "-f", "qcow2", "-F", "raw", "cache.qcow2", "base.raw"]);
    assert_eq!(report(&folder, &["cache", "verify", "cache.qcow2"], 0)["compared_bytes"], FIRST + SECOND);

    let text = String::from_utf8(run(&folder, &["cache", "info", "cache.qcow2"], 0).stdout).unwrap();
    assert_says(&text, &["cache image with clusters of 128 KiB with subclusters of 4 KiB"]);
    let before = report(&folder, &["cache", "info", "cache.qcow2"], 0);
    let dropped = report(&folder, &["cache", "drop", "cache.qcow2"], 0);
    assert_eq!((&dropped["cluster_size"], &dropped["extended_l2"]), (&json!(131_072), &json!(true)));
    let after = report(&folder, &["cache", "info", "cache.qcow2"], 0);
    for kept in ["quota", "cluster_size", "extended_l2", "base_identity"] {
        assert_eq!(after[kept], before[kept], "{kept}");
    }
    // It is filled again with the option or without it.
    assert_eq!(warm(&folder, &["--extended-l2"])["made"], false);
    assert_eq!(warm(&folder, &[])["extended_l2"], true);
}

#[test]
fn extended_l2_is_asked_of_caches_that_can_have_it() {
    let folder = folder();
    let asked = |options: &[&str]| {
        let quota = ["first.csv", "--quota", "4M", "--extended-l2"];
        refused(&folder, &[&WARM[..], &quota, options].concat())
    };
    assert_says(&asked(&["--cluster-size", "8K"]), &["--extended-l2", "8192", "16K to 2M"]);
    let args = [&WARM[..], &["first.csv", "--quota", "4M"]].concat();
    assert_eq!(report(&folder, &[&args[..], &["--extended-l2"]].concat(), 0)["cluster_size"], 65_536);
    fs::remove_file(folder.path("cache.qcow2")).unwrap();
    report(&folder, &[&args[..], &["--cluster-size", "64K"]].concat(), 0);
    assert_says(&asked(&[]), &["cache.qcow2 exists, without extended L2 entries"]);
}

#[test]
fn an_existing_cache_is_filled_further() {
    let folder = folder();
    report(&folder, &[&WARM[..], &["first.csv", "--quota", "4M", "--cluster-size", "4K"]].concat(), 0);
    let more = report(&folder, &[&WARM[..], &["first.csv", "second.csv"]].concat(), 0);
    assert_eq!((&more["made"], &more["cluster_size"]), (&json!(false), &json!(4096)));
    assert_eq!(more["traces"][0]["base_bytes_read"], 0);
    assert_eq!(more["base_bytes_read"], SECOND);
    report(&folder, &["cache", "verify", "cache.qcow2"], 0);
}

#[test]
fn a_qcow2_base_in_another_folder_is_found_from_the_cache() {
    let folder = folder();
    folder.qemu_img(&["convert", "-O", "qcow2", "base.raw", "base.qcow2"]);
    fs::create_dir(folder.path("caches")).unwrap();
    let args = ["warm", "caches/c.qcow2", "--base", "base.qcow2", "--quota", "4M", "--trace", "first.csv"];
    assert_says(&refused(&folder, &args), &["--base-format qcow2"]);
    let made = report(&folder, &[&args[..], &["--base-format", "qcow2"]].concat(), 0);
    assert_eq!(made["complete"], true);
    report(&folder, &["cache", "verify", "caches/c.qcow2"], 0);
    folder.qemu_img(&["compare", "-f", "qcow2", "-F", "raw", "caches/c.qcow2", "base.raw"]);
}

#[test]
fn a_quota_that_is_too_small_is_kept_and_told_of() {
    let folder = folder();
    let args = [&WARM[..], &["first.csv", "second.csv", "--quota", "150K", "--json"]].concat();
    let output = run(&folder, &args, 0);
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let left = made["traces"][1]["base_bytes_read_again"].as_u64().unwrap();
    // The first boot comes first.
    assert_eq!((&made["complete"], &made["traces"][0]["base_bytes_read_again"]), (&json!(false), &json!(0)));
    assert_eq!(made["cached_bytes"], FIRST + SECOND - left);
    assert!(fs::metadata(folder.path("cache.qcow2")).unwrap().len() <= 150 << 10);
    let warning = String::from_utf8(output.stderr).unwrap();
    assert_says(&warning, &["warning", "the quota is too small", "second", &left.to_string()]);
    folder.qemu_img(&["check", "cache.qcow2"]);
    report(&folder, &["cache", "verify", "cache.qcow2"], 0);
    assert_says(
        &refused(&folder, &[&WARM[..], &["first.csv", "--quota", "4M"]].concat()),
        &["153600", "--quota"],
    );
}

#[test]
fn what_a_stock_tool_wrote_to_a_cache_is_found_and_dropped() {
    let folder = folder();
    warm(&folder, &["--quota", "4M", "--cluster-size", "4K"]);
    folder.qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 0xab 8k 512", "cache.qcow2"]);
    let found = report(&folder, &["cache", "verify", "cache.qcow2"], 1);
    assert_eq!(found["right"], false);
    assert_eq!(found["wrong"], json!([{ "offset": 8192, "length": 4096 }]));
    let text = String::from_utf8(run(&folder, &["cache", "verify", "cache.qcow2"], 1).stdout).unwrap();
    assert_says(&text, &["cache.qcow2: wrong", "8192", "cache drop"]);

    let before = report(&folder, &["cache", "info", "cache.qcow2"], 0);
    let dropped = report(&folder, &["cache", "drop", "cache.qcow2"], 0);
    let after = report(&folder, &["cache", "info", "cache.qcow2"], 0);
    assert_eq!((&after["cached_bytes"], &after["file_bytes"]), (&json!(0), &dropped["file_bytes"]));
    for kept in ["quota", "cluster_size", "disk_size", "base", "base_format", "base_identity"] {
        assert_eq!(after[kept], before[kept], "{kept}");
    }
    report(&folder, &["cache", "verify", "cache.qcow2"], 0);
    assert_eq!(warm(&folder, &[])["complete"], true);
}

#[test]
fn a_base_that_changed_makes_the_cache_wrong_until_it_is_dropped() {
    let folder = folder();
    warm(&folder, &["--quota", "4M"]);
    folder.change("base.raw", 0, &[0xcd; 16]);
    let found = report(&folder, &["cache", "verify", "cache.qcow2"], 1);
    assert_says(found["problem"].as_str().unwrap(), &["another base"]);
    assert_says(&refused(&folder, &[&WARM[..], &["first.csv"]].concat()), &["cache.qcow2", "another base"]);
    run(&folder, &["cache", "drop", "cache.qcow2"], 0);
    assert_eq!(warm(&folder, &[])["complete"], true);
    report(&folder, &["cache", "verify", "cache.qcow2"], 0);
}

#[test]
fn a_base_may_be_recognised_by_its_version() {
    let folder = folder();
    warm(&folder, &["--quota", "4M", "--base-version", "1"]);
    assert_says(&refused(&folder, &["cache", "verify", "cache.qcow2"]), &["version"]);
    report(&folder, &["cache", "verify", "--base-version", "1", "cache.qcow2"], 0);
    report(&folder, &["cache", "verify", "--base-version", "2", "cache.qcow2"], 1);
    run(&folder, &["cache", "drop", "cache.qcow2"], 0);
    let info = report(&folder, &["cache", "info", "cache.qcow2"], 0);
    assert_eq!(info["base_identity"], json!({ "version": "1" }));
    run(&folder, &["cache", "drop", "--base-version", "2", "cache.qcow2"], 0);
    report(&folder, &["cache", "verify", "--base-version", "2", "cache.qcow2"], 0);
}

#[test]
fn damaged_tables_are_found() {
    let folder = folder();
    warm(&folder, &["--quota", "4M"]);
    let header = fs::read(folder.path("cache.qcow2")).unwrap();
    let l1 = u64::from_be_bytes(header[40..48].try_into().unwrap());
    folder.change("cache.qcow2", l1, &(0x8000_0000_4000_0000u64).to_be_bytes());
    let found = report(&folder, &["cache", "verify", "cache.qcow2"], 1);
    assert_says(found["problem"].as_str().unwrap(), &["cache.qcow2", "L2 table"]);
}

#[test]
fn what_cannot_be_right_is_refused_and_changes_nothing() {
    let folder = folder();
    for command in ["info", "verify", "drop"] {
        assert_says(&refused(&folder, &["cache", command, "base.raw"]), &["base.raw", "no cache image"]);
        assert_says(&refused(&folder, &["cache", command, "missing"]), &["missing"]);
    }
    assert_says(&refused(&folder, &[&WARM[..], &["first.csv"]].concat()), &["needs --quota"]);
    assert_says(
        &refused(&folder, &[&WARM[..], &["first.csv", "--quota", "1K"]].concat()),
        &["cache.qcow2", "quota"],
    );
    assert_says(
        &refused(
            &folder,
            &["warm", "base.raw", "--base", "base.raw", "--quota", "4M", "--trace", "first.csv"],
        ),
        &["base.raw", "no cache image"],
    );
    warm(&folder, &["--quota", "4M"]);
    fs::copy(folder.path("base.raw"), folder.path("other.raw")).unwrap();
    assert_says(
        &refused(&folder, &["warm", "cache.qcow2", "--base", "other.raw", "--trace", "first.csv"]),
        &["belongs to another base", "base.raw"],
    );
    assert_says(
        &refused(&folder, &[&WARM[..], &["first.csv", "--cluster-size", "4K"]].concat()),
        &["clusters of 512 bytes"],
    );
    fs::write(folder.path("far.csv"), "start_us,end_us,op,offset,length\n0,1,read,8388608,512\n").unwrap();
    assert_says(&refused(&folder, &[&WARM[..], &["far.csv"]].concat()), &["far.csv"]);
    let _in_use = HostFile::open(&folder.path("cache.qcow2"), Access::Read).unwrap();
    assert_says(&refused(&folder, &["cache", "drop", "cache.qcow2"]), &["cache.qcow2", "using this image"]);
}
