//! The prediction held against the real thing: a cache image in a file, over the real base.

use super::advice::CacheFigures;
use crate::base_image::BaseImage;
use crate::commands::warm::{Recorded, Target, Warmed};
use anyhow::{Context, ensure};
use vmicache_format::qcow2::ClusterLayout;

/// What came of a real cache of the recommended quota.
pub struct Trial {
    /// How the clusters of the cache are laid out.
    pub layout: ClusterLayout,
    /// Its quota in bytes.
    pub quota: u64,
    /// What it was to be.
    pub predicted: CacheFigures,
    /// What it is.
    pub found: CacheFigures,
}

impl Trial {
    /// By how much prediction and finding may differ, as a share.
    pub const TOLERANCE: f64 = 0.01;

    /// Makes the cache in a temporary folder, fills it with the boots, one after the other, and boots all of them
    /// again.
    ///
    /// # Errors
    /// If the cache cannot be made or filled, as without room for it.
    pub fn run(
        base: &BaseImage,
        boots: &[Recorded],
        layout: ClusterLayout,
        quota: u64,
        predicted: CacheFigures,
    ) -> anyhow::Result<Trial> {
        let folder = tempfile::Builder::new().prefix("vmicache-").tempdir();
        let folder = folder.context("cannot make a temporary folder (TMPDIR says where)")?;
        let path = folder.path().join("cache.qcow2");
        let ClusterLayout { size, extended_l2 } = layout;
        let target = Target {
            path: &path,
            quota: Some(quota),
            cluster_size: Some(size),
            extended_l2,
            base_version: None,
        };
        target.prepare(&base.image)?;
        let Warmed { filled, again, cache } = Warmed::of(&path, None, boots)?;
        let failed: u64 = filled.iter().map(|boot| boot.failed_fills).sum();
        ensure!(
            failed == 0,
            "{failed} copies could not be written to {}: is there room? TMPDIR names another folder",
            path.display()
        );
        let found = CacheFigures {
            base_bytes_read: filled.iter().map(|boot| boot.base_bytes_read).sum(),
            base_bytes_read_again: again.iter().map(|boot| boot.base_bytes_read).sum(),
            cache_bytes_in_use: cache.bytes_in_use,
            cache_data_bytes: cache.data_bytes,
            cache_file_bytes: cache.file_bytes,
        };
        Ok(Trial { layout, quota, predicted, found })
    }

    /// The largest difference between prediction and finding, as a share of the larger of the two.
    pub fn largest_difference(&self) -> f64 {
        let pairs = self.predicted.all().into_iter().zip(self.found.all());
        pairs.map(|((_, predicted), (_, found))| difference(predicted, found)).fold(0.0, f64::max)
    }

    /// Whether they agree.
    pub fn agrees(&self) -> bool {
        self.largest_difference() <= Self::TOLERANCE
    }
}

/// The difference as a share of the larger.
pub fn difference(predicted: u64, found: u64) -> f64 {
    match predicted.max(found) {
        0 => 0.0,
        larger => predicted.abs_diff(found) as f64 / larger as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn what_was_to_be_nothing_and_is_not_differs_by_all_of_it() {
        assert_eq!([(0, 0), (0, 5), (5, 0), (99, 100)].map(|(p, f)| difference(p, f)), [0.0, 1.0, 1.0, 0.01]);
    }
}
