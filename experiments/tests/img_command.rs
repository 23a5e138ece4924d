//! `vmicache img`, as its users run it, and what stock QEMU says of it.

mod images;

use images::{CACHE_EXTENSION, Folder, assert_says};
use serde_json::{Value, json};
use std::fs;
use vmicache_format::storage::{Access, HostFile};

const CLUSTER_SIZES: [&str; 4] = ["512", "4096", "65536", "2097152"];
const MIB: u64 = 1 << 20;

#[test]
fn stock_tools_take_every_image_for_whole() {
    let folder = Folder::with_base(48 * MIB);
    for cluster_size in CLUSTER_SIZES {
        for compat in ["0.10", "1.1"] {
            for (cached, backed) in [(false, false), (false, true), (true, true)] {
                let name = format!("{cluster_size}-{compat}-{cached}-{backed}.qcow2");
                let mut options = format!("cluster_size={cluster_size},compat={compat}");
                if cached {
                    options += ",cache_img_quota=64M";
                }
                let mut args = vec!["create", "-q", "-f", "qcow2", "-o", &options];
                args.extend(if backed { ["-b", "base.raw"] } else { ["-o", "size=48M"] });
                args.push(&name);
                assert_eq!(folder.run(&args), "");
                assert_is_whole(&folder, &name, cluster_size, compat, backed);
                assert_eq!(folder.extension(&name, CACHE_EXTENSION).is_some(), cached);
            }
        }
    }
}

/// Stock QEMU finds no fault in the image, and can use it.
fn assert_is_whole(folder: &Folder, name: &str, cluster_size: &str, compat: &str, backed: bool) {
    let check: Value = serde_json::from_str(&folder.qemu_img(&["check", "--output=json", name])).unwrap();
    for fault in ["check-errors", "leaks", "corruptions"] {
        assert_eq!(check.get(fault).and_then(Value::as_u64).unwrap_or(0), 0, "{name}: {check}");
    }
    let info: Value = serde_json::from_str(&folder.qemu_img(&["info", "--output=json", name])).unwrap();
    assert_eq!(info["virtual-size"], 48 * MIB);
    assert_eq!(info["cluster-size"].to_string(), cluster_size);
    assert_eq!(info["format-specific"]["data"]["compat"], compat);
    let backing = if backed { json!("base.raw") } else { Value::Null };
    assert_eq!((&info["backing-filename"], &info["full-backing-filename"]), (&backing, &backing));
    assert_eq!(info["backing-filename-format"], if backed { json!("raw") } else { Value::Null });
    if backed {
        folder.qemu_img(&["compare", "-f", "qcow2", "-F", "raw", name, "base.raw"]);
    }
    folder.qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 7 1M 3M", "-c", "read -P 7 1M 3M", name]);
    folder.qemu_img(&["check", name]);
}

#[test]
fn the_cache_extension_has_the_bytes_it_must_and_stays() {
    for cluster_size in CLUSTER_SIZES {
        let folder = Folder::with_base(16 * MIB);
        fs::copy(folder.path("base.raw"), folder.path("other.raw")).unwrap();
        let options = format!("cache_img_quota=20M,cluster_size={cluster_size}");
        folder.run(&["create", "-f", "qcow2", "-o", &options, "-b", "base.raw", "cache.qcow2"]);
        let (_, made) = folder.extension("cache.qcow2", CACHE_EXTENSION).unwrap();
        let empty = fs::metadata(folder.path("cache.qcow2")).unwrap().len();
        assert_eq!(made, [empty.to_be_bytes(), (20 * MIB).to_be_bytes()].concat());

        folder.qemu_img(&["amend", "-o", "compat=0.10", "cache.qcow2"]);
        folder.qemu_img(&["amend", "-o", "compat=1.1", "cache.qcow2"]);
        folder.qemu_img(&["rebase", "-u", "-b", "other.raw", "-F", "raw", "cache.qcow2"]);
        let (_, kept) = folder.extension("cache.qcow2", CACHE_EXTENSION).unwrap();
        assert_eq!(kept, made);
        let info = folder.info("cache.qcow2");
        assert_eq!(info["backing-filename"], "other.raw");
        assert_eq!(info["format-specific"]["data"]["cache-image"]["quota"], 20 * MIB);
        assert_eq!(info["format-specific"]["data"]["cache-image"]["base"]["length"], 16 * MIB);
    }
}

