//! Which images can be opened for what.

use super::description::bits;
use super::header::{Header, RAW_DATA_FILE, extension, incompatible};
use super::image::Mode;
use crate::error::{Blame, Result};

/// Autoclear features that a writer of this code keeps up: what is written to an external data file is what the guest
/// sees.
pub(super) const KEPT_AUTOCLEAR: u64 = RAW_DATA_FILE;

/// Refuses images whose features are not handled.
pub(super) fn check(header: &Header, mode: Mode, has_data_file: bool, blame: &Blame) -> Result<()> {
    if let Some(method) = header.encryption() {
        return Err(blame.unsupported(format!("encryption ({method}, crypt_method {})", header.crypt_method)));
    }
    let unknown = header.incompatible_features & !incompatible::KNOWN;
    if unknown != 0 {
        let named: Vec<String> = bits(unknown).map(|bit| header.feature_name(bit)).collect();
        return Err(blame.unsupported(named.join(", ")));
    }
    if header.compression_method().is_none() {
        return Err(blame.unsupported(format!("compression type {}", header.compression())));
    }
    check_data_file(header, has_data_file, blame)?;
    match mode {
        Mode::Read => Ok(()),
        Mode::Write => check_writing(header, blame),
        Mode::Fill => check_filling(header, blame),
    }
}

fn check_data_file(header: &Header, is_given: bool, blame: &Blame) -> Result<()> {
    match (header.data_file(), is_given) {
        (Some(_), false) => Err(blame.refused(
            "its data lies in an external data file, which was not opened with it: an image may name other files only \
             where that is allowed",
        )),
        (None, true) => Err(blame.refused("it has no external data file")),
        (Some(_), true) if header.data_file_is_raw() && header.backing_file.is_some() => {
            let problem = "an external data file that is a raw image allows no backing file";
            Err(blame.invalid("header", 8, problem))
        }
        _ => Ok(()),
    }
}

fn check_writing(header: &Header, blame: &Blame) -> Result<()> {
    if header.cache().is_some() {
        return Err(blame.refused("this is a cache image: only copies of its base are written to it"));
    }
    if header.is_corrupt() {
        return Err(blame
            .refused("somebody found it damaged and set the corrupt bit: repair it before it is written"));
    }
    Ok(())
}

fn check_filling(header: &Header, blame: &Blame) -> Result<()> {
    if header.cache().is_none() {
        return Err(blame.refused("this is no cache image: it cannot be filled"));
    }
    let obstacles = [
        (header.is_dirty(), "filling a cache with the dirty bit set (repair it first)"),
        (header.is_corrupt(), "filling a cache with the corrupt bit set"),
        (header.nb_snapshots != 0, "filling a cache with internal snapshots"),
        (header.extension(extension::BITMAPS).is_some(), "filling a cache with bitmaps"),
        (header.data_file().is_some(), "filling a cache with an external data file"),
    ];
    match obstacles.iter().find(|(present, _)| *present) {
        Some((_, what)) => Err(blame.unsupported(*what)),
        None => Ok(()),
    }
}
