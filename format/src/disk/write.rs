//! Writing to the top layer of a stack.

use super::{Layer, Piece, Stack};
use crate::error::Result;
use crate::qcow2::{CopySource, GuestCluster, Image, InFlight, Mode, Reservation, WriteStep};
use crate::runtime::Join;
use crate::storage::{DataKind, Payload, Storage};
use std::ops::Range;
use std::rc::Rc;

/// The rest of a cluster on both sides of the guest's data is copied in one request, the data's own range
/// read along, if that is at most this long: one round trip is dearer than so many bytes. QEMU does the same.
const READ_ACROSS: u64 = 16 << 10;

impl<S: Storage> Stack<S> {
    pub(super) async fn write(self: &Rc<Self>, offset: u64, data: S::Payload) -> Result<()> {
        let image = match &*self.layers[0] {
            Layer::Raw(raw) => return raw.write(offset, data).await,
            Layer::Qcow2(image) => writable(image)?,
        };
        let end = offset + data.len();
        let mut rest = offset..end;
        while !rest.is_empty() {
            match image.begin_write(&rest).await? {
                WriteStep::InPlace { host, end } => {
                    let part = image.bytes_before(&rest, end);
                    let data = data.slice(part.start - offset..part.end - offset);
                    image
                        .write_data(image.host_offset(host) + part.start % image.cluster_size(), &[data])
                        .await?;
                    rest.start = part.end;
                }
                WriteStep::New { record, reservation, source } => {
                    let part = image.bytes_before(&rest, record.clusters.end);
                    rest.start = part.end;
                    let data = data.slice(part.start - offset..part.end - offset);
                    let (stack, image) = (self.clone(), image.clone());
                    let task = async move {
                        stack.write_new(&image, &record, reservation, source, part, data).await
                    };
                    Join::spawn(&*self.runtime, task).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes new clusters: the guest's data, and around it what they held before.
    async fn write_new(
        self: &Rc<Self>,
        image: &Rc<Image<S>>,
        record: &InFlight<S::Payload>,
        reservation: Reservation,
        source: CopySource,
        part: Range<u64>,
        data: S::Payload,
    ) -> Result<()> {
        let clusters = image.bytes_of(&record.clusters);
        let written = match self.copied_around(&clusters, source, &part).await {
            Ok((head, tail)) => {
                let parts: Vec<S::Payload> = head.into_iter().chain([data]).chain(tail).collect();
                image.write_reserved(&reservation, &parts).await
            }
            Err(error) => Err(error),
        };
        match &written {
            Ok(()) => image.commit(record, reservation, |_| false).await,
            Err(_) => image.abandon(record, reservation).await,
        }
        written
    }

    /// What stands before and behind `part` in `clusters`.
    async fn copied_around(
        self: &Rc<Self>,
        clusters: &Range<u64>,
        source: CopySource,
        part: &Range<u64>,
    ) -> Result<(Option<S::Payload>, Option<S::Payload>)> {
        let (head, tail) = (clusters.start..part.start, part.end..clusters.end);
        // As QEMU does: what is known to be zero is neither read nor, by a cache on the way, fetched.
        let is_zero = source == CopySource::Zeroes
            || self.is_known_zero(1, head.clone()).await? && self.is_known_zero(1, tail.clone()).await?;
        if is_zero {
            let zeroes =
                |range: Range<u64>| (!range.is_empty()).then(|| S::Payload::zeroed(range.end - range.start));
            return Ok((zeroes(head), zeroes(tail)));
        }
        if !head.is_empty() && !tail.is_empty() && part.end - part.start <= READ_ACROSS {
            let whole = self.read_below(clusters.clone()).await?;
            let len = whole.len();
            let head = whole.slice(0..head.end - head.start);
            return Ok((Some(head), Some(whole.slice(len - (tail.end - tail.start)..len))));
        }
        let head = if head.is_empty() { None } else { Some(self.read_below(head).await?) };
        let tail = if tail.is_empty() { None } else { Some(self.read_below(tail).await?) };
        Ok((head, tail))
    }

    async fn read_below(self: &Rc<Self>, range: Range<u64>) -> Result<S::Payload> {
        let pieces = self.read(1, range, DataKind::Guest).await?;
        Ok(S::Payload::concat(&pieces.iter().map(Piece::payload).collect::<Vec<_>>()))
    }

    pub(super) async fn write_zeroes(self: &Rc<Self>, range: Range<u64>) -> Result<()> {
        let image = match &*self.layers[0] {
            Layer::Qcow2(image) if writable(image)?.header().version >= 3 => image,
            _ => return self.write_explicit_zeroes(range).await,
        };
        let cluster_size = image.cluster_size();
        let first = range.start.div_ceil(cluster_size);
        // The last cluster of a disk may be cut short: what lies beyond it does not matter.
        let last = match range.end == image.size() {
            true => range.end.div_ceil(cluster_size),
            false => range.end / cluster_size,
        };
        if first > last {
            return self.write_explicit_zeroes(range).await;
        }
        // What lies in two clusters, none of them whole, is two writes: neither copies what the other writes.
        self.write_explicit_zeroes(range.start..(first * cluster_size).min(range.end)).await?;
        image.set_zero(GuestCluster(first)..GuestCluster(last)).await?;
        image.publish_when_due();
        self.write_explicit_zeroes((last * cluster_size).min(range.end)..range.end).await
    }

    async fn write_explicit_zeroes(self: &Rc<Self>, range: Range<u64>) -> Result<()> {
        const CHUNK: u64 = 1 << 20;
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + CHUNK);
            self.write(at, S::Payload::zeroed(end - at)).await?;
            at = end;
        }
        Ok(())
    }
}

fn writable<S: Storage>(image: &Rc<Image<S>>) -> Result<&Rc<Image<S>>> {
    match image.mode() {
        Mode::Write => Ok(image),
        Mode::Fill => Err(image.blame().refused("a cache image takes copies of its base, no guest's writes")),
        Mode::Read => Err(image.blame().refused("the image is open for reading only")),
    }
}
