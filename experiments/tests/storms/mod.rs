//! A guest that boots in no time, and the commands that simulate its boot storms.

#![allow(dead_code, reason = "each test file uses a part")]

use assert_cmd::Command;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder with recorded boots of a guest of 16 MiB that is called `tiny`.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Folder {
        let folder = Folder(TempDir::new().unwrap());
        let guest = "name = \"tiny\"\ntitle = \"Tiny\"\ndisk_bytes = 16777216\nallocated_bytes = 4194304\n\
                     boots = [\"tiny-1.csv\", \"tiny-2.csv\"]\nslowed = [\"tiny-slowed.csv\"]\n";
        folder.write("data/tiny.toml", guest);
        for (name, latency, step) in
            [("tiny-1", 100, 65_536), ("tiny-2", 100, 69_632), ("tiny-slowed", 20_000, 65_536)]
        {
            folder.write(&format!("data/{name}.csv"), &boot(latency, step));
        }
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// `vmicache` with this command and file, on the tiny guest.
    pub fn command(&self, command: &str, file: &str, args: &[&str]) -> Command {
        let mut vmicache = Command::new(assert_cmd::cargo::cargo_bin!("vmicache"));
        let data = self.path("data");
        vmicache.arg(command).arg(self.path(file)).arg("--data").arg(data).args(args);
        vmicache
    }

    /// What `vmicache run` prints for a scenario.
    pub fn run(&self, scenario: &str, args: &[&str]) -> String {
        self.write("storm.toml", scenario);
        succeed(self.command("run", "storm.toml", args))
    }

    /// Runs a sweep into the folder `out`; what it prints.
    pub fn sweep(&self, sweep: &str, out: &str, args: &[&str]) -> String {
        succeed(self.sweep_command(sweep, out, args))
    }

    pub fn sweep_command(&self, sweep: &str, out: &str, args: &[&str]) -> Command {
        self.write("sweep.toml", sweep);
        let mut command = self.command("sweep", "sweep.toml", args);
        command.arg("--out").arg(self.path(out));
        command
    }

    /// Runs a command that must fail with exit code 2 and leave everything as it was; its message.
    pub fn refused(&self, mut command: Command) -> String {
        let before = content(self.0.path());
        let output = command.output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(output.stdout.is_empty() && !message.contains("panicked"), "{message}");
        assert!(content(self.0.path()) == before, "the folder has changed: {message}");
        message
    }

    /// How `vmicache run` refuses a scenario.
    pub fn run_refused(&self, scenario: &str, args: &[&str]) -> String {
        self.write("storm.toml", scenario);
        self.refused(self.command("run", "storm.toml", args))
    }

    /// How `vmicache sweep` into the folder `out` refuses a sweep.
    pub fn sweep_refused(&self, sweep: &str, out: &str) -> String {
        self.write("sweep.toml", sweep);
        self.refused(self.sweep_command(sweep, out, &[]))
    }
}

/// Reads that wait for each other, `step` bytes apart, each answered after `latency` microseconds.
fn boot(latency: u64, step: u64) -> String {
    let mut text = "start_us,end_us,op,offset,length\n".to_owned();
    let mut now = 0;
    for read in 0..40 {
        writeln!(text, "{now},{},read,{},4096", now + latency, read * step).unwrap();
        now += latency + 500;
    }
    text
}

/// Every file below a folder, with its bytes.
pub fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut content = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(open) = folders.pop() {
        for entry in fs::read_dir(open).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                content.insert(path.strip_prefix(folder).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    content
}

/// The output of a command that must succeed.
pub fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Checks that `message` contains every one of `parts`.
pub fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}
