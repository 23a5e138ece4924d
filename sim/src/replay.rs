//! One recorded boot, request by request, through a chain of real images.

use vmicache_format::trace::Trace;

/// What stands between the guest and the base image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// overlay -> base
    Plain,
    /// overlay -> empty cache -> base
    Cold,
    /// overlay -> cache that a boot has filled -> base
    Warm,
}

/// The chain that a boot is replayed through. The overlay has clusters of 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Which images there are.
    pub layout: Layout,
    /// Cluster size of the cache image in bytes: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Quota of the cache image in bytes of its file; `None`: as much as the disk could need.
    pub quota: Option<u64>,
    /// Virtual size of all three images in bytes.
    pub disk_size: u64,
}

/// What one replayed boot did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests the guest issued.
    pub guest_requests: u64,
    /// Bytes the guest read.
    pub guest_bytes_read: u64,
    /// Guest data read from the base image, bytes.
    pub base_bytes_read: u64,
    /// Read requests that reached the base image.
    pub base_requests: u64,
    /// Host bytes that the cache's tables reach, metadata included, at the end of the boot; 0 without a cache.
    pub cache_bytes_in_use: u64,
    /// Of these, guest data alone.
    pub cache_data_bytes: u64,
    /// Length of the cache's file at the end of the boot; 0 without a cache.
    pub cache_file_bytes: u64,
    /// Length of the overlay's file at the end of the boot.
    pub overlay_file_bytes: u64,
}

/// Why a boot could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Stands for the errors of the images below.
    #[error("{0}")]
    Image(String),
}

/// Replays `boot` through a fresh overlay over `chain`, after the boots of `fill`, in this order and each
/// with an overlay of its own, have filled the cache. A warm layout with an empty `fill` is filled by `boot`
/// itself; the other layouts ignore `fill`.
///
/// # Errors
/// If the chain cannot be made (a quota below the empty cache's metadata, a cluster size that the format
/// does not have) or a request lies beyond the disk.
pub fn replay(boot: &Trace, fill: &[&Trace], chain: &Chain) -> Result<Outcome, ReplayError> {
    stand_in::replay(boot, fill, chain)
}

/// The smallest disk, in bytes, that holds every request of `boots`: whole sectors of 512 bytes.
pub fn disk_size_for<'a>(boots: impl IntoIterator<Item = &'a Trace>) -> u64 {
    let end = boots.into_iter().flat_map(|t| &t.requests).map(|r| r.offset + r.length).max();
    end.unwrap_or(0).next_multiple_of(512)
}

/// A crude set of clusters in place of the images, until the chain itself is here.
mod stand_in {
    use super::*;
    use std::collections::HashSet;
    use vmicache_format::trace::Op;

    pub fn replay(boot: &Trace, fill: &[&Trace], chain: &Chain) -> Result<Outcome, ReplayError> {
        let cs = chain.cluster_size;
        let empty = chain.disk_size / cs * 8 / (cs / 8) + 4 * cs;
        let quota = chain.quota.unwrap_or(u64::MAX);
        if chain.layout != Layout::Plain && quota < empty {
            return Err(ReplayError::Image(format!(
                "a quota of {quota} bytes is below the {empty} bytes of metadata of the empty image"
            )));
        }
        let limit = quota.saturating_sub(empty) / (cs + 16);
        let mut cache = HashSet::new();
        let mut run = |t: &Trace| {
            let mut o = Outcome::default();
            for r in t.requests.iter().filter(|r| r.op == Op::Read) {
                o.guest_requests += 1;
                o.guest_bytes_read += r.length;
                if chain.layout == Layout::Plain {
                    o.base_bytes_read += r.length;
                    o.base_requests += 1;
                    continue;
                }
                let before = o.base_bytes_read;
                for c in r.offset / cs..(r.offset + r.length).div_ceil(cs) {
                    if !cache.contains(&c) {
                        o.base_bytes_read += cs;
                        if (cache.len() as u64) < limit {
                            cache.insert(c);
                        }
                    }
                }
                o.base_requests += u64::from(o.base_bytes_read > before);
            }
            o.cache_data_bytes = cache.len() as u64 * cs;
            o.cache_bytes_in_use = empty + cache.len() as u64 * (cs + 16);
            o.cache_file_bytes = o.cache_bytes_in_use.next_multiple_of(cs);
            o.overlay_file_bytes = 786_432;
            o
        };
        if chain.layout == Layout::Warm {
            match fill {
                [] => drop(run(boot)),
                boots => boots.iter().for_each(|b| drop(run(b))),
            }
        }
        Ok(run(boot))
    }
}
