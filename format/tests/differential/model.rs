//! What the disk of a case must hold.

use std::ops::Range;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    Sure,
    /// Discarded: zero or still what was there.
    Discarded,
    /// Anything may be there until somebody has read it.
    None,
}

/// The disk as an array of bytes.
#[derive(Clone)]
pub struct Model {
    pub bytes: Vec<u8>,
    /// What is known of each byte.
    knowledge: Vec<Knowledge>,
    cluster_size: u64,
    /// Clusters that nobody has touched since the image was made: the only ones that the stock tools write
    /// compressed.
    pub untouched: Vec<bool>,
    /// Clusters that were last written compressed.
    compressed: Vec<bool>,
    /// A compressed cluster was replaced since the image was opened. The stock tools must write no other one until they
    /// open it again: QEMU 10.0 puts it where the last one was, also if that room has a new owner.
    pub lost_compressed: bool,
}

pub fn indices(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

impl Model {
    pub fn new(bytes: Vec<u8>, cluster_size: u64, is_untouched: bool) -> Self {
        let clusters = (bytes.len() as u64).div_ceil(cluster_size) as usize;
        Model {
            knowledge: vec![Knowledge::Sure; bytes.len()],
            bytes,
            cluster_size,
            untouched: vec![is_untouched; clusters],
            compressed: vec![false; clusters],
            lost_compressed: false,
        }
    }

    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn cluster_size(&self) -> u64 {
        self.cluster_size
    }

    fn touch(&mut self, range: &Range<u64>) {
        let clusters = range.start / self.cluster_size..range.end.div_ceil(self.cluster_size);
        self.untouched[indices(&clusters)].fill(false);
        self.lost_compressed |= self.compressed[indices(&clusters)].contains(&true);
        self.compressed[indices(&clusters)].fill(false);
    }

    pub fn write(&mut self, range: &Range<u64>, data: &[u8]) {
        self.touch(range);
        self.bytes[indices(range)].copy_from_slice(data);
        self.knowledge[indices(range)].fill(Knowledge::Sure);
    }

    pub fn write_compressed(&mut self, range: &Range<u64>, data: &[u8]) {
        self.write(range, data);
        let clusters = range.start / self.cluster_size..range.end.div_ceil(self.cluster_size);
        self.compressed[indices(&clusters)].fill(true);
    }

    pub fn write_zeroes(&mut self, range: &Range<u64>) {
        self.write(range, &vec![0; (range.end - range.start) as usize]);
    }

    pub fn discard(&mut self, range: &Range<u64>) {
        self.touch(range);
        self.knowledge[indices(range)].fill(Knowledge::Discarded);
    }

    /// New room is zero, whatever a backing file holds there. But if `may_be_stale`, what the old last cluster held
    /// beyond the old end may come to light.
    pub fn resize(&mut self, size: u64, may_be_stale: bool) {
        let old_end = self.size();
        self.touch(&(old_end.min(size)..old_end));
        self.bytes.resize(size as usize, 0);
        self.knowledge.resize(size as usize, Knowledge::Sure);
        if may_be_stale && size > old_end {
            let end = old_end.next_multiple_of(self.cluster_size).min(size);
            self.knowledge[indices(&(old_end..end))].fill(Knowledge::None);
        }
        let clusters = size.div_ceil(self.cluster_size) as usize;
        self.untouched.resize(clusters, false);
        self.compressed.resize(clusters, false);
    }

    /// Compares what was read from `start` on with what must be there.
    #[track_caller]
    pub fn compare(&self, start: u64, found: &[u8], what: &str) {
        let range = indices(&(start..start + found.len() as u64));
        let (expected, knowledge) = (&self.bytes[range.clone()], &self.knowledge[range]);
        if found == expected {
            return;
        }
        let wrong = |at: usize| match knowledge[at] {
            Knowledge::Sure => found[at] != expected[at],
            Knowledge::Discarded => found[at] != expected[at] && found[at] != 0,
            Knowledge::None => false,
        };
        if let Some(at) = (0..found.len()).find(|at| wrong(*at)) {
            let end = (at + 16).min(found.len());
            let wrong_bytes = (at..found.len()).filter(|at| wrong(*at)).count();
            panic!(
                "{what}: byte {} and on: {:02x?}, expected {:02x?} ({wrong_bytes} bytes are wrong)",
                start + at as u64,
                &found[at..end],
                &expected[at..end]
            );
        }
    }

    /// Compares the whole disk; where that was not sure, what was found is from now on what is there.
    #[track_caller]
    pub fn settle(&mut self, found: &[u8], what: &str) {
        assert_eq!(found.len(), self.bytes.len(), "{what}: lengths differ");
        self.compare(0, found, what);
        self.bytes.copy_from_slice(found);
        self.knowledge.fill(Knowledge::Sure);
    }

    /// The longest part at the start of `range` that is known to hold one byte all over, and that byte.
    pub fn uniform(&self, range: &Range<u64>) -> Option<(Range<u64>, u8)> {
        let first = *self.bytes.get(range.start as usize)?;
        let bytes = self.bytes[indices(range)].iter().zip(&self.knowledge[indices(range)]);
        let is_sure =
            |(byte, knowledge): &(&u8, &Knowledge)| **byte == first && **knowledge == Knowledge::Sure;
        let len = bytes.take_while(is_sure).count() as u64;
        (len > 0).then(|| (range.start..range.start + len, first))
    }
}
