//! `vmicache serve` held against the NBD protocol, by the clients that people have: libnbd, its tools, and fio.

mod servers;

use servers::{Serving, run, vmicache};
use std::env;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

const MIB: usize = 1 << 20;
const SIZE: usize = 64 * MIB;

fn noise(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A sparse base of 64 MiB under a cache of 512-byte clusters and an overlay.
fn chain(folder: &Path) {
    let base = File::create_new(folder.join("base.raw")).unwrap();
    base.set_len(SIZE as u64).unwrap();
    for (offset, len) in [(0, 8 * MIB), (16 * MIB, MIB), (20 * MIB, 4096), (SIZE - 4096, 4096)] {
        base.write_all_at(&noise(len, offset as u32), offset as u64).unwrap();
    }
    let options = "cache_img_quota=48M,cluster_size=512,backing_file=base.raw,backing_fmt=raw";
    vmicache(folder, &["img", "create", "-f", "qcow2", "-o", options, "cache.qcow2"]);
    vmicache(folder, &["img", "create", "-f", "qcow2", "-b", "cache.qcow2", "-F", "qcow2", "overlay.qcow2"]);
}

fn checks(folder: &Path) {
    run(folder, "qemu-img", &["check", "overlay.qcow2"]);
    run(folder, "qemu-img", &["check", "cache.qcow2"]);
    vmicache(folder, &["cache", "verify", "cache.qcow2"]);
}

/// Runs a script of the folder beside this file; what it prints.
fn script(folder: &Path, name: &str, server: &Serving, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nbd_scripts").join(name);
    let (script, socket) = (script.to_str().unwrap(), server.socket().to_str().unwrap());
    // The system's own Python, for which libnbd is installed; it leaves no compiled modules behind.
    run(folder, "/usr/bin/python3", &[&["-B", script, socket], arguments].concat())
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {:.300}", text))
}

fn are_equal(folder: &Path, a: &str, b: &str) {
    assert!(fs::read(folder.join(a)).unwrap() == fs::read(folder.join(b)).unwrap(), "{a} and {b} differ");
}

#[test]
fn nbdinfo_tells_what_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain(folder);
    let server = Serving::start(folder, &["overlay.qcow2", "--name", "disk", "--writable"]);
    let nbdinfo = |arguments: &[&str]| run(folder, "nbdinfo", arguments);
    let default = server.uri.replace("/disk?", "/?");
    assert_ne!(default, server.uri);
    for uri in [&server.uri, &default] {
        assert_eq!(nbdinfo(&["--size", uri]), format!("{SIZE}\n"));
        let plain = nbdinfo(&[uri]);
        for expected in
            ["newstyle-fixed without TLS", "structured packets", "export-size: 67108864", "overlay"]
        {
            assert!(plain.contains(expected), "{plain}");
        }
        let told = json(&nbdinfo(&["--json", uri]));
        let export = &told["exports"][0];
        assert_eq!(export["description"], "overlay.qcow2");
        assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
        assert_eq!(export["export-size"], SIZE);
        let sizes = ["minimum", "preferred", "maximum"].map(|size| &export[format!("block_size_{size}")]);
        assert_eq!(sizes, [1, 4096, 32 * MIB]);
        let can = ["cache", "df", "flush", "fua", "multi_conn", "trim", "zero", "fast_zero"];
        assert_eq!(
            can.map(|can| export[format!("can_{can}")] == true),
            [[true; 7].as_slice(), &[false]].concat()[..]
        );
        assert_eq!(export["is_read_only"], false);
        let map = json(&nbdinfo(&["--map", "--json", uri]));
        let mapped = map.as_array().unwrap().iter().map(|extent| extent["length"].as_u64().unwrap());
        assert_eq!(mapped.sum::<u64>(), SIZE as u64);
    }
    assert!(nbdinfo(&["--list", &server.uri]).contains("export=\"disk\""));
    let listed = json(&nbdinfo(&["--list", "--json", &default]));
    assert_eq!(listed["exports"].as_array().unwrap().len(), 1);
    assert_eq!(listed["exports"][0]["export-name"], "disk");
    let unknown = server.uri.replace("/disk?", "/other?");
    assert!(!Command::new("nbdinfo").arg(unknown).output().unwrap().status.success());
    server.stop();
}

#[test]
fn nbdsh_gets_along() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain(folder);
    let server = Serving::start(folder, &["overlay.qcow2", "--writable"]);
    let commands = [
        "h.pwrite(b'hello', 9 << 20)",
        "print(h.pread(7, (9 << 20) - 1))",
        "print(h.can_meta_context('base:allocation'))",
    ];
    let commands = commands.map(|command| ["-c", command]).concat();
    // nbdsh takes the first Python of the search path; libnbd is installed for the system's own.
    let nbdsh = ["PATH=/usr/bin:/bin", "nbdsh", "--base-allocation", "-u", &server.uri];
    let said = run(folder, "env", &[&nbdsh, &commands[..]].concat());
    assert_eq!(said, "bytearray(b'\\x00hello\\x00')\nTrue\n");
    server.stop();
    checks(folder);
}

