//! The base image that the boots ran on: where it has data, and where it has none.

use crate::commands::warm;
use crate::terminal::Progress;
use anyhow::ensure;
use std::ops::Range;
use std::path::Path;
use vmicache_format::disk::Disk;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, begins_as_qcow2, open_chain};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Holes, HostFile};
use vmicache_format::trace::{Trace, footprint, joint_working_set};
use vmicache_sim::replay;

/// The largest cluster of an image in bytes: whatever is read for a request lies in such blocks around it.
const LARGEST_CLUSTER: u64 = 2 << 20;
/// Bytes of the disk that are looked at in one go, and extents that are asked for.
const STEP: u64 = 1 << 30;
const EXTENTS: usize = 4096;
/// More holes are not kept: 16 MiB of them.
const MOST_HOLES: usize = 1 << 20;

/// A base image and what is known of it. Sizes are in bytes.
pub struct BaseImage {
    /// The image, as caches are made over it.
    pub image: warm::Base,
    /// Of its disk, what is allocated in it or in what it is backed by.
    pub allocated_bytes: u64,
    /// What the boots together need of the disk, each byte once.
    pub needed_bytes: u64,
    /// Of this, holes.
    pub needed_hole_bytes: u64,
    /// The base as it is replayed, with the holes that the boots can meet.
    pub replayed: replay::Base,
}

/// Opens the base at `path`. The operator points at this very file, so its format may be guessed; what lies below it
/// is never guessed.
///
/// # Errors
/// If it cannot be read or is no image of that format.
pub fn open(path: &Path, format: Option<Format>) -> anyhow::Result<warm::Base> {
    let format = match format {
        Some(format) => format,
        None if LocalRuntime::new().block_on(begins_as_qcow2(path))? => Format::Qcow2,
        None => Format::Raw,
    };
    warm::Base::open(path, Some(format))
}

impl BaseImage {
    /// Looks where `image` has data, without reading any.
    ///
    /// # Errors
    /// If a table of the image is damaged, or it has more holes where the boots read than can be kept.
    pub fn survey(image: warm::Base, boots: &[&Trace]) -> anyhow::Result<BaseImage> {
        let runtime = LocalRuntime::new();
        let (allocated_bytes, holes) = runtime.block_on(async {
            let options = ChainOptions { named_files: NamedFiles::Allow, ..ChainOptions::default() };
            let disk = open_chain(&image.path, image.format, &options, runtime.clone()).await?;
            survey(&disk, &footprint(boots.iter().copied(), LARGEST_CLUSTER)).await
        })?;
        let needed = joint_working_set(boots.iter().copied());
        Ok(BaseImage {
            allocated_bytes,
            needed_bytes: needed.iter().map(|range| range.end - range.start).sum(),
            needed_hole_bytes: needed.iter().map(|range| holes.bytes_in(range)).sum(),
            replayed: replay::Base::with_holes(image.size, holes),
            image,
        })
    }
}

/// How many bytes of a disk hold data, and its holes within `wanted`, which are ascending ranges.
async fn survey(disk: &Disk<HostFile>, wanted: &[Range<u64>]) -> anyhow::Result<(u64, Holes)> {
    let progress = Progress::of_bytes("looking for holes", disk.size());
    let (mut at, mut allocated, mut holes) = (0, 0, Vec::new());
    while at < disk.size() {
        let extents = disk.extents(at, STEP.min(disk.size() - at), EXTENTS).await?;
        for extent in &extents {
            match extent.is_zero {
                true => holes.extend(common(&extent.range, wanted)),
                false => allocated += extent.range.end - extent.range.start,
            }
        }
        ensure!(
            holes.len() <= MOST_HOLES,
            "{}: data and holes alternate more than {MOST_HOLES} times where the boots read; leave out --base, or \
             copy the base with qemu-img convert",
            disk.layers()[0].name()
        );
        at = extents.last().map_or(disk.size(), |extent| extent.range.end);
        progress.set(at);
    }
    Ok((allocated, Holes::new(holes)))
}

/// What `range` has in common with ascending ranges.
fn common<'w>(range: &Range<u64>, wanted: &'w [Range<u64>]) -> impl Iterator<Item = Range<u64>> + use<'w> {
    let (start, end) = (range.start, range.end);
    let first = wanted.partition_point(|wanted| wanted.end <= start);
    let touched = wanted[first..].iter().take_while(move |wanted| wanted.start < end);
    touched.map(move |wanted| wanted.start.max(start)..wanted.end.min(end))
}
