//! Where buffers hold nothing but zeroes, and where they differ.

/// qemu-img compares disks in these units.
pub const SECTOR: usize = 512;
/// Bytes that are looked at before the next decision; the compiler makes it a few wide instructions.
const STRIDE: usize = 256;

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let or = |part: &[u8]| part.iter().fold(0, |or, byte| or | byte) == 0;
    let (ends, middle) = (bytes.len().min(STRIDE), bytes.len() / 2);
    // What is no zero is mostly so at once.
    let probes = [bytes.first(), bytes.get(middle), bytes.last()];
    if probes.into_iter().flatten().any(|byte| *byte != 0) {
        return false;
    }
    or(&bytes[..ends]) && bytes[ends..].chunks(STRIDE).all(or)
}

/// Where the first sector begins that is not zero.
pub fn first_data(bytes: &[u8]) -> Option<usize> {
    bytes.chunks(SECTOR).position(|sector| !is_zero(sector)).map(|sector| sector * SECTOR)
}

/// Where the first sector begins in which two buffers differ; of the longer one, nothing beyond the end of the
/// shorter one counts.
pub fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    let common = left.len().min(right.len());
    let (left, right) = (&left[..common], &right[..common]);
    if left == right {
        return None;
    }
    let sectors = left.chunks(SECTOR).zip(right.chunks(SECTOR));
    sectors.enumerate().find(|(_, (left, right))| left != right).map(|(sector, _)| sector * SECTOR)
}

/// Ranges of `bytes`, in units of `unit` bytes counted from its start, by turns data and zeroes: those of data
/// have `true`.
pub fn runs(bytes: &[u8], unit: usize) -> Vec<(std::ops::Range<usize>, bool)> {
    let mut runs: Vec<(std::ops::Range<usize>, bool)> = Vec::new();
    let mut start = 0;
    for part in bytes.chunks(unit) {
        let (end, is_data) = (start + part.len(), !is_zero(part));
        match runs.last_mut() {
            Some((range, was_data)) if *was_data == is_data => range.end = end,
            _ => runs.push((start..end, is_data)),
        }
        start = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A single byte, wherever it stands and however long the buffer is, is found.
    #[test]
    fn no_byte_is_overlooked() {
        for len in [1, 7, 255, 256, 257, 511, 512, 513, 1024, 4096, 5000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes) && first_data(&bytes).is_none());
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
                assert_eq!(first_data(&bytes), Some(at / SECTOR * SECTOR));
                assert_eq!(first_difference(&bytes, &vec![0; len]), Some(at / SECTOR * SECTOR));
                bytes[at] = 0;
            }
        }
        assert!(is_zero(&[]));
    }

    #[test]
    fn runs_cover_everything_by_turns() {
        let mut bytes = vec![0; 4096 + 100];
        assert_eq!(runs(&bytes, 1024), [(0..4196, false)]);
        bytes[1024] = 1;
        bytes[3071] = 1;
        bytes[4195] = 1;
        let expected = [(0..1024, false), (1024..3072, true), (3072..4096, false), (4096..4196, true)];
        assert_eq!(runs(&bytes, 1024), expected);
        assert_eq!(runs(&bytes, 8192), [(0..4196, true)]);
        assert!(runs(&[], 512).is_empty());
    }

    #[test]
    fn buffers_of_different_lengths_are_compared_as_far_as_both_go() {
        assert_eq!(first_difference(&[1; 600], &[1; 700]), None);
        assert_eq!(first_difference(&[1; 600], &[1; 0]), None);
    }
}
