//! `vmicache serve` with the NBD clients that people have.

mod servers;

use servers::{Serving, run, vmicache};
use std::fs;
use std::path::Path;

/// A base of 16 MiB, half of it data, under a cache of 512-byte clusters and an overlay.
fn chain(folder: &Path) {
    let data: Vec<u8> = (0..8_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(folder.join("base.raw"), data).unwrap();
    fs::OpenOptions::new().write(true).open(folder.join("base.raw")).unwrap().set_len(16 << 20).unwrap();
    let options = "cache_img_quota=12M,cluster_size=512,backing_file=base.raw,backing_fmt=raw";
    vmicache(folder, &["img", "create", "-f", "qcow2", "-o", options, "cache.qcow2"]);
    vmicache(folder, &["img", "create", "-f", "qcow2", "-b", "cache.qcow2", "-F", "qcow2", "overlay.qcow2"]);
}

#[test]
fn nbdcopy_reads_the_base_through_a_cache_which_then_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    let server = Serving::start(folder.path(), &["cache.qcow2"]);
    run(folder.path(), "nbdcopy", &[&server.uri, "copy.raw"]);
    assert!(
        fs::read(folder.path().join("copy.raw")).unwrap()
            == fs::read(folder.path().join("base.raw")).unwrap()
    );
    let status = server.status();
    let base = &status["exports"][0]["layers"][1];
    assert_eq!(base["read_bytes"], 8 << 20);
    let cache = &status["exports"][0]["layers"][0]["cache"];
    assert_eq!((&cache["cluster_size"], &cache["extended_l2"]), (&512.into(), &false.into()));
    let first = server.stop();
    assert!(first.contains("cache.qcow2"), "{first}");
    run(folder.path(), "qemu-img", &["check", "cache.qcow2"]);

    // Warm: nothing comes from the base.
    let server = Serving::start(folder.path(), &["cache.qcow2"]);
    run(folder.path(), "nbdcopy", &[&server.uri, "copy.raw"]);
    assert!(
        fs::read(folder.path().join("copy.raw")).unwrap()
            == fs::read(folder.path().join("base.raw")).unwrap()
    );
    assert_eq!(server.status()["exports"][0]["layers"][1]["read_bytes"], 0);
    server.stop();
}

