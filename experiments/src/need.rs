//! The smallest quota of a cache image that serves boots without the base image.

use anyhow::{Context, ensure};
use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{Base, Cache, Chain, Layout, Outcome};

/// The quota that boots need with one layout of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Length of the empty cache's file in bytes, at its smallest: no quota can be smaller.
    pub empty_bytes: u64,
    /// The smallest quota in bytes with which nothing is read from the base image.
    pub quota: u64,
    /// The cache at that quota, after all boots.
    pub cache: Outcome,
    /// Bytes read from the base image when the quota is one cluster smaller; `None` if there can be no
    /// smaller quota.
    pub base_bytes_below: Option<u64>,
}

impl Need {
    /// Finds the smallest quota with which a cache that `boots` have filled, in this order, lets each of them
    /// boot again without the base image. A cache file grows by whole clusters, so only those are tried.
    ///
    /// # Errors
    /// If a boot cannot be replayed, or reads from the base image whatever the quota.
    pub fn of(boots: &[&Trace], clusters: ClusterLayout, base: &Base) -> anyhow::Result<Need> {
        let found = Smallest::of(boots, clusters, base)?;
        let left = found.filled.left(boots)?;
        ensure!(left == 0, "{left} bytes are read from the base image although the quota was large enough");
        Ok(Need {
            empty_bytes: found.empty_bytes,
            quota: found.filled.quota,
            cache: found.filled.outcome,
            base_bytes_below: found.below.map(|below| below.left(boots)).transpose()?,
        })
    }
}

/// A cache that boots have filled.
#[derive(Clone, Debug)]
pub struct Filled {
    /// Its quota in bytes.
    pub quota: u64,
    /// The cache itself.
    pub cache: Cache,
    /// What each boot read from the base image while it filled the cache, bytes.
    pub base_bytes: Vec<u64>,
    /// The last boot.
    pub outcome: Outcome,
}

impl Filled {
    /// A new cache that `boots` have filled, in this order.
    ///
    /// # Errors
    /// If there can be no such cache, or a boot cannot be replayed.
    pub fn by(boots: &[&Trace], chain: &Chain, base: &Base) -> anyhow::Result<Filled> {
        let mut cache = Cache::over(base, chain)?;
        let outcomes = boots.iter().map(|boot| Ok(cache.boot(boot)?)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Filled {
            quota: chain.quota.unwrap_or(u64::MAX),
            cache,
            base_bytes: outcomes.iter().map(|outcome| outcome.base_bytes_read).collect(),
            outcome: *outcomes.last().context("no boot is given")?,
        })
    }

    /// Bytes that each of `boots` reads from the base image now, each in a copy of the cache of its own, so that it
    /// cannot add to it for the next.
    ///
    /// # Errors
    /// If a boot cannot be replayed.
    pub fn again(&self, boots: &[&Trace]) -> anyhow::Result<Vec<u64>> {
        boots.iter().map(|boot| Ok(self.cache.fork().boot(boot)?.base_bytes_read)).collect()
    }

    /// The sum of these bytes.
    fn left(&self, boots: &[&Trace]) -> anyhow::Result<u64> {
        Ok(self.again(boots)?.iter().sum())
    }
}

/// The cache with the smallest quota that serves the boots.
#[derive(Clone, Debug)]
pub struct Smallest {
    /// See [`Need::empty_bytes`].
    pub empty_bytes: u64,
    /// The cache, filled by the boots.
    pub filled: Filled,
    /// The cache with a quota of one cluster less, which does not serve them; `None` if there can be none.
    pub below: Option<Filled>,
}

impl Smallest {
    /// Searches as [`Need::of`], but leaves it to the caller to boot again.
    ///
    /// # Errors
    /// As [`Need::of`].
    pub fn of(boots: &[&Trace], clusters: ClusterLayout, base: &Base) -> anyhow::Result<Smallest> {
        let search = Search::new(boots, clusters, base)?;
        let (mut enough, mut filled) = search.enough()?;
        let mut below = None;
        let mut too_little = 0;
        let mut probe = enough.saturating_sub(1);
        while too_little < enough {
            let tried = search.at(probe)?;
            if search.is_enough(&tried)? {
                (enough, filled) = (probe, tried);
            } else {
                too_little = probe + 1;
                below = Some(tried);
            }
            probe = too_little + (enough - too_little) / 2;
        }
        Ok(Smallest { empty_bytes: search.empty_bytes, filled, below })
    }
}

/// What the search starts from.
struct Search<'a> {
    boots: &'a [&'a Trace],
    base: &'a Base,
    /// Without a limit.
    chain: Chain,
    /// Length of the empty cache's file in bytes, at its smallest.
    empty_bytes: u64,
    /// The cache after all boots, without a limit.
    everything: Filled,
}

