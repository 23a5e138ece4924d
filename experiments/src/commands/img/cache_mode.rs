//! qemu-img's cache modes: how the host is to cache an image. They are checked, and otherwise make no difference.

use anyhow::ensure;

const MODES: [&str; 6] = ["none", "off", "directsync", "writeback", "unsafe", "writethrough"];

/// Checks the mode for the image that is written.
///
/// # Errors
/// If there is no such mode.
pub fn check(mode: Option<&str>) -> anyhow::Result<()> {
    ensure!(
        mode.is_none_or(|mode| MODES.contains(&mode)),
        "Invalid cache option: {}",
        mode.unwrap_or_default()
    );
    Ok(())
}

/// Checks the mode for images that are read.
///
/// # Errors
/// If there is no such mode.
pub fn check_source(mode: Option<&str>) -> anyhow::Result<()> {
    let known = mode.is_none_or(|mode| MODES.contains(&mode));
    ensure!(known, "Invalid source cache option: {}", mode.unwrap_or_default());
    Ok(())
}
