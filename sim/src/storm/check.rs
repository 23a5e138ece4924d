//! Whether a storm can be.

use super::{Deployment, Recording, Start, Storm, StormError};

/// Virtual machines of one storm: more would take hours and tens of gigabytes to simulate.
const MOST_VMS: u64 = 100_000;
/// Seconds that a guest computes at most, and starts are spread over at most: a day.
const MOST_SECONDS: f64 = 86_400.0;

fn impossible(key: &'static str, problem: String) -> StormError {
    StormError::Impossible { key, problem }
}

impl Storm<'_> {
    /// Virtual machines in all.
    pub fn vms(&self) -> u32 {
        self.nodes.saturating_mul(self.vms_per_node)
    }

    /// Checks that such a storm can be.
    ///
    /// # Errors
    /// [`StormError::Impossible`] with the first parameter that is wrong.
    pub fn check(&self) -> Result<(), StormError> {
        self.check_counts()?;
        self.check_boot()?;
        self.check_start()?;
        self.check_compute_memory()?;
        self.check_storage()
    }

    fn check_counts(&self) -> Result<(), StormError> {
        for (key, value) in
            [("nodes", self.nodes), ("vms_per_node", self.vms_per_node), ("images", self.images)]
        {
            if value == 0 {
                return Err(impossible(key, "0; at least 1 would be right".into()));
            }
        }
        let vms = u64::from(self.nodes) * u64::from(self.vms_per_node);
        if vms > MOST_VMS {
            return Err(impossible("nodes", format!("{vms} virtual machines in all; at most {MOST_VMS}")));
        }
        if u64::from(self.images) > vms {
            let problem = format!("{} images for {vms} virtual machines; at most one for each", self.images);
            return Err(impossible("images", problem));
        }
        Ok(())
    }

    fn check_boot(&self) -> Result<(), StormError> {
        let boots = self.guest.boots.len();
        if boots == 0 {
            return Err(impossible("guest", "no boot of it is on record".into()));
        }
        if let Recording::Only(number) = self.boot.recording
            && number >= boots
        {
            return Err(impossible(
                "boot.recording",
                format!("number {number} of {boots} recordings, from 0 on"),
            ));
        }
        if !(0.0..1.0).contains(&self.boot.think_noise) {
            let problem = format!("{}; from 0 to below 1 would be right", self.boot.think_noise);
            return Err(impossible("boot.think_noise", problem));
        }
        match self.boot.cpu_seconds {
            Some(seconds) if !(0.0..=MOST_SECONDS).contains(&seconds) => Err(impossible(
                "boot.cpu_seconds",
                format!("{seconds}; from 0 to {MOST_SECONDS} seconds would be right"),
            )),
            _ => Ok(()),
        }
    }

    fn check_start(&self) -> Result<(), StormError> {
        let (key, span, times) = match self.start {
            Start::AtOnce => return Ok(()),
            Start::Jitter(span) => ("start.jitter_s", span, 1.0),
            Start::Staggered(span) => ("start.interval_s", span, f64::from(self.vms())),
        };
        if span.seconds() * times > MOST_SECONDS {
            let problem = format!("starts would be spread over more than {MOST_SECONDS} seconds");
            return Err(impossible(key, problem));
        }
        Ok(())
    }

    /// Bytes of a cache image's file at most.
    fn cache_bytes(&self) -> Option<u64> {
        let cache = match self.deployment {
            Deployment::ComputeDiskCache(cache, _)
            | Deployment::ComputeMemoryCache(cache, _)
            | Deployment::StorageMemoryCache(cache) => cache,
            Deployment::PlainOverlay | Deployment::FullCopy => return None,
        };
        // Without a quota it may grow to what it needs, for which there is no bound beforehand that is of use.
        Some(cache.quota_bytes.unwrap_or(0))
    }

    /// Images that the virtual machines of one node have at most.
    fn images_per_node(&self) -> u64 {
        u64::from(self.vms_per_node.min(self.images))
    }

    /// Bytes of a compute node's memory that virtual machines and caches take.
    pub(super) fn reserved_compute_memory(&self) -> u64 {
        let caches = match self.deployment {
            Deployment::ComputeMemoryCache(..) => {
                self.images_per_node().saturating_mul(self.cache_bytes().unwrap_or(0))
            }
            _ => 0,
        };
        u64::from(self.vms_per_node).saturating_mul(self.vm_memory_bytes).saturating_add(caches)
    }

    /// Bytes of the storage node's memory that caches take.
    pub(super) fn reserved_storage_memory(&self) -> u64 {
        match self.deployment {
            Deployment::StorageMemoryCache(_) => {
                u64::from(self.images).saturating_mul(self.cache_bytes().unwrap_or(0))
            }
            _ => 0,
        }
    }

    fn check_compute_memory(&self) -> Result<(), StormError> {
        let there = self.hardware.compute_node.memory_bytes;
        let needed = self.reserved_compute_memory();
        if needed <= there {
            return Ok(());
        }
        let most = there / self.vm_memory_bytes.max(1);
        Err(impossible(
            "vms_per_node",
            format!(
                "{} virtual machines of {} MiB need {} MiB of memory with their caches, and a compute node of {} has \
                 {} MiB: at most {most} of them without caches in memory",
                self.vms_per_node,
                self.vm_memory_bytes >> 20,
                needed >> 20,
                self.hardware.name,
                there >> 20,
            ),
        ))
    }

    fn check_storage(&self) -> Result<(), StormError> {
        let there = self.hardware.storage_node.memory_bytes;
        if self.reserved_storage_memory() > there {
            let needed = self.reserved_storage_memory() >> 20;
            let problem =
                format!("{} caches need {needed} MiB of the storage node's {} MiB", self.images, there >> 20);
            return Err(impossible("images", problem));
        }
        if let Some(capacity) = self.hardware.storage_node.disk.capacity_bytes() {
            let needed = u64::from(self.images).saturating_mul(self.guest.disk_bytes);
            if needed > capacity {
                let problem = format!(
                    "{} images of {} bytes do not fit the storage node's disk of {capacity} bytes",
                    self.images, self.guest.disk_bytes
                );
                return Err(impossible("images", problem));
            }
        }
        Ok(())
    }
}
