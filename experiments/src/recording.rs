//! Recorded boots as files.

use anyhow::Context;
use std::path::Path;
use vmicache_format::trace::Trace;

/// Reads a trace and checks that it fits a disk of `disk_size` bytes, if that is given.
///
/// # Errors
/// If the file is not a trace, or a request lies beyond the disk.
pub fn open(path: &Path, disk_size: Option<u64>) -> anyhow::Result<Trace> {
    let trace = Trace::open(path)?;
    if let Some(disk_size) = disk_size {
        trace.check_within(disk_size).with_context(|| path.display().to_string())?;
    }
    Ok(trace)
}

/// The name of a boot: its file's, without folder and endings.
pub fn name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let plain = file.strip_suffix(".gz").unwrap_or(&file);
    plain.strip_suffix(".csv").unwrap_or(plain).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_named_as_its_file_without_folder_and_endings() {
        for path in ["boot-1.csv.gz", "folder/boot-1.csv", "boot-1", "../boot-1.gz"] {
            assert_eq!(name(Path::new(path)), "boot-1");
        }
    }
}
