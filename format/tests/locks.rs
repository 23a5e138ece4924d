//! Who may use an image file at the same time: our locks are where stock QEMU looks for them, and its own
//! are where we look.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use vmicache_format::cache::IdentityCheck;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, create_image, open_chain};
use vmicache_format::qcow2::{CacheOptions, CreateOptions};
use vmicache_format::runtime::LocalRuntime;

/// One test at a time: between fork and exec a started process has copies of the locks of everybody.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn qemu(program: &str, arguments: &[&str], folder: &Path) -> Output {
    Command::new(program).args(arguments).current_dir(folder).output().expect("qemu-utils are installed")
}

fn chain(folder: &Path) {
    std::fs::write(folder.join("base"), vec![7; 1 << 20]).unwrap();
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let mut options = CreateOptions::new(1 << 20);
        options.backing = Some(("base".into(), "raw".into()));
        options.cache = Some(CacheOptions { quota: 4 << 20, base: None });
        create_image(&folder.join("cache"), &options).await.unwrap();
        options.backing = Some(("cache".into(), "qcow2".into()));
        options.cache = None;
        create_image(&folder.join("overlay"), &options).await.unwrap();
    });
}

#[test]
fn stock_tools_are_kept_out_of_a_cache_while_it_is_filled() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    let runtime = LocalRuntime::new();
    let options = ChainOptions {
        writable: true,
        fill: true,
        named_files: NamedFiles::Allow,
        ..ChainOptions::default()
    };
    let open = |name: &str| {
        runtime.block_on(open_chain(&folder.path().join(name), Format::Qcow2, &options, runtime.clone()))
    };
    let disk = open("overlay").unwrap();
    runtime.block_on(disk.read(0, 4096)).unwrap();
    for (program, arguments) in [
        ("qemu-io", ["-c", "write 0 512", "cache"].as_slice()),
        ("qemu-io", &["-r", "-c", "read 0 512", "cache"]),
        ("qemu-img", &["check", "cache"]),
        ("qemu-img", &["check", "overlay"]),
        ("qemu-io", &["-f", "raw", "-c", "write 0 512", "base"]),
    ] {
        let output = qemu(program, arguments, folder.path());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains("lock"), "{program} {arguments:?}: {message}");
    }
    // Its base may be read by everybody.
    let read = qemu("qemu-io", &["-r", "-f", "raw", "-c", "read -P 7 0 512", "base"], folder.path());
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    // A second filler, another overlay or not, is kept out as well.
    let error = open("overlay").err().expect("the chain is in use");
    assert!(format!("{error:?}").contains("another process is using this image"), "{error:?}");
    runtime.block_on(disk.close()).unwrap();
    drop(disk);
    assert!(qemu("qemu-img", &["check", "cache"], folder.path()).status.success());
    open("overlay").unwrap();
}

#[test]
fn we_keep_out_of_an_image_that_stock_tools_write() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    // It holds the image open until its standard input ends.
    let mut writer = Command::new("qemu-io")
        .arg("cache")
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-utils are installed");
    let runtime = LocalRuntime::new();
    let overlay = folder.path().join("overlay");
    for fill in [true, false] {
        let options = ChainOptions {
            fill,
            identity: IdentityCheck::Skip,
            named_files: NamedFiles::Allow,
            ..ChainOptions::default()
        };
        // qemu-io takes a moment to open the image.
        let refused = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let opened = open_chain(&overlay, Format::Qcow2, &options, runtime.clone());
            runtime
                .block_on(opened)
                .err()
                .is_some_and(|error| format!("{error:?}").contains("another process"))
        });
        assert!(refused, "the cache was opened, fill {fill}, while qemu-io writes it");
    }
    drop(writer.stdin.take());
    writer.wait().unwrap();
    let options = ChainOptions { fill: true, named_files: NamedFiles::Allow, ..ChainOptions::default() };
    runtime.block_on(open_chain(&overlay, Format::Qcow2, &options, runtime.clone())).unwrap();
}
