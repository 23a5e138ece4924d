//! What a recording says of itself.

use super::{Args, Storage};
use anyhow::Context;
use chrono::{SecondsFormat, Utc};
use std::fs;
use std::rc::Rc;
use std::thread::available_parallelism;
use vmicache_format::disk::{Disk, identify};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::trace::Metadata;

/// What is known of the recording that begins. Guest and hypervisor are the operator's to tell.
///
/// # Errors
/// If a note is no pair of a key and a value, or the disk cannot be read.
pub async fn of(args: &Args, disk: &Disk<Storage>, runtime: Rc<LocalRuntime>) -> anyhow::Result<Metadata> {
    let mut metadata = Metadata::default();
    if args.record.is_none() {
        return Ok(metadata);
    }
    let image = args.image.file_name().unwrap_or_default().to_string_lossy();
    metadata.set(Metadata::IMAGE, &image)?;
    metadata.set(Metadata::IMAGE_DIGEST, &identify(disk.layers(), runtime).await?.to_string())?;
    metadata.set(Metadata::HOST, &host())?;
    metadata.set(Metadata::TOOL, concat!("vmicache ", env!("CARGO_PKG_VERSION"), " serve"))?;
    metadata.set(Metadata::RECORDED, &Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true))?;
    metadata.set(Metadata::STORAGE_DELAY_MS, &args.delay_read.to_string())?;
    for note in &args.note {
        let (key, value) = note
            .split_once('=')
            .with_context(|| format!("--note {note}: KEY=VALUE, such as guest=debian-12, would be right"))?;
        metadata.set(key.trim(), value.trim()).with_context(|| format!("--note {note}"))?;
    }
    Ok(metadata)
}

/// The system and its processors; no name, which is nobody else's business.
fn host() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = available_parallelism().map_or(1, usize::from);
    format!("Linux {}, {processors} processors", release.trim())
}
