//! Reading through a stack of layers.

use super::{Extent, Filling, Layer, Piece, Stack};
use crate::byte_range::{length_of, range_at, round_down};
use crate::error::Result;
use crate::qcow2::{CompressedData, Image, InFlight, Kind, Mode, Progress};
use crate::raw::RawImage;
use crate::storage::{DataKind, Payload, Storage};
use futures_util::future::try_join_all;
use smallvec::SmallVec;
use std::ops::Range;
use std::rc::Rc;

pub(super) type Pieces<P> = SmallVec<[Piece<P>; 2]>;
type Ranges = SmallVec<[Range<u64>; 2]>;

/// Where a part of what is read comes from.
enum Source<S: Storage> {
    Zeroes,
    /// A raw layer, at the same offset.
    Raw(usize),
    /// A qcow2 layer, at an offset of the file that holds its data.
    Host(usize, u64),
    /// A qcow2 layer's compressed cluster: the part in bytes from the cluster's beginning.
    Compressed(usize, CompressedData, u64),
    /// A copy of a cache that is on its way.
    Copy(Rc<InFlight<S::Payload>>),
}

struct Part<S: Storage> {
    range: Range<u64>,
    source: Source<S>,
}

type Parts<S> = SmallVec<[Part<S>; 2]>;

impl<S: Storage> Stack<S> {
    /// Reads a range from layer `first` and those below: pieces in order that cover it. Every layer is asked
    /// for what those above do not have; the lowest is followed by zeroes.
    pub(super) async fn read(
        self: &Rc<Self>,
        first: usize,
        range: Range<u64>,
        kind: DataKind,
    ) -> Result<Pieces<S::Payload>> {
        // What is mapped now stays where it is until it has been read, also if a guest discards it meanwhile.
        let _using = self.written(first).map(|image| image.begin_use());
        let mut parts = self.locate(first, range, kind).await?;
        if let [part] = parts.as_slice() {
            return self.fetch(part, kind).await;
        }
        parts.sort_unstable_by_key(|part| part.range.start);
        let read = try_join_all(parts.iter().map(|part| self.fetch(part, kind))).await?;
        Ok(read.into_iter().flatten().collect())
    }

    /// The image that a guest writes, if it is among the layers from `first` on.
    fn written(&self, first: usize) -> Option<&Image<S>> {
        match self.layer(first) {
            Some(Layer::Qcow2(image)) if image.mode() == Mode::Write => Some(image),
            _ => None,
        }
    }

    fn layer(&self, number: usize) -> Option<&Layer<S>> {
        self.layers.get(number).map(Rc::as_ref)
    }

    /// Whether it is known, without reading any data, that a range reads as zeroes from layer `first` on. Of
    /// what lies beyond the disk nothing is known.
    pub(super) async fn is_known_zero(self: &Rc<Self>, first: usize, range: Range<u64>) -> Result<bool> {
        if range.is_empty() || range.end > self.top().size() {
            return Ok(range.is_empty());
        }
        // As when a base is recognised: no cache is to keep what is only looked at.
        let parts = self.locate(first, range, DataKind::Identity).await?;
        Ok(parts.iter().all(|part| matches!(part.source, Source::Zeroes)))
    }

    /// The file, and the bytes of it, in which the whole of a range lies in one piece, from layer `first` on. `None`
    /// also if a cache on the way is to have it, or if there are holes, which nobody reads.
    pub(super) async fn in_one_file(
        self: &Rc<Self>,
        first: usize,
        range: &Range<u64>,
    ) -> Result<Option<(&S, Range<u64>)>> {
        let parts = self.locate(first, range.clone(), DataKind::Identity).await?;
        let (number, offset) = match parts.as_slice() {
            [Part { source: Source::Raw(number), .. }] => (*number, range.start),
            [Part { source: Source::Host(number, offset), .. }] => (*number, *offset),
            _ => return Ok(None),
        };
        let mut above = self.layers.iter().take(number).skip(first);
        let bytes = range_at(offset, length_of(range));
        match self.layer(number) {
            _ if above.any(|layer| layer.filling().is_some()) => Ok(None),
            Some(Layer::Raw(raw)) => {
                let (is_hole, end) = raw.hole(range).await?;
                Ok((!is_hole && end == range.end).then(|| (raw.storage(), bytes)))
            }
            Some(Layer::Qcow2(image)) => {
                image.check_data_within_file(&bytes).await?;
                Ok(Some((image.data_storage(), bytes)))
            }
            None => Ok(None),
        }
    }

