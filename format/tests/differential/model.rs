//! What the disk of a case must hold.

use std::ops::Range;

/// The disk as an array of bytes.
#[derive(Clone)]
pub struct Model {
    pub bytes: Vec<u8>,
    /// Discarded: zero or still what was there.
    discarded: Vec<bool>,
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
            discarded: vec![false; bytes.len()],
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
        self.discarded[indices(range)].fill(false);
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
        self.discarded[indices(range)].fill(true);
    }

    /// New room is zero, whatever a backing file holds there.
    pub fn resize(&mut self, size: u64) {
        // What a cluster held beyond the old end is nobody's business.
        let end = self.size().min(size);
        self.touch(&(end..self.size()));
        self.bytes.resize(size as usize, 0);
        self.discarded.resize(size as usize, false);
        let clusters = size.div_ceil(self.cluster_size) as usize;
        self.untouched.resize(clusters, false);
        self.compressed.resize(clusters, false);
    }

    /// Compares what was read from `start` on with what must be there.
    #[track_caller]
    pub fn compare(&self, start: u64, found: &[u8], what: &str) {
        let range = indices(&(start..start + found.len() as u64));
        let (expected, discarded) = (&self.bytes[range.clone()], &self.discarded[range]);
        if found == expected {
            return;
        }
        let wrong = |at: usize| found[at] != expected[at] && !(discarded[at] && found[at] == 0);
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

    /// Compares the whole disk; where it was discarded, what was found is from now on what is there.
    #[track_caller]
    pub fn settle(&mut self, found: &[u8], what: &str) {
        assert_eq!(found.len(), self.bytes.len(), "{what}: lengths differ");
        self.compare(0, found, what);
        self.bytes.copy_from_slice(found);
        self.discarded.fill(false);
    }

    /// The longest part at the start of `range` that is known to hold one byte all over, and that byte.
    pub fn uniform(&self, range: &Range<u64>) -> Option<(Range<u64>, u8)> {
        let first = *self.bytes.get(range.start as usize)?;
        let bytes = self.bytes[indices(range)].iter().zip(&self.discarded[indices(range)]);
        let len = bytes.take_while(|(byte, discarded)| **byte == first && !**discarded).count() as u64;
        (len > 0).then(|| (range.start..range.start + len, first))
    }
}