#[test]
fn what_was_made_is_said_as_qemu_img_says_it() {
    let folder = Folder::with_base(MIB);
    fs::copy(folder.path("base.raw"), folder.path("b ,x.raw")).unwrap();
    for args in [
        &["-f", "qcow2", "x", "64M"][..],
        &["-f", "qcow2", "-o", "compat=v2,cluster_size=4k", "x", "1000"],
        &["-f", "qcow2", "-b", "base.raw", "-F", "raw", "x"],
        &["-f", "qcow2", "-o", "compat=1.1,size=3M", "-b", "./base.raw", "-F", "raw", "x"],
        &["-f", "qcow2", "-o", "backing_file=b ,,x.raw,backing_fmt=raw", "x"],
        &["-f", "qcow2", "-u", "-b", "missing", "-F", "qcow2", "x", "1.5M"],
        &["x", "1000"],
        &["-f", "raw", "-o", "size=1G", "x"],
        &["-f", "raw", "-o", "preallocation=falloc", "x", "1M"],
        &["-f", "qcow2", "-o", "preallocation=metadata,extended_l2=on", "x", "1M"],
        &[
            "-f",
            "qcow2",
            "-o",
            "data_file=x,,data,data_file_raw=on,lazy_refcounts=on,refcount_bits=64",
            "x",
            "1M",
        ],
        &["-f", "qcow2", "-o", "compression_type=zstd,compat=v3,preallocation=off", "x", "1M"],
    ] {
        let args = [&["create"], args].concat();
        let stock = folder.qemu_img(&args);
        let stock_info = folder.qemu_img(&["info", "x"]);
        assert_eq!(folder.run(&args), stock);
        let ours = folder.qemu_img(&["info", "x"]);
        let size = |info: &str| info.lines().find(|line| line.starts_with("virtual size")).map(str::to_owned);
        assert_eq!(size(&ours), size(&stock_info));
    }
    let made = folder.run(&[
        "create",
        "-f",
        "qcow2",
        "-o",
        "cache_img_quota=2M,base_version=a,,b",
        "-b",
        "base.raw",
        "x",
    ]);
    assert!(made.ends_with(
        "backing_fmt=raw lazy_refcounts=off refcount_bits=16 cache_img_quota=2097152 base_version=a,,b\n"
    ));
}

