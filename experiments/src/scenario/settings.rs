//! A scenario with every key filled in, as results carry it.

use serde::{Deserialize, Serialize};
use vmicache_format::disk::Filling;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_sim::hardware::CacheMode;
use vmicache_sim::storm::State;

/// Every key of a scenario. Serialised it is a scenario file again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Name or path of the hardware profile.
    pub hardware: String,
    /// Name of the network.
    pub network: String,
    /// Name of the guest.
    pub guest: String,
    /// Compute nodes.
    pub nodes: u32,
    /// Virtual machines on each.
    pub vms_per_node: u32,
    /// Memory of a virtual machine in MiB.
    pub vm_memory_mib: u32,
    /// Distinct base images.
    pub images: u32,
    /// Seed of all randomness.
    pub seed: u64,
    /// How often it runs, each time with other random streams.
    pub replications: u32,
    /// How QEMU opens images.
    pub cache_mode: CacheModeName,
    /// How the guests boot.
    pub boot: BootSettings,
    /// When they start.
    pub start: StartSettings,
    /// Where images lie.
    pub deployment: DeploymentSettings,
}

/// The table `boot`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BootSettings {
    /// Seconds that a guest computes in a boot.
    pub cpu_seconds: CpuSeconds,
    /// Half the width of the triangle that factors on think times are drawn from.
    pub think_noise: f64,
    /// `drawn`, or the name of the recorded boot.
    pub recording: String,
}

/// How long a guest computes in a boot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CpuSeconds {
    /// So many seconds.
    Seconds(f64),
    /// As long as when it was recorded.
    Recorded(AsRecorded),
}

/// The word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AsRecorded {
    /// See [`CpuSeconds::Recorded`].
    #[serde(rename = "as-recorded")]
    AsRecorded,
}

/// The table `start`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StartSettings {
    /// All at once.
    AtOnce,
    /// Each within so many seconds.
    Jitter {
        /// Seconds.
        jitter_s: f64,
    },
    /// Each so many seconds after the one before.
    Staggered {
        /// Seconds.
        interval_s: f64,
    },
}

/// The kinds of start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartKind {
    /// All at once.
    AtOnce,
    /// Each within some time.
    Jitter,
    /// One after the other.
    Staggered,
}

/// The table `deployment`. Only deployments with a cache have more than a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeploymentSettings {
    /// Which strategy.
    pub kind: DeploymentKind,
    /// What the cache holds at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateName>,
    /// Cluster size of the cache in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Whether its L2 entries are extended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_l2: Option<bool>,
    /// Quota of the cache in bytes; `None`: as much as the disk could need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Whether reads wait for the copy that the cache keeps; `None` also where nobody fills it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filling: Option<FillingName>,
}

impl DeploymentSettings {
    /// How the clusters of the cache are laid out, if there is one.
    pub fn clusters(&self) -> Option<ClusterLayout> {
        let extended_l2 = self.extended_l2.unwrap_or(false);
        self.cluster_size.map(|size| ClusterLayout { size, extended_l2 })
    }
}

/// The kinds of deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentKind {
    /// Overlays on the base image.
    PlainOverlay,
    /// A cache on the compute node's disk.
    ComputeDiskCache,
    /// A cache in the compute node's memory.
    ComputeMemoryCache,
    /// A warm cache in the storage node's memory.
    StorageMemoryCache,
    /// The base image copied to the compute node's disk first.
    FullCopy,
}

/// Declares names in files for the values of a type.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident for $type:ty { $($variant:ident = $text:literal),* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $(#[doc = concat!("`", $text, "`")] #[serde(rename = $text)] $variant),*
        }

        impl From<$name> for $type {
            fn from(name: $name) -> $type {
                match name { $($name::$variant => <$type>::$variant),* }
            }
        }

        impl From<$type> for $name {
            fn from(value: $type) -> $name {
                match value { $(<$type>::$variant => $name::$variant),* }
            }
        }
    };
}

names! {
    /// The names of QEMU's cache modes.
    CacheModeName for CacheMode { Writeback = "writeback", Writethrough = "writethrough", None = "none" }
}
names! {
    /// The names of what a cache holds at first.
    StateName for State { Cold = "cold", Warm = "warm" }
}
names! {
    /// The names of ways to fill a cache.
    FillingName for Filling { Beside = "beside", InPath = "in-path" }
}
