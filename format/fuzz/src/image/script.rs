//! What is done with an image: requests of a guest, from a script.

use super::Input;

/// A script has at most so many requests.
pub const MOST_REQUESTS: usize = 24;
/// Clusters that one request makes zero: their entries are written one by one.
const MOST_CLUSTERS: u64 = 1 << 18;
/// Bytes of data of one request.
const MOST_DATA: u64 = 96 << 10;

/// What a guest, or whoever manages its disk, asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reading.
    Read(u64, u64),
    /// Where there is data.
    Extents(u64, u64),
    /// Writing [`data`] that has this number.
    Write(u64, u64, u8),
    /// Two writes at once.
    WriteTwice(u64, u64, u8),
    /// A cluster, compressed.
    WriteCompressed(u64, u64, u8),
    /// A cluster of bytes that are said to be compressed.
    WritePrecompressed(u64, u64, u8),
    /// Zeroes; whether the room may be given back.
    Zero(u64, u64, bool),
    /// A discard.
    Discard(u64, u64),
    /// Another size of the disk.
    Resize(u64),
    /// A flush.
    Flush,
    /// The image is closed, and opened again.
    Reopen,
}

/// Sizes that ranges are made of.
#[derive(Clone, Copy, Debug)]
pub struct Units {
    /// Bytes of the disk.
    pub disk: u64,
    /// Bytes of a cluster.
    pub cluster: u64,
    /// Bytes of the disk that one L2 table maps.
    pub table: u64,
}

/// Data that a write has: every sector tells where it was to lie, so that data in a wrong place shows.
pub fn data(offset: u64, len: u64, number: u8) -> Vec<u8> {
    (offset..offset + len)
        .map(|at| number.wrapping_add((at / 512) as u8).wrapping_add((at / 70_001) as u8))
        .collect()
}

/// The next request of a script, if it has one.
pub fn request(input: &mut Input<'_>, units: &Units) -> Option<Request> {
    let kind = input.next()?;
    let (offset, length) = (place(input, units), length(input, units));
    let number = input.byte();
    let rest = units.disk.saturating_sub(offset);
    let few = length.min(MOST_DATA).min(rest);
    let cluster = offset / units.cluster * units.cluster;
    Some(match kind % 16 {
        0 | 1 => Request::Read(offset, few),
        2 => Request::Extents(offset, if length > MOST_DATA { rest } else { few }),
        3..=5 => Request::Write(offset, few, number),
        6 => Request::WriteTwice(offset, few, number),

        7 | 8 if cluster >= units.disk => Request::Flush,
        7 => Request::WriteCompressed(cluster, units.cluster.min(units.disk - cluster), number),
        8 => Request::WritePrecompressed(cluster, 1 + u64::from(number) * 7 % units.cluster, number),
        9 | 10 => Request::Zero(
            offset,
            length.min(rest).min(16 * units.table).min(MOST_CLUSTERS * units.cluster),
            kind % 16 == 10,
        ),
        11 | 12 => Request::Discard(
            offset,
            length.min(rest).min(64 * units.table).min(MOST_CLUSTERS * units.cluster),
        ),
        13 => Request::Resize(offset.saturating_add(length)),
        14 => Request::Flush,
        _ => Request::Reopen,
    })
}

/// Where a range begins.
fn place(input: &mut Input<'_>, units: &Units) -> u64 {
    let (unit, count) = (input.byte(), u64::from(input.byte()));
    let offset = match unit % 8 {
        0 | 1 => count * units.cluster,
        2 => count * 512,
        3 => count * units.table,
        4 => units.disk / 255 * count,
        5 => units.disk.saturating_sub(count * 512),
        6 => count * units.cluster / 32,
        _ => count * 4096,
    };
    let moved = match unit / 8 % 4 {
        0 | 1 => offset,
        2 => offset.saturating_add(u64::from(unit)),
        _ => offset.saturating_sub(u64::from(unit) * 8),
    };
    moved.min(units.disk)
}

fn length(input: &mut Input<'_>, units: &Units) -> u64 {
    let byte = input.byte();
    let count = u64::from(byte % 32) + 1;
    match byte / 32 {
        0 => count,
        1 => count * 512,
        2 | 3 => count * units.cluster,
        4 => count * units.cluster / 32,
        5 => count * 4096 + 100,
        6 => count.saturating_mul(units.table),
        _ => units.disk / 32 * count,
    }
}
