//! Which experiments run, and over which values.

use clap::ValueEnum;
use serde::Deserialize;
use std::fmt;

/// An experiment: the name of its figure or table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize)]
pub enum Experiment {
    /// Read working set by granularity
    #[value(name = "T1")]
    T1,
    /// Smallest quota that makes later boots read nothing from the base image
    #[value(name = "T2")]
    T2,
    /// Traffic at the storage node against quota, by cluster size
    #[value(name = "F4")]
    F4,
}

impl Experiment {
    /// Every experiment, in the order of the report.
    pub const ALL: [Experiment; 3] = [Experiment::T1, Experiment::T2, Experiment::F4];
}

impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
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
    /// Cluster sizes of the cache image in bytes.
    pub cluster_sizes: Vec<u64>,
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
        let cluster_sizes =
            if quick { vec![512, 4096, 65_536] } else { (9..=16).map(|bits| 1 << bits).collect() };
        Plan {
            experiments,
            quick,
            granularities: vec![512, 4096, 65_536],
            cluster_sizes,
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
