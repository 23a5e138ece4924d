//! Real guests.

use super::run;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/guests")
}

/// Builds the smallest guest that there is.
pub fn build_tiny(folder: &Path, image: &str) {
    run(folder, scripts().join("build").to_str().unwrap(), &["tiny", image]);
}

/// Runs the test of the scripts.
pub fn test_scripts(folder: &Path) {
    run(folder, scripts().join("test").to_str().unwrap(), &[]);
}

/// Boots a disk until the guest says that it is up; fails if it does not.
pub fn boot(folder: &Path, disk: &str) {
    let output = Command::new(scripts().join("boot")).arg(disk).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A boot that has begun and will not come to its end.
pub fn boots(folder: &Path, disk: &str) -> Child {
    let mut command = Command::new(scripts().join("boot"));
    command.arg(disk).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
