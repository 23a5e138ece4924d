//! `vmicache img map`, beside stock qemu-img: byte for byte.

mod images;

use assert_cmd::Command;
use images::{Folder, assert_says};

const MIB: u64 = 1 << 20;

/// Compares what both print and how they end, as text and as JSON.
fn assert_same(folder: &Folder, args: &[&str]) {
    for output in ["--output=human", "--output=json"] {
        let args = [&["map", output], args].concat();
        let ours = folder.as_qemu_img(&args).output().unwrap();
        let stock = Command::new("qemu-img").current_dir(folder.path("")).args(&args).output().unwrap();
        assert_eq!(ours.status.code(), stock.status.code(), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&stock.stdout), "{args:?}");
        if args.iter().all(|arg| *arg != "missing") {
            assert_eq!(
                String::from_utf8_lossy(&ours.stderr),
                String::from_utf8_lossy(&stock.stderr),
                "{args:?}"
            );
        }
    }
}

#[test]
fn every_kind_of_cluster_is_shown_as_qemu_img_shows_it() {
    let folder = Folder::with_base(8 * MIB);
    for (name, options) in [
        ("plain", "cluster_size=64k"),
        ("small", "cluster_size=512"),
        ("large", "cluster_size=2M"),
        ("old", "compat=0.10,cluster_size=4k"),
        ("zstd", "compression_type=zstd"),
        ("outside", "data_file=outside.data"),
    ] {
        let overlay = format!("{name}-overlay");
        folder.qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, name, "6M"]);
        let mut changes = vec!["write -P 1 0 200k", "write -P 2 1M 64k", "write -P 3 3M 1M"];
        if name != "old" && name != "outside" {
            changes.extend([
                "write -z 3200k 256k",
                "write -z -u 4M 128k",
                "write -c -P 4 5M 4M".trim_end_matches("4M"),
            ]);
            changes.pop();
        }
        let commands: Vec<&str> = changes.iter().flat_map(|change| ["-c", *change]).collect();
        folder.qemu("qemu-io", &[&["-f", "qcow2"], &commands[..], &[name]].concat());
        folder.qemu_img(&["create", "-q", "-f", "qcow2", "-b", name, "-F", "qcow2", &overlay, "8M"]);
        folder.qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 5 100k 1M", "-c", "write 7M 64k", &overlay]);
        for image in [name, &overlay] {
            assert_same(&folder, &[image]);
            assert_same(&folder, &["-f", "qcow2", "--start-offset=100k", "--max-length=3M", image]);
            assert_same(&folder, &["-s", "1000", "-l", "5", image]);
        }
    }
    folder.qemu_img(&["convert", "-c", "-O", "qcow2", "plain", "compressed"]);
    assert_same(&folder, &["compressed"]);
    folder.qemu_img(&["create", "-q", "-f", "qcow2", "-b", "compressed", "-F", "qcow2", "over-compressed"]);
    assert_same(&folder, &["over-compressed"]);
}

#[test]
fn raw_images_and_chains_over_them_are_shown() {
    let folder = Folder::with_base(4 * MIB + 512);
    folder.change("base.raw", 2 * MIB, &[1; 70_000]);
    assert_same(&folder, &["base.raw"]);
    assert_same(&folder, &["-f", "raw", "-U", "base.raw"]);
    folder.qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle"]);
    folder.qemu_img(&["create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top", "9M"]);
    folder.qemu("qemu-io", &["-f", "qcow2", "-c", "write -z 2M 64k", "-c", "write 3M 64k", "middle"]);
    folder.qemu("qemu-io", &["-f", "qcow2", "-c", "write 3100k 64k", "-c", "write -z 8M 64k", "top"]);
    assert_same(&folder, &["middle"]);
    assert_same(&folder, &["top"]);
    folder.truncate("base.raw", 0);
    assert_same(&folder, &["base.raw"]);
    assert_same(&folder, &["--start-offset=100M", "top"]);
}

/// More extents than are asked for at once.
#[test]
fn long_maps_have_no_seams() {
    let folder = Folder::new();
    folder.qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "disk", "4M"]);
    let writes: Vec<String> = (0..2500).map(|at| format!("write {}k 512", at + at / 1000)).collect();
    for writes in writes.chunks(500) {
        let commands: Vec<&str> = writes.iter().flat_map(|write| ["-c", write.as_str()]).collect();
        folder.qemu("qemu-io", &[&["-f", "qcow2"], &commands[..], &["disk"]].concat());
    }
    assert_same(&folder, &["disk"]);
}

#[test]
fn what_is_wrong_is_said() {
    let folder = Folder::with_base(MIB);
    assert_same(&folder, &["missing"]);
    assert_same(&folder, &["--start-offset=-1", "base.raw"]);
    assert_says(&folder.refused(&["map", "-f", "vmdk", "base.raw"]), &["Unknown driver 'vmdk'"]);
    assert_says(&folder.refused(&["map"]), &["FILE"]);
    assert_says(&folder.run(&["map", "--help"]), &["Examples:\n  vmicache img map"]);
}