#[test]
fn a_cache_with_subclusters_is_filled_by_subclusters_and_its_status_says_so() {
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    let warm = [
        "warm",
        "parts.qcow2",
        "--base",
        "base.raw",
        "--quota",
        "12M",
        "--extended-l2",
        "--trace",
        "boot.csv",
    ];
    fs::write(folder.path().join("boot.csv"), "start_us,end_us,op,offset,length\n0,1,read,0,512\n").unwrap();
    vmicache(folder.path(), &warm);
    let server = Serving::start(folder.path(), &["parts.qcow2"]);
    run(folder.path(), "qemu-io", &["-r", "-f", "raw", "-c", "read 1M 512", &server.uri]);
    let status = server.status();
    let layers = &status["exports"][0]["layers"];
    let cache = &layers[0]["cache"];
    assert_eq!((&cache["cluster_size"], &cache["extended_l2"]), (&65_536.into(), &true.into()));
    let text = vmicache(folder.path(), &["status", "parts.qcow2.sock.status"]);
    assert!(text.contains("parts.qcow2: clusters of 64 KiB with subclusters of 2 KiB; "), "{text}");
    server.stop();
    let info = vmicache(folder.path(), &["cache", "info", "--json", "parts.qcow2"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    // Of the first cluster one subcluster is from before; qemu-io may look at the first sectors by itself.
    let cached = info["cached_bytes"].as_u64().unwrap();
    assert!(cached.is_multiple_of(2048) && (4096..65_536).contains(&cached), "{info}");
    assert_eq!(info["data_bytes"], 2 * 65_536);
    run(folder.path(), "qemu-img", &["check", "parts.qcow2"]);
    run(folder.path(), "qemu-img", &["compare", "-f", "qcow2", "-F", "raw", "parts.qcow2", "base.raw"]);
}

#[test]
fn an_overlay_is_written_over_several_connections_and_stock_tools_read_it_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    let new: Vec<u8> = (0..16_u32 << 20).map(|i| (i.wrapping_mul(40_503) >> 7) as u8).collect();
    fs::write(folder.path().join("new.raw"), &new).unwrap();
    let server = Serving::start(folder.path(), &["overlay.qcow2", "--writable"]);
    run(folder.path(), "nbdcopy", &["--connections=4", "--flush", "new.raw", &server.uri]);
    let qemu =
        ["-c", "read -v 0 512", "-c", "write -P 7 1M 64k", "-c", "write -z 2M 1M", "-c", "discard 5M 1M"];
    run(folder.path(), "qemu-io", &[&["-f", "raw", &server.uri], &qemu[..]].concat());
    // While the cache is being filled, stock tools are kept out.
    let held = std::process::Command::new("qemu-io")
        .args(["-c", "read 0 512", "cache.qcow2"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(!held.status.success(), "qemu-io could open a cache that is being filled");
    server.stop();
    run(folder.path(), "qemu-img", &["check", "overlay.qcow2"]);
    run(folder.path(), "qemu-img", &["check", "cache.qcow2"]);
    run(folder.path(), "qemu-io", &["-c", "read -P 7 1M 64k", "-c", "read -P 0 2M 1M", "overlay.qcow2"]);
}

#[test]
fn a_second_server_reads_the_cache_that_the_first_one_fills() {
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    let filler = Serving::start(folder.path(), &["cache.qcow2"]);
    let reader = Serving::start(folder.path(), &["cache.qcow2", "--socket", "second"]);
    assert!(reader.greeting.contains("only read"), "{}", reader.greeting);
    let keeps_nothing = Serving::start(folder.path(), &["cache.qcow2", "--socket", "third", "--no-fill"]);
    for server in [&filler, &reader, &keeps_nothing, &filler] {
        run(folder.path(), "nbdcopy", &[&server.uri, "copy.raw"]);
        let copy = fs::read(folder.path().join("copy.raw")).unwrap();
        assert!(copy == fs::read(folder.path().join("base.raw")).unwrap());
    }
    reader.stop();
    keeps_nothing.stop();
    filler.stop();
    run(folder.path(), "qemu-img", &["check", "cache.qcow2"]);
}

#[test]
fn a_recording_holds_what_was_asked_and_how_long_it_was_held_back() {
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    let server =
        Serving::start(folder.path(), &["base.raw", "--record", "boot.csv.gz", "--delay-read", "30"]);
    run(folder.path(), "qemu-io", &["-r", "-f", "raw", "-c", "read 4k 8k", "-c", "read 1M 512", &server.uri]);
    server.stop();
    let info = vmicache(folder.path(), &["trace", "info", "--json", "boot.csv.gz"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let trace = vmicache_format::trace::Trace::open(&folder.path().join("boot.csv.gz")).unwrap();
    let asked: Vec<_> = trace.reads().map(|read| (read.offset, read.length)).collect();
    // qemu-io may look at the first sector by itself.
    assert!(asked.ends_with(&[(4096, 8192), (1 << 20, 512)]), "{asked:?} {info}");
    assert!(trace.reads().all(|read| read.latency().as_millis() >= 30));
}

#[test]
fn what_cannot_be_served_is_said() {
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    for (arguments, expected) in [
        (&["none.qcow2"][..], "none.qcow2"),
        (&["cache.qcow2", "--writable"], "this is a cache image"),
        (&["base.raw", "--listen", "nowhere"], "a port, or an address and a port"),
        (&["base.raw", "--delay-read", "-1"], "--delay-read"),
        (&["base.raw", "--socket", "no/such/folder/s"], "cannot listen at no/such/folder/s"),
        (&["base.raw", "--record", "no/such/folder/t.csv"], "cannot record to"),
    ] {
        let output = servers::command(folder.path()).arg("serve").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    // A file that is no socket is left alone; a running server, too.
    let output =
        servers::command(folder.path()).args(["serve", "base.raw", "--socket", "cache.qcow2"]).output();
    assert_eq!(output.unwrap().status.code(), Some(2));
    let server = Serving::start(folder.path(), &["base.raw"]);
    let output = servers::command(folder.path()).args(["serve", "base.raw"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("a server is listening there"));
    run(folder.path(), "nbdinfo", &[&server.uri]);
    server.stop();
    run(folder.path(), "qemu-img", &["check", "cache.qcow2"]);
}
