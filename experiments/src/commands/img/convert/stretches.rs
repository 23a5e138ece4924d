//! A disk as long stretches of data and of zeroes, whose ends fit the target's units.

use vmicache_format::Result;
use vmicache_format::disk::{Disk, Extent};
use vmicache_format::storage::HostFile;
use std::ops::Range;

/// So many extents are asked for at once.
const EXTENTS: usize = 256;

/// A part of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Bytes on the disk.
    pub range: Range<u64>,
    /// It is known to read as zeroes.
    pub is_zero: bool,
}

/// Goes through a disk from its start.
pub struct Stretches<'a> {
    disk: &'a Disk<HostFile>,
    unit: u64,
    extents: std::vec::IntoIter<Extent>,
    /// How far the extents have been asked for.
    asked: u64,
    joining: Joining,
}

impl<'a> Stretches<'a> {
    /// Of all of `disk`. Stretches begin and end at multiples of `unit` bytes, or at the end of the disk; what is not
    /// zeroes as a whole is data.
    pub fn of(disk: &'a Disk<HostFile>, unit: u64) -> Self {
        Stretches { disk, unit, extents: vec![].into_iter(), asked: 0, joining: Joining::default() }
    }

    /// The next stretch, if there is one.
    ///
    /// # Errors
    /// If the tables of an image cannot be read.
    pub async fn next(&mut self) -> Result<Option<Stretch>> {
        let size = self.disk.size();
        loop {
            if let Some(stretch) = self.joining.take(self.asked == size && self.extents.len() == 0) {
                return Ok(Some(stretch));
            }
            match self.extents.next() {
                Some(extent) => self.joining.add(&extent, self.unit, size),
                None if self.asked == size => return Ok(None),
                None => {
                    let extents = self.disk.extents(self.asked, size - self.asked, EXTENTS).await?;
                    self.asked = extents.last().map_or(size, |extent| extent.range.end);
                    self.extents = extents.into_iter();
                }
            }
        }
    }
}

/// Makes stretches of extents.
#[derive(Default)]
struct Joining {
    /// Complete ones, the last one perhaps not.
    stretches: std::collections::VecDeque<Stretch>,
}

impl Joining {
    fn add(&mut self, extent: &Extent, unit: u64, size: u64) {
        let range = &extent.range;
        let last = range.end == size;
        let inner = range.start.next_multiple_of(unit)..if last { size } else { range.end / unit * unit };
        if extent.is_zero && inner.start < inner.end {
            self.push(range.start..inner.start, false);
            self.push(inner.clone(), true);
            self.push(inner.end..range.end, false);
        } else {
            self.push(range.clone(), false);
        }
    }

    fn push(&mut self, range: Range<u64>, is_zero: bool) {
        if range.is_empty() {
            return;
        }
        match self.stretches.back_mut() {
            Some(last) if last.is_zero == is_zero => last.range.end = range.end,
            _ => self.stretches.push_back(Stretch { range, is_zero }),
        }
    }

    /// The first stretch, once it is known where it ends.
    fn take(&mut self, is_all: bool) -> Option<Stretch> {
        if is_all || self.stretches.len() > 1 { self.stretches.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(unit: u64, size: u64, ends: &[(u64, bool)]) -> Vec<(Range<u64>, bool)> {
        let mut joining = Joining::default();
        let mut start = 0;
        for (end, is_zero) in ends {
            joining.add(&Extent { range: start..*end, is_zero: *is_zero }, unit, size);
            start = *end;
        }
        std::iter::from_fn(|| joining.take(true)).map(|stretch| (stretch.range, stretch.is_zero)).collect()
    }

    #[test]
    fn only_whole_units_are_zeroes() {
        let ends = [(10, true), (20, false), (95, true), (97, false), (130, true)];
        assert_eq!(joined(16, 130, &ends), [(0..32, false), (32..80, true), (80..112, false), (112..130, true)]);
        assert_eq!(joined(1, 130, &ends).len(), 5);
        assert_eq!(joined(64, 130, &ends), [(0..128, false), (128..130, true)]);
        assert_eq!(joined(16, 40, &[(40, true)]), [(0..40, true)]);
        assert_eq!(joined(16, 40, &[(10, true), (40, true)]), [(0..16, false), (16..40, true)]);
        assert_eq!(joined(16, 0, &[]), []);
    }
}
