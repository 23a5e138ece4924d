//! `vmicache img check` beside stock `qemu-img check`: exit codes, JSON and text.

mod images;

use images::Folder;
use serde_json::Value;
use std::fs;
use std::process::{Command, Output};
use vmicache_format::storage::{Access, HostFile};

/// A folder with `sound.qcow2`, which holds a MiB of data, and copies of it with single faults.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.qemu_img(&["create", "-q", "-f", "qcow2", "sound.qcow2", "4M"]);
    folder.qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 1M", "sound.qcow2"]);
    let sound = fs::read(folder.path("sound.qcow2")).unwrap();
    let word = |at: u64| u64::from_be_bytes(sound[at as usize..][..8].try_into().unwrap());
    let block = word(word(48));
    for (name, cluster, count) in [("leak", 1000, 1), ("low", 6, 0), ("high", 6, 2)] {
        let name = format!("{name}.qcow2");
        fs::copy(folder.path("sound.qcow2"), folder.path(&name)).unwrap();
        folder.truncate(&name, 2000 << 16);
        folder.change(&name, block + 2 * cluster, &[0, count]);
    }
    folder
}

/// What both say of a copy of an image: ours first.
fn both(folder: &Folder, name: &str, options: &[&str]) -> (Output, Output) {
    let copy = || fs::copy(folder.path(name), folder.path("copy")).unwrap();
    let args: Vec<&str> = ["check"].into_iter().chain(options.iter().copied()).chain(["copy"]).collect();
    copy();
    let ours = folder.img(&args).output().unwrap();
    copy();
    let stock = Command::new("qemu-img").current_dir(folder.path("")).args(&args).output().unwrap();
    (ours, stock)
}

#[test]
fn words_and_exit_codes_are_those_of_qemu_img() {
    let folder = folder();
    for name in ["sound.qcow2", "leak.qcow2", "low.qcow2", "high.qcow2"] {
        for options in [&[][..], &["-q"], &["--output=json"], &["-U", "-f", "qcow2"]] {
            let (ours, stock) = both(&folder, name, options);
            assert_eq!(ours, stock, "{name} {options:?}");
        }
        for options in [["-r", "all"], ["-r", "leaks"]] {
            let (ours, stock) = both(&folder, name, &options);
            // Where refcounts are too low, qemu-img gives up unless it may repair everything.
            let code = if stock.status.code() == Some(1) { Some(2) } else { stock.status.code() };
            assert_eq!(ours.status.code(), code, "{name} {options:?}: {ours:?}\n{stock:?}");
        }
    }
}

#[test]
fn a_repair_is_reported_as_qemu_img_reports_it() {
    let folder = folder();
    for (name, leaks, corruptions) in [("leak.qcow2", 1, 0), ("low.qcow2", 0, 1), ("sound.qcow2", 0, 0)] {
        let (ours, stock) = both(&folder, name, &["-r", "all", "--output", "json"]);
        let [ours, stock]: [Value; 2] = [ours, stock].map(|o| serde_json::from_slice(&o.stdout).unwrap());
        assert_eq!(ours["leaks-fixed"].as_u64().unwrap_or(0), leaks, "{name}: {ours}");
        assert_eq!(ours["corruptions-fixed"].as_u64().unwrap_or(0), corruptions, "{name}: {ours}");
        for key in ["leaks-fixed", "corruptions-fixed", "leaks", "corruptions", "total-clusters"] {
            assert_eq!(ours.get(key), stock.get(key), "{name}: {ours}\n{stock}");
        }
        fs::copy(folder.path(name), folder.path("copy")).unwrap();
        let text = folder.run(&["check", "-r", "all", "copy"]);
        assert_eq!(text.contains("were found and repaired"), leaks + corruptions > 0, "{text}");
        assert!(text.contains("No errors were found on the image.\n"), "{text}");
        folder.qemu_img(&["check", "copy"]);
    }
}

#[test]
fn what_cannot_be_checked_has_its_exit_code_and_is_left_alone() {
    let folder = folder();
    fs::write(folder.path("disk.raw"), [1; 70_000]).unwrap();
    let code = |args: &[&str]| {
        let output = folder.img(&[&["check"], args].concat()).output().unwrap();
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
        output.status.code()
    };
    assert_eq!(code(&["disk.raw"]), Some(63));
    assert_eq!(code(&["-f", "qcow2", "disk.raw"]), Some(1));
    assert_eq!(code(&["missing"]), Some(1));
    assert_eq!(code(&["-f", "vdi", "disk.raw"]), Some(1));
    assert_eq!(code(&["-U", "-r", "all", "leak.qcow2"]), Some(2));
    // Somebody writes it, and somebody reads it.
    let before = fs::read(folder.path("leak.qcow2")).unwrap();
    let writer = HostFile::open(&folder.path("leak.qcow2"), Access::Write).unwrap();
    assert_eq!(code(&["leak.qcow2"]), Some(1));
    assert_eq!(folder.img(&["check", "-U", "leak.qcow2"]).output().unwrap().status.code(), Some(3));
    drop(writer);
    let reader = HostFile::open(&folder.path("leak.qcow2"), Access::Read).unwrap();
    assert_eq!(code(&["-r", "leaks", "leak.qcow2"]), Some(1));
    assert_eq!(folder.img(&["check", "leak.qcow2"]).output().unwrap().status.code(), Some(3));
    drop(reader);
    assert!(fs::read(folder.path("leak.qcow2")).unwrap() == before);
}
