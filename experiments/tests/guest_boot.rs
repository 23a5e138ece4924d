//! A real guest boots through a served cache, then from the cache file with stock QEMU alone.

mod servers;

use servers::guests::{boot, boots, build_tiny, test_scripts};
use servers::{Serving, run, vmicache};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Boots an overlay over the cache through a server; bytes read from the base meanwhile.
fn boot_through_server(folder: &Path) -> u64 {
    vmicache(folder, &["img", "create", "-f", "qcow2", "-b", "cache.qcow2", "-F", "qcow2", "overlay.qcow2"]);
    let server = Serving::start(folder, &["overlay.qcow2", "--writable"]);
    assert!(server.greeting.contains("filling"), "{}", server.greeting);
    boot(folder, &server.uri);
    let read = server.status()["exports"][0]["layers"][2]["read_bytes"].as_u64().unwrap();
    server.stop();
    run(folder, "qemu-img", &["check", "cache.qcow2"]);
    read
}

#[test]
fn a_guest_boots_from_a_cache_that_its_first_boot_has_filled() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    build_tiny(folder, "base.raw");
    let options = "cache_img_quota=60M,cluster_size=512,backing_file=base.raw,backing_fmt=raw";
    vmicache(folder, &["img", "create", "-f", "qcow2", "-o", options, "cache.qcow2"]);

    let cold = boot_through_server(folder);
    assert!(cold > 5_000_000, "a boot that reads {cold} bytes tells nothing");
    let mut warm: Vec<u64> = (0..5).map(|_| boot_through_server(folder)).collect();
    warm.sort_unstable();
    assert!(warm[4] * 100 <= cold, "warm boots read {warm:?} bytes from the base, the cold one {cold}");
    assert!(warm[2] * 500 <= cold, "warm boots read {warm:?} bytes from the base, the cold one {cold}");
    vmicache(folder, &["cache", "verify", "cache.qcow2"]);

    // Stock QEMU reads the cache file by itself, and what is not there from a base whose reads are counted.
    let base = Serving::start(folder, &["base.raw", "--socket", "b"]);
    run(folder, "qemu-img", &["rebase", "-u", "-b", "nbd+unix:///?socket=b", "-F", "raw", "cache.qcow2"]);
    run(
        folder,
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-b", "cache.qcow2", "-F", "qcow2", "stock.qcow2"],
    );
    let before = base.status()["exports"][0]["layers"][0]["read_bytes"].as_u64().unwrap();
    boot(folder, "stock.qcow2");
    let read = base.status()["exports"][0]["layers"][0]["read_bytes"].as_u64().unwrap() - before;
    base.stop();
    eprintln!("bytes from the base: cold {cold}, warm {warm:?}, stock QEMU from the cache file {read}");
    assert!(read * 100 <= cold, "stock QEMU read {read} bytes from the base, the cold boot {cold}");
}

#[test]
fn a_guest_boots_after_the_server_was_killed_in_the_middle_of_its_boot() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    build_tiny(folder, "base.raw");
    let options = "cache_img_quota=60M,cluster_size=512,backing_file=base.raw,backing_fmt=raw";
    vmicache(folder, &["img", "create", "-f", "qcow2", "-o", options, "cache.qcow2"]);
    vmicache(folder, &["img", "create", "-f", "qcow2", "-b", "cache.qcow2", "-F", "qcow2", "overlay.qcow2"]);
    let server = Serving::start(folder, &["overlay.qcow2", "--writable"]);
    let mut guest = boots(folder, &server.uri);
    while server.status()["exports"][0]["layers"][2]["read_bytes"].as_u64().unwrap() < 12_000_000 {
        assert!(guest.try_wait().unwrap().is_none(), "the boot ended before it had read much");
        thread::sleep(Duration::from_millis(20));
    }
    server.kill();
    // With its disk the guest has lost everything; the script takes QEMU with it.
    run(folder, "kill", &["-s", "TERM", &guest.id().to_string()]);
    assert!(!guest.wait().unwrap().success());
    vmicache(folder, &["cache", "verify", "cache.qcow2"]);

    let server = Serving::start(folder, &["overlay.qcow2", "--writable"]);
    assert!(server.greeting.contains("filling"), "{}", server.greeting);
    boot(folder, &server.uri);
    server.stop();
    run(folder, "qemu-img", &["check", "cache.qcow2"]);
    vmicache(folder, &["cache", "verify", "cache.qcow2"]);
}

#[test]
fn the_scripts_that_build_and_boot_guests_pass_their_own_test() {
    test_scripts(tempfile::tempdir().unwrap().path());
}
