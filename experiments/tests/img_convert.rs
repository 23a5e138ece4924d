//! `vmicache img convert`, beside stock qemu-img: the same disks, the same words, the same exit codes; and what goes
//! wrong leaves everything as it was.

mod images;

use assert_cmd::Command;
use images::{Folder, assert_says, message_of, text};
use serde_json::Value;
use std::fs;
use vmicache_format::storage::{Access, HostFile};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A folder with `source.raw`: data, zeroes that are written, holes, and runs of both of all lengths.
fn folder() -> Folder {
    let folder = Folder::with_base(9 * MIB + 1536);
    fs::rename(folder.path("base.raw"), folder.path("source.raw")).unwrap();
    for (offset, length, byte) in [
        (64 * KIB, 300 * KIB, 1),
        (MIB + 512, 512, 2),
        (MIB + 70 * KIB, 4 * KIB, 3),
        (2 * MIB, 128 * KIB, 0),
        (3 * MIB - 512, MIB + 1024, 4),
        (6 * MIB, 8 * KIB, 5),
        (6 * MIB + 12 * KIB, 4 * KIB, 6),
    ] {
        folder.change("source.raw", offset, &vec![byte; length as usize]);
    }
    // Not every cluster shrinks.
    let noise: Vec<u8> = (0..200 * KIB).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    folder.change("source.raw", 7 * MIB, &noise);
    folder
}

/// Checks that stock QEMU finds no fault in an image, and the same disk in two.
fn assert_alike(folder: &Folder, image: &str, reference: &str) {
    if folder.info(image)["format"] == "qcow2" {
        folder.qemu_img(&["check", "-q", image]);
    }
    folder.qemu_img(&["compare", "-q", image, reference]);
}

/// How much of an image is data, as stock QEMU sees it.
fn data_bytes(folder: &Folder, image: &str) -> u64 {
    let map: Value = serde_json::from_str(&folder.qemu_img(&["map", "--output=json", image])).unwrap();
    let extents = map.as_array().unwrap().iter();
    extents.filter(|extent| extent["data"] == true).map(|extent| extent["length"].as_u64().unwrap()).sum()
}

#[test]
fn disks_stay_the_same_in_every_kind_of_image() {
    let folder = folder();
    for (number, options) in [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=2M",
        "compat=0.10,cluster_size=4k",
        "extended_l2=on,cluster_size=128k",
        "refcount_bits=1",
        "refcount_bits=64,cluster_size=1k",
        "preallocation=metadata",
        "preallocation=full,cluster_size=4k",
        "data_file=outside.data,data_file_raw=on",
        "lazy_refcounts=on,compression_type=zstd",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{number}.qcow2");
        folder.run(&["convert", "-O", "qcow2", "-o", options, "source.raw", &name]);
        assert_alike(&folder, &name, "source.raw");
        folder.run(&["convert", "-q", &name, "back.raw"]);
        assert_alike(&folder, "back.raw", "source.raw");
        assert_eq!(fs::metadata(folder.path("back.raw")).unwrap().len(), 9 * MIB + 1536);
    }
    folder.run(&["compare", "-f", "raw", "outside.data", "source.raw"]);
}

#[test]
fn zeroes_are_left_out_as_qemu_img_leaves_them_out() {
    let folder = folder();
    for (format, cluster_size) in [("raw", ""), ("qcow2", "cluster_size=512"), ("qcow2", "cluster_size=64k")]
    {
        let mut sizes = vec![];
        for sparse in ["0", "512", "4k", "64k"] {
            let mut args = vec!["convert", "-O", format, "-S", sparse, "source.raw", "target"];
            if !cluster_size.is_empty() {
                args.extend(["-o", cluster_size]);
            }
            folder.run(&args);
            assert_alike(&folder, "target", "source.raw");
            let ours = data_bytes(&folder, "target");
            folder.qemu_img(&args);
            sizes.push((ours, data_bytes(&folder, "target")));
        }
        // Fully allocated, or what qemu-img allocates and nothing else; it looks less closely at the ends of runs.
        assert_eq!(sizes[0].0, sizes[0].1, "{format} {cluster_size}");
        assert!(sizes.iter().all(|(ours, stock)| ours <= stock), "{format} {cluster_size}: {sizes:?}");
        assert!(sizes[1].0 < 3 * MIB && sizes[1].0 >= 1700 * KIB, "{sizes:?}");
    }
}

