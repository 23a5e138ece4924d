//! What the sources claim, and the verdict that the results give on it.

mod boots;
mod court;
mod quota;
mod storms;
mod words;

use super::GuestResults;
use super::plan::Experiment;
use crate::inputs::sha256;
use anyhow::{Context, ensure};
use court::Court;
use serde::Deserialize;
use std::fmt;
use storms::FlatThenLinear;
pub use words::{rule as in_words, storms as storms_in_words};

/// The claims and the rules by which they are judged.
const CLAIMS: &str = include_str!("../../../../paper/claims.toml");

/// How sure it is that the source says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Read in the patch.
    Patch,
    /// Read in the paper's abstract.
    Abstract,
    /// Known from the paper's body, with no copy at hand.
    Recalled,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mark::Patch => "patch",
            Mark::Abstract => "abstract",
            Mark::Recalled => "recalled",
        })
    }
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The results bear it out.
    Reproduced,
    /// They bear it out in part, or for something less than the claim speaks of.
    Partly,
    /// They do not.
    NotReproduced,
    /// What it speaks of cannot be had here.
    NotTestableHere,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Reproduced => "reproduced",
            Verdict::Partly => "partly",
            Verdict::NotReproduced => "not reproduced",
            Verdict::NotTestableHere => "not testable here",
        })
    }
}

/// A claim, as its file states it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Its number: C1, C2…
    pub id: String,
    /// How sure it is that the source says so.
    pub mark: Mark,
    /// What the source says.
    pub text: String,
    /// The part of the claim that is judged, where it is not all of it.
    pub scope: Option<String>,
    /// The experiments whose results are needed.
    pub needs: Vec<Experiment>,
    /// The best verdict that can be given here.
    pub best: Option<Verdict>,
    /// Why there can be no better one.
    pub why: Option<String>,
    /// How it is judged.
    pub rule: Rule,
}

/// How a claim is judged; the claims file says what each rule means.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rule {
    /// A quota holds what the boots read.
    QuotaSuffices {
        /// The quota in bytes.
        quota_bytes: u64,
    },
    /// A warm boot reads next to nothing from the base.
    WarmReadsNothing {
        /// As a share of the plain overlay's traffic.
        most_share: f64,
    },
    /// A boot needs a small share of the image.
    SmallWorkingSet {
        /// The share.
        most_share: f64,
    },
    /// Filling draws more than a plain boot with large clusters and not with small ones.
    SmallClustersSave {
        /// In bytes.
        larger_cluster_bytes: u64,
        /// In bytes.
        smaller_cluster_bytes: u64,
    },
    /// Traffic and boot time fall with the quota until it suffices, then no more.
    FallsThenFlat {
        /// As a share of the plain overlay's traffic.
        traffic_tolerance_share: f64,
        /// As a share of the plain overlay's boot time.
        boot_time_tolerance_share: f64,
        /// Compute nodes of the storms.
        nodes: u32,
        /// Network of the storms.
        network: String,
    },
    /// The network is what a storm waits for.
    NetworkBound {
        /// Network of the storms.
        network: String,
    },
    /// The storage node's disk is what a storm of many images waits for.
    DiskBound {
        /// Of the rate that it has sequentially, what it moves at most.
        most_sequential_share: f64,
    },
    /// Warm caches take away what makes boot time grow.
    RemovesBottlenecks {
        /// The network that is a bottleneck.
        network: String,
    },
    /// With warm caches a storm takes one virtual machine's time.
    AsOneVm,
    /// A share of the boot time is waiting.
    WaitsForStorage {
        /// The share.
        least_share: f64,
    },
    /// Filling a cache on disk slows a cold boot, filling one in memory does not.
    FillingSlows {
        /// Network of the storms.
        network: String,
        /// Compute nodes of the storms.
        nodes: u32,
    },
    /// Boot time is flat and then linear over one network, flat over another.
    FlatThenLinear(FlatThenLinear),
    /// The storage node's disk is in use all the time.
    DiskSaturates {
        /// As a share of the storm's length.
        least_utilisation: f64,
    },
    /// What caches in the storage node's memory leave, and those on the compute nodes do not.
    CachesByPlace {
        /// The network that is a bottleneck.
        network: String,
    },
    /// Nothing here can tell.
    NotTestableHere {
        /// Why.
        why: String,
    },
}

