//! What of a disk is allocated before anybody writes it: qemu-img's preallocation modes.

use anyhow::bail;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

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
        match self {
            Preallocation::Off => Ok(()),
            Preallocation::Metadata => {
                if file.metadata()?.len() < range.end {
                    file.set_len(range.end)?;
                }
                Ok(())
            }
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