#[test]
fn compressed_images_are_read_by_stock_qemu() {
    let folder = folder();
    for method in ["zlib", "zstd"] {
        for cluster_size in ["512", "4k", "64k", "2M"] {
            let name = format!("{method}-{cluster_size}");
            let options = format!("compression_type={method},cluster_size={cluster_size}");
            let convert = ["convert", "-c", "-O", "qcow2", "-o", &options, "-m", "3", "source.raw"];
            folder.run(&[&convert[..], &[&name]].concat());
            assert_alike(&folder, &name, "source.raw");
            let ours = fs::metadata(folder.path(&name)).unwrap().len();
            let check: Value =
                serde_json::from_str(&folder.qemu_img(&["check", "--output=json", &name])).unwrap();
            assert!(check["compressed-clusters"].as_u64() > Some(0), "{check}");
            folder.qemu_img(&[&convert[..], &["stock"]].concat());
            let stock = fs::metadata(folder.path("stock")).unwrap().len();
            // Small clusters may be compressed a little less, and tables lie elsewhere.
            assert!(ours <= stock + stock / 3 + 4096, "{name}: {ours} bytes, of qemu-img {stock}");
            // And those of stock QEMU here.
            folder.run(&["convert", "stock", "back.raw"]);
            assert_alike(&folder, "back.raw", "source.raw");
        }
    }
}

#[test]
fn several_sources_stand_in_a_row() {
    let folder = folder();
    folder.run(&["convert", "-O", "qcow2", "-o", "cluster_size=2k", "source.raw", "source.qcow2"]);
    fs::write(folder.path("odd.raw"), [7; 700]).unwrap();
    for options in [&["-O", "raw"][..], &["-O", "qcow2"], &["-O", "qcow2", "-c"], &["-O", "qcow2", "-S", "0"]]
    {
        let args = [&["convert"], options, &["odd.raw", "source.qcow2", "source.raw", "odd.raw"]].concat();
        folder.run(&[&args[..], &["ours"]].concat());
        folder.qemu_img(&[&args[..], &["stock"]].concat());
        assert_alike(&folder, "ours", "stock");
        assert_eq!(folder.info("ours")["virtual-size"], folder.info("stock")["virtual-size"]);
    }
}

#[test]
fn a_backing_file_of_the_target_keeps_what_it_has() {
    let folder = folder();
    folder.run(&["create", "-q", "-f", "qcow2", "-b", "source.raw", "-F", "raw", "overlay"]);
    let changes = ["-c", "write -P 9 100k 70k", "-c", "write -z 3M 256k", "-c", "write -P 8 9M 1k"];
    folder.qemu("qemu-io", &[&["-f", "qcow2"], &changes[..], &["overlay"]].concat());
    for cluster_size in ["512", "64k", "2M"] {
        let options = format!("cluster_size={cluster_size}");
        let args = ["convert", "-O", "qcow2", "-B", "source.raw", "-F", "raw", "-o", &options, "overlay"];
        folder.run(&[&args[..], &["ours"]].concat());
        assert_alike(&folder, "ours", "overlay");
        let info = folder.info("ours");
        assert_eq!(
            (&info["backing-filename"], &info["backing-filename-format"]),
            (&"source.raw".into(), &"raw".into())
        );
        folder.qemu_img(&[&args[..], &["stock"]].concat());
        let (ours, stock) = (own_bytes(&folder, "ours"), own_bytes(&folder, "stock"));
        assert!(
            ours <= stock + 4 * MIB && ours < 7 * MIB,
            "{cluster_size}: {ours} bytes, of qemu-img {stock}"
        );
    }
}

/// How much an overlay holds itself.
fn own_bytes(folder: &Folder, image: &str) -> u64 {
    let map: Value = serde_json::from_str(&folder.qemu_img(&["map", "--output=json", image])).unwrap();
    let own = map.as_array().unwrap().iter().filter(|extent| extent["depth"] == 0);
    own.map(|extent| extent["length"].as_u64().unwrap()).sum()
}

