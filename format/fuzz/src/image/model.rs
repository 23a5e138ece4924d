//! What a disk holds, as far as its beginning goes.

use super::store::Store;
use std::ops::Range;
use vmicache_format::disk::{Disk, Extent};

/// What is behind is not looked at.
const MOST: u64 = 1 << 20;

/// The first bytes of a disk.
pub struct Model(Vec<u8>);

impl Model {
    /// What a disk holds, if all of it can be read.
    pub async fn of(disk: &Disk<Store>) -> Option<Self> {
        let data = disk.read(0, disk.size().min(MOST)).await.ok()?;
        Some(Model(data.to_vec()))
    }

    fn common(&self, range: Range<u64>) -> Range<usize> {
        let end = range.end.min(self.0.len() as u64);
        range.start.min(end) as usize..end as usize
    }

    /// Takes note of a write.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let common = self.common(offset..offset + data.len() as u64);
        let len = common.len();
        self.0[common].copy_from_slice(&data[..len]);
    }

    /// Takes note of zeroes.
    pub fn zero(&mut self, range: Range<u64>) {
        let common = self.common(range);
        self.0[common].fill(0);
    }

    /// Takes note of another size.
    pub fn resize(&mut self, size: u64) {
        self.0.resize(size.min(MOST) as usize, 0);
    }

    /// Checks what was read.
    pub fn check(&self, offset: u64, data: &[u8]) {
        let common = self.common(offset..offset + data.len() as u64);
        let expected = &self.0[common.clone()];
        if let Some(at) = expected.iter().zip(data).position(|(expected, found)| expected != found) {
            let byte = common.start + at;
            panic!("byte {byte} reads as {:#04x}, not as {:#04x}", data[at], expected[at]);
        }
    }

    /// Checks that what is said to be zero is, and that the extents are in order, and are what was asked for.
    pub fn check_extents(&self, range: Range<u64>, extents: &[Extent], most: usize) {
        assert!(extents.len() <= most);
        let mut at = range.start;
        for extent in extents {
            assert!(extent.range.start == at && extent.range.end > at, "{extents:?}");
            at = extent.range.end;
            let known = &self.0[self.common(extent.range.clone())];
            assert!(!extent.is_zero || known.iter().all(|byte| *byte == 0), "{extent:?} is not zero");
        }
        assert!(extents.windows(2).all(|pair| pair[0].is_zero != pair[1].is_zero), "{extents:?}");
        assert!(at == range.end || extents.len() == most, "{range:?}: {extents:?}");
    }

    /// After a discard: what changed has become zero. The rest of it stays as it is.
    pub async fn after_discard(mut self, disk: &Disk<Store>, range: Range<u64>) -> Option<Self> {
        let common = self.common(range);
        let data = disk.read(common.start as u64, common.len() as u64).await.ok()?;
        for (known, found) in self.0[common.clone()].iter_mut().zip(&data) {
            assert!(*found == *known || *found == 0, "a discard in {common:?} makes new data");
            *known = *found;
        }
        Some(self)
    }

    /// Checks all of a disk.
    pub async fn check_all(&self, disk: &Disk<Store>, when: &str) {
        assert_eq!(disk.size().min(MOST), self.0.len() as u64, "the size {when}");
        match disk.read(0, self.0.len() as u64).await {
            Ok(data) => self.check(0, &data),
            Err(error) => panic!("a disk that could be read cannot be {when}: {error:?}"),
        }
    }
}
