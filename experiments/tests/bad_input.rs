//! Images and commands that are wrong: each gets a message that says what and where, and nothing is left
//! half-written.

mod images;

use assert_cmd::Command;
use images::{CACHE_EXTENSION, Folder, assert_says, message_of, text};
use std::fs;
use std::path::Path;
use vmicache_format::cache::IdentityCheck;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, open_chain};
use vmicache_format::runtime::LocalRuntime;

const MIB: u64 = 1 << 20;
/// Arguments that make a cache image of `base.raw`, up to its options.
const CACHE: [&str; 7] = ["create", "-f", "qcow2", "-b", "base.raw", "cache", "-o"];

/// What goes wrong when the chain at `path` is opened, in words.
fn open(path: &Path, options: &ChainOptions) -> Option<String> {
    let runtime = LocalRuntime::new();
    let opened = runtime.block_on(open_chain(path, Format::Qcow2, options, runtime.clone()));
    opened.err().map(|error| format!("{:#}", anyhow::Error::from(error)))
}

/// How opening the chain at `path` is refused.
fn refusal(path: &Path) -> String {
    open(path, &ChainOptions { named_files: NamedFiles::Allow, ..ChainOptions::default() })
        .expect("the chain is opened")
}

/// A folder with `base.raw` and `cache`, a cache image of it.
fn cached(options: &str) -> Folder {
    let folder = Folder::with_base(16 * MIB);
    folder.run(&[&CACHE[..], &[options]].concat());
    assert!(
        open(
            &folder.path("cache"),
            &ChainOptions { named_files: NamedFiles::Allow, ..ChainOptions::default() }
        )
        .is_none()
    );
    folder
}

#[test]
fn a_truncated_image_is_refused() {
    let folder = cached("cache_img_quota=20M");
    let overlay = ["create", "-f", "qcow2", "-b", "cache", "-F", "qcow2", "overlay"];
    folder.run(&overlay);
    folder.truncate("cache", 3 * 65_536 - 512);
    for path in ["cache", "overlay"].map(|name| folder.path(name)) {
        assert_says(
            &refusal(&path),
            &["cache: L1 table at offset 196608", "the file ends at 196096: it is truncated"],
        );
    }
    folder.truncate("cache", 511);
    assert_says(
        &refusal(&folder.path("cache")),
        &["cache: header at offset 0", "the file ends after 511 bytes"],
    );
    assert_says(&folder.refused(&["info", "cache"]), &["cache: header at offset 0", "ends after 511 bytes"]);
    assert_says(
        &folder.refused(&overlay),
        &["overlay: ", "cache: header at offset 0", "ends after 511 bytes"],
    );
    folder.truncate("cache", 3);
    assert_says(
        &folder.refused(&["info", "-f", "qcow2", "cache"]),
        &["cache: header at offset 0: no qcow2 image"],
    );
}

#[test]
fn a_cache_extension_of_another_length_is_refused() {
    for length in [8, 24] {
        let folder = cached("cache_img_quota=20M");
        let (at, _) = folder.extension("cache", CACHE_EXTENSION).unwrap();
        folder.change("cache", at + 4, &u32::to_be_bytes(length));
        let parts = [
            &format!("cache: header extension at offset {at}"),
            "the cache image extension has",
            "must have 16",
        ];
        assert_says(&folder.refused(&["info", "cache"]), &parts);
        assert_says(&refusal(&folder.path("cache")), &parts);
    }
}

#[test]
fn a_header_extension_beyond_the_header_is_refused() {
    let folder = cached("cache_img_quota=20M,cluster_size=512");
    let (at, _) = folder.extension("cache", CACHE_EXTENSION).unwrap();
    folder.change("cache", at + 4, &u32::to_be_bytes(u32::MAX));
    let parts = [&format!("cache: header extension at offset {at}"), "beyond the header's cluster"];
    assert_says(&folder.refused(&["info", "cache"]), &parts);
    assert_says(&refusal(&folder.path("cache")), &parts);
}

