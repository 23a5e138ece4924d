//! What either side does with a disk.

use crate::axes::{AXES, Shape};
use crate::common::Random;
use crate::model::Model;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// What is written: bytes that the stock tool can make as well.
#[derive(Clone, Debug)]
pub enum Data {
    Pattern(u8),
    /// The content of a file of this number, over and over.
    Noise(usize),
}

/// Files of bytes to write: what cannot be compressed, and what can a bit.
pub struct Noise {
    folder: PathBuf,
    contents: Vec<Vec<u8>>,
}

impl Noise {
    pub fn new(folder: PathBuf) -> Self {
        let mut random = Random::new(0);
        let contents: Vec<Vec<u8>> = [(70_001, 0), (70_001, 0), (5_003, 3_000), (50_021, 43_000), (777, 700)]
            .map(|(len, zeroes)| {
                let mut bytes = random.bytes(len);
                bytes[..zeroes].fill(0);
                bytes
            })
            .into();
        for (number, content) in contents.iter().enumerate() {
            std::fs::write(folder.join(format!("noise{number}")), content).expect("a file can be written");
        }
        Noise { folder, contents }
    }

    pub fn bytes(&self, data: &Data, len: u64) -> Vec<u8> {
        match data {
            Data::Pattern(byte) => vec![*byte; len as usize],
            Data::Noise(number) => {
                self.contents[*number].iter().copied().cycle().take(len as usize).collect()
            }
        }
    }

    fn argument(&self, data: &Data) -> String {
        match data {
            Data::Pattern(byte) => format!("-P {byte}"),
            Data::Noise(number) => format!("-s {}", self.folder.join(format!("noise{number}")).display()),
        }
    }

    fn random(&self, random: &mut Random) -> Data {
        match random.chance(0.6) {
            true => Data::Pattern(random.within(1..256) as u8),
            false => Data::Noise(random.below(self.contents.len() as u64) as usize),
        }
    }
}

#[derive(Clone, Debug)]
pub enum Op {
    Write(Range<u64>, Data),
    /// Of whole clusters, or up to the end of the disk.
    WriteCompressed(Range<u64>, Data),
    WriteZeroes {
        range: Range<u64>,
        unmap: bool,
    },
    Discard(Range<u64>),
    Read(Range<u64>),
    Flush,
    Reopen,
    Resize(u64),
}

/// The side that is at the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Stock,
    Ours,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Stock => "stock",
            Side::Ours => "ours",
        })
    }
}

/// A piece of a disk, mostly short, with its ends on multiples of something or anywhere.
fn piece(random: &mut Random, size: u64, cluster_size: u64) -> Range<u64> {
    let unit = random.pick(&[1, 512, 512, 4096, cluster_size, cluster_size, (cluster_size / 32).max(1)]);
    let longest = match random.below(6) {
        0 => size,
        1 => 64 << 10,
        2 => 3 * cluster_size,
        _ => 6000,
    };
    let start = random.below(size) / unit * unit;
    let len = (1 + random.below(longest.min(size))).next_multiple_of(unit);
    start..(start + len).min(size)
}

/// Some clusters from one on that `side` may write compressed.
fn compressible(random: &mut Random, model: &Model, cluster_size: u64, side: Side) -> Option<Range<u64>> {
    let size = model.size();
    if side == Side::Stock && model.lost_compressed {
        return None;
    }
    let may = |cluster: u64| side == Side::Ours || model.untouched[cluster as usize];
    let clusters = size.div_ceil(cluster_size);
    let first = random.below(clusters);
    let start = (0..clusters).map(|add| (first + add) % clusters).find(|cluster| may(*cluster))?;
    let most = random.within(1..5).min(clusters - start);
    let end = (start..start + most).take_while(|cluster| may(*cluster)).last()? + 1;
    Some(start * cluster_size..(end * cluster_size).min(size))
}

