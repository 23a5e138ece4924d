//! Image files for tests: made, changed and looked at with the commands that people use.

#![allow(dead_code, reason = "each test file uses a part")]

use assert_cmd::Command;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

/// The header extension that makes an image a cache image.
pub const CACHE_EXTENSION: u32 = 0x3139_3834;

/// A folder of images, in which all commands run.
///
/// Programs that are started under other names have their links in another one.
pub struct Folder(TempDir, TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(TempDir::new().unwrap(), TempDir::new().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A folder with `base.raw`, a raw image of `size` bytes that has data at its start and end.
    pub fn with_base(size: u64) -> Folder {
        let folder = Folder::new();
        fs::File::create(folder.path("base.raw")).unwrap().set_len(size).unwrap();
        for offset in [0, size - 4096] {
            folder.change("base.raw", offset, &[0xa5; 4096]);
        }
        folder
    }

    /// Overwrites bytes of a file.
    pub fn change(&self, name: &str, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    pub fn truncate(&self, name: &str, length: u64) {
        fs::OpenOptions::new().write(true).open(self.path(name)).unwrap().set_len(length).unwrap();
    }

    /// `vmicache img` with these arguments.
    pub fn img(&self, args: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("vmicache"));
        command.current_dir(self.0.path()).arg("img").args(args);
        command
    }

    /// This program under the name of qemu-img, with these arguments.
    pub fn as_qemu_img(&self, args: &[&str]) -> Command {
        // Started through a link, the program sees the link's name.
        let name = self.1.path().join("qemu-img");
        if !name.exists() {
            std::os::unix::fs::symlink(assert_cmd::cargo::cargo_bin!("vmicache"), &name).unwrap();
        }
        let mut command = Command::new(name);
        command.current_dir(self.0.path()).args(args);
        command
    }

    /// Runs `vmicache img`, which must succeed; its output.
    pub fn run(&self, args: &[&str]) -> String {
        output_of(self.img(args), args)
    }

    /// What `vmicache img info` says of an image, as JSON.
    pub fn info(&self, name: &str) -> Value {
        serde_json::from_str(&self.run(&["info", "--output=json", name])).unwrap()
    }

    /// Runs one of QEMU's programs, which must be installed and succeed; its output.
    pub fn qemu(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).args(args);
        output_of(command, args)
    }

    pub fn qemu_img(&self, args: &[&str]) -> String {
        self.qemu("qemu-img", args)
    }

    /// Runs `vmicache img`, which must fail: with exit code 2, one message, no panic, and without any trace
    /// in the folder. The message.
    pub fn refused(&self, args: &[&str]) -> String {
        self.refused_command(self.img(args))
    }

    /// As [`refused`](Self::refused).
    pub fn refused_command(&self, mut command: Command) -> String {
        let before = self.content();
        let output = command.output().unwrap();
        let message = message_of(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert_eq!(self.content(), before, "the folder has changed: {message}");
        message
    }

    /// Every file, with its bytes.
    fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut content = BTreeMap::new();
        let mut folders = vec![self.0.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    content.insert(path.clone(), fs::read(&path).unwrap_or_default());
                }
            }
        }
        content
    }

    /// Where in the file the header extension of type `kind` lies, and its content.
    pub fn extension(&self, name: &str, kind: u32) -> Option<(u64, Vec<u8>)> {
        find_extension(&fs::read(self.path(name)).unwrap(), kind)
    }
}

fn find_extension(image: &[u8], kind: u32) -> Option<(u64, Vec<u8>)> {
    let u32_at = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
    let mut at = if u32_at(4) == 2 { 72 } else { u32_at(100) as usize };
    while u32_at(at) != 0 {
        let length = u32_at(at + 4) as usize;
        if u32_at(at) == kind {
            return Some((at as u64, image[at + 8..at + 8 + length].to_vec()));
        }
        at += 8 + length.next_multiple_of(8);
    }
    None
}

fn output_of(mut command: Command, args: &[&str]) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?} {args:?}: {problem}", command.get_program());
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that failed said, all of it on standard error.
pub fn message_of(output: &Output) -> String {
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!message.contains("panicked") && !message.is_empty(), "{message}");
    message
}

/// Checks that `message` contains every one of `parts`.
pub fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

/// The name of a path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
