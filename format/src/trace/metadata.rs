//! What is known of a recording beside its requests.

use super::MAX_LINE;

/// Most entries of metadata that a trace may have.
pub const MAX_METADATA: usize = 64;

/// What is known of a recording: `key: value` pairs in the order in which they were set.
///
/// A key consists of lower-case letters, digits and hyphens; a value is one line of printable text. Any key may be
/// used; those that have a meaning here are constants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(String, String)>);

/// Why something cannot be metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// A line is no pair.
    #[error("\"{0}\" is no metadata; right would be \"# key: value\"")]
    Line(String),
    /// A key has other characters, or none.
    #[error("the key \"{0}\" is not right: lower-case letters, digits and hyphens would be")]
    Key(String),
    /// A value is empty, begins or ends in space, or has a character that is not printable.
    #[error("the value of {0} is not right: one line of printable text, not empty and trimmed, would be")]
    Value(String),
    /// A pair makes a longer line than a trace may have.
    #[error("{0} and its value make a line of more than {MAX_LINE} bytes")]
    Long(String),
    /// A file says one thing twice.
    #[error("the key {0} is there twice; each key once would be right")]
    Twice(String),
    /// More entries than a trace may have.
    #[error("more than {MAX_METADATA} entries of metadata")]
    TooMany,
}

impl Metadata {
    /// Which guest was recorded.
    pub const GUEST: &'static str = "guest";
    /// Which disk image it booted from.
    pub const IMAGE: &'static str = "image";
    /// The image's checksum, with the algorithm before it: `sha256:…`.
    pub const IMAGE_DIGEST: &'static str = "image-digest";
    /// What ran the guest, and how: `QEMU 7.2, TCG`.
    pub const HYPERVISOR: &'static str = "hypervisor";
    /// The machine on which it ran.
    pub const HOST: &'static str = "host";
    /// What recorded the requests.
    pub const TOOL: &'static str = "tool";
    /// When it was recorded: a date, or a date and a time, as in ISO 8601.
    pub const RECORDED: &'static str = "recorded";
    /// By how many milliseconds the storage delayed each read.
    pub const STORAGE_DELAY_MS: &'static str = "storage-delay-ms";
    /// Seconds from power-on until the guest told that it was up.
    pub const BOOT_SECONDS: &'static str = "boot-seconds";
    /// What the trace was converted from: a format's name.
    pub const SOURCE: &'static str = "source";

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(of, _)| *of == key).map(|(_, value)| value)
    }

    /// Gives `key` the value `value`, instead of the one it has, or after all others.
    ///
    /// # Errors
    /// If key or value have a character that cannot be in a trace file, or there are too many entries.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        check(key, value)?;
        let full = self.0.len() == MAX_METADATA;
        match self.0.iter_mut().find(|(of, _)| of == key) {
            Some((_, old)) => *old = value.to_owned(),
            None if full => return Err(MetadataError::TooMany),
            None => self.0.push((key.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Adds what a comment line says; `line` begins with the number sign.
    pub(super) fn read_line(&mut self, line: &str) -> Result<(), MetadataError> {
        let pair = line.trim_start_matches('#').split_once(':');
        let (key, value) = pair.ok_or_else(|| MetadataError::Line(shortened(line)))?;
        let (key, value) = (key.trim(), value.trim());
        if self.get(key).is_some() {
            return Err(MetadataError::Twice(key.to_owned()));
        }
        self.set(key, value)
    }
}

fn check(key: &str, value: &str) -> Result<(), MetadataError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if key.is_empty() || !key.bytes().all(allowed) {
        return Err(MetadataError::Key(shortened(key)));
    }
    if value.is_empty() || value.trim() != value || value.chars().any(|c| c.is_control() || c == '\u{fffd}') {
        return Err(MetadataError::Value(shortened(key)));
    }
    if ["# ", key, ": ", value].iter().map(|part| part.len() as u64).sum::<u64>() >= MAX_LINE {
        return Err(MetadataError::Long(shortened(key)));
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    super::read::printable(text.trim_end().as_bytes())
}
