//! Boot storms: many virtual machines that start from few base images at once, in simulated time.
//!
//! A run builds nodes, disks and network from a hardware profile, makes and opens the images of every virtual
//! machine (which takes no simulated time: headers and first-level tables are in memory when a guest starts),
//! and lets each replay a recorded boot in closed loop on them. What the images ask of their files is asked of
//! simulated page caches, disks and network.

mod check;
mod measure;
mod outcome;
mod run;
mod scenario;
mod timeline;

pub use outcome::{Layer, LayerUse, Outcome, ResourceUse, VmOutcome};
pub use run::run;
pub use scenario::{
    BootOptions, Cache, Deployment, Filling, Guest, Recording, Start, State, Storm, StormError,
};
pub use timeline::{OpenSpan, Recorder, Timeline, TimelineSpan};