impl Op {
    /// What `side` might do next.
    pub fn random(random: &mut Random, noise: &Noise, shape: &Shape, model: &Model, side: Side) -> Self {
        let cluster_size = shape.cluster_size;
        let piece = piece(random, model.size(), cluster_size);
        match random.below(100) {
            0..14 => Op::WriteZeroes { range: piece, unmap: random.chance(0.5) },
            14..26 if shape.can_discard() => Op::Discard(piece),
            26..38 if shape.has_compressed => match compressible(random, model, cluster_size, side) {
                Some(range) => Op::WriteCompressed(range, noise.random(random)),
                None => Op::Write(piece, noise.random(random)),
            },
            38..48 => Op::Read(piece),
            48..51 => Op::Flush,
            51..54 => Op::Reopen,
            54..58 if shape.can_resize() => {
                let most = (2 * model.size()).min(6 << 20);
                Op::Resize(random.within(32 << 10..most).next_multiple_of(512))
            }
            _ => Op::Write(piece, noise.random(random)),
        }
    }

    /// As `qemu-io` is told; `None`: that takes more than a command.
    pub fn command(&self, noise: &Noise, model: &Model) -> Option<String> {
        let place = |range: &Range<u64>| format!("{} {}", range.start, range.end - range.start);
        Some(match self {
            Op::Write(range, data) => format!("write -q {} {}", noise.argument(data), place(range)),
            Op::WriteCompressed(range, data) => {
                format!("write -q -c {} {}", noise.argument(data), place(range))
            }
            Op::WriteZeroes { range, unmap: false } => format!("write -q -z {}", place(range)),
            Op::WriteZeroes { range, unmap: true } => format!("write -q -z -u {}", place(range)),
            Op::Discard(range) => format!("discard -q {}", place(range)),
            Op::Read(range) => match model.uniform(range) {
                Some((range, byte)) => format!("read -q -P {byte} {}", place(&range)),
                None => format!("read -q {}", place(range)),
            },
            Op::Flush => "flush".into(),
            Op::Reopen => return None,
            Op::Resize(size) => format!("truncate {size}"),
        })
    }

    pub fn apply(&self, noise: &Noise, model: &mut Model, side: Side) {
        match self {
            Op::Write(range, data) => model.write(range, &noise.bytes(data, range.end - range.start)),
            Op::WriteCompressed(range, data) => {
                model.write_compressed(range, &noise.bytes(data, range.end - range.start));
            }
            Op::WriteZeroes { range, .. } => model.write_zeroes(range),
            Op::Discard(range) => model.discard(range),
            Op::Resize(size) => model.resize(*size, side == Side::Stock),
            Op::Reopen => model.lost_compressed = false,
            Op::Read(_) | Op::Flush => {}
        }
    }

    /// Its name, to count.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Write(..) => "write",
            Op::WriteCompressed(..) => "compressed write",
            Op::WriteZeroes { unmap: false, .. } => "write zeroes",
            Op::WriteZeroes { unmap: true, .. } => "write zeroes, unmapping",
            Op::Discard(_) => "discard",
            Op::Read(_) => "read",
            Op::Flush => "flush",
            Op::Reopen => "reopen",
            Op::Resize(_) => "resize",
        }
    }

    /// The bytes that it reads or changes; `None`: all of them.
    fn range(&self) -> Option<Range<u64>> {
        match self {
            Op::Write(range, _)
            | Op::WriteCompressed(range, _)
            | Op::WriteZeroes { range, .. }
            | Op::Discard(range)
            | Op::Read(range) => Some(range.clone()),
            Op::Flush => Some(0..0),
            Op::Reopen | Op::Resize(_) => None,
        }
    }

    /// Whether the order of the two decides what they do.
    pub fn collides_with(&self, other: &Op) -> bool {
        let (Some(a), Some(b)) = (self.range(), other.range()) else { return true };
        a.start < b.end && b.start < a.end
    }
}

/// Names of the operations that every long run must have seen.
pub fn expected_names() -> Vec<&'static str> {
    let mut names = vec!["write", "write zeroes", "write zeroes, unmapping", "read", "flush", "reopen"];
    let gated =
        [(AXES.compressed_clusters, "compressed write"), (AXES.discard, "discard"), (AXES.resize, "resize")];
    names.extend(gated.iter().filter(|(open, _)| *open).map(|(_, name)| *name));
    names
}
