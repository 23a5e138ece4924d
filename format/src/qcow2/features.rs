//! Which images can be opened for what.

use super::description::bits;
use super::header::{Header, extension, incompatible};
use super::image::Mode;
use crate::error::{Blame, Result};

/// Refuses images whose features are not handled.
pub(super) fn check(header: &Header, mode: Mode, blame: &Blame) -> Result<()> {
    let known = incompatible::DIRTY | incompatible::CORRUPT;
    if let Some(method) = header.encryption() {
        return Err(blame.unsupported(format!("encryption ({method}, crypt_method {})", header.crypt_method)));
    }
    let unknown = header.incompatible_features & !known;
    if unknown != 0 {
        let named: Vec<String> = bits(unknown).map(|bit| name_of(header, bit)).collect();
        return Err(blame.unsupported(named.join(", ")));
    }
    if mode == Mode::Read {
        return Ok(());
    }
    let is_cache = header.cache().is_some();
    match mode {
        Mode::Write if is_cache => {
            return Err(blame.refused("this is a cache image: only copies of its base are written to it"));
        }
        Mode::Fill if !is_cache => return Err(blame.refused("this is no cache image: it cannot be filled")),
        _ => {}
    }
    let obstacles = [
        (header.is_dirty(), "writing to an image with the dirty bit set (repair it first)"),
        (header.is_corrupt(), "writing to an image with the corrupt bit set"),
        (header.refcount_order != 4, "writing to an image whose refcounts are not 16 bits wide"),
        (header.nb_snapshots != 0, "writing to an image with internal snapshots"),
        (header.extension(extension::BITMAPS).is_some(), "writing to an image with bitmaps"),
    ];
    match obstacles.iter().find(|(present, _)| *present) {
        Some((_, what)) => Err(blame.unsupported(*what)),
        None => Ok(()),
    }
}

fn name_of(header: &Header, bit: u32) -> String {
    match 1u64 << bit {
        incompatible::EXTERNAL_DATA_FILE => "external data file".into(),
        incompatible::COMPRESSION_TYPE => "compression type other than deflate".into(),
        incompatible::EXTENDED_L2 => "extended L2 entries (subclusters)".into(),
        _ => header.feature_name(bit),
    }
}
