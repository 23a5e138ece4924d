//! One look at all structures of an image: what it collects, and the order of its steps.

use super::layout::Layout;
use super::mapping::TableUse;
use super::references::References;
use super::report::{FLAG, Finding, FindingKind, Report};
use crate::byte_range::range_at;
use crate::error::{Blame, Result};
use crate::qcow2::header::Header;
use crate::storage::{MetadataKind, Storage};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// What is asked for in one request at most.
pub(super) const REQUEST: u64 = 1 << 20;
/// Where what was read last was zeroes, requests of so many bytes are first asked whether they are holes.
const WORTH_A_LOOK: u64 = 64 << 10;

/// Where a structure lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In clusters that no other structure has used so far.
    Own,
    /// In clusters of another structure.
    Shared,
    /// Beyond the end of the file.
    Outside,
}

/// An image as one look at it found it.
pub(super) struct Examination<'a, S> {
    pub storage: &'a S,
    pub blame: Blame,
    pub header: Header,
    pub layout: Layout,
    pub references: References,
    pub report: Report,
    max_findings: usize,
    memory_limit: u64,
    /// What was read last was zeroes alone.
    read_zeroes: Cell<bool>,
    /// The refcount table as it stands.
    pub refcount_table: Vec<u64>,
    /// Refcount blocks whose counts differ from the references, by their index in the table.
    pub wrong_blocks: BTreeSet<u64>,
    /// Refcount blocks that cannot be used; their clusters count as free.
    pub bad_blocks: BTreeSet<u64>,
    /// The refcount table cannot stay where it is: it is not in the file, or something else uses its clusters.
    pub table_must_move: bool,
    /// Every L2 table that could be read, in the order of the file.
    pub l2_tables: Vec<TableUse>,
    /// Clusters beyond the file that something points at; whatever comes to lie there would be read through it.
    pub dangling: Vec<Range<u64>>,
    /// Something points at tables that could not be followed: what seems leaked may belong to them.
    pub is_incomplete: bool,
    /// Flags of entries that contradict the refcounts; they are among the errors.
    pub wrong_flags: u64,
    /// L2 entries that have one right form only; they are among the errors.
    pub wrong_entries: u64,
}

impl<'a, S: Storage> Examination<'a, S> {
    /// Looks at everything.
    ///
    /// # Errors
    /// If that is no qcow2 image, its header is wrong, the storage fails, or the counts need too much memory.
    pub async fn of(storage: &'a S, name: &str, max_findings: usize, memory_limit: u64) -> Result<Self> {
        let blame = Blame(Arc::from(name));
        let header = crate::qcow2::read_header(storage, name).await?;
        let file_len = storage.len().await.map_err(blame.io("reading the length", 0))?;
        let layout = Layout::new(&header, file_len);
        let mut examination = Examination {
            storage,
            blame,
            layout,
            header,
            references: References::default(),
            report: Report::default(),
            max_findings,
            memory_limit,
            read_zeroes: Cell::new(false),
            refcount_table: vec![],
            wrong_blocks: BTreeSet::new(),
            bad_blocks: BTreeSet::new(),
            table_must_move: false,
            l2_tables: vec![],
            dangling: vec![],
            is_incomplete: false,
            wrong_flags: 0,
            wrong_entries: 0,
        };
        examination.look().await?;
        Ok(examination)
    }

    /// Metadata first, so that data which lies over it is seen; refcounts before the flags that depend on them.
    async fn look(&mut self) -> Result<()> {
        self.report.total_clusters = self.header.size.div_ceil(self.layout.cluster_size());
        self.use_metadata("header", 0, self.layout.cluster_size(), 1);
        self.load_refcounts().await?;
        self.use_encryption_header();
        let tables = self.l1_tables().await?;
        self.use_bitmaps().await?;
        self.follow_l1_tables(tables).await?;
        self.follow_l2_tables().await?;
        self.compare();
        self.check_cache();
        // Flags often contradict a refcount that is wrong itself: that is to be read first.
        self.report.findings.sort_by_key(|finding| finding.structure == FLAG);
        Ok(())
    }

    /// Adds a finding that counts as nothing yet.
    pub fn note(
        &mut self,
        kind: FindingKind,
        structure: &'static str,
        host_offset: u64,
        guest_offset: Option<u64>,
        text: impl FnOnce() -> String,
    ) {
        if self.report.findings.len() >= self.max_findings {
            self.report.findings_left_out = self.report.findings_left_out.saturating_add(1);
            return;
        }
        let finding = Finding { kind, structure, host_offset, guest_offset, repaired: false, text: text() };
        self.report.findings.push(finding);
    }

    /// Counts `times` errors of one kind, and describes the first.
    pub fn corruption(
        &mut self,
        times: u64,
        structure: &'static str,
        host_offset: u64,
        guest_offset: Option<u64>,
        text: impl FnOnce() -> String,
    ) {
        self.report.corruptions = self.report.corruptions.saturating_add(times);
        self.note(FindingKind::Corruption, structure, host_offset, guest_offset, text);
    }

