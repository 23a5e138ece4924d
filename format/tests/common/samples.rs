//! Images of all kinds that stock QEMU makes, to be damaged.

use super::Random;
use super::qemu;
use std::fs;
use std::path::Path;

/// A kind of image.
pub struct Kind {
    pub name: &'static str,
    /// Options of `qemu-img create`.
    options: &'static str,
    size: u64,
    /// Clusters of a mapping unit, for sizes of writes.
    unit: u64,
    more: &'static [Step],
}

/// What is done to an image beside writing to it.
#[derive(Clone, Copy)]
enum Step {
    /// Internal snapshots between the writes.
    Snapshots,
    /// Compressed clusters among the others.
    Compressed,
    /// Persistent bitmaps.
    Bitmaps,
    /// Discarded and zeroed ranges.
    Holes,
}

const fn kind(
    name: &'static str,
    options: &'static str,
    size: u64,
    unit: u64,
    more: &'static [Step],
) -> Kind {
    Kind { name, options, size, unit, more }
}

use Step::*;

pub const KINDS: [Kind; 17] = [
    kind("version 2", "compat=0.10,cluster_size=4k", 4 << 20, 4 << 10, &[Snapshots]),
    kind("64 KiB", "cluster_size=64k", 4 << 20, 64 << 10, &[Holes]),
    kind("512 bytes", "cluster_size=512", 300 << 10, 512, &[Holes]),
    kind("512 bytes, snapshots", "cluster_size=512", 200 << 10, 512, &[Snapshots, Holes]),
    kind("2 MiB", "cluster_size=2M", 12 << 20, 2 << 20, &[]),
    kind("1 bit", "cluster_size=512,refcount_bits=1", 400 << 10, 512, &[]),
    kind("2 bits", "cluster_size=4k,refcount_bits=2", 1 << 20, 4 << 10, &[Snapshots]),
    kind("4 bits", "cluster_size=1k,refcount_bits=4", 1 << 20, 1 << 10, &[Snapshots]),
    kind("8 bits", "cluster_size=4k,refcount_bits=8", 2 << 20, 4 << 10, &[Snapshots]),
    kind("32 bits", "cluster_size=4k,refcount_bits=32", 4 << 20, 4 << 10, &[Snapshots]),
    kind("64 bits", "cluster_size=512,refcount_bits=64", 300 << 10, 512, &[Compressed]),
    kind("deflate", "cluster_size=64k", 4 << 20, 64 << 10, &[Compressed, Snapshots]),
    kind("zstd", "cluster_size=16k,compression_type=zstd", 2 << 20, 16 << 10, &[Compressed]),
    kind("extended", "cluster_size=16k,extended_l2=on", 4 << 20, 512, &[Holes, Snapshots]),
    kind("extended, deflate", "cluster_size=64k,extended_l2=on", 4 << 20, 2 << 10, &[Compressed, Holes]),
    kind("bitmaps", "cluster_size=4k", 4 << 20, 4 << 10, &[Bitmaps]),
    kind("data file", "cluster_size=4k,data_file=data,data_file_raw=off", 2 << 20, 4 << 10, &[Holes]),
];

impl Kind {
    /// Makes such an image in `folder`, under the name `image`.
    pub fn make(&self, folder: &Path, random: &mut Random) -> Vec<u8> {
        let size = self.size.to_string();
        qemu::img(folder, &["create", "-q", "-f", "qcow2", "-o", self.options, "image", &size]);
        let has = |step: fn(&Step) -> bool| self.more.iter().any(step);
        if has(|step| matches!(step, Bitmaps)) {
            for name in ["one", "two"] {
                qemu::img(folder, &["bitmap", "--add", "-g", "4k", "image", name]);
            }
        }
        let rounds = if has(|step| matches!(step, Snapshots)) { 3 } else { 2 };
        for round in 0..rounds {
            let mut commands = self.commands(random);
            if round == 0 && has(|step| matches!(step, Compressed)) {
                commands = self.compressed(random);
            } else if round == 1 && has(|step| matches!(step, Holes)) {
                commands.push(format!("write -z 0 {}", self.size / 8));
                commands.push(format!("discard {} {}", self.size / 4, self.size / 8));
            }
            qemu::io(folder, &["-f", "qcow2"], "image", &commands);
            if round + 1 < rounds && rounds == 3 {
                qemu::img(folder, &["snapshot", "-c", &format!("snapshot {round}"), "image"]);
            }
        }
        fs::read(folder.join("image")).expect("qemu-img wrote it")
    }

    fn commands(&self, random: &mut Random) -> Vec<String> {
        let writes = random.within(3..12);
        let piece = |random: &mut Random| {
            let units = (self.size / self.unit).min(40);
            let length = (1 + random.below(units)) * self.unit;
            let start = random.below(self.size - length.min(self.size - 512)) / 512 * 512;
            format!("write -P {} {start} {}", random.within(1..255), length.min(self.size - start))
        };
        (0..writes).map(|_| piece(random)).collect()
    }

    /// One whole cluster a write, as qemu-io demands.
    fn compressed(&self, random: &mut Random) -> Vec<String> {
        let cluster = 65536.max(self.unit).min(self.size);
        let clusters = self.size / cluster;
        let write = |random: &mut Random, cluster_number: u64| {
            format!("write -c -P {} {} {cluster}", random.within(1..255), cluster_number * cluster)
        };
        (0..clusters).filter(|number| number % 3 != 2).map(|number| write(random, number)).collect()
    }
}
