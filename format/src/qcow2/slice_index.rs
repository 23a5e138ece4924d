//! Where a slice lies in a cache of slices.

use rustc_hash::FxHashMap;

/// Places by the numbers of slices.
#[derive(Debug)]
pub(super) enum Index {
    /// A place for every number there is, plus one; 0 means none. The host finds it in a single look at its memory.
    Dense {
        places: Vec<u32>,
        numbers: usize,
    },
    Sparse(FxHashMap<u64, u32>),
}

impl Index {
    /// For numbers below `numbers`, of which about `capacity` are held at a time.
    pub fn new(numbers: u64, capacity: usize) -> Self {
        match usize::try_from(numbers) {
            Ok(numbers) if numbers / 2 <= capacity => Index::Dense { places: vec![], numbers },
            _ => Index::Sparse(FxHashMap::default()),
        }
    }

    #[inline]
    pub fn get(&self, number: u64) -> Option<usize> {
        match self {
            Index::Dense { places, .. } => (*places.get(number as usize)? as usize).checked_sub(1),
            Index::Sparse(places) => places.get(&number).map(|place| *place as usize),
        }
    }

    pub fn insert(&mut self, number: u64, place: usize) {
        match self {
            Index::Dense { places, numbers } if number < *numbers as u64 => {
                if places.is_empty() {
                    *places = vec![0; *numbers];
                }
                if let Some(held) = places.get_mut(number as usize) {
                    *held = (place as u32).saturating_add(1);
                }
            }
            // The disk has grown.
            Index::Dense { places, .. } => {
                let held = (0..).zip(&*places);
                let mut sparse: FxHashMap<u64, u32> =
                    held.filter_map(|(number, place)| Some((number, place.checked_sub(1)?))).collect();
                sparse.insert(number, place as u32);
                *self = Index::Sparse(sparse);
            }
            Index::Sparse(places) => {
                places.insert(number, place as u32);
            }
        }
    }

    pub fn remove(&mut self, number: u64) {
        match self {
            Index::Dense { places, .. } => {
                if let Some(place) = places.get_mut(number as usize) {
                    *place = 0;
                }
            }
            Index::Sparse(places) => {
                places.remove(&number);
            }
        }
    }

    /// Bytes of memory in use.
    pub fn memory(&self) -> usize {
        match self {
            Index::Dense { places, .. } => places.capacity().saturating_mul(size_of::<u32>()),
            Index::Sparse(places) => places.capacity().saturating_mul(size_of::<(u64, u32)>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_find_the_same() {
        let mut dense = Index::new(32, 16);
        let mut sparse = Index::new(34, 16);
        assert!(matches!(dense, Index::Dense { .. }) && matches!(sparse, Index::Sparse(_)));
        for index in [&mut dense, &mut sparse] {
            assert_eq!(index.get(5), None);
            (0..32).rev().for_each(|number| index.insert(number, number as usize * 3));
            index.remove(7);
            index.remove(77);
            index.insert(9, 1);
            index.insert(40, 2);
            let found: Vec<_> = (0..42).map(|number| index.get(number)).collect();
            let expected: Vec<_> = (0..42)
                .map(|number| match number {
                    7 | 32..40 | 41.. => None,
                    9 => Some(1),
                    40 => Some(2),
                    other => Some(other * 3),
                })
                .collect();
            assert_eq!(found, expected);
        }
    }
}
