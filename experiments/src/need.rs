//! The smallest quota of a cache image that serves boots without the base image.

use anyhow::{Context, ensure};
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{Cache, Chain, Layout, Outcome, replay};

/// The quota that boots need at one cluster size.
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
    pub fn of(boots: &[&Trace], cluster_size: u64, disk_size: u64) -> anyhow::Result<Need> {
        let chain = |quota| Chain { layout: Layout::Warm, cluster_size, quota, disk_size };
        let empty_bytes = empty_cache_bytes(cluster_size, disk_size)?;
        let (left, cache) = read_again(boots, &chain(None))?;
        ensure!(left == 0, "{left} bytes are read from the base image even when the quota is without limit");

        let units = |bytes: u64| bytes.saturating_sub(empty_bytes).div_ceil(cluster_size);
        let quota = |units: u64| empty_bytes + units * cluster_size;
        let at = |n: u64| read_again(boots, &chain(Some(quota(n))));
        let mut enough = units(cache.cache_file_bytes);
        let mut found = at(enough)?;
        while found.0 > 0 {
            enough = enough * 9 / 8 + 1;
            found = at(enough)?;
        }
        // A smaller quota makes for smaller tables, so the file may have stayed below it; the length where
        // that ends is all but certain to be the answer. What follows proves it, or searches on.
        while units(found.1.cache_file_bytes) < enough {
            let shorter = units(found.1.cache_file_bytes);
            let tried = at(shorter)?;
            if tried.0 > 0 {
                break;
            }
            (enough, found) = (shorter, tried);
        }
        let mut below = None;
        let mut too_little = 0;
        let mut probe = enough.saturating_sub(1);
        while too_little < enough {
            let tried = at(probe)?;
            if tried.0 > 0 {
                too_little = probe + 1;
                below = Some(tried.0);
            } else {
                enough = probe;
                found = tried;
            }
            probe = too_little + (enough - too_little) / 2;
        }
        Ok(Need { empty_bytes, quota: quota(enough), cache: found.1, base_bytes_below: below })
    }
}

/// The smallest quota in bytes with which a cache image can be made at all: the length of the empty image, whose
/// tables are the smaller the less it may ever hold.
///
/// # Errors
/// If there can be no such image.
pub fn empty_cache_bytes(cluster_size: u64, disk_size: u64) -> anyhow::Result<u64> {
    let length = |quota| {
        let chain = Chain { layout: Layout::Cold, cluster_size, quota, disk_size };
        Ok::<_, anyhow::Error>(replay(&Trace::default(), &[], &chain)?.cache_file_bytes)
    };
    let mut bytes = length(None)?;
    loop {
        let smaller = length(Some(bytes))?;
        if smaller >= bytes {
            return Ok(bytes);
        }
        bytes = smaller;
    }
}

/// Bytes that each of `boots` reads from the base image after all of them, in this order, have filled the cache.
///
/// # Errors
/// If a boot cannot be replayed.
pub fn base_bytes_again(boots: &[&Trace], chain: &Chain) -> anyhow::Result<Vec<u64>> {
    Ok(outcomes_again(boots, chain)?.iter().map(|outcome| outcome.base_bytes_read).collect())
}

/// The sum of these bytes, and the cache after the last boot.
fn read_again(boots: &[&Trace], chain: &Chain) -> anyhow::Result<(u64, Outcome)> {
    let outcomes = outcomes_again(boots, chain)?;
    let left = outcomes.iter().map(|outcome| outcome.base_bytes_read).sum();
    Ok((left, *outcomes.last().context("no boot is given")?))
}

fn outcomes_again(boots: &[&Trace], chain: &Chain) -> anyhow::Result<Vec<Outcome>> {
    let mut cache = Cache::new(chain)?;
    for boot in boots {
        cache.boot(boot)?;
    }
    // Each in a copy of its own, so that it cannot add to the cache for the next.
    boots.iter().map(|boot| Ok(cache.fork().boot(boot)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
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
        for cluster_size in [512, 4096, 65_536] {
            let need = Need::of(&boots, cluster_size, 16 << 20).unwrap();
            let chain = |quota| Chain { layout: Layout::Warm, cluster_size, quota, disk_size: 16 << 20 };
            assert_eq!(read_again(&boots, &chain(Some(need.quota))).unwrap().0, 0);
            let below = read_again(&boots, &chain(Some(need.quota - cluster_size))).unwrap().0;
            assert!(below > 0);
            assert_eq!(need.base_bytes_below, Some(below));
            assert!(need.quota >= need.empty_bytes + need.cache.cache_data_bytes);
        }
    }

    #[test]
    fn boots_that_read_nothing_need_no_more_than_the_empty_image() {
        let need = Need::of(&[&Trace::default()], 4096, 16 << 20).unwrap();
        assert_eq!((need.quota, need.base_bytes_below), (need.empty_bytes, None));
    }
}