    /// See [`Disk::extents`](super::Disk::extents).
    pub(super) async fn extents(self: &Rc<Self>, range: Range<u64>, most: usize) -> Result<Vec<Extent>> {
        /// What is mapped in one go: no more than the extents of an answer are likely to need.
        const STEP: u64 = 16 << 20;
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let mut end = range.end.min(at.saturating_add(STEP));
            if end < range.end {
                // Disks may be far larger than what their files hold: what goes on in the same way is one step.
                end = end.max(self.map(at..range.end).await?.range.end);
            }
            let mut parts = self.locate(0, at..end, DataKind::Identity).await?;
            parts.sort_unstable_by_key(|part| part.range.start);
            for part in &parts {
                for extent in self.extents_of(part).await? {
                    let is_full = extents.len() == most;
                    match extents.last_mut() {
                        Some(last) if last.is_zero == extent.is_zero => last.range.end = extent.range.end,
                        _ if is_full => return Ok(extents),
                        _ => extents.push(extent),
                    }
                }
            }
            at = end;
        }
        Ok(extents)
    }

    /// Only raw layers may have holes within a part.
    async fn extents_of(&self, part: &Part<S>) -> Result<Vec<Extent>> {
        let raw = match &part.source {
            Source::Raw(number) => match self.layer(*number) {
                Some(Layer::Raw(raw)) => raw,
                _ => return Ok(vec![]),
            },
            source => {
                let is_zero = matches!(source, Source::Zeroes);
                return Ok(vec![Extent { range: part.range.clone(), is_zero }]);
            }
        };
        let mut extents = Vec::new();
        let mut at = part.range.start;
        while at < part.range.end {
            let (is_zero, end) = raw.hole(&(at..part.range.end)).await?;
            extents.push(Extent { range: at..end, is_zero });
            at = end;
        }
        Ok(extents)
    }

    async fn locate(self: &Rc<Self>, first: usize, range: Range<u64>, kind: DataKind) -> Result<Parts<S>> {
        let mut parts = Parts::<S>::new();
        let mut pending = Ranges::new();
        if !range.is_empty() {
            pending.push(range);
        }
        for (number, layer) in self.layers.iter().enumerate().skip(first) {
            let mut unmapped = Ranges::new();
            for range in pending {
                let end = layer.size().clamp(range.start, range.end);
                push(&mut parts, end..range.end, Source::Zeroes);
                let inside = range.start..end;
                match &**layer {
                    Layer::Raw(_) => push(&mut parts, inside, Source::Raw(number)),
                    // What is read to recognise a base must not be taken for what a boot needs.
                    Layer::Qcow2(image) if image.mode() == Mode::Fill && kind == DataKind::Guest => {
                        self.locate_in_cache(number, image, inside, &mut parts, &mut unmapped).await?;
                    }
                    Layer::Qcow2(image) => {
                        let mut rest = inside;
                        while !rest.is_empty() {
                            let run = image.map(&rest).await?;
                            let part = image.bytes_before(&rest, run.end);
                            rest.start = part.end;
                            place(number, image, part, run.kind, &mut parts, &mut unmapped);
                        }
                    }
                }
            }
            pending = unmapped;
            if pending.is_empty() {
                break;
            }
        }
        pending.into_iter().for_each(|range| push(&mut parts, range, Source::Zeroes));
        Ok(parts)
    }

    async fn locate_in_cache(
        self: &Rc<Self>,
        number: usize,
        image: &Rc<Image<S>>,
        range: Range<u64>,
        parts: &mut Parts<S>,
        unmapped: &mut Ranges,
    ) -> Result<()> {
        use crate::qcow2::FillStep;
        let mut rest = range;
        while !rest.is_empty() {
            let part = match image.map_or_fill(&rest).await? {
                FillStep::Run(run) => {
                    let part = image.bytes_before(&rest, run.end);
                    place(number, image, part.clone(), run.kind, parts, unmapped);
                    part
                }
                FillStep::Join(record) => {
                    let part = image.bytes_before(&rest, record.guest.end);
                    push(parts, part.clone(), Source::Copy(record));
                    part
                }
                FillStep::Fetch(record, reservation) => {
                    let part = image.bytes_before(&rest, record.guest.end);
                    push(parts, part.clone(), Source::Copy(record.clone()));
                    self.spawn_fill(number, image.clone(), record, reservation);
                    part
                }
            };
            rest.start = part.end;
        }
        Ok(())
    }

    async fn fetch(self: &Rc<Self>, part: &Part<S>, kind: DataKind) -> Result<Pieces<S::Payload>> {
        let range = part.range.clone();
        let data = match &part.source {
            Source::Zeroes => None,
            Source::Raw(number) => match self.layer(*number) {
                Some(Layer::Raw(raw)) => return fetch_raw(raw, &range, kind).await,
                _ => None,
            },
            Source::Host(number, offset) => match self.layer(*number) {
                Some(Layer::Qcow2(image)) => Some(image.read_data(kind, *offset, length_of(&range)).await?),
                _ => None,
            },
            Source::Compressed(number, data, within) => match self.layer(*number) {
                Some(Layer::Qcow2(image)) => {
                    let part = range_at(*within, length_of(&range));
                    Some(image.read_compressed(kind, *data, part).await?)
                }
                _ => None,
            },
            Source::Copy(record) => return self.await_copy(record, &range).await,
        };
        Ok(Pieces::from_iter([Piece { range, data }]))
    }

    /// Waits for the data of a copy under way, and for the copy itself if the guest is to.
    async fn await_copy(
        &self,
        record: &InFlight<S::Payload>,
        range: &Range<u64>,
    ) -> Result<Pieces<S::Payload>> {
        loop {
            let changed = record.changed.listen();
            let in_path = self.filling == Filling::InPath || self.copying.get() > super::FILL_MEMORY;
            match &*record.progress.borrow() {
                Progress::Failed(error) => return Err(error.clone()),
                Progress::Fetched(pieces) if !in_path || record.done.get() => {
                    return Ok(pieces.iter().filter_map(|piece| piece.within(range)).collect());
                }
                _ => {}
            }
            changed.await;
        }
    }
}

