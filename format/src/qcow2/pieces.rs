//! Metadata that is to be written, in the order of the file.

use super::slices::Entry;
use std::ops::Range;

/// Pieces of metadata: neighbours are one run, and one request.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// What the pieces are called in memory.
    pub keys: Vec<u64>,
    bytes: Vec<u8>,
    /// Where runs begin in the file, and where their bytes are.
    runs: Vec<(u64, Range<usize>)>,
}

impl Pieces {
    /// Nothing yet, and room for slices.
    pub fn for_slices(slices: usize, slice_bytes: usize) -> Self {
        Pieces {
            keys: Vec::with_capacity(slices),
            bytes: Vec::with_capacity(slices.saturating_mul(slice_bytes)),
            runs: Vec::new(),
        }
    }

    /// Some 512-byte sectors, in ascending order, of a table that begins at `offset`.
    pub fn of_sectors(sectors: impl IntoIterator<Item = u64>, table: &[u64], offset: u64) -> Self {
        const SECTOR: u64 = 512;
        const ENTRIES: usize = SECTOR as usize / size_of::<u64>();
        let mut pieces = Pieces::default();
        for sector in sectors {
            let rest = table.get((sector as usize).saturating_mul(ENTRIES)..).unwrap_or_default();
            let place = offset.saturating_add(sector.saturating_mul(SECTOR));
            pieces.push(sector, place, rest.get(..ENTRIES).unwrap_or(rest));
        }
        pieces
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Adds a piece that lies behind all others.
    pub fn push<E: Entry>(&mut self, key: u64, offset: u64, entries: &[E]) {
        let start = self.bytes.len();
        E::encode_to(entries, &mut self.bytes);
        self.keys.push(key);
        match self.runs.last_mut() {
            Some((first, run)) if first.saturating_add(run.len() as u64) == offset => {
                run.end = self.bytes.len();
            }
            _ => self.runs.push((offset, start..self.bytes.len())),
        }
    }

    /// The bytes of all pieces, one behind the other.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The runs: where they begin in the file, and their bytes.
    pub fn runs(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.runs.iter().map(|(offset, run)| (*offset, self.bytes.get(run.clone()).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_run() {
        let table: Vec<u64> = (0..200).collect();
        let pieces = Pieces::of_sectors([0, 1, 3], &table, 1 << 20);
        let runs: Vec<_> = pieces.runs().map(|(offset, bytes)| (offset, bytes.len(), bytes[7])).collect();
        assert_eq!(runs, [(1 << 20, 1024, 0), ((1 << 20) + 1536, 64, 192)]);
        assert_eq!(pieces.keys, [0, 1, 3]);
    }
}
