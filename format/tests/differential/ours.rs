//! The project's turn.

use crate::axes::{self, Shape};
use crate::common::{Random, qemu};
use crate::model::Model;
use crate::ops::{Noise, Op, Side};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use std::path::Path;
use std::rc::Rc;
use vmicache_format::Result;
use vmicache_format::disk::Disk;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, create_image, open_chain};
use vmicache_format::qcow2::{Compression, CreateOptions, DataFileOptions, ImageOptions};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::HostFile;

/// Makes the image of a case; a backing file is there already.
pub fn create(folder: &Path, name: &str, shape: &Shape) {
    let options = CreateOptions {
        cluster_size: shape.cluster_size,
        version: shape.version,
        backing: shape
            .backing
            .map(|backing| ("base".into(), if backing.is_raw { "raw" } else { "qcow2" }.into())),
        refcount_bits: shape.refcount_bits as u32,
        extended_l2: shape.extended_l2,
        lazy_refcounts: shape.lazy_refcounts,
        compression: match shape.compression {
            axes::Compression::Zlib => Compression::Deflate,
            axes::Compression::Zstd => Compression::Zstd,
        },
        data_file: shape.data_file.map(|data_file| DataFileOptions {
            name: format!("{name}.data"),
            raw: data_file == axes::DataFile::Raw,
        }),
        ..CreateOptions::new(shape.size)
    };
    if let Some(data_file) = shape.data_file {
        // A raw image is as long as its disk.
        let bytes = if data_file == axes::DataFile::Raw { shape.size } else { 0 };
        let file = std::fs::File::create(folder.join(format!("{name}.data")));
        file.and_then(|file| file.set_len(bytes)).expect("the data file can be made");
    }
    let made = LocalRuntime::new().block_on(create_image(&folder.join(name), &options));
    made.unwrap_or_else(|error| panic!("ours cannot make the image: {error}"));
}

/// Whether ours can make such an image.
pub fn can_create(shape: &Shape) -> bool {
    shape.preallocation == "off"
}

/// An open disk with what runs it.
pub struct Opened {
    runtime: Rc<LocalRuntime>,
    disk: Disk<HostFile>,
}

impl Opened {
    pub fn new(random: &mut Random, path: &Path, writable: bool) -> Self {
        let image = ImageOptions {
            metadata_cache: random.pick(&[None, Some(0)]),
            batch_bytes: random.pick(&[1, 100_000, 16 << 20]),
            ..ImageOptions::default()
        };
        let options =
            ChainOptions { writable, image, named_files: NamedFiles::Allow, ..ChainOptions::default() };
        let runtime = LocalRuntime::new();
        let opened = {
            let _alone = qemu::no_process_starts();
            runtime.block_on(open_chain(path, Format::Qcow2, &options, runtime.clone()))
        };
        let disk = opened.unwrap_or_else(|error| panic!("ours cannot open the image: {error}"));
        Opened { runtime, disk }
    }

    pub fn close(self) {
        let closed = self.runtime.block_on(self.disk.close());
        closed.unwrap_or_else(|error| panic!("ours cannot close the image: {error}"));
    }

    /// Does some things at once, no two of which collide.
    pub fn perform(&self, ops: &[Op], noise: &Noise, model: &mut Model) {
        let cluster_size = model.cluster_size();
        let done = self
            .runtime
            .block_on(join_all(ops.iter().map(|op| perform(&self.disk, op, noise, cluster_size))));
        for (op, done) in ops.iter().zip(done) {
            let read = done.unwrap_or_else(|error| panic!("ours: {op:?}: {error}"));
            if let (Op::Read(range), Some(found)) = (op, read) {
                model.compare(range.start, &found, &format!("ours reads {range:?}"));
            }
        }
        ops.iter().for_each(|op| op.apply(noise, model, Side::Ours));
    }

    fn read(&self, offset: u64, len: u64) -> Bytes {
        let read = self.runtime.block_on(self.disk.read(offset, len));
        read.unwrap_or_else(|error| panic!("ours cannot read {len} bytes at {offset}: {error}"))
    }
}

async fn perform(disk: &Disk<HostFile>, op: &Op, noise: &Noise, cluster_size: u64) -> Result<Option<Bytes>> {
    match op {
        Op::Write(range, data) => {
            let data = Bytes::from(noise.bytes(data, range.end - range.start));
            disk.write(range.start, data).await.map(|()| None)
        }
        Op::WriteZeroes { range, unmap: false } => {
            disk.write_zeroes(range.start, range.end - range.start).await.map(|()| None)
        }
        Op::WriteZeroes { range, unmap: true } => {
            disk.write_zeroes_unmapped(range.start, range.end - range.start).await.map(|()| None)
        }
        Op::Read(range) => disk.read(range.start, range.end - range.start).await.map(Some),
        Op::Flush => disk.flush().await.map(|()| None),
        Op::Discard(range) => disk.discard(range.start, range.end - range.start).await.map(|()| None),
        Op::WriteCompressed(range, data) => {
            let data = Bytes::from(noise.bytes(data, range.end - range.start));
            let clusters = (range.start..range.end).step_by(cluster_size as usize);
            let written = try_join_all(clusters.map(|start| {
                let part = start - range.start..range.end.min(start + cluster_size) - range.start;
                disk.write_compressed(start, data.slice(part.start as usize..part.end as usize))
            }));
            written.await.map(|_| None)
        }
        Op::Resize(size) => disk.resize(*size).await.map(|()| None),
        Op::Reopen => unreachable!("whoever holds the disk does that"),
    }
}

/// Reads the whole disk, in one request and then in pieces; where its content is not sure, what is found
/// is from now on what it holds.
pub fn settle(random: &mut Random, path: &Path, model: &mut Model, what: &str) {
    let opened = Opened::new(random, path, false);
    model.settle(&opened.read(0, opened.disk.size()), what);
    for _ in 0..3 {
        let piece = random.piece(model.size(), model.size());
        let found = opened.read(piece.start, piece.end - piece.start);
        model.compare(piece.start, &found, &format!("{what}, {piece:?}"));
    }
    opened.close();
}