#[test]
fn an_existing_target_is_written_in_place() {
    let folder = folder();
    for format in ["raw", "qcow2"] {
        folder.qemu_img(&["create", "-q", "-f", format, "target", "12M"]);
        folder.qemu("qemu-io", &["-f", format, "-c", "write -P 0xee 0 12M", "target"]);
        folder.run(&["convert", "-n", "-O", format, "source.raw", "target"]);
        folder.qemu("qemu-io", &["-f", format, "-c", "read -P 0xee 9438720 3144192", "target"]);
        folder.qemu_img(&["resize", "-q", "-f", format, "--shrink", "target", "9438720"]);
        assert_alike(&folder, "target", "source.raw");
        let small = ["convert", "-n", "-O", format, "source.raw", "target"];
        folder.qemu_img(&["resize", "-q", "-f", format, "--shrink", "target", "5M"]);
        assert_says(&folder.refused(&small), &["output file is smaller than input file"]);
    }
    folder.qemu_img(&["create", "-q", "-f", "qcow2", "empty", "9438720"]);
    folder.run(&["convert", "-n", "--target-is-zero", "-O", "qcow2", "source.raw", "empty"]);
    assert_alike(&folder, "empty", "source.raw");
}

#[test]
fn a_chain_with_a_cache_is_flattened() {
    let folder = folder();
    let cache = ["create", "-q", "-f", "qcow2", "-o", "cache_img_quota=20M", "-b", "source.raw", "cache"];
    folder.run(&cache);
    folder.run(&["create", "-q", "-f", "qcow2", "-b", "cache", "-F", "qcow2", "overlay"]);
    folder.qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 9 5M 100k", "overlay"]);
    folder.run(&["convert", "-O", "qcow2", "overlay", "flat"]);
    assert_alike(&folder, "flat", "overlay");
    assert_eq!(folder.info("flat")["backing-filename"], Value::Null);
}

