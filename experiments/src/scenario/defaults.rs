//! What a scenario is where its file does not say.

use super::settings::{BootSettings, CpuSeconds};
use vmicache_format::disk::Filling;

/// The testbed of the published experiments.
pub const HARDWARE: &str = "das-4";
/// The guest on record.
pub const GUEST: &str = "debian-12-minimal";
/// One virtual machine on a node and one base image: what the published experiments start from.
pub const VMS_PER_NODE: u32 = 1;
/// See [`VMS_PER_NODE`].
pub const IMAGES: u32 = 1;
/// What the guest had when its boots were recorded.
pub const VM_MEMORY_MIB: u32 = 1024;
/// Any number would do.
pub const SEED: u64 = 1;
/// Enough for an interval by Student's t that is not far wider than with many more.
pub const REPLICATIONS: u32 = 5;
/// Assumed: starts that one operator orders at once reach the nodes within about a second.
pub const JITTER_S: f64 = 1.0;
/// The smallest that qcow2 has: a cache then keeps what was read, and no more.
pub const CLUSTER_BYTES: u64 = 512;
/// Reads end when their data is there.
pub const FILLING: Filling = Filling::Beside;
/// The name of drawing a recorded boot for each virtual machine.
pub const DRAWN: &str = "drawn";

/// How the guests boot.
pub fn boot() -> BootSettings {
    BootSettings {
        // Assumed, not measured: the recorded 10 to 12 s are those of an emulated processor, and a native one
        // takes perhaps a quarter of that.
        cpu_seconds: CpuSeconds::Seconds(3.0),
        // The durations of the six recorded boots have a coefficient of variation of about 6 %, which is that of
        // a triangle of this half-width (0.15 / √6).
        think_noise: 0.15,
        recording: DRAWN.to_owned(),
    }
}