    /// The host clusters that a range of bytes touches; `None` if it ends a cluster or more beyond the file. (The
    /// file's last cluster need not be complete.)
    pub fn clusters(&self, offset: u64, bytes: u64) -> Option<Range<u64>> {
        let end = offset.checked_add(bytes)?;
        if end.saturating_sub(self.layout.file_len) >= self.layout.cluster_size() {
            return None;
        }
        Some(offset >> self.layout.cluster_bits..end.div_ceil(self.layout.cluster_size()))
    }

    /// Remembers that something points at bytes beyond the file.
    pub fn dangles(&mut self, offset: u64, bytes: u64) {
        let bits = self.layout.cluster_bits;
        let run = offset >> bits..offset.saturating_add(bytes).div_ceil(self.layout.cluster_size());
        match self.dangling.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => self.dangling.push(run),
        }
    }

    /// Counts the use of a range by a structure.
    pub fn use_metadata(&mut self, structure: &'static str, offset: u64, bytes: u64, times: u64) -> Place {
        if bytes == 0 {
            return Place::Own;
        }
        match self.clusters(offset, bytes) {
            Some(run) => match self.references.add(run, times, true) {
                true => Place::Shared,
                false => Place::Own,
            },
            None => {
                let len = self.layout.file_len;
                self.dangles(offset, bytes);
                self.corruption(times, structure, offset, None, || {
                    format!("{bytes} bytes at offset {offset:#x} are used, but the file ends at {len:#x}")
                });
                Place::Outside
            }
        }
    }

    /// Reads metadata; `None` for zeroes. A hostile file may claim tables without end in its holes: these cost no
    /// reading, while files without holes are not searched for any, which takes longer than to read the tables.
    pub async fn read(&self, kind: MetadataKind, offset: u64, bytes: u64) -> Result<Option<Vec<u8>>> {
        if bytes >= WORTH_A_LOOK && self.read_zeroes.get() {
            let range = range_at(offset, bytes);
            let hole = self.storage.hole(&range).await;
            if hole.map_err(self.blame.io("looking for holes", offset))? == (true, range.end) {
                return Ok(None);
            }
        }
        let read = self.storage.read_metadata(kind, offset, bytes).await;
        let read = read.map_err(self.blame.io("reading metadata", offset))?;
        self.read_zeroes.set(read.iter().all(|byte| *byte == 0));
        Ok(Some(read).filter(|_| !self.read_zeroes.get()))
    }

    /// Refuses to go on once the counts take too much memory.
    pub fn check_memory(&self) -> Result<()> {
        let dangling = self.dangling.capacity().saturating_mul(size_of::<Range<u64>>());
        if self.references.memory().saturating_add(dangling as u64) <= self.memory_limit {
            return Ok(());
        }
        let problem = format!(
            "counting the references of its clusters needs more than {} MiB of memory",
            self.memory_limit >> 20
        );
        Err(self.blame.refused(problem))
    }

    /// Where the key material of an encrypted image lies.
    fn use_encryption_header(&mut self) {
        let extension = self.header.extension(crate::qcow2::header::extension::ENCRYPTION);
        let Some((offset, length)) = extension.and_then(|data| Some((word(data, 0)?, word(data, 8)?))) else {
            return;
        };
        self.use_metadata("encryption header", offset, length, 1);
    }

    /// What a cache image promises beside what every image does.
    fn check_cache(&mut self) {
        let Some(cache) = self.header.cache() else { return };
        let (len, in_use) = (self.layout.file_len, self.report.bytes_in_use);
        if len > cache.quota {
            self.corruption(1, "cache extension", 0, None, || {
                format!("the file has {len} bytes, more than the quota of {}", cache.quota)
            });
        }
        if in_use != cache.in_use {
            self.note(FindingKind::Note, "cache extension", 0, None, || {
                format!("{} bytes are said to be in use, {in_use} are; that is only a hint", cache.in_use)
            });
        }
    }
}

/// The big-endian word at a byte of a buffer.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// The big-endian number of at most 8 bytes at a byte of a buffer.
pub(super) fn number(buffer: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let field = buffer.get(at..at.checked_add(bytes)?)?;
    Some(field.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// How many of the sorted `offsets`, each the start of a structure of `bytes` bytes, one request can read: those
/// that lie one behind the other.
pub(super) fn neighbours(mut offsets: impl Iterator<Item = u64>, bytes: u64) -> usize {
    let Some(first) = offsets.next() else { return 0 };
    let most = REQUEST.checked_div(bytes).unwrap_or(1).max(1);
    let expected = (1..most).map(|number| first.saturating_add(bytes.saturating_mul(number)));
    expected.zip(offsets).take_while(|(expected, offset)| expected == offset).count().saturating_add(1)
}