/// What stock qemu-img makes, described by both.
#[test]
fn info_equals_qemu_imgs_byte_for_byte() {
    let folder = Folder::with_base(3 * MIB + 512);
    fs::create_dir(folder.path("sub")).unwrap();
    fs::copy(folder.path("base.raw"), folder.path("bé😀.raw")).unwrap();
    for (name, args) in [
        ("plain", &["40G"][..]),
        ("old", &["-o", "compat=0.10,cluster_size=512", "1G"]),
        ("overlay", &["-b", "base.raw", "-F", "raw"]),
        ("unicode", &["-b", "bé😀.raw", "-F", "raw"]),
        ("elsewhere", &["-u", "-b", "nbd:localhost:10809", "-F", "raw", "1M"]),
        ("dangling", &["-u", "-b", "missing", "-F", "qcow2", "1M"]),
        ("sub/overlay", &["-b", "../overlay", "-F", "qcow2"]),
        ("subclusters", &["-o", "extended_l2=on", "1M"]),
        ("zstd", &["-o", "compression_type=zstd", "1M"]),
        ("narrow", &["-o", "refcount_bits=1,cluster_size=2M", "5T"]),
        ("wide", &["-o", "refcount_bits=64,lazy_refcounts=on", "1000K"]),
        ("outside", &["-o", "data_file=outside.data,data_file_raw=on", "1M"]),
        ("full", &["-o", "preallocation=full", "3M"]),
        (
            "aes",
            &["--object", "secret,id=key,data=abc", "-o", "encrypt.format=aes,encrypt.key-secret=key", "1M"],
        ),
    ] {
        folder.qemu_img(&[&["create", "-q", "-f", "qcow2", name], args].concat());
        assert_described_alike(&folder, &["-U", name]);
    }
    folder.qemu("qemu-io", &["-c", "write 0 100k", "wide"]);
    // The incompatible features: dirty, then corrupt.
    folder.change("wide", 79, &[1]);
    assert_described_alike(&folder, &["wide"]);
    folder.change("plain", 79, &[2]);
    assert_described_alike(&folder, &["plain"]);
    assert_described_alike(&folder, &["base.raw"]);
    assert_described_alike(&folder, &["-f", "raw", "overlay"]);
    assert_described_alike(&folder, &["--backing-chain", "sub/overlay"]);
    assert_described_alike(&folder, &["--backing-chain", "base.raw"]);
    for length in [0, 1, 68_700, 1_023_488] {
        folder.truncate("base.raw", length);
        assert_described_alike(&folder, &["base.raw"]);
    }
}

fn assert_described_alike(folder: &Folder, args: &[&str]) {
    // What a file system allocates, it may decide late.
    fs::File::open(folder.path(args[args.len() - 1])).unwrap().sync_all().unwrap();
    for output in ["--output=human", "--output=json"] {
        let args = [&["info", output], args].concat();
        assert_eq!(folder.run(&args), folder.qemu_img(&args), "{args:?}");
    }
}

#[test]
fn what_cannot_be_opened_is_described() {
    let folder = Folder::new();
    folder.qemu_img(&["create", "-q", "-f", "qcow2", "disk", "1M"]);
    folder.qemu_img(&["snapshot", "-c", "first", "disk"]);
    assert_eq!(folder.info("disk")["format-specific"]["data"]["snapshot-count"], 1);

    folder.change("disk", 74, &[1]);
    assert_says(&folder.run(&["info", "disk"]), &["unknown feature: incompatible feature bit 40\n"]);
    folder.change("disk", 79, &[1]);
    assert_eq!(folder.info("disk")["dirty-flag"], true);

    let luks = ["-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10", "luks", "1M"];
    let key = ["create", "-q", "-f", "qcow2", "--object", "secret,id=key,data=abc"];
    folder.qemu_img(&[&key[..], &luks].concat());
    let info = folder.info("luks");
    assert_eq!(
        (&info["encrypted"], &info["format-specific"]["data"]["encrypt"]["format"]),
        (&json!(true), &json!("luks"))
    );
}

#[test]
fn info_counts_what_a_cache_holds() {
    let folder = Folder::with_base(8 * MIB);
    folder.run(&[
        "create",
        "-f",
        "qcow2",
        "-o",
        "cache_img_quota=5M,cluster_size=4k",
        "-b",
        "base.raw",
        "cache",
    ]);
    let empty = folder.info("cache")["format-specific"]["data"]["cache-image"].clone();
    let file_bytes = fs::metadata(folder.path("cache")).unwrap().len();
    assert_eq!(empty["file-bytes"], file_bytes);
    assert_eq!((&empty["bytes-in-use"], &empty["data-bytes"]), (&json!(file_bytes), &json!(0)));
    assert_eq!(empty["room-left"], 5 * MIB - file_bytes);
    assert_eq!(empty["base"]["length"], 8 * MIB);

    // 256 clusters of data, and the one L2 table that a disk of this size needs for them.
    folder.qemu("qemu-io", &["-c", "write 2M 1M", "cache"]);
    let info = folder.info("cache");
    let cache = &info["format-specific"]["data"]["cache-image"];
    assert_eq!(
        (&cache["data-bytes"], &cache["bytes-in-use"]),
        (&json!(MIB), &json!(file_bytes + MIB + 4096))
    );
    assert_eq!(cache["room-left"], 4 * MIB - file_bytes - 4096);
    let text = folder.run(&["info", "cache"]);
    assert_says(
        &text,
        &[
            "    cache image:\n        quota: 5 MiB (5242880 bytes)\n",
            "        guest data: 1 MiB (1048576 bytes)\n",
        ],
    );
}