#[test]
fn a_chain_that_backs_itself_is_refused() {
    let folder = Folder::new();
    for name in ["one", "two", "three"] {
        folder.qemu_img(&["create", "-q", "-f", "qcow2", name, "1M"]);
    }
    folder.qemu_img(&["rebase", "-u", "-b", "one", "-F", "qcow2", "one"]);
    folder.qemu_img(&["rebase", "-u", "-b", "three", "-F", "qcow2", "two"]);
    folder.qemu_img(&["rebase", "-u", "-b", "./two", "-F", "qcow2", "three"]);
    for name in ["one", "two", "three"] {
        assert_says(&refusal(&folder.path(name)), &["backs itself"]);
        assert_says(&folder.refused(&["info", "--backing-chain", name]), &["backs itself"]);
        assert_says(
            &folder.refused(&["create", "-f", "qcow2", "-b", name, "-F", "qcow2", "new"]),
            &["new: backing file: ", "backs itself"],
        );
        // Alone, each of them can be described.
        folder.run(&["info", name]);
    }
}

#[test]
fn an_image_is_not_made_over_what_it_is_backed_by() {
    let folder = cached("cache_img_quota=20M");
    for (backing, file) in [("cache", "cache"), ("./cache", "cache"), ("cache", "base.raw")] {
        let create = ["create", "-f", "qcow2", "-b", backing, "-F", "qcow2", file];
        assert_says(&folder.refused(&create), &[file, "would back itself"]);
    }
    for unsafely in [&["-u"][..], &[]] {
        let create = ["create", "-f", "qcow2", "-b", "cache", "-F", "qcow2", "./cache", "1M"];
        assert_says(&folder.refused(&[&create, unsafely].concat()), &["./cache: ", "would back itself"]);
    }
}

#[test]
fn a_missing_base_is_named() {
    let folder = cached("cache_img_quota=20M");
    folder.run(&["create", "-f", "qcow2", "-b", "cache", "-F", "qcow2", "overlay"]);
    fs::rename(folder.path("base.raw"), folder.path("moved.raw")).unwrap();
    let parts = ["cache", "base.raw", "No such file"];
    for name in ["cache", "overlay"] {
        assert_says(&refusal(&folder.path(name)), &parts);
        assert_says(&folder.refused(&["info", "--backing-chain", name]), &parts);
    }
    assert_says(&folder.refused(&[&CACHE[..], &["cache_img_quota=20M"]].concat()), &parts);
    for format in [&[][..], &["-F", "raw"]] {
        let create = ["create", "-f", "qcow2", "-b", "base.raw", "new", "1M"];
        assert_says(
            &folder.refused(&[&create, format].concat()),
            &["new: ", "Could not open 'base.raw': No such file"],
        );
    }
}

#[test]
fn another_base_is_refused() {
    let folder = cached("cache_img_quota=20M");
    let cache = folder.path("cache");
    folder.truncate("base.raw", 17 * MIB);
    assert_says(
        &refusal(&cache),
        &["cache: the cache was made for another base", "16777216 bytes", "17825792"],
    );
    folder.truncate("base.raw", 16 * MIB);
    assert!(
        open(&cache, &ChainOptions { named_files: NamedFiles::Allow, ..ChainOptions::default() }).is_none(),
        "the base is as it was"
    );
    folder.change("base.raw", 70, &[1]);
    assert_says(&refusal(&cache), &["cache: the cache was made for another base", "sampled blocks"]);
}

#[test]
fn another_version_of_the_base_is_refused() {
    let folder = cached_by_version();
    let stated = |version: &str| {
        let identity = IdentityCheck::Version(version.to_owned());
        let named_files = NamedFiles::Allow;
        open(&folder.path("cache"), &ChainOptions { identity, named_files, ..ChainOptions::default() })
    };
    assert!(stated("12.1").is_none());
    assert_says(&stated("12.2").unwrap(), &["cache: ", "another base", "\"12.1\"", "\"12.2\""]);
    assert_says(&refusal(&folder.path("cache")), &["cache: ", "base version \"12.1\"", "state the version"]);
}

