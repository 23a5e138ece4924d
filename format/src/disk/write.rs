//! Writing to the top layer of a stack.

use super::{Layer, Piece, Stack};
use crate::byte_range::{length_of, range_at};
use crate::error::Result;
use crate::qcow2::{CopySource, Image, InFlight, Mode, Reservation, WriteStep, compress};
use crate::runtime::Join;
use crate::storage::{DataKind, Payload, Storage};
use smallvec::SmallVec;
use std::ops::Range;
use std::rc::Rc;

/// The rest of a cluster on both sides of the guest's data is copied in one request, the data's own range
/// read along, if that is at most this long: one round trip is dearer than so many bytes. QEMU does the same.
const READ_ACROSS: u64 = 16 << 10;

/// From so many bytes on, the host's copying saves more than the two further requests cost.
const LEAST_BY_HOST: u64 = 32 << 10;

impl<S: Storage> Stack<S> {
    pub(super) async fn write(self: &Rc<Self>, offset: u64, data: S::Payload) -> Result<()> {
        let image = match &**self.top() {
            Layer::Raw(raw) => return raw.write(offset, data).await,
            Layer::Qcow2(image) => writable(image)?,
        };
        let mut rest = range_at(offset, data.len());
        let data_of = |part: &Range<u64>| {
            data.slice(part.start.saturating_sub(offset)..part.end.saturating_sub(offset))
        };
        while !rest.is_empty() {
            match image.begin_write(&rest).await? {
                WriteStep::InPlace { host, end, using } => {
                    let part = image.bytes_before(&rest, end);
                    let place = host.saturating_add(image.within_subcluster(part.start));
                    let data = data_of(&part);
                    image.write_in_place(image.subclusters(&part), using, place, data).await?;
                    rest.start = part.end;
                }
                WriteStep::New { record, reservation, source } => {
                    let part = image.bytes_before(&rest, record.guest.end);
                    rest.start = part.end;
                    let data = data_of(&part);
                    let (stack, image) = (self.clone(), image.clone());
                    let task = async move {
                        stack.write_new(&image, &record, &reservation, source, &part, data).await
                    };
                    Join::spawn(&*self.runtime, Box::pin(task)).await?;
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
        reservation: &Reservation,
        source: CopySource,
        part: &Range<u64>,
        data: S::Payload,
    ) -> Result<()> {
        let whole = image.bytes_of(&record.guest);
        let written = match *part == whole {
            true => image.write_reserved(reservation, &[data]).await,
            // In memory of its own: whole clusters, the most of what is written, need none of it.
            false => Box::pin(self.write_amid_rest(image, reservation, &whole, source, part, data)).await,
        };
        match &written {
            Ok(()) => image.commit(record, reservation, |_| false).await,
            Err(_) => image.abandon(record, reservation).await,
        }
        written
    }

    /// Writes `data` onto its `part` of new clusters, and what they held before onto the rest.
    async fn write_amid_rest(
        self: &Rc<Self>,
        image: &Image<S>,
        reservation: &Reservation,
        whole: &Range<u64>,
        source: CopySource,
        part: &Range<u64>,
        data: S::Payload,
    ) -> Result<()> {
        if let [host] = reservation.host.as_slice()
            && source == CopySource::Below
            && self.copied_by_host(image, host, whole, part).await?
        {
            let within = part.start.saturating_sub(whole.start);
            return image.write_data(host.start.saturating_add(within), &[data]).await;
        }
        let (head, tail) = self.copied_around(whole, source, part).await?;
        let parts: SmallVec<[S::Payload; 3]> = head.into_iter().chain([data]).chain(tail).collect();
        image.write_reserved(reservation, &parts).await
    }

    /// Whether the host has copied what layers below hold to the new clusters at `host`, `part` of them included:
    /// instead of twice, through the memory of this program, it passes the processor once.
    async fn copied_by_host(
        self: &Rc<Self>,
        image: &Image<S>,
        host: &Range<u64>,
        whole: &Range<u64>,
        part: &Range<u64>,
    ) -> Result<bool> {
        let around = length_of(whole).saturating_sub(length_of(part));
        if around < LEAST_BY_HOST || length_of(part) > READ_ACROSS {
            return Ok(false);
        }
        match self.in_one_file(1, whole).await? {
            Some((storage, bytes)) => Ok(image.copy_data(storage, &bytes, host.start).await),
            None => Ok(false),
        }
    }

    /// What stands before and behind `part` in `whole`.
    async fn copied_around(
        self: &Rc<Self>,
        whole: &Range<u64>,
        source: CopySource,
        part: &Range<u64>,
    ) -> Result<(Option<S::Payload>, Option<S::Payload>)> {
        let (head, tail) = (whole.start..part.start, part.end..whole.end);
        let first = if source == CopySource::Replaced { 0 } else { 1 };
        // As QEMU does: what is known to be zero is neither read nor, by a cache on the way, fetched.
        let is_zero = source == CopySource::Zeroes
            || self.is_known_zero(first, head.clone()).await?
                && self.is_known_zero(first, tail.clone()).await?;
        if is_zero {
            let zeroes =
                |range: Range<u64>| (!range.is_empty()).then(|| S::Payload::zeroed(length_of(&range)));
            return Ok((zeroes(head), zeroes(tail)));
        }
        if !head.is_empty() && !tail.is_empty() && length_of(part) <= READ_ACROSS {
            let whole = self.read_from(first, whole.clone()).await?;
            let (head, behind) = (whole.slice(0..length_of(&head)), whole.len());
            let tail = whole.slice(behind.saturating_sub(length_of(&tail))..behind);
            return Ok((Some(head), Some(tail)));
        }
        let head = if head.is_empty() { None } else { Some(self.read_from(first, head).await?) };
        let tail = if tail.is_empty() { None } else { Some(self.read_from(first, tail).await?) };
        Ok((head, tail))
    }

    /// What layer `first` and those below hold, also behind the end of the disk, where nothing is.
    async fn read_from(self: &Rc<Self>, first: usize, range: Range<u64>) -> Result<S::Payload> {
        Ok(Piece::join(self.read(first, range, DataKind::Guest).await?))
    }

    /// Writes a whole cluster, the last one perhaps cut short, as compressed data if that saves room.
    pub(super) async fn write_compressed(self: &Rc<Self>, offset: u64, data: S::Payload) -> Result<()> {
        let image = match &**self.top() {
            Layer::Qcow2(image) => writable(image)?,
            Layer::Raw(raw) => return Err(raw.refuse("a raw image has no compressed clusters")),
        };
        let cluster_size = image.cluster_size();
        let end = offset.saturating_add(data.len());
        let is_whole = data.len() == cluster_size || (end == image.size() && data.len() < cluster_size);
        if !offset.is_multiple_of(cluster_size) || !is_whole {
            let problem = format!(
                "compressed data of {} bytes at offset {offset}: it is written in whole clusters of {cluster_size} bytes",
                data.len()
            );
            return Err(image.blame().refused(problem));
        }
        if image.has_data_file() {
            return Err(image.blame().refused("an external data file has no compressed clusters"));
        }
        let padding = S::Payload::zeroed(cluster_size.saturating_sub(data.len()));
        let cluster = S::Payload::concat(&[data.clone(), padding]);
        // A storage without payload cannot tell how far its data could be compressed.
        let method = image.header().compression_method().unwrap_or_default();
        let compressed = cluster.bytes().and_then(|bytes| compress(method, bytes));
        match compressed {
            Some(compressed) => self.write_precompressed(offset, S::Payload::copy_from(&compressed)).await,
            None => self.write(offset, data).await,
        }
    }

    /// Writes a cluster as the compressed data that it is already.
    pub(super) async fn write_precompressed(
        self: &Rc<Self>,
        offset: u64,
        compressed: S::Payload,
    ) -> Result<()> {
        let image = match &**self.top() {
            Layer::Qcow2(image) => writable(image)?.clone(),
            Layer::Raw(raw) => return Err(raw.refuse("a raw image has no compressed clusters")),
        };
        if image.has_data_file() {
            return Err(image.blame().refused("an external data file has no compressed clusters"));
        }
        if compressed.is_empty() || compressed.len() > image.cluster_size() {
            let problem = format!("compressed data of {} bytes for one cluster", compressed.len());
            return Err(image.blame().refused(problem));
        }
        let (record, reservation) =
            image.begin_compressed_write(image.cluster_at(offset), compressed.len()).await?;
        let task = async move {
            let written = image.write_reserved(&reservation, &[compressed]).await;
            match &written {
                Ok(()) => image.commit(&record, &reservation, |_| false).await,
                Err(_) => image.abandon(&record, &reservation).await,
            }
            written
        };
        Join::spawn(&*self.runtime, Box::pin(task)).await
    }
}

pub(super) fn writable<S: Storage>(image: &Rc<Image<S>>) -> Result<&Rc<Image<S>>> {
    match image.mode() {
        Mode::Write => Ok(image),
        Mode::Fill => Err(image.blame().refused("a cache image takes copies of its base, no guest's writes")),
        Mode::Read => Err(image.blame().refused("the image is open for reading only")),
    }
}