impl<'a> Search<'a> {
    fn new(boots: &'a [&'a Trace], clusters: ClusterLayout, base: &'a Base) -> anyhow::Result<Search<'a>> {
        let chain = Chain { layout: Layout::Warm, clusters, quota: None, disk_size: base.disk_size() };
        let empty_bytes = empty_cache_bytes(clusters, chain.disk_size)?;
        Ok(Search { boots, base, chain, empty_bytes, everything: Filled::by(boots, &chain, base)? })
    }

    /// A quota is the empty image at its smallest and so many clusters.
    fn quota(&self, count: u64) -> u64 {
        self.empty_bytes + count * self.chain.clusters.size
    }

    /// How many clusters beyond the empty image these bytes are.
    fn count(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.empty_bytes).div_ceil(self.chain.clusters.size)
    }

    /// A cache that may take so many clusters beyond the empty image, filled by the boots.
    fn at(&self, count: u64) -> anyhow::Result<Filled> {
        let chain = Chain { quota: Some(self.quota(count)), ..self.chain };
        Filled::by(self.boots, &chain, self.base)
    }

    /// Whether the boots read nothing from the base under this cache.
    fn is_enough(&self, filled: &Filled) -> anyhow::Result<bool> {
        // What a cache keeps without a limit is all that the boots can find in any. As many clusters hold as many
        // subclusters: none that had no room gets any later, unless holes give some back.
        let counts = !self.chain.clusters.extended_l2 || *self.base == Base::new(self.base.disk_size());
        if counts && filled.outcome.cache_data_bytes == self.everything.outcome.cache_data_bytes {
            return Ok(true);
        }
        // What there was no room for came last.
        for boot in self.boots.iter().rev() {
            if filled.cache.fork().boot(boot)?.base_bytes_read > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A number of clusters that is enough and all but certain to be the smallest, with its cache.
    fn enough(&self) -> anyhow::Result<(u64, Filled)> {
        let mut enough = self.count(self.file_bytes_expected()?);
        let mut filled = self.at(enough)?;
        if !self.is_enough(&filled)? {
            let always = self.everything.left(self.boots)?;
            ensure!(
                always == 0,
                "{always} bytes are read from the base image even when the quota is without limit"
            );
        }
        while !self.is_enough(&filled)? {
            enough = self.count(self.everything.outcome.cache_file_bytes).max(enough * 9 / 8 + 1);
            filled = self.at(enough)?;
        }
        // Its file may have stayed below the quota.
        while self.count(filled.outcome.cache_file_bytes) < enough {
            let shorter = self.count(filled.outcome.cache_file_bytes);
            let tried = self.at(shorter)?;
            if !self.is_enough(&tried)? {
                break;
            }
            (enough, filled) = (shorter, tried);
        }
        Ok((enough, filled))
    }

    /// The length in bytes of the file that keeps everything, under a quota of just that length: of the one that was
    /// filled without a limit, only the tables that are made for the whole disk are larger.
    fn file_bytes_expected(&self) -> anyhow::Result<u64> {
        let Chain { clusters, disk_size, .. } = self.chain;
        let everything = self.everything.outcome.cache_file_bytes;
        let beyond_empty = everything.saturating_sub(empty_bytes_at(clusters, disk_size, None)?);
        let mut expected = everything;
        loop {
            let shorter = empty_bytes_at(clusters, disk_size, Some(expected))? + beyond_empty;
            if shorter >= expected {
                return Ok(expected);
            }
            expected = shorter;
        }
    }
}

/// The smallest quota in bytes with which a cache image can be made at all: the length of the empty image, whose
/// tables are the smaller the less it may ever hold.
///
/// # Errors
/// If there can be no such image.
pub fn empty_cache_bytes(clusters: ClusterLayout, disk_size: u64) -> anyhow::Result<u64> {
    let mut bytes = empty_bytes_at(clusters, disk_size, None)?;
    loop {
        let smaller = empty_bytes_at(clusters, disk_size, Some(bytes))?;
        if smaller >= bytes {
            return Ok(bytes);
        }
        bytes = smaller;
    }
}

/// Length in bytes of the file of an empty cache image with this quota.
fn empty_bytes_at(clusters: ClusterLayout, disk_size: u64, quota: Option<u64>) -> anyhow::Result<u64> {
    Ok(Cache::new(&Chain { layout: Layout::Cold, clusters, quota, disk_size })?.contents().bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use vmicache_format::storage::Holes;
    use vmicache_format::trace::{Op, Request};

    fn reads(places: &[(u64, u64)]) -> Trace {
        let request = |&(offset, length)| Request {
            start: Duration::ZERO,
            end: Duration::ZERO,
            op: Op::Read,
            offset,
            length,
        };
        Trace { requests: places.iter().map(request).collect() }
    }

    #[test]
    fn the_quota_found_serves_and_one_cluster_less_does_not() {
        let boots = [reads(&[(0, 70_000), (1 << 20, 4096)]), reads(&[(1 << 20, 8192), (9 << 20, 512)])];
        let boots: Vec<&Trace> = boots.iter().collect();
        let standard = [512, 4096, 65_536].map(ClusterLayout::standard);
        let extended = [16_384, 65_536, 2 << 20].map(ClusterLayout::extended);
        for clusters in standard.into_iter().chain(extended) {
            let base = Base::new(16 << 20);
            let need = Need::of(&boots, clusters, &base).unwrap();
            let left = |quota| {
                let chain = Chain { layout: Layout::Warm, clusters, quota: Some(quota), disk_size: 16 << 20 };
                Filled::by(&boots, &chain, &base).unwrap().again(&boots).unwrap().iter().sum::<u64>()
            };
            assert_eq!(left(need.quota), 0);
            let below = left(need.quota - clusters.size);
            assert!(below > 0);
            assert_eq!(need.base_bytes_below, Some(below));
            assert!(need.quota >= need.empty_bytes + need.cache.cache_data_bytes);
        }
    }

    #[test]
    fn boots_that_read_nothing_need_no_more_than_the_empty_image() {
        let need =
            Need::of(&[&Trace::default()], ClusterLayout::standard(4096), &Base::new(16 << 20)).unwrap();
        assert_eq!((need.quota, need.base_bytes_below), (need.empty_bytes, None));
    }

    /// The second boot finds its data in a cluster whose other half is a hole, and nothing else in the base.
    #[test]
    fn holes_take_no_room_and_are_no_traffic() {
        let boots = [reads(&[(0, 1 << 20)]), reads(&[(2 << 20, 65_536), (8 << 20, 1 << 20)])];
        let boots: Vec<&Trace> = boots.iter().collect();
        let holes = Holes::new([65_536..2 << 20, (2 << 20) + 4096..16 << 20]);
        for (cluster_size, data) in [(512, 65_536 + 4096), (4096, 65_536 + 4096), (65_536, 2 * 65_536)] {
            let clusters = ClusterLayout::standard(cluster_size);
            let need = |holes| Need::of(&boots, clusters, &Base::with_holes(16 << 20, holes)).unwrap();
            let (sparse, full) = (need(holes.clone()), need(Holes::default()));
            assert_eq!(sparse.cache.cache_data_bytes, data);
            assert_eq!(full.cache.cache_data_bytes, (2 << 20) + 65_536);
            assert!(sparse.quota < full.quota && sparse.quota >= sparse.empty_bytes + data);
            assert!(sparse.base_bytes_below.unwrap() > 0);
        }
    }

    /// Of a cluster that is not all hole, a boot may need the hole alone: then the cluster need not be kept.
    #[test]
    fn a_quota_need_not_hold_what_is_copied_beside_a_hole() {
        let boot = reads(&[(8192, 4096)]);
        let base = Base::with_holes(16 << 20, Holes::new(std::iter::once(4096..16 << 20)));
        let need = Need::of(&[&boot], ClusterLayout::standard(65_536), &base).unwrap();
        assert_eq!((need.quota, need.cache.cache_data_bytes), (need.empty_bytes, 0));
    }

    /// Header, refcount table, refcount block and L1 table are a cluster each. Entries of 16 bytes: an L2 table maps
    /// 4096 clusters of 64 KiB, which are 256 MiB. A host cluster is taken for the first subcluster in it.
    #[test]
    fn subclusters_need_whole_clusters_and_twice_the_l2_tables() {
        let (cluster, subcluster, table) = (65_536, 2048, 256 << 20);
        let places = [(0, 512), (30 * subcluster, 512), (3 * cluster - 512, 1024), (2 * table - 512, 512)];
        let base = Base::new(1 << 30);
        let need = Need::of(&[&reads(&places)], ClusterLayout::extended(cluster), &base).unwrap();
        let (data, tables) = (4, 2);
        assert_eq!((need.empty_bytes, need.quota), (4 * cluster, (4 + data + tables) * cluster));
        assert_eq!(need.cache.cache_bytes_in_use, need.quota);
        assert_eq!(need.cache.cache_data_bytes, data * cluster);
        // The last read needs a table and a cluster: with one cluster less it stays with the base, as it is.
        assert_eq!(need.base_bytes_below, Some(512));
        let filled = Filled::by(
            &[&reads(&places)],
            &Chain {
                layout: Layout::Warm,
                clusters: ClusterLayout::extended(cluster),
                quota: Some(need.quota),
                disk_size: 1 << 30,
            },
            &base,
        );
        assert_eq!(filled.unwrap().base_bytes, [5 * subcluster]);
        // The same without subclusters: half the tables, and all of every cluster is read.
        let need = Need::of(&[&reads(&places)], ClusterLayout::standard(cluster), &base).unwrap();
        assert_eq!(need.quota, (4 + data + 1) * cluster);
    }
}
