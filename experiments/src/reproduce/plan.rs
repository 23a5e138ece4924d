//! Which experiments run, and over which values.

use crate::margin::{Margin, RECOMMENDED};
use clap::ValueEnum;
use serde::Deserialize;
use std::fmt;
use vmicache_format::qcow2::ClusterLayout;

/// An experiment: the name of its figure or table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize)]
pub enum Experiment {
    /// Read working set by granularity
    #[value(name = "T1")]
    T1,
    /// Smallest quota that makes later boots read nothing from the base image
    #[value(name = "T2")]
    T2,
    /// Boot time against the number of nodes, plain overlays
    #[value(name = "F1")]
    F1,
    /// Boot time against the number of images, plain overlays
    #[value(name = "F2")]
    F2,
    /// Cold and warm boot time against quota
    #[value(name = "F3")]
    F3,
    /// Traffic at the storage node against quota, by layout of clusters
    #[value(name = "F4")]
    F4,
    /// F1 with caches on the compute nodes' disks
    #[value(name = "F5")]
    F5,
    /// F2 with caches on the compute nodes' disks
    #[value(name = "F6")]
    F6,
    /// F2 with warm caches in the storage node's memory
    #[value(name = "F7")]
    F7,
    /// Boot time on slowed storage, predicted and measured
    #[value(name = "V1")]
    V1,
}

impl Experiment {
    /// Every experiment, in the order of the report.
    pub const ALL: [Experiment; 10] = [
        Experiment::T1,
        Experiment::T2,
        Experiment::F1,
        Experiment::F2,
        Experiment::F3,
        Experiment::F4,
        Experiment::F5,
        Experiment::F6,
        Experiment::F7,
        Experiment::V1,
    ];

    /// Its name, as files are called by it.
    pub fn name(self) -> &'static str {
        match self {
            Experiment::T1 => "T1",
            Experiment::T2 => "T2",
            Experiment::F1 => "F1",
            Experiment::F2 => "F2",
            Experiment::F3 => "F3",
            Experiment::F4 => "F4",
            Experiment::F5 => "F5",
            Experiment::F6 => "F6",
            Experiment::F7 => "F7",
            Experiment::V1 => "V1",
        }
    }

    /// Whether it runs boot storms.
    pub fn has_storms(self) -> bool {
        !matches!(self, Experiment::T1 | Experiment::T2 | Experiment::F4 | Experiment::V1)
    }
}

impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Clusters of up to 64 KiB, and from 16 KiB on those with subclusters.
fn clusters(quick: bool) -> Vec<ClusterLayout> {
    let (standard, extended) = match quick {
        true => (vec![9, 12, 16], 16..=17),
        false => ((9..=16).collect(), 14..=21),
    };
    let standard = standard.into_iter().map(|bits| ClusterLayout::standard(1 << bits));
    let extended = extended.map(|bits| ClusterLayout::extended(1 << bits));
    let mut clusters: Vec<ClusterLayout> = standard.chain(extended).collect();
    clusters.sort_unstable();
    clusters
}

/// The resolved parameters of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What runs, in the order of the report.
    pub experiments: Vec<Experiment>,
    /// Whether this is the short form, with fewer boots and values.
    pub quick: bool,
    /// Granularities of T1 in bytes.
    pub granularities: Vec<u64>,
    /// Layouts of the clusters of the cache image.
    pub clusters: Vec<ClusterLayout>,
    /// Margins under which T2 leaves boots out.
    pub margins: Vec<Margin>,
    /// How many steps the quota axis of F4 has at most.
    pub quota_steps: u64,
    /// How many boots of each guest are used at most.
    pub most_boots: usize,
}

impl Plan {
    /// The full or the quick plan of `only`, or of everything if that is empty.
    pub fn new(only: &[Experiment], quick: bool) -> Plan {
        let mut experiments = if only.is_empty() { Experiment::ALL.to_vec() } else { only.to_vec() };
        experiments.sort_unstable();
        experiments.dedup();
        Plan {
            experiments,
            quick,
            granularities: vec![512, 4096, 65_536],
            clusters: clusters(quick),
            margins: vec![Margin::percent(0), RECOMMENDED],
            quota_steps: if quick { 10 } else { 25 },
            most_boots: if quick { 3 } else { usize::MAX },
        }
    }

    /// Whether `experiment` is to run.
    pub fn runs(&self, experiment: Experiment) -> bool {
        self.experiments.contains(&experiment)
    }

    /// `full` or `quick`.
    pub fn scope(&self) -> &'static str {
        if self.quick { "quick" } else { "full" }
    }
}
