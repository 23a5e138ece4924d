//! What a boot storm came to.

use crate::engine::{Span, Time};

/// What happened in one boot storm.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The virtual machines, by number.
    pub vms: Vec<VmOutcome>,
    /// From the first start to the last end of a boot.
    pub makespan: Span,
    /// From the first start to the end of everything, such as writing caches to disk after the boot.
    pub settled: Span,
    /// Every shared resource, and those of compute nodes that are alike taken together.
    pub resources: Vec<ResourceUse>,
    /// Where the guests' reads were served, top first.
    pub layers: Vec<LayerUse>,
    /// Name of the resource that the storm waited for most.
    pub bottleneck: String,
    /// Guest data asked of the base images above every page cache, bytes.
    pub base_bytes: u64,
    /// Requests for it.
    pub base_requests: u64,
    /// Requests of all guests.
    pub guest_requests: u64,
    /// What happened when, if that was asked for.
    pub timeline: Option<super::Timeline>,
}

/// One virtual machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VmOutcome {
    /// Its compute node.
    pub node: u32,
    /// Its base image.
    pub image: u32,
    /// Number of the recorded boot that it replayed.
    pub recording: usize,
    /// When it was started.
    pub started: Time,
    /// When its last request had completed.
    pub booted: Time,
    /// How long its boot would have taken if its requests took no time.
    pub cpu: Span,
    /// Guest data that it asked of the base image, bytes.
    pub base_bytes: u64,
}

impl VmOutcome {
    /// How long the boot took.
    pub fn boot_time(&self) -> Span {
        self.booted.since(self.started)
    }
}

/// What a resource did.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceUse {
    /// Such as `storage node disk`, `storage node network port`, `compute node disks`.
    pub name: String,
    /// How many of them there are.
    pub count: u32,
    /// Requests that it served.
    pub requests: u64,
    /// Bytes that it moved.
    pub bytes: u64,
    /// Share of the makespan in which it was busy: of the busiest one, where there are several.
    pub utilisation: f64,
    /// Mean number of requests at it, waiting or being served; of the busiest one, where there are several.
    pub mean_queue: f64,
}

/// A layer that can serve reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// The overlay image.
    Overlay,
    /// The cache image.
    CacheImage,
    /// The base image (above page caches).
    Base,
    /// The compute nodes' page caches.
    ComputePageCache,
    /// The storage node's page cache.
    StoragePageCache,
}

/// What was asked of a layer, and what it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerUse {
    /// Which.
    pub layer: Layer,
    /// Bytes asked of it.
    pub asked_bytes: u64,
    /// Of these, bytes that it had.
    pub served_bytes: u64,
}

impl LayerUse {
    /// Bytes it had as a share of the bytes it was asked for; `None` if it was asked for nothing.
    pub fn hit_ratio(&self) -> Option<f64> {
        (self.asked_bytes > 0).then(|| self.served_bytes as f64 / self.asked_bytes as f64)
    }
}
