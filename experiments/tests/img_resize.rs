//! `vmicache img resize`, beside stock qemu-img: the same sizes, words and exit codes.

mod images;

use assert_cmd::Command;
use images::{Folder, assert_says};
use std::fs;
use vmicache_format::storage::{Access, HostFile};

const MIB: u64 = 1 << 20;

/// Runs both, each on an image of its own of the same name, and compares what they say and what becomes of the size.
fn assert_same(ours: &Folder, stock: &Folder, args: &[&str]) {
    let args = [&["resize"], args].concat();
    let said = |mut command: Command| {
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let mut qemu_img = Command::new("qemu-img");
    qemu_img.current_dir(stock.path("")).args(&args);
    assert_eq!(said(ours.as_qemu_img(&args)), said(qemu_img), "{args:?}");
    assert_eq!(size(ours), size(stock), "{args:?}");
}

fn size(folder: &Folder) -> String {
    let info = folder.qemu_img(&["info", "disk"]);
    info.lines().find(|line| line.starts_with("virtual size")).unwrap().to_owned()
}

#[test]
fn words_sizes_and_exit_codes_are_qemu_imgs() {
    for format in ["raw", "qcow2"] {
        let (ours, stock) = (Folder::new(), Folder::new());
        for folder in [&ours, &stock] {
            folder.qemu_img(&["create", "-q", "-f", format, "disk", "2M"]);
        }
        for args in [
            &["-f", format, "disk", "3M"][..],
            &["-f", format, "disk", "+1.5M"],
            &["disk", "-f", format, "4608K"],
            &["-q", "-f", format, "disk", "+512"],
            &["-f", format, "disk", "1M"],
            &["-f", format, "--shrink", "disk", "1M"],
            &["-f", format, "--shrink", "disk", "--", "-512K"],
            &["-f", format, "--shrink", "disk", "-1024"],
            &["-f", format, "--shrink", "disk", "-5M"],
            &["-f", format, "--shrink", "disk", "0"],
            &["-f", format, "--shrink", "--preallocation=full", "disk", "-512"],
            &["-f", format, "--preallocation=some", "disk", "+512"],
            &["-f", format, "--preallocation=falloc", "disk", "+64K"],
            &["-f", format, "disk", "8191P"],
        ] {
            // What qemu-img says of a disk that no file system can hold is the file system's affair.
            if !(args[2] == "disk" && args[3] == "8191P") {
                assert_same(&ours, &stock, args);
            }
        }
    }
}

#[test]
fn new_room_reads_as_zeroes_and_old_data_stays() {
    for cluster_size in ["512", "64k"] {
        for preallocation in ["off", "metadata", "falloc", "full"] {
            let folder = Folder::with_base(3 * MIB);
            folder.change("base.raw", 0, &vec![1; 3 * MIB as usize]);
            let options = format!("cluster_size={cluster_size}");
            let create = ["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o", &options];
            folder.run(&[&create[..], &["disk", "1000K"]].concat());
            folder.run(&["resize", "--preallocation", preallocation, "disk", "+3M"]);
            folder.qemu_img(&["check", "-q", "disk"]);
            let reads = ["-c", "read -P 1 0 1000k", "-c", "read -P 0 1000k 3M"];
            let said = folder.qemu("qemu-io", &[&["-f", "qcow2"], &reads[..], &["disk"]].concat());
            assert!(!said.contains("failed"), "{cluster_size} {preallocation}: {said}");
            folder.run(&["resize", "-q", "--shrink", "disk", "500K"]);
            folder.run(&["resize", "-q", "disk", "2M"]);
            folder.qemu_img(&["check", "-q", "disk"]);
            let reads = ["-c", "read -P 1 0 500k", "-c", "read -P 0 500k 1548k"];
            let said = folder.qemu("qemu-io", &[&["-f", "qcow2"], &reads[..], &["disk"]].concat());
            assert!(!said.contains("failed"), "{cluster_size} {preallocation}: {said}");
        }
    }
}

#[test]
fn an_external_data_file_goes_along() {
    let folder = Folder::new();
    folder.run(&["create", "-q", "-f", "qcow2", "-o", "data_file=disk.data,data_file_raw=on", "disk", "1M"]);
    folder.run(&["resize", "-q", "--preallocation=falloc", "disk", "3M"]);
    folder.qemu_img(&["check", "-q", "disk"]);
    assert_eq!(fs::metadata(folder.path("disk.data")).unwrap().len(), 3 * MIB);
    folder.qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 5 2M 64k", "disk"]);
    folder.qemu_img(&["compare", "-q", "-F", "raw", "disk", "disk.data"]);
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let folder = Folder::with_base(4 * MIB);
    let cache = ["create", "-q", "-f", "qcow2", "-o", "cache_img_quota=9M", "-b", "base.raw", "cache"];
    folder.run(&cache);
    folder.run(&["create", "-q", "-f", "qcow2", "disk", "1M"]);
    for (args, parts) in [
        (&["missing", "1M"][..], &["Could not open 'missing': No such file"][..]),
        (&["cache", "8M"], &["Could not open 'cache': this is a cache image"]),
        (&["-f", "qcow2", "base.raw", "8M"], &["Could not open 'base.raw'", "no qcow2 image"]),
        (&["disk", "1000"], &["--shrink"]),
        (&["disk", "1500001"], &["The new size must be a multiple of 512"]),
        (&["disk", "large"], &["Invalid image size", "large"]),
        (&["-f", "vmdk", "disk", "2M"], &["Unknown driver 'vmdk'"]),
        (&["disk"], &["SIZE"]),
        (&["--object", "secret,id=x", "disk", "2M"], &["not supported: --object"]),
    ] {
        assert_says(&folder.refused(&[&["resize"], args].concat()), parts);
    }
    let _user = HostFile::open(&folder.path("disk"), Access::Read).unwrap();
    assert_says(&folder.refused(&["resize", "disk", "2M"]), &["another process is using this image"]);
    assert_says(&folder.run(&["resize", "--help"]), &["Examples:\n  vmicache img resize"]);
}