fn cached_by_version() -> Folder {
    let folder = Folder::with_base(16 * MIB);
    folder.run(&[&CACHE[..], &["cache_img_quota=20M,base_version=12.1"]].concat());
    folder
}

#[test]
fn a_backing_file_that_may_be_two_things_is_not_guessed() {
    let folder = Folder::with_base(MIB);
    // A guest of a raw image writes a qcow2 header that is backed by a file of the host.
    folder.qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-b",
        "/etc/hostname",
        "-F",
        "raw",
        "guest",
        "1M",
    ]);
    let header = fs::read(folder.path("guest")).unwrap();
    folder.change("base.raw", 0, &header[..65_536]);
    let create = ["create", "-f", "qcow2", "-b", "base.raw", "disk"];
    assert_says(&folder.refused(&create), &["disk: ", "\"base.raw\"", "-F qcow2 or -F raw", "backing_fmt="]);
    folder.run(&[&create[..], &["-F", "raw"]].concat());
    assert_eq!(folder.info("disk")["backing-filename-format"], "raw");
    folder.run(&["info", "--backing-chain", "disk"]);
}

#[test]
fn a_backing_file_of_unstated_format_is_not_guessed() {
    let folder = cached("cache_img_quota=20M");
    let (at, format) = folder.extension("cache", 0xe279_2aca).unwrap();
    assert_eq!(format, b"raw");
    folder.change("cache", at, &[0, 0, 0, 9]);
    let parts = ["cache: the format of", "\"base.raw\" is not stated", "qemu-img rebase -u"];
    assert_says(&refusal(&folder.path("cache")), &parts);
    assert_says(&folder.refused(&["info", "--backing-chain", "cache"]), &parts);
    let over = ["create", "-f", "qcow2", "-b", "cache", "-F", "qcow2", "new"];
    assert_says(&folder.refused(&over), &parts);
}

#[test]
fn a_path_too_long_for_the_first_cluster_is_refused() {
    let folder = Folder::with_base(MIB);
    let long = format!("{}base.raw", "./".repeat(150));
    let create = ["create", "-f", "qcow2", "-b", &long, "cache", "-o"];
    assert_says(
        &folder.refused(&[&create[..], &["cache_img_quota=2M,cluster_size=512"]].concat()),
        &["cache: the backing file's name has 308 bytes", "512 bytes", "room for 296", "larger clusters"],
    );
    folder.run(&[&create[..], &["cache_img_quota=2M,cluster_size=4096"]].concat());

    let endless = "x/".repeat(600);
    let create = ["create", "-f", "qcow2", "-u", "-F", "raw", "-b", &endless, "disk", "1M"];
    assert_says(&folder.refused(&create), &["disk: the backing file's name has 1200 bytes", "1023"]);
}

#[test]
fn quotas_that_cannot_be_are_refused() {
    // The second one has an image in its way: it stays as it is.
    for folder in [Folder::with_base(16 * MIB), cached("cache_img_quota=20M")] {
        for (quota, part) in [
            ("0", "a quota of 0"),
            ("0K", "a quota of 0"),
            ("-1", "cannot be negative"),
            ("many", "not a size"),
            ("1.5", "not a whole number"),
            ("9E", "too large"),
            ("", "a value is missing"),
            ("262143", "262143 bytes is below the image's own metadata of 262144 bytes"),
        ] {
            let message = folder.refused(&[&CACHE[..], &[&format!("cache_img_quota={quota}")]].concat());
            assert_says(&message, &["cache: ", part]);
        }
        let message = folder.refused(&[&CACHE[..], &["cache_img_quota"]].concat());
        assert_says(&message, &["cache: -o cache_img_quota: a value is missing"]);
        let message = folder.refused(&[&CACHE[..], &["cache_img_quota=4K,cluster_size=512"]].concat());
        assert_says(&message, &["below the image's own metadata", "larger clusters need far smaller tables"]);
        folder.run(&[&CACHE[..], &["cache_img_quota=262144"]].concat());
    }
}

