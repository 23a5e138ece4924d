//! Whether a quota that some boots recommend serves another boot of the same guest, which they know nothing of.
//!
//! Each boot is left out in turn. The others recommend a quota, a cache of that quota is made, the others fill it in
//! their order, and then the one left out boots on it. It is *covered* if it then boots again without reading from the
//! base image: there was room for what it needs and the others had not brought.

use crate::margin::Margin;
use crate::need::{Filled, Smallest};
use anyhow::Context;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{Base, Chain, Layout, Outcome};

/// With fewer boots there is nothing to say.
pub const FEWEST_BOOTS: usize = 3;

/// What became of one boot that was left out, under one margin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// What is added to the smallest quota of the others.
    pub margin: Margin,
    /// The smallest quota of the others, bytes.
    pub smallest_quota: u64,
    /// The quota that the others recommend, bytes.
    pub quota: u64,
    /// The boot left out, when the others have filled the cache: what it reads from the base they had not brought.
    pub first: Outcome,
    /// The same boot again: what it reads from the base there was no room for.
    pub again: Outcome,
}

impl LeftOut {
    /// Leaves out the boot with this `number` among `boots`, once under each of `margins`.
    ///
    /// # Errors
    /// If there is no such boot, or no other, or one cannot be replayed.
    pub fn of(
        boots: &[&Trace],
        number: usize,
        clusters: ClusterLayout,
        base: &Base,
        margins: &[Margin],
    ) -> anyhow::Result<Vec<LeftOut>> {
        let boot = boots.get(number).context("there is no such boot")?;
        let others: Vec<&Trace> =
            boots.iter().enumerate().filter(|(other, _)| *other != number).map(|(_, boot)| *boot).collect();
        let smallest = Smallest::of(&others, clusters, base)?.filled;
        let under = |margin: &Margin| {
            let quota = margin.above(smallest.quota, clusters.size);
            let mut cache = match quota == smallest.quota {
                true => smallest.cache.fork(),
                false => {
                    let quota = Some(quota);
                    let chain = Chain { layout: Layout::Warm, clusters, quota, disk_size: base.disk_size() };
                    Filled::by(&others, &chain, base)?.cache
                }
            };
            Ok(LeftOut {
                margin: *margin,
                smallest_quota: smallest.quota,
                quota,
                first: cache.boot(boot)?,
                again: cache.boot(boot)?,
            })
        };
        margins.iter().map(under).collect()
    }

    /// Whether the boot needs the base image no more.
    pub fn is_covered(&self) -> bool {
        self.again.base_bytes_read == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use vmicache_format::trace::{Op, Request};

    const CLUSTER: u64 = 4096;
    const CLUSTERS: ClusterLayout = ClusterLayout::standard(CLUSTER);

    /// A boot that reads so many clusters from the start of the disk, and some of its own.
    fn boot(common: u64, own: u64, place: u64) -> Trace {
        let read = |offset, clusters| Request {
            start: Duration::ZERO,
            end: Duration::ZERO,
            op: Op::Read,
            offset,
            length: clusters * CLUSTER,
        };
        Trace { requests: vec![read(0, common), read(place * (1 << 20), own)] }
    }

    #[test]
    fn a_boot_is_covered_if_the_margin_has_room_for_what_is_new_in_it() {
        let boots = [boot(200, 1, 1), boot(200, 1, 2), boot(200, 15, 3)];
        let boots: Vec<&Trace> = boots.iter().collect();
        let base = Base::new(4 << 20);
        let margins = [0, 5, 10].map(Margin::percent);
        let covered = |number| {
            let found = LeftOut::of(&boots, number, CLUSTERS, &base, &margins).unwrap();
            assert!(found.iter().zip(margins).all(|(at, margin)| at.margin == margin));
            assert!(found.iter().all(|at| at.quota == at.margin.above(at.smallest_quota, CLUSTER)));
            let new = boots[number].requests[1].length;
            assert!(found.iter().all(|at| at.first.base_bytes_read == new), "{found:?}");
            found.iter().map(LeftOut::is_covered).collect::<Vec<_>>()
        };
        // The others need some 210 clusters with their tables; 5 % of them is room for one more, 10 % for 15.
        assert_eq!(covered(0), [false, true, true]);
        assert_eq!(covered(1), [false, true, true]);
        assert_eq!(covered(2), [false, false, true]);
        assert!(LeftOut::of(&boots, 3, CLUSTERS, &base, &margins).is_err());
    }
}
