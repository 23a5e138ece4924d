//! What of a disk is allocated before anybody writes it: qemu-img's preallocation modes.

use anyhow::bail;
use bytes::Bytes;
use nix::fcntl::{FallocateFlags, fallocate};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use vmicache_format::Result;
use vmicache_format::disk::Disk;
use vmicache_format::storage::{DataKind, HostFile, MetadataKind, Payload, Storage};

/// A mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// The tables of a qcow2 image; the host has no blocks for its data yet.
    Metadata,
    /// The host's blocks as well, without anything being written to them.
    Falloc,
    /// The host's blocks, by writing zeroes.
    Full,
}

impl Preallocation {
    /// The mode of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn parse(name: &str) -> anyhow::Result<Preallocation> {
        Ok(match name {
            "off" => Preallocation::Off,
            "metadata" => Preallocation::Metadata,
            "falloc" => Preallocation::Falloc,
            "full" => Preallocation::Full,
            _ => bail!("Invalid preallocation mode '{name}'"),
        })
    }

    /// The name of the mode.
    pub fn name(self) -> &'static str {
        match self {
            Preallocation::Off => "off",
            Preallocation::Metadata => "metadata",
            Preallocation::Falloc => "falloc",
            Preallocation::Full => "full",
        }
    }

    /// Makes the host allocate a range of a file that holds nothing yet; the file ends behind it at the earliest.
    ///
    /// # Errors
    /// If the host has no room, or cannot allocate.
    pub fn allocate(self, file: &File, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        match self {
            Preallocation::Off => Ok(()),
            Preallocation::Metadata if file.metadata()?.len() < range.end => file.set_len(range.end),
            Preallocation::Metadata => Ok(()),
            Preallocation::Falloc => {
                let length = range.end - range.start;
                Ok(fallocate(file, FallocateFlags::empty(), range.start as i64, length as i64)?)
            }
            Preallocation::Full => write_zeroes(file, range),
        }
    }
}

fn write_zeroes(file: &File, range: Range<u64>) -> io::Result<()> {
    let zeroes = vec![0; 1 << 20];
    let mut at = range.start;
    while at < range.end {
        let length = (range.end - at).min(zeroes.len() as u64);
        file.write_all_at(&zeroes[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

/// A file whose guest data is allocated instead of written, while that is asked for. Clones are the same file.
#[derive(Clone, Debug)]
pub struct Allocating {
    file: HostFile,
    /// The same file; without it, data is written as it is.
    host: Option<Rc<File>>,
    mode: Rc<Cell<Preallocation>>,
    /// What is still to be allocated: neighbours go in one request.
    pending: Rc<RefCell<Range<u64>>>,
}

impl Allocating {
    /// `file`, of which `host` is another handle, if its data is ever to be allocated.
    pub fn new(file: HostFile, host: Option<File>) -> Self {
        Allocating { file, host: host.map(Rc::new), mode: Rc::default(), pending: Rc::default() }
    }

    /// How what is written from now on is allocated; [`Preallocation::Off`]: it is written.
    pub fn set_mode(&self, mode: Preallocation) {
        self.mode.set(mode);
    }

    fn add(&self, range: Range<u64>) -> io::Result<()> {
        let mut pending = self.pending.borrow_mut();
        if pending.end == range.start {
            pending.end = range.end;
            return Ok(());
        }
        let complete = std::mem::replace(&mut *pending, range);
        self.allocate(complete)
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.host.as_deref().map_or(Ok(()), |host| self.mode.get().allocate(host, range))
    }

    /// Allocates what is left.
    fn finish(&self) -> io::Result<()> {
        let rest = self.pending.take();
        self.allocate(rest)
    }
}

/// Allocates a range of a disk as `mode` says: that of a qcow2 image whose data lies in `data`. The range begins at a
/// cluster, or at the disk's start, and nothing of it is written yet.
///
/// # Errors
/// If the host has no room, or a table cannot be written.
pub async fn preallocate(
    disk: &Disk<Allocating>,
    data: &Allocating,
    mode: Preallocation,
    range: Range<u64>,
) -> Result<()> {
    const STEP: u64 = 2 << 20;
    let zeroes = Bytes::zeroed(STEP);
    data.set_mode(mode);
    let mut at = range.start;
    while at < range.end && mode != Preallocation::Off {
        // Steps that end at clusters.
        let end = range.end.min((at / STEP + 1) * STEP);
        disk.write(at, Payload::slice(&zeroes, 0..end - at)).await?;
        at = end;
    }
    disk.flush().await?;
    // The last allocation is the disk's flush as well.
    data.set_mode(Preallocation::Off);
    Ok(())
}

impl Storage for Allocating {
    type Payload = Bytes;

    async fn read(&self, kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        self.file.read(kind, offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        if self.mode.get() == Preallocation::Off || self.host.is_none() {
            return self.file.write(offset, parts).await;
        }
        let length: u64 = parts.iter().map(Payload::len).sum();
        self.add(offset..offset + length)
    }

    async fn read_metadata(&self, kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.file.read_metadata(kind, offset, len).await
    }

    async fn write_metadata(&self, kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_metadata(kind, offset, bytes).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.finish()?;
        self.file.flush().await
    }

    async fn hole(&self, range: &Range<u64>) -> io::Result<(bool, u64)> {
        self.file.hole(range).await
    }

    async fn len(&self) -> io::Result<u64> {
        self.file.len().await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).await
    }

    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.discard(offset, len).await
    }
}
