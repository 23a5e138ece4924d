//! `vmicache img compare`, beside stock qemu-img: the same words and exit codes.

mod images;

use assert_cmd::Command;
use images::{Folder, assert_says};
use std::fs;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a command says and how it ends, once with stock qemu-img and once with this program under that name.
fn assert_same(folder: &Folder, args: &[&str]) -> i32 {
    let args = [&["compare"], args].concat();
    let ours = folder.as_qemu_img(&args).output().unwrap();
    let stock = Command::new("qemu-img").current_dir(folder.path("")).args(&args).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&stock.stdout), "{args:?}");
    assert_eq!(ours.status.code(), stock.status.code(), "{args:?}");
    assert_eq!(ours.stderr.is_empty(), stock.stderr.is_empty(), "{args:?}");
    ours.status.code().unwrap()
}

/// `base.raw`, a copy of it as qcow2, and copies that differ from it.
fn folder() -> Folder {
    let folder = Folder::with_base(8 * MIB);
    folder.change("base.raw", 3 * MIB, &[7; 100_000]);
    for (name, offset, byte) in [("first", 0, 1), ("middle", 3 * MIB + 70_001, 1), ("hole", 5 * MIB + 513, 1)]
    {
        fs::copy(folder.path("base.raw"), folder.path(name)).unwrap();
        folder.change(name, offset, &[byte]);
    }
    fs::copy(folder.path("base.raw"), folder.path("longer")).unwrap();
    folder.truncate("longer", 9 * MIB);
    fs::copy(folder.path("longer"), folder.path("longer-data")).unwrap();
    folder.change("longer-data", 9 * MIB - 1000, &[1]);
    fs::copy(folder.path("base.raw"), folder.path("filled")).unwrap();
    folder.change("filled", 6 * MIB, &vec![0; 64 * KIB as usize]);
    for name in ["base.raw", "first", "middle", "hole", "longer", "longer-data"] {
        folder.qemu_img(&["convert", "-O", "qcow2", name, &format!("{name}.qcow2")]);
    }
    folder.qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "overlay"]);
    folder
}

#[test]
fn differences_are_found_where_qemu_img_finds_them() {
    let folder = folder();
    let mut codes = vec![];
    for other in ["base.raw", "first", "middle", "hole", "longer", "longer-data", "filled"] {
        codes.push(assert_same(&folder, &["base.raw", other]));
        assert_eq!(assert_same(&folder, &[other, "base.raw"]), codes[codes.len() - 1]);
        if other != "filled" {
            let qcow2 = format!("{other}.qcow2");
            assert_same(&folder, &["base.raw", &qcow2]);
            assert_same(&folder, &[&qcow2, "base.raw.qcow2"]);
            assert_same(&folder, &["overlay", &qcow2]);
            assert_same(&folder, &["-q", &qcow2, "overlay"]);
        }
    }
    assert_eq!(codes, [0, 1, 1, 1, 0, 1, 0]);
}

#[test]
fn strictness_is_qemu_imgs() {
    let folder = folder();
    let codes: Vec<i32> = [
        ("base.raw", "base.raw"),
        ("base.raw", "longer"),
        ("base.raw", "first"),
        ("base.raw.qcow2", "base.raw.qcow2"),
        ("base.raw", "base.raw.qcow2"),
        ("first.qcow2", "base.raw.qcow2"),
        ("hole.qcow2", "base.raw.qcow2"),
        ("overlay", "base.raw"),
    ]
    .map(|(left, right)| assert_same(&folder, &["-s", left, right]))
    .to_vec();
    assert_eq!(codes[..3], [0, 1, 1]);
}

#[test]
fn failures_have_exit_codes_of_their_own() {
    let folder = folder();
    assert_eq!(assert_same(&folder, &["missing", "base.raw"]), 2);
    assert_eq!(assert_same(&folder, &["-f", "qcow2", "base.raw", "base.raw"]), 2);
    // Nothing is left of the data.
    folder.truncate("base.raw.qcow2", 5 * 65_536);
    let output = folder.img(&["compare", "base.raw", "base.raw.qcow2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert_says(&String::from_utf8(output.stderr).unwrap(), &["vmicache: Error while reading offset"]);
    let output = folder.img(&["compare", "base.raw"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn progress_begins_and_ends_as_qemu_imgs() {
    let folder = folder();
    let output = folder.img(&["compare", "-p", "base.raw", "overlay"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("    (0.00/100%)\r") && text.ends_with("Images are identical.\n\n"), "{text:?}");
    assert_says(&folder.run(&["compare", "--help"]), &["Examples:\n  vmicache img compare"]);
}
