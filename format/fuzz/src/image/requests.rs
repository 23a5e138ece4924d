//! A guest's requests, what they make of a disk, and how they may fail.

use super::model::Model;
use super::script::{Request, Units, data};
use super::store::Store;
use bytes::Bytes;
use futures_util::future::join;
use vmicache_format::disk::Disk;
use vmicache_format::qcow2::Mode;
use vmicache_format::{Error, Result};

/// Makes a request.
pub async fn perform(disk: &Disk<Store>, request: &Request, units: &Units) -> Result<Option<Bytes>> {
    match *request {
        Request::Read(offset, len) => return disk.read(offset, len).await.map(Some),
        Request::Extents(offset, len) => disk.extents(offset, len, 100).await.map(drop),
        Request::Write(offset, len, number) => disk.write(offset, pattern(offset, len, number)).await,
        Request::WriteTwice(offset, len, number) => {
            let (first, second) = halves(offset, len);
            let one = disk.write(first.0, pattern(first.0, first.1, number));
            let other = disk.write(second.0, pattern(second.0, second.1, number));
            let (one, other) = join(one, other).await;
            one.and(other)
        }
        Request::WriteCompressed(offset, len, number) => {
            disk.write_compressed(offset, pattern(offset, len, number)).await
        }
        Request::WritePrecompressed(offset, len, number) => {
            disk.write_precompressed(offset, pattern(number.into(), len.min(units.cluster), number)).await
        }
        Request::Zero(offset, len, false) => disk.write_zeroes(offset, len).await,
        Request::Zero(offset, len, true) => disk.write_zeroes_unmapped(offset, len).await,
        Request::Discard(offset, len) => disk.discard(offset, len).await,
        Request::Resize(size) => disk.resize(size).await,
        Request::Flush | Request::Reopen => disk.flush().await,
    }
    .map(|()| None)
}

fn pattern(offset: u64, len: u64, number: u8) -> Bytes {
    Bytes::from(data(offset, len, number))
}

/// Two ranges that meet somewhere within a cluster.
fn halves(offset: u64, len: u64) -> ((u64, u64), (u64, u64)) {
    let half = len / 3;
    ((offset, half), (offset + half, len - half))
}

/// What a disk holds after a request; `None`: that is no longer known.
pub async fn follow(
    model: Option<Model>,
    disk: &Disk<Store>,
    request: &Request,
    outcome: &Result<Option<Bytes>>,
) -> Option<Model> {
    let mut model = model?;
    match (request, outcome) {
        (Request::Read(offset, _), Ok(Some(data))) => model.check(*offset, data),
        (Request::Write(offset, len, number), Ok(_))
        | (Request::WriteTwice(offset, len, number), Ok(_))
        | (Request::WriteCompressed(offset, len, number), Ok(_)) => {
            model.write(*offset, &data(*offset, *len, *number));
        }
        (Request::Zero(offset, len, _), Ok(_)) => model.zero(*offset..*offset + *len),
        (Request::Resize(size), Ok(_)) => model.resize(*size),
        (Request::Discard(offset, len), Ok(_)) => {
            return model.after_discard(disk, *offset..*offset + *len).await;
        }
        (Request::Flush | Request::Extents(..), _) => {}
        // What was refused has changed nothing.
        (Request::Resize(_), Err(Error::Refused { .. })) => {}
        // What failed half-way, and what cannot be decompressed.
        _ => return None,
    }
    Some(model)
}

/// Whether a request of a guest may fail although nothing is wrong with the image.
pub fn may_fail(error: &Error, request: &Request, mode: Mode) -> bool {
    match error {
        // The host has no room, or what was written as compressed data is none.
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::FileTooLarge,
        Error::Invalid { structure, .. } => *structure == "compressed cluster",
        Error::Refused { .. } => {
            mode == Mode::Fill
                || !matches!(request, Request::Read(..) | Request::Extents(..) | Request::Flush)
        }
        Error::BeyondDisk { size, .. } => *size == 0,
        _ => false,
    }
}
