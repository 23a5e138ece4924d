//! What a check found.

use serde::Serialize;
use std::fmt;

/// The structure of findings that compare a refcount with the references.
pub(super) const REFCOUNT: &str = "refcount";
/// The structure of findings that compare a flag with a refcount.
pub(super) const FLAG: &str = "COPIED flag";

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Clusters that count as used although nothing points at them: space is lost, no data.
    Leak,
    /// The image breaks the format's rules: data is lost, or will be when the image is written.
    Corruption,
    /// Nothing is wrong; it helps to understand what is.
    Note,
}

/// One thing that a check found. Offsets are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How bad it is.
    pub kind: FindingKind,
    /// The structure that it was found in.
    pub structure: &'static str,
    /// Where in the image's file.
    pub host_offset: u64,
    /// Where on the disk, if it concerns one place there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_offset: Option<u64>,
    /// Whether the repair has mended it.
    pub repaired: bool,
    /// What is wrong.
    pub text: String,
}

/// As qemu-img has them: a line that begins with how bad it is.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.repaired, self.kind) {
            (true, _) => "Repairing ",
            (false, FindingKind::Leak) => "Leaked ",
            (false, FindingKind::Corruption) => "ERROR ",
            (false, FindingKind::Note) => "Note: ",
        })?;
        // These say in their text what they are about.
        if self.structure != REFCOUNT && self.structure != FLAG {
            write!(f, "{} at offset {:#x}", self.structure, self.host_offset)?;
            if let Some(offset) = self.guest_offset {
                write!(f, " (of the disk: {offset:#x})")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.text)
    }
}

/// What a check, or a check and repair, found: the numbers as qemu-img has them, and the findings themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Clusters that could not be checked.
    pub check_errors: u64,
    /// Bytes from the start of the file to the end of the last cluster in use.
    pub image_end_offset: u64,
    /// Errors that are there, after the repair if there was one.
    pub corruptions: u64,
    /// Leaked clusters that are there, after the repair if there was one.
    pub leaks: u64,
    /// Errors that the repair has mended.
    pub corruptions_fixed: u64,
    /// Leaked clusters that the repair has freed.
    pub leaks_fixed: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Clusters of the disk that have a place in a file.
    pub allocated_clusters: u64,
    /// Of them, those that do not lie behind the one before.
    pub fragmented_clusters: u64,
    /// Of them, those that are compressed.
    pub compressed_clusters: u64,
    /// Bytes of the file's clusters that something points at.
    pub bytes_in_use: u64,
    /// The findings, as many as were asked for.
    pub findings: Vec<Finding>,
    /// How many more there were.
    pub findings_left_out: u64,
}

impl Report {
    /// Neither an error nor a leak is left.
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0 && self.check_errors == 0
    }
}