#[test]
fn options_that_cannot_be_are_refused() {
    let folder = Folder::with_base(MIB);
    fs::write(folder.path("x"), "what was there before").unwrap();
    for (args, parts) in [
        (
            &["-f", "qcow2", "-o", "quota=1M", "x", "1M"][..],
            &["x: -o quota=1M", "known are backing_file"][..],
        ),
        (&["-f", "qcow2", "-o", "preallocation=some", "x", "1M"], &["x: ", "preallocation mode 'some'"]),
        (
            &["-f", "raw", "-o", "preallocation=metadata", "x", "1M"],
            &["x: ", "preallocation mode 'metadata'"],
        ),
        (
            &["-f", "qcow2", "-o", "preallocation=full", "-b", "base.raw", "x"],
            &["x: Backing file and preallocation"],
        ),
        (
            &["-f", "qcow2", "-o", "lazy_refcounts=on,compat=v2", "x", "1M"],
            &["x: lazy refcounts", "version 2"],
        ),
        (&["-f", "qcow2", "-o", "refcount_bits=3", "x", "1M"], &["-o refcount_bits=3", "a power of two"]),
        (
            &["-f", "qcow2", "-o", "extended_l2=on,cluster_size=8k", "x", "1M"],
            &["x: extended L2 entries", "16384"],
        ),
        (&["-f", "qcow2", "-o", "data_file=x", "x", "1M"], &["x: the external data file would be the image"]),
        (&["-f", "qcow2", "-o", "data_file=no/where", "x", "1M"], &["external data file \"no/where\""]),
        (&["-f", "qcow2", "-o", "data_file_raw=on", "x", "1M"], &["data_file_raw requires data_file"]),
        (&["-f", "qcow2", "-o", "compression_type=lzma", "x", "1M"], &["zlib and zstd"]),
        (&["-f", "qcow2", "-o", "encryption=on", "x", "1M"], &["encryption is not supported"]),
        (&["-f", "qcow2", "-o", "encrypt.format=luks", "x", "1M"], &["encryption is not supported"]),
        (&["-f", "qcow2", "-o", "cluster_size=1000", "x", "1M"], &["-o cluster_size=1000", "from 512 to 2M"]),
        (&["-f", "qcow2", "-o", "cluster_size=4M", "x", "1M"], &["-o cluster_size=4M", "from 512 to 2M"]),
        (&["-f", "qcow2", "-o", "compat=1.2", "x", "1M"], &["-o compat=1.2", "1.1 (or v3)"]),
        (&["-f", "qcow2", "-o", "size=1M", "x", "2M"], &["x: the size is given twice"]),
        (&["-f", "qcow2", "-o", "size=1M,", "x"], &["an option is missing"]),
        (
            &["-f", "qcow2", "-o", "cluster_size=512", "x", "1T"],
            &["x: a disk of 1099511627776 bytes", "larger clusters"],
        ),
        (&["-f", "qcow2", "-o", "cache_img_quota=1M", "x", "1M"], &["x: a cache image needs a backing file"]),
        (&["-f", "qcow2", "-o", "base_version=1", "-b", "base.raw", "x"], &["cache_img_quota is missing"]),
        (
            &["-f", "qcow2", "-o", "cache_img_quota=1M", "-u", "-b", "y", "-F", "raw", "x", "1M"],
            &["base_version=TEXT"],
        ),
        (
            &["-f", "qcow2", "-F", "raw", "x", "1M"],
            &["x: the format of a backing file is given, but no backing file"],
        ),
        (
            &["-f", "qcow2", "-b", "base.raw", "-F", "vmdk", "x"],
            &["unknown image format \"vmdk\"", "raw and qcow2"],
        ),
        (
            &["-f", "qcow2", "-b", "base.raw", "-F", "qcow2", "x"],
            &["x: ", "base.raw: header at offset 0: no qcow2"],
        ),
        (&["-f", "qcow2", "-b", "nbd:localhost:1", "-F", "raw", "x"], &["\"nbd:localhost:1\" is no file"]),
        (&["-f", "qcow2", "-b", "", "x", "1M"], &["x: the name of the backing file is empty"]),
        (
            &["-f", "qcow2", "-b", "base.raw", "-o", "backing_file=y", "x"],
            &["the backing file is given twice"],
        ),
        (&["-f", "qcow2", "-u", "-b", "base.raw", "x"], &["x: the size of the disk is missing"]),
        (&["-f", "qcow2", "x"], &["x: the size of the disk is missing"]),
        (&["x"], &["x: the size of the disk is missing"]),
        (&["x", "1X"], &["'1X'", "not a size"]),
        (&["x", "-1"], &["'-1'", "cannot be negative"]),
        (&["x", "9E"], &["'9E'", "too large"]),
        (&["-b", "base.raw", "x"], &["x: raw images have no backing file"]),
        (
            &["-o", "cache_img_quota=1M", "x", "1M"],
            &["raw images have no option \"cache_img_quota\"", "-f qcow2"],
        ),
        (&["-f", "vmdk", "x", "1M"], &["unknown image format \"vmdk\"", "raw and qcow2"]),
        (&["--frobnicate", "x", "1M"], &["--frobnicate"]),
        (&[], &["no image file is named"]),
    ] {
        assert_says(&folder.refused(&[&["create"], args].concat()), parts);
    }
    for (args, part) in [
        (&["missing"][..], "missing: No such file"),
        (&["."], ".: not a regular file"),
        (&["-f", "vmdk", "x"], "formats are raw and qcow2"),
        (&["-f", "qcow2", "base.raw"], "base.raw: header at offset 0: no qcow2 image"),
        (&["--output=xml", "x"], "[possible values: human, json]"),
        (&[], "FILE"),
    ] {
        assert_says(&folder.refused(&[&["info"], args].concat()), &[part]);
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = Folder::with_base(MIB);
    for format in ["raw", "qcow2"] {
        for (file, part) in [
            (text(&folder.path("missing/disk")), "there is no folder"),
            (text(&folder.path("base.raw/disk")), "there is no folder"),
            // Not even root makes files there; why, the systems put differently.
            ("/proc/disk", ""),
            ("/sys/disk", ""),
        ] {
            assert_says(&folder.refused(&["create", "-f", format, file, "1M"]), &[file, part]);
        }
        assert_says(&folder.refused(&["create", "-f", format, ".", "1M"]), &[".: "]);
    }
}

/// A limit on the length of files stops writing as a full disk does, wherever the tests run.
#[test]
fn a_file_that_cannot_grow_leaves_nothing_behind() {
    let folder = cached("cache_img_quota=20M");
    for args in [
        "-f raw cache 1M",
        "-f raw new 1M",
        "-f qcow2 cache 1M",
        "-f qcow2 -b base.raw -o cache_img_quota=20M new",
    ] {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -f 64; exec \"$0\" img create {args}");
        shell.current_dir(folder.path("")).args([
            "-c",
            &script,
            text(assert_cmd::cargo::cargo_bin!("vmicache")),
        ]);
        assert_says(&folder.refused_command(shell), &["File too large"]);
    }
}

/// A file system of 16 KiB in a mount namespace of its own, where the tests may make one.
#[test]
fn a_full_disk_leaves_nothing_behind() {
    let folder = Folder::with_base(MIB);
    let script = "mount -t tmpfs -o size=16k none . && cd \"$PWD\" && echo old >disk || exit 77
        \"$0\" img create -f qcow2 disk 1M
        echo \"exit $?, files: $(ls -A), content: $(cat disk)\" >&2
        exit 2";
    let mut shell = Command::new("unshare");
    shell.current_dir(folder.path("")).args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    let output = shell.arg(assert_cmd::cargo::cargo_bin!("vmicache")).output().unwrap();
    if output.status.code() != Some(2) {
        // Namespaces are forbidden here; the limit on the length of files stands for the full disk.
        eprintln!("no file system can be made: {}", String::from_utf8_lossy(&output.stderr));
        return a_file_that_cannot_grow_leaves_nothing_behind();
    }
    let parts = ["disk: making the image at offset", "No space left", "exit 2, files: disk, content: old"];
    assert_says(&message_of(&output), &parts);
}