#[test]
fn libnbd_negotiates_reads_and_writes_with_every_feature() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain(folder);
    let server = Serving::start(folder, &["overlay.qcow2", "--name", "disk", "--writable"]);
    script(folder, "negotiation.py", &server, &["disk", "overlay.qcow2", &SIZE.to_string()]);
    script(folder, "reading.py", &server, &["base.raw"]);
    script(folder, "writing.py", &server, &[]);
    assert_eq!(server.status()["connections"], 0);
    server.stop();
    checks(folder);
    let server = Serving::start(folder, &["cache.qcow2", "--fill-in-path"]);
    script(folder, "reading.py", &server, &["base.raw"]);
    script(folder, "read_only.py", &server, &[]);
    server.stop();
    checks(folder);
}

#[test]
fn a_prefetch_fills_a_cold_cache() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain(folder);
    let read_from_base =
        |server: &Serving| server.status()["exports"][0]["layers"][1]["read_bytes"].as_u64().unwrap();
    let server = Serving::start(folder, &["cache.qcow2"]);
    let range = ["4000", "8000000"];
    script(folder, "prefetch.py", &server, &range);
    let fetched = read_from_base(&server);
    assert!((8_000_000..8_000_000 + 2 * 512).contains(&fetched), "{fetched}");
    script(folder, "prefetch.py", &server, &range);
    assert_eq!(read_from_base(&server), fetched);
    server.stop();
    let server = Serving::start(folder, &["cache.qcow2"]);
    run(folder, "qemu-io", &["-r", "-f", "raw", "-c", "read 4000 8000000", &server.uri]);
    // qemu-io may look at the first sector by itself.
    assert!(read_from_base(&server) <= 4096);
    server.stop();
    checks(folder);
}

/// What qemu-img says of the chain below an image: ranges and whether they read as zeroes, neighbours joined.
fn mapped(folder: &Path, image: &str) -> Vec<(u64, u64, bool)> {
    let map = json(&run(folder, "qemu-img", &["map", "--output=json", image]));
    let mut joined: Vec<(u64, u64, bool)> = Vec::new();
    for extent in map.as_array().unwrap() {
        let (start, length) = (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap());
        let is_zero = extent["zero"].as_bool().unwrap();
        match joined.last_mut() {
            Some(last) if last.2 == is_zero => last.1 += length,
            _ => joined.push((start, length, is_zero)),
        }
    }
    joined
}

#[test]
fn block_status_is_what_qemu_finds_in_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain(folder);
    let server = Serving::start(folder, &["overlay.qcow2", "--writable"]);
    // The cache takes data and, at 12 MiB, what is a hole in the base; the overlay takes data and zeroes.
    let commands = [
        "read 7M 2M",
        "read 12M 1000",
        "read 20M 64k",
        "write -P 7 30M 100k",
        "write 31M 512",
        "write -z 2M 1M",
        "write -z 40M 200k",
        "write -z 16M 1000",
    ];
    let arguments = commands.map(|command| ["-c", command]).concat();
    run(folder, "qemu-io", &[&["-f", "raw", &server.uri], &arguments[..]].concat());
    let told: Vec<(u64, u64, u64)> =
        serde_json::from_str(&script(folder, "allocation.py", &server, &[])).unwrap();
    server.stop();
    let told: Vec<_> = told.into_iter().map(|(start, length, flags)| (start, length, flags == 3)).collect();
    assert!(told.len() > 12, "{told:?}");
    assert_eq!(told, mapped(folder, "overlay.qcow2"));
    run(folder, "qemu-img", &["convert", "-O", "raw", "overlay.qcow2", "copy.raw"]);
    let copy = fs::read(folder.join("copy.raw")).unwrap();
    for (start, length, _) in told.into_iter().filter(|(_, _, is_zero)| *is_zero) {
        assert!(copy[start as usize..][..length as usize].iter().all(|byte| *byte == 0), "{start}");
    }
    checks(folder);
}

#[test]
fn nbdcopy_copies_both_ways_whatever_its_requests() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain(folder);
    fs::write(folder.join("new.raw"), noise(SIZE, 5)).unwrap();
    // Zeroes within, which nbdcopy writes as such.
    let new = OpenOptions::new().write(true).open(folder.join("new.raw")).unwrap();
    new.write_all_at(&vec![0; 5 * MIB], 33 * MIB as u64 + 700).unwrap();
    let server = Serving::start(folder, &["overlay.qcow2", "--writable"]);
    let nbdcopy =
        |options: &[&str], from: &str, to: &str| run(folder, "nbdcopy", &[options, &[from, to]].concat());
    let options: [&[&str]; 6] = [
        &[],
        &["--connections=1", "--request-size=4096", "--requests=64"],
        &["--connections=1", "--request-size=33554432"],
        &["--connections=4", "--request-size=65536"],
        &["--connections=8", "--request-size=2097152", "--requests=16", "--threads=2"],
        &["--synchronous", "--request-size=1048576"],
    ];
    for options in options {
        nbdcopy(options, &server.uri, "copy.raw");
        are_equal(folder, "copy.raw", "base.raw");
    }
    for options in options {
        nbdcopy(&[&["--flush"], options].concat(), "new.raw", &server.uri);
        nbdcopy(options, &server.uri, "copy.raw");
        are_equal(folder, "copy.raw", "new.raw");
        nbdcopy(options, "base.raw", &server.uri);
    }
    // From one server to another.
    let base = Serving::start(folder, &["cache.qcow2", "--socket", "second"]);
    nbdcopy(&["--destination-is-zero"], &base.uri, "copy.raw");
    are_equal(folder, "copy.raw", "base.raw");
    nbdcopy(&["--flush"], "new.raw", &server.uri);
    base.stop();
    server.stop();
    checks(folder);
    run(folder, "qemu-img", &["compare", "new.raw", "overlay.qcow2"]);
}