/// Where boot storms are judged; the claims file says why there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgedAt {
    /// Name of the hardware profile.
    pub hardware: String,
    /// Compute nodes of the largest storm.
    pub nodes: u32,
    /// Most base images.
    pub images: u32,
    /// Seconds that a guest computes in a boot.
    pub cpu_seconds: f64,
    /// What counts as no difference, of one virtual machine's boot time.
    pub flat_share: f64,
}

/// A verdict on one claim, for one guest.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The numbers that it rests on, in sentences.
    pub measured: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    judged_at: JudgedAt,
    claim: Vec<Claim>,
}

/// The claims, in the order of the file, and where boot storms are judged.
///
/// # Errors
/// If the file that is compiled in is not right.
pub fn load() -> anyhow::Result<(JudgedAt, Vec<Claim>)> {
    let File { judged_at, claim } = toml::from_str(CLAIMS).context("paper/claims.toml is not right")?;
    for claim in &claim {
        ensure!(claim.best.is_none() == claim.why.is_none(), "{}: best and why go together", claim.id);
    }
    Ok((judged_at, claim))
}

/// SHA-256 of the claims file.
pub fn digest() -> String {
    sha256(CLAIMS.as_bytes())
}

impl Claim {
    /// Judges the claim by what the boots of one guest gave; `None` if its rule is not about results, or if
    /// something that the rule looks at has not been run.
    pub fn judge(&self, results: &GuestResults, at: &JudgedAt) -> Option<Judgement> {
        let mut judgement = match &self.rule {
            Rule::QuotaSuffices { quota_bytes } => boots::quota_suffices(results, *quota_bytes),
            Rule::WarmReadsNothing { most_share } => boots::warm_reads_nothing(results, *most_share),
            Rule::SmallWorkingSet { most_share } => boots::small_working_set(results, *most_share),
            Rule::SmallClustersSave { larger_cluster_bytes, smaller_cluster_bytes } => {
                boots::small_clusters_save(results, *larger_cluster_bytes, *smaller_cluster_bytes)
            }
            Rule::NotTestableHere { .. } => None,
            _ => self.judge_storms(results, at),
        }?;
        if let Some(best) = self.best {
            judgement.verdict = judgement.verdict.max(best);
        }
        Some(judgement)
    }

    fn judge_storms(&self, results: &GuestResults, at: &JudgedAt) -> Option<Judgement> {
        let storms = results.storms.as_ref()?;
        if !self.needs.iter().all(|experiment| storms.has_run(*experiment)) {
            return None;
        }
        let court = Court { storms, at, cpu_seconds: at.cpu_seconds };
        let mut judgement = match &self.rule {
            Rule::NetworkBound { network } => storms::network_bound(&court, network),
            Rule::DiskBound { most_sequential_share } => storms::disk_bound(&court, *most_sequential_share),
            Rule::RemovesBottlenecks { network } => storms::removes_bottlenecks(&court, network),
            Rule::AsOneVm => storms::as_one_vm(&court),
            Rule::WaitsForStorage { least_share } => storms::waits_for_storage(&court, *least_share),
            Rule::FillingSlows { network, nodes } => quota::filling_slows(&court, network, *nodes),
            Rule::FlatThenLinear(rule) => storms::flat_then_linear(&court, rule),
            Rule::DiskSaturates { least_utilisation } => storms::disk_saturates(&court, *least_utilisation),
            Rule::CachesByPlace { network } => storms::caches_by_place(&court, network),
            Rule::FallsThenFlat { traffic_tolerance_share, boot_time_tolerance_share, nodes, network } => {
                let tolerances = [*traffic_tolerance_share, *boot_time_tolerance_share];
                quota::falls_then_flat(results, &court, tolerances, network, *nodes)
            }
            _ => None,
        }?;
        if storms.replications() < 2 {
            // The rules ask for intervals, and one replication has none.
            judgement.verdict = Verdict::NotTestableHere;
        }
        Some(judgement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_of_the_file_is_understood_and_named_once() {
        let (_, claims) = load().unwrap();
        let mut ids: Vec<&str> = claims.iter().map(|claim| claim.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), claims.len());
        for id in (1..=16).map(|number| format!("C{number}")) {
            assert!(ids.contains(&id.as_str()), "{id} is missing");
        }
    }
}
