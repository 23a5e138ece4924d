//! A set of host clusters.

use super::geometry::{HostCluster, HostRun};

/// A bit a host cluster: reached or not.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    words: Vec<u64>,
    /// How many are marked.
    pub count: u64,
}

impl Reached {
    /// Marks clusters; returns the first that was marked before.
    pub fn mark(&mut self, run: HostRun) -> Option<HostCluster> {
        let words = run.end.0.div_ceil(64) as usize;
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        let mut at = run.start.0;
        while at < run.end.0 {
            let word = self.words.get_mut((at / 64) as usize)?;
            let end = next_word(at).min(run.end.0);
            let mask = u64::MAX << (at % 64) & u64::MAX >> (end.wrapping_neg() % 64);
            let before = *word & mask;
            if before != 0 {
                return Some(HostCluster(at & !63 | u64::from(before.trailing_zeros())));
            }
            *word |= mask;
            self.count = self.count.saturating_add(u64::from(mask.count_ones()));
            at = end;
        }
        None
    }

    /// The first marked cluster of a run.
    pub fn first_in(&self, run: &HostRun) -> Option<HostCluster> {
        let mut at = run.start.0;
        while at < run.end.0 {
            let word = self.words.get((at / 64) as usize)?;
            let rest = word >> (at % 64);
            if rest != 0 {
                let first = HostCluster(at) + u64::from(rest.trailing_zeros());
                return Some(first).filter(|first| *first < run.end);
            }
            at = next_word(at);
        }
        None
    }

    pub fn unmark(&mut self, cluster: HostCluster) {
        if let Some(word) = self.words.get_mut((cluster.0 / 64) as usize) {
            let mask = 1 << (cluster.0 % 64);
            self.count = self.count.saturating_sub(u64::from(*word & mask != 0));
            *word &= !mask;
        }
    }

    pub fn contains(&self, cluster: HostCluster) -> bool {
        let word = self.words.get((cluster.0 / 64) as usize);
        word.is_some_and(|word| word >> (cluster.0 % 64) & 1 == 1)
    }

    /// The cluster behind the last one that is marked.
    pub fn end(&self) -> HostCluster {
        let last_in = |(number, word): (usize, &u64)| {
            Some(HostCluster((number as u64) << 6 | u64::from(word.checked_ilog2()?)))
        };
        self.words.iter().enumerate().rev().find_map(last_in).map_or(HostCluster(0), |last| last + 1)
    }
}

/// The first cluster of the word behind that of a cluster.
fn next_word(cluster: u64) -> u64 {
    (cluster | 63).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, end: u64) -> HostRun {
        HostCluster(start)..HostCluster(end)
    }

    #[test]
    fn runs_across_words_are_marked_once() {
        let mut reached = Reached::default();
        assert_eq!(reached.mark(run(3, 200)), None);
        assert_eq!(reached.mark(run(200, 256)), None);
        assert_eq!((reached.count, reached.end()), (253, HostCluster(256)));
        assert!(!reached.contains(HostCluster(2)) && reached.contains(HostCluster(3)));
        assert!(reached.contains(HostCluster(255)) && !reached.contains(HostCluster(256)));
        assert_eq!(reached.mark(run(0, 5)), Some(HostCluster(3)));
        assert_eq!(reached.first_in(&run(256, 1000)), None);
        assert_eq!(reached.first_in(&run(0, 64)), Some(HostCluster(3)));
        assert_eq!(reached.first_in(&run(0, 3)), None);
        assert_eq!(reached.first_in(&run(100, 101)), Some(HostCluster(100)));
        reached.unmark(HostCluster(100));
        assert_eq!((reached.first_in(&run(100, 101)), reached.count), (None, 252));
    }
}