#[test]
fn a_disk_may_end_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("odd.raw"), noise(1_000_003, 1)).unwrap();
    let server = Serving::start(folder, &["odd.raw", "--writable"]);
    assert_eq!(run(folder, "nbdinfo", &["--size", &server.uri]), "1000003\n");
    run(folder, "nbdcopy", &[&server.uri, "copy.raw"]);
    are_equal(folder, "copy.raw", "odd.raw");
    fs::write(folder.join("new.raw"), noise(1_000_003, 2)).unwrap();
    run(folder, "nbdcopy", &["new.raw", &server.uri]);
    server.stop();
    are_equal(folder, "odd.raw", "new.raw");
}

#[test]
fn tcp_serves_this_host_and_a_unix_socket_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain(folder);
    let tcp =
        Serving::start(folder, &["overlay.qcow2", "--listen", "0", "--name", "disk", "--status", "status"]);
    let port = tcp.uri.strip_prefix("nbd://127.0.0.1:").and_then(|rest| rest.strip_suffix("/disk"));
    assert!(port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)), "{}", tcp.uri);
    assert_eq!(run(folder, "nbdinfo", &["--size", &tcp.uri]), format!("{SIZE}\n"));
    run(folder, "nbdcopy", &["--connections=4", &tcp.uri, "copy.raw"]);
    are_equal(folder, "copy.raw", "base.raw");
    let socket = Serving::start(folder, &["base.raw", "--socket", "s"]);
    for name in ["s", "s.status", "status"] {
        let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    socket.stop();
    tcp.stop();
    assert!(!folder.join("status").exists());
    checks(folder);
}

#[test]
fn what_is_flushed_or_written_through_outlives_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain(folder);
    let server = Serving::start(folder, &["overlay.qcow2", "--writable"]);
    script(folder, "durable.py", &server, &[]);
    server.kill();
    let reads = ["read -P 1 1M 64k", "read -P 0 2M 1M", "read -P 3 3145828 700", "read -P 0 4M 1M"];
    let reads = reads.map(|command| ["-c", command]).concat();
    let read = run(folder, "qemu-io", &[&["-r", "overlay.qcow2"], &reads[..]].concat());
    assert!(!read.contains("failed"), "{read}");
}

/// Seconds that fio writes and verifies, unless the environment says otherwise.
const FIO_SECONDS: &str = "4";

#[test]
fn fio_reads_back_what_it_wrote_at_random() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain(folder);
    let server = Serving::start(folder, &["overlay.qcow2", "--writable"]);
    let seconds = env::var("FIO_SECONDS").unwrap_or(FIO_SECONDS.into());
    let runtime = format!("--runtime={seconds}");
    let uri = format!("--uri={}", server.uri);
    // Each job has a quarter of the disk. What fails is verified no further: fio ends with an error.
    let common = "--name=verify --ioengine=nbd --thread --numjobs=4 --size=16M --offset_increment=16M --rw=randrw \
        --bsrange=512-64k --iodepth=16 --verify=crc32c --verify_backlog=64 --verify_fatal=1 \
        --time_based --fsync=100 --randseed=1 --output-format=json";
    let arguments: Vec<&str> = common.split_whitespace().chain([&runtime[..], &uri]).collect();
    let said = run(folder, "fio", &arguments);
    // Something about connections comes before it.
    let report = json(&said[said.find('{').unwrap_or(0)..]);
    let jobs = report["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 4);
    for job in jobs {
        assert_eq!(job["error"], 0, "{job}");
        let ios = ["read", "write"].map(|kind| job[kind]["total_ios"].as_u64().unwrap());
        assert!(!ios.contains(&0), "a job of {ios:?} reads and writes tells nothing");
    }
    let sum = |kind: &str, what: &str| jobs.iter().map(|job| job[kind][what].as_u64().unwrap()).sum::<u64>();
    eprintln!(
        "fio, {seconds} s: {} reads and {} writes, {} and {} MiB, all verified",
        sum("read", "total_ios"),
        sum("write", "total_ios"),
        sum("read", "io_kbytes") >> 10,
        sum("write", "io_kbytes") >> 10
    );
    server.stop();
    checks(folder);
}
