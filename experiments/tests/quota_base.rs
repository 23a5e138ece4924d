//! `vmicache quota` about a base image: what it predicts, `vmicache warm` and stock QEMU find.

mod images;

use assert_cmd::Command;
use images::{Folder, assert_says};
use serde_json::{Value, json};
use std::fs;
use std::process::Output;

const MIB: u64 = 1 << 20;

fn vmicache(folder: &Folder, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("vmicache"));
    command.current_dir(folder.path("")).env("TMPDIR", folder.path("tmp")).args(args);
    command
}

fn run(folder: &Folder, args: &[&str]) -> Output {
    let output = vmicache(folder, args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn report(folder: &Folder, args: &[&str]) -> Value {
    serde_json::from_slice(&run(folder, &[args, &["--json"]].concat()).stdout).unwrap()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// A folder with a raw base of 64 MiB that has data in every other stretch of its first half, of other lengths each,
/// and three boots. These read data, holes and both; write in the midst of either; and have much in common: each reads
/// a little data that the others do not.
fn folder() -> Folder {
    let folder = Folder::with_base(64 * MIB);
    fs::create_dir(folder.path("tmp")).unwrap();
    let mut at = 0;
    for stretch in 1..200u64 {
        let length = stretch * 37 % 41 * 4096 + 4096;
        if stretch % 2 == 1 {
            folder.change("base.raw", at, &vec![stretch as u8; length as usize]);
        }
        at += length;
    }
    assert!((16 * MIB..32 * MIB).contains(&at));
    for boot in 0..3u64 {
        let mut rows = String::from("start_us,end_us,op,offset,length\n");
        for i in 0..300u64 {
            let offset = i * 7919 % 4096 * 4096 + i % 8 * 512;
            let length = (i * 31 % 97 + 1) * 512;
            let op = if i % 11 == 0 { "write" } else { "read" };
            rows += &format!("{},{},{op},{offset},{length}\n", 10 * i, 10 * i + 5);
        }
        let (own, length) = (48 * MIB + boot * MIB, 16_384 + 4096 * boot);
        folder.change("base.raw", own, &vec![9; length as usize]);
        rows += &format!("4000,4005,read,{own},{length}\n");
        fs::write(folder.path(&format!("boot-{boot}.csv")), rows).unwrap();
    }
    folder
}

const TRACES: [&str; 4] = ["--trace", "boot-0.csv", "boot-1.csv", "boot-2.csv"];

const CLUSTERS: &str = "512,4K,64K,16K+extended-l2,64K+extended-l2,128K+extended-l2,2M+extended-l2";

fn advice(folder: &Folder, base: &[&str]) -> Value {
    report(folder, &[&["quota"], base, &["--cluster-size", CLUSTERS], &TRACES].concat())
}

/// The bytes of the disk that qemu-img finds data for.
fn mapped(folder: &Folder, base: &str, format: &str) -> u64 {
    let map: Value =
        serde_json::from_str(&folder.qemu_img(&["map", "--output=json", "-f", format, base])).unwrap();
    let data =
        map.as_array().unwrap().iter().filter(|extent| extent["data"] == true && extent["zero"] == false);
    data.map(|extent| count(&extent["length"])).sum()
}

/// The prediction for every layout of clusters, against `vmicache warm` and qemu-img.
fn assert_borne_out(folder: &Folder, base: &str, format: &str, advice: &Value) {
    for at in advice["cluster_sizes"].as_array().unwrap() {
        let quota = count(&at["recommended_quota"]);
        let size = at["cluster_size"].to_string();
        let predicted = &at["real_proof"]["predicted"];
        assert_eq!(at["real_proof"]["agrees"], true, "{at}");
        assert_eq!(at["real_proof"]["found"]["base_bytes_read_again"], 0);

        let mut args = vec!["warm", "cache.qcow2", "--base", base, "--base-format", format];
        let quota = quota.to_string();
        args.extend(["--quota", &quota, "--cluster-size", &size]);
        args.extend((at["extended_l2"] == true).then_some("--extended-l2"));
        args.extend(TRACES);
        let warm = report(folder, &args);
        assert_eq!(warm["complete"], true);
        for figure in ["base_bytes_read", "cache_bytes_in_use", "cache_data_bytes", "cache_file_bytes"] {
            let (predicted, found) = (count(&predicted[figure]), count(&warm[figure]));
            let difference = predicted.abs_diff(found) as f64 / predicted.max(found) as f64;
            assert!(difference <= 0.01, "{figure}, clusters of {size}: {predicted} predicted, {found} found");
            assert_eq!(found, count(&at["real_proof"]["found"][figure]), "{figure}");
        }
        // Whatever has no hole below is data, and in whole clusters the same.
        assert_eq!(predicted["cache_data_bytes"], warm["cache_data_bytes"]);
        if at["extended_l2"] == true {
            // The tables are the same, too.
            assert_eq!(predicted["cache_bytes_in_use"], warm["cache_bytes_in_use"]);
        }
        folder.qemu_img(&["check", "cache.qcow2"]);
        folder.qemu_img(&["compare", "-f", "qcow2", "-F", format, "cache.qcow2", base]);
        fs::remove_file(folder.path("cache.qcow2")).unwrap();
    }
}

#[test]
fn a_real_cache_over_a_raw_base_with_holes_is_as_predicted() {
    let folder = folder();
    let found = advice(&folder, &["--base", "base.raw"]);
    let base = &found["base"];
    assert_eq!((&base["format"], &found["disk_size"]), (&json!("raw"), &json!(64 * MIB)));
    assert_eq!(count(&base["allocated_bytes"]), mapped(&folder, "base.raw", "raw"));
    let (needed, holes) = (count(&base["needed_bytes"]), count(&base["needed_hole_bytes"]));
    // Half of the stretches.
    assert!(needed / 3 < holes && holes < needed * 2 / 3, "{holes} of {needed}");
    assert_borne_out(&folder, "base.raw", "raw", &found);
    assert_eq!(fs::read_dir(folder.path("tmp")).unwrap().count(), 0, "something was left behind");

    let without = advice(&folder, &["--disk-size", "64M"]);
    assert_eq!(found["cluster_sizes"].as_array().unwrap().len(), 7);
    for (with, without) in
        [0, 1, 2, 3, 4, 5, 6].map(|i| (&found["cluster_sizes"][i], &without["cluster_sizes"][i]))
    {
        // Large clusters have data everywhere.
        let (with_holes, all_data) = (count(&with["smallest_quota"]), count(&without["smallest_quota"]));
        match count(&with["cluster_size"]) > 65_536 {
            true => assert!(with_holes <= all_data),
            false => assert!(with_holes < all_data, "{with}"),
        }
        assert_eq!(without["real_proof"], Value::Null);
    }
    // To the byte, where the cache copies parts no larger than the blocks of the file system.
    for at in found["cluster_sizes"].as_array().unwrap() {
        let (size, read) = (count(&at["cluster_size"]), &at["real_proof"]);
        let copied = if at["extended_l2"] == true { size / 32 } else { size };
        if copied <= 4096 {
            assert_eq!(read["predicted"]["base_bytes_read"], read["found"]["base_bytes_read"], "{at}");
        }
    }
}

#[test]
fn a_qcow2_base_over_a_raw_one_is_seen_as_a_whole() {
    let folder = folder();
    folder.qemu_img(&["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "base.qcow2"]);
    let writes = ["write -q -P 9 40M 300k", "write -q -z 1M 2M", "write -q -P 8 100k 10k"];
    folder.qemu("qemu-io", &["-f", "qcow2", "-c", writes[0], "-c", writes[1], "-c", writes[2], "base.qcow2"]);
    let found = advice(&folder, &["--base", "base.qcow2"]);
    assert_eq!(found["base"]["format"], "qcow2");
    assert_eq!(count(&found["base"]["allocated_bytes"]), mapped(&folder, "base.qcow2", "qcow2"));
    assert_borne_out(&folder, "base.qcow2", "qcow2", &found);
    // As raw it is another disk, and a small one.
    let far = vmicache(&folder, &[&["quota", "--base", "base.qcow2", "-F", "raw"], &TRACES[..]].concat());
    assert_says(&folder.refused_command(far), &["boot-0.csv"]);
}

#[test]
fn the_margin_is_on_top_in_whole_clusters() {
    let folder = folder();
    for (margin, factor) in [("0", 1.0), ("10%", 1.1), ("2.5 %", 1.025)] {
        let found =
            report(&folder, &[&["quota", "--margin", margin, "--cluster-size", "4K"], &TRACES[..]].concat());
        let at = &found["cluster_sizes"][0];
        let (smallest, recommended) = (count(&at["smallest_quota"]), count(&at["recommended_quota"]));
        let wanted = smallest as f64 * factor;
        assert!((wanted..wanted + 4096.0).contains(&(recommended as f64)), "{margin}: {recommended}");
        assert_eq!(recommended % 4096, 0);
        assert_eq!(found["recommended"]["quota"], recommended);
    }
    let text = |margin| {
        let args = [&["quota", "--margin", margin, "--cluster-size", "4K"], &TRACES[..]].concat();
        String::from_utf8(run(&folder, &args).stdout).unwrap()
    };
    assert_says(&text("10%"), &["and 10 % for what other boots may read"]);
    assert_says(&text("0"), &["without a margin"]);
}

#[test]
fn each_boot_is_left_out_of_three_and_none_of_two() {
    let folder = folder();
    let at = |margin: &str, traces: &[&str]| {
        let args =
            [&["quota", "--margin", margin, "--cluster-size", "4K", "--base", "base.raw"], traces].concat();
        report(&folder, &args)["cluster_sizes"][0]["leave_one_out"].clone()
    };
    let tight = at("0", &TRACES);
    assert_eq!((&tight["covered"], &tight["boots"]), (&json!(0), &json!(3)));
    let wide = at("10%", &TRACES);
    assert_eq!((&wide["covered"], &wide["boots"]), (&json!(3), &json!(3)));
    let low = wide["interval"][0].as_f64().unwrap();
    assert!((low - 0.025f64.powf(1.0 / 3.0)).abs() < 1e-9 && wide["interval"][1] == 1.0, "{wide}");
    for (tight, wide) in [0, 1, 2].map(|i| (&tight["left_out"][i], &wide["left_out"][i])) {
        assert_eq!((&tight["covered"], &wide["covered"]), (&json!(false), &json!(true)));
        // What the others had not brought does not depend on the room.
        assert_eq!(tight["base_bytes_read_first"], wide["base_bytes_read_first"]);
        assert!(count(&tight["base_bytes_read_again"]) > 0 && count(&tight["base_bytes_read_first"]) > 0);
        assert_eq!(wide["base_bytes_read_again"], 0);
    }
    // As the commands find that do it one by one on real images: the second boot is left out.
    let left_out = &wide["left_out"][1];
    let quota = left_out["quota"].to_string();
    let warm = ["warm", "cache.qcow2", "--base", "base.raw", "--cluster-size", "4K"];
    report(&folder, &[&warm[..], &["--quota", &quota, "--trace", "boot-0.csv", "boot-2.csv"]].concat());
    let second = report(&folder, &[&warm[..], &["--trace", "boot-1.csv"]].concat());
    assert_eq!(second["base_bytes_read"], left_out["base_bytes_read_first"]);
    assert_eq!(second["complete"], true);
    let args = ["quota", "--cluster-size", "4K", "--base", "base.raw", "--margin", "10%"];
    let others = report(&folder, &[&args[..], &["--trace", "boot-0.csv", "boot-2.csv"]].concat());
    assert_eq!(others["recommended"]["quota"], left_out["quota"]);
    assert_eq!(others["cluster_sizes"][0]["leave_one_out"], Value::Null);
}

#[test]
fn what_the_text_says_of_base_boots_and_proof() {
    let folder = folder();
    let args = [&["quota", "--base", "base.raw", "--cluster-size", "4K"], &TRACES[..]].concat();
    let text = String::from_utf8(run(&folder, &args).stdout).unwrap();
    assert_says(
        &text,
        &["Base base.raw (raw): of the disk of 67.11 MB", "are holes", "of 3 (", "They agree to 1 %"],
    );
}

#[test]
fn what_contradicts_the_base_is_refused() {
    let folder = folder();
    let refused = |options: &[&str]| {
        folder.refused_command(vmicache(&folder, &[&["quota"], options, &TRACES].concat()))
    };
    assert_says(
        &refused(&["--base", "base.raw", "--disk-size", "32M"]),
        &["base.raw", "67108864", "--disk-size"],
    );
    assert_says(&refused(&["--base", "missing.raw"]), &["missing.raw"]);
    assert_says(&refused(&["--base", "base.raw", "-F", "qcow2"]), &["base.raw"]);
    assert_says(&refused(&["--base-format", "raw"]), &["--base"]);
    assert_says(&refused(&["--margin", "110%"]), &["not a margin", "from 0 to 100"]);
    assert_says(&refused(&["--margin", "-1"]), &["not a margin"]);
    folder.truncate("base.raw", MIB);
    assert_says(&refused(&["--base", "base.raw"]), &["boot-0.csv"]);
}

/// A small file can claim more holes than there is memory for: here all L1 entries point at one L2 table, whose entries
/// are data and nothing in turn.
#[test]
fn a_base_in_shreds_is_refused_in_bounded_memory() {
    let folder = folder();
    let disk = 1100 * MIB;
    folder.qemu_img(&["create", "-f", "qcow2", "-o", "cluster_size=512", "shreds.qcow2", "1100M"]);
    let image = fs::read(folder.path("shreds.qcow2")).unwrap();
    let table = (image.len() as u64).next_multiple_of(512);
    let l2: Vec<u8> = (0..64u64).flat_map(|i| (512 * (i % 2)).to_be_bytes()).collect();
    let l1: Vec<u8> = (0..disk / 512 / 64).flat_map(|_| table.to_be_bytes()).collect();
    folder.change("shreds.qcow2", table, &l2);
    folder.change("shreds.qcow2", u64::from_be_bytes(image[40..48].try_into().unwrap()), &l1);
    let mut rows = String::from("start_us,end_us,op,offset,length\n");
    for offset in (0..disk).step_by(2 * MIB as usize) {
        rows += &format!("0,1,read,{offset},512\n");
    }
    fs::write(folder.path("all.csv"), rows).unwrap();
    let args = ["quota", "--base", "shreds.qcow2", "--cluster-size", "64K", "--trace", "all.csv"];
    let refused = folder.refused_command(vmicache(&folder, &args));
    assert_says(&refused, &["shreds.qcow2", "alternate more than 1048576 times", "qemu-img convert"]);
}