#[test]
fn info_says_when_it_cannot_count() {
    let folder = Folder::with_base(8 * MIB);
    folder.run(&["create", "-f", "qcow2", "-o", "cache_img_quota=9M", "-b", "base.raw", "cache"]);
    folder.qemu("qemu-io", &["-c", "write 0 1M", "cache"]);
    folder.truncate("cache", 600_000);
    assert_says(&folder.run(&["info", "cache"]), &["        in use: unknown (cache: data cluster at offset"]);
    folder.truncate("cache", 70_000);
    let info = folder.info("cache");
    let cache = &info["format-specific"]["data"]["cache-image"];
    assert_eq!((&cache["bytes-in-use"], &cache["quota"]), (&Value::Null, &json!(9 * MIB)));
    assert_says(cache["usage-error"].as_str().unwrap(), &["L1 table at offset", "truncated"]);
}

#[test]
fn an_operator_may_name_the_base() {
    let folder = Folder::new();
    let options = "cache_img_quota=2M,base_version=debian 12, 3rd build";
    let named = options.replace(", ", ",, ");
    folder.run(&["create", "-f", "qcow2", "-u", "-o", &named, "-b", "later.raw", "-F", "raw", "cache", "1M"]);
    let info = folder.info("cache");
    assert_eq!(info["format-specific"]["data"]["cache-image"]["base"]["version"], "debian 12, 3rd build");
    assert_says(&folder.run(&["info", "cache"]), &["        base: version \"debian 12, 3rd build\"\n"]);
}

#[test]
fn info_needs_no_lock_and_create_respects_one() {
    let folder = Folder::with_base(MIB);
    let create = ["create", "-f", "qcow2", "-o", "cache_img_quota=2M", "-b", "base.raw", "cache"];
    folder.run(&create);
    let _filler = HostFile::open(&folder.path("cache"), Access::Write).unwrap();
    assert_eq!(folder.info("cache")["format-specific"]["data"]["cache-image"]["data-bytes"], 0);
    folder.run(&["info", "--backing-chain", "cache"]);
    // An overlay above a cache that is being filled is the normal case.
    folder.run(&["create", "-f", "qcow2", "-b", "cache", "-F", "qcow2", "overlay"]);
    assert_says(&folder.refused(&create), &["cache: another process is using this image"]);
    assert_says(&folder.refused(&["create", "cache", "1M"]), &["cache: another process is using this image"]);
}

#[test]
fn a_link_keeps_leading_to_the_image() {
    let folder = Folder::new();
    fs::create_dir(folder.path("large")).unwrap();
    fs::write(folder.path("large/disk"), "old").unwrap();
    std::os::unix::fs::symlink("large/disk", folder.path("disk")).unwrap();
    for format in ["raw", "qcow2"] {
        folder.run(&["create", "-f", format, "disk", "1M"]);
        assert!(folder.path("disk").is_symlink());
        assert_eq!(folder.info("large/disk")["format"], format);
    }
}

#[test]
fn help_lists_options_and_examples() {
    let folder = Folder::new();
    for ask in ["help", "?", "size=1M,help"] {
        let text = folder.run(&["create", "-f", "qcow2", "-o", ask]);
        assert_says(&text, &["cache_img_quota=SIZE", "backing_fmt=FMT", "base_version=TEXT"]);
    }
    assert_eq!(folder.run(&["create", "-o", "help"]).lines().count(), 3);
    for command in [&["--help"][..], &["create", "--help"], &["info", "--help"]] {
        assert_says(&folder.run(command), &["Examples:\n  vmicache img "]);
    }
}