#[test]
fn progress_and_words_are_qemu_imgs() {
    let folder = folder();
    for args in [
        &["convert", "-p", "-O", "qcow2", "source.raw", "x"][..],
        &["convert", "-p", "-q", "source.raw", "x"],
        &["convert", "x"],
        &["convert", "-c", "source.raw", "x"],
        &["convert", "-m", "17", "source.raw", "x"],
        &["convert", "-S", "5", "source.raw", "x"],
        &["convert", "-S", "abc", "source.raw", "x"],
        &["convert", "-t", "fast", "source.raw", "x"],
        &["convert", "-T", "fast", "source.raw", "x"],
        &["convert", "--target-is-zero", "source.raw", "x"],
        &["convert", "-n", "-o", "size=1M", "source.raw", "x"],
        &["convert", "-B", "source.raw", "-F", "raw", "source.raw", "x"],
        &["convert", "-W", "-m", "4", "-t", "none", "-T", "none", "-U", "-O", "qcow2", "source.raw", "x"],
    ] {
        let ours = folder.as_qemu_img(args).output().unwrap();
        let stock = Command::new("qemu-img").current_dir(folder.path("")).args(args).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(said(&ours.stderr), said(&stock.stderr), "{args:?}");
        assert_eq!(ours.status.code(), stock.status.code(), "{args:?}");
        // Steps between the first and the last one depend on how much is read at once.
        let ends = |bytes: &[u8]| {
            let text = said(bytes);
            (text.chars().take(18).collect::<String>(), text.chars().rev().take(20).collect::<String>())
        };
        assert_eq!(ends(&ours.stdout), ends(&stock.stdout), "{args:?}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let folder = folder();
    let cache = ["create", "-q", "-f", "qcow2", "-o", "cache_img_quota=20M", "-b", "source.raw", "cache"];
    folder.run(&cache);
    folder.run(&["create", "-q", "-f", "qcow2", "-b", "cache", "-F", "qcow2", "overlay"]);
    folder.run(&["create", "-q", "-f", "qcow2", "disk", "10M"]);
    fs::write(folder.path("old"), "old").unwrap();
    for (args, parts) in [
        (&["missing", "old"][..], &["Could not open 'missing': No such file"][..]),
        (&["source.raw"], &["Must specify image file name"]),
        (&["-f", "qcow2", "source.raw", "old"], &["Could not open 'source.raw'", "no qcow2 image"]),
        (&["-O", "vmdk", "source.raw", "old"], &["Unknown file format 'vmdk'"]),
        (&["-f", "vmdk", "source.raw", "old"], &["Unknown driver 'vmdk'"]),
        (&["source.raw", "no/where"], &["no/where", "No such file"]),
        (&["source.raw", "source.raw"], &["the target is read itself"]),
        (&["-O", "qcow2", "overlay", "source.raw"], &["the target is read itself"]),
        (&["-O", "qcow2", "source.raw", "cache"], &["cache: ", "this is a cache image"]),
        (&["disk", "cache"], &["this is a cache image"]),
        (&["-n", "-O", "qcow2", "disk", "cache"], &["this is a cache image"]),
        (&["-n", "source.raw", "missing"], &["Could not open 'missing'"]),
        (&["-O", "qcow2", "-o", "cache_img_quota=9M", "disk", "new"], &["nothing is converted into one"]),
        (&["-O", "qcow2", "-B", "source.raw", "disk", "new"], &["requires explicit backing format"]),
        (&["-O", "qcow2", "-o", "data_file=source.raw", "source.raw", "new"], &["the target is read itself"]),
        (&["-l", "snapshot", "disk", "new"], &["not supported: -l"]),
        (&["--bitmaps", "disk", "new"], &["not supported: --bitmaps"]),
        (&["-r", "1M", "disk", "new"], &["not supported: -r"]),
        (&["--object", "secret,id=x", "disk", "new"], &["not supported: --object"]),
        (&["nbd:localhost:1", "new"], &["not supported: images over \"nbd\""]),
        (&["-O", "qcow2", "-o", "cluster_size=3k", "disk", "new"], &["cluster_size=3k"]),
    ] {
        assert_says(&folder.refused(&[&["convert"], args].concat()), parts);
    }
    let _user = HostFile::open(&folder.path("old"), Access::Write).unwrap();
    assert_says(
        &folder.refused(&["convert", "disk", "old"]),
        &["old: ", "another process is using this image"],
    );
    let _writer = HostFile::open(&folder.path("disk"), Access::Write).unwrap();
    assert_says(&folder.refused(&["convert", "disk", "new"]), &["another process is writing this image"]);
    folder.run(&["convert", "-U", "disk", "new"]);
}

/// A limit on the length of files stops writing as a full disk does, wherever the tests run.
#[test]
fn a_full_disk_leaves_the_old_target() {
    let folder = folder();
    fs::write(folder.path("old"), "old").unwrap();
    for args in ["-O qcow2", "-O raw", "-O qcow2 -c", "-O qcow2 -o preallocation=full"] {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -f 400; exec \"$0\" img convert {args} source.raw old");
        let program = text(assert_cmd::cargo::cargo_bin!("vmicache"));
        shell.current_dir(folder.path("")).args(["-c", &script, program]);
        assert_says(&folder.refused_command(shell), &["File too large"]);
    }
}

#[test]
fn what_cannot_be_read_is_salvaged_as_zeroes() {
    let folder = folder();
    folder.run(&["convert", "-O", "qcow2", "source.raw", "damaged"]);
    // The second data cluster of the file is gone: the first L2 entry that is in use points behind the end.
    let map: Value = serde_json::from_str(&folder.qemu_img(&["map", "--output=json", "damaged"])).unwrap();
    let last = map.as_array().unwrap().iter().filter_map(|extent| extent["offset"].as_u64()).max().unwrap();
    folder.truncate("damaged", last);
    let problem = folder.refused(&["convert", "damaged", "new"]);
    assert_says(&problem, &["error while reading at byte"]);
    let output = folder.img(&["convert", "--salvage", "damaged", "new"]).output().unwrap();
    assert!(output.status.success());
    assert_says(&message_of(&output), &["warning: error while reading offset"]);
    folder.qemu("qemu-io", &["-f", "raw", "-c", "read -P 1 64k 300k", "new"]);
}

#[test]
fn help_lists_examples() {
    let folder = Folder::new();
    assert_says(&folder.run(&["convert", "--help"]), &["Examples:\n  vmicache img convert -O qcow2"]);
    assert_says(&folder.run(&["convert", "-O", "qcow2", "-o", "help"]), &["compression_type=METHOD"]);
}