/// Reads a range of a raw image. A hole of one that nobody writes need not be read.
async fn fetch_raw<S: Storage>(
    raw: &RawImage<S>,
    range: &Range<u64>,
    kind: DataKind,
) -> Result<Pieces<S::Payload>> {
    let mut pieces = Pieces::new();
    let mut rest = range.clone();
    while !rest.is_empty() {
        let (is_hole, end) = match raw.keeps_its_holes() {
            true => raw.hole(&rest).await?,
            false => (false, rest.end),
        };
        let part = rest.start..end;
        let data = if is_hole { None } else { Some(raw.read(kind, &part).await?) };
        pieces.push(Piece { range: part, data });
        rest.start = end;
    }
    Ok(pieces)
}

/// Sorts a mapped run into what is read here and what is asked of the layer below.
fn place<S: Storage>(
    number: usize,
    image: &Image<S>,
    range: Range<u64>,
    kind: Kind,
    parts: &mut Parts<S>,
    unmapped: &mut Ranges,
) {
    match kind {
        Kind::Zero | Kind::ZeroAllocated { .. } => push(parts, range, Source::Zeroes),
        Kind::Data { offset, .. } => {
            let within = image.within_subcluster(range.start);
            push(parts, range, Source::Host(number, offset.saturating_add(within)));
        }
        Kind::Compressed(data) => {
            let cluster = round_down(range.start, image.cluster_size());
            let within = length_of(&(cluster..range.start));
            push(parts, range, Source::Compressed(number, data, within));
        }
        Kind::Absent => match unmapped.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => unmapped.push(range),
        },
    }
}

fn push<S: Storage>(parts: &mut Parts<S>, range: Range<u64>, source: Source<S>) {
    if !range.is_empty() {
        parts.push(Part { range, source });
    }
}

impl<S: Storage> Image<S> {
    async fn check_data_within_file(&self, bytes: &Range<u64>) -> Result<()> {
        match self.has_data_file() {
            true => Ok(()),
            false => self.check_within_file("data cluster", bytes.start, length_of(bytes)).await,
        }
    }

    async fn read_data(&self, kind: DataKind, offset: u64, len: u64) -> Result<S::Payload> {
        self.check_data_within_file(&range_at(offset, len)).await?;
        let data = self
            .data_storage()
            .read(kind, offset, len)
            .await
            .map_err(self.blame().io("reading data", offset))?;
        debug_assert_eq!(data.len(), len);
        Ok(data)
    }
}
