//! What a boot storm is made of.

use crate::engine::{Deadlock, Span, Violation};
use crate::hardware::{CacheMode, Network, Profile};
use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::{Dependencies, Trace};

/// A guest: its disk, and what was recorded of its boots.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Virtual size of the disk in bytes: a multiple of 512.
    pub disk_bytes: u64,
    /// Bytes of the disk that its image has allocated: what a full copy moves.
    pub allocated_bytes: u64,
    /// The recorded boots, each with the dependencies that its replay follows.
    pub boots: Vec<(Trace, Dependencies)>,
}

/// Where the images of a virtual machine lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deployment {
    /// Overlay on the node's disk, base image at the storage node.
    PlainOverlay,
    /// A cache on the compute node's disk between the two.
    ComputeDiskCache(Cache, State),
    /// A cache in the compute node's memory, written to its disk after the boot if it was cold.
    ComputeMemoryCache(Cache, State),
    /// A warm cache in the storage node's memory, read by all its virtual machines over the network.
    StorageMemoryCache(Cache),
    /// The whole base image is copied to the compute node's disk first.
    FullCopy,
}

/// A cache image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cache {
    /// How its clusters are laid out.
    pub clusters: ClusterLayout,
    /// Bytes that its file never exceeds; `None`: as much as the disk could need.
    pub quota_bytes: Option<u64>,
    /// Whether a guest's read waits for the copy that the cache keeps of it.
    pub filling: Filling,
}

pub use vmicache_format::disk::Filling;

/// What a cache holds when the storm begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing.
    Cold,
    /// What an earlier boot of the same image has left in it.
    Warm,
}

/// Which recorded boot a virtual machine replays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recording {
    /// One drawn at random, for each virtual machine.
    #[default]
    Drawn,
    /// The one of this number, for every virtual machine and for warming.
    Only(usize),
}

/// How the guests boot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BootOptions {
    /// Seconds that a guest computes in a boot: the recorded think times are scaled, each recording on its own, so
    /// that it takes this long when its requests take no time. `None`: as recorded.
    pub cpu_seconds: Option<f64>,
    /// Half the width of the triangular distribution around 1 that each virtual machine's factor on its think
    /// times is drawn from; 0 for no noise, below 1.
    pub think_noise: f64,
    /// Which boots are replayed.
    pub recording: Recording,
}

/// When virtual machines start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// All at time 0.
    AtOnce,
    /// Each at a time drawn evenly from 0 to this.
    Jitter(Span),
    /// Each this much after the one before.
    Staggered(Span),
}

/// One boot storm: everything that its outcome depends on.
#[derive(Clone, Debug)]
pub struct Storm<'a> {
    /// What the nodes are.
    pub hardware: &'a Profile,
    /// What connects them.
    pub network: &'a Network,
    /// What boots on them.
    pub guest: &'a Guest,
    /// Compute nodes.
    pub nodes: u32,
    /// Virtual machines on each.
    pub vms_per_node: u32,
    /// Memory of a virtual machine in bytes.
    pub vm_memory_bytes: u64,
    /// Distinct base images, each a copy of the guest's; virtual machine `i` boots image `i` modulo this.
    pub images: u32,
    /// Where images lie.
    pub deployment: Deployment,
    /// How QEMU opens images.
    pub cache_mode: CacheMode,
    /// How the guests boot.
    pub boot: BootOptions,
    /// When they start.
    pub start: Start,
    /// Seed of all randomness.
    pub seed: u64,
    /// Number of the replication: another one has other random streams.
    pub replication: u64,
    /// Whether to record what happened when, for [`Outcome::timeline`](super::Outcome::timeline).
    pub timeline: bool,
}

/// Why a boot storm could not be run.
#[derive(Debug, thiserror::Error)]
pub enum StormError {
    /// A parameter that cannot be, or not together with the others.
    #[error("{key}: {problem}")]
    Impossible {
        /// The parameter's name, as in scenario files.
        key: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Nothing could go on, and not everything was done.
    #[error(transparent)]
    Deadlock(#[from] Deadlock),
    /// What a resource has counted does not agree with itself: the result cannot be trusted.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// An image could not be made, or a request of a guest failed.
    #[error(transparent)]
    Image(#[from] vmicache_format::Error),
}
