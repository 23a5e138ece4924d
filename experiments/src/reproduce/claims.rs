//! What the sources claim, and the verdict that the results give on it.

use super::f4::{self, Curve};
use super::inputs::sha256;
use super::plan::Experiment;
use super::t2::{self, NeedRow};
use super::{GuestResults, t1};
use crate::stats::Summary;
use crate::units::{cluster, counted, mb, mb_summary, megabytes, percent};
use anyhow::{Context, ensure};
use serde::Deserialize;
use std::fmt;
use vmicache_sim::replay::Layout;

/// The claims and the rules by which they are judged.
const CLAIMS: &str = include_str!("../../../paper/claims.toml");

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
    /// Traffic falls with the quota until it suffices, then no more.
    FallsThenFlat {
        /// As a share of the plain overlay's traffic.
        tolerance_share: f64,
    },
    /// Nothing here can tell.
    NotTestableHere {
        /// Why.
        why: String,
    },
    /// It is about time, and these experiments have no clock.
    NeedsAClock,
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
    claim: Vec<Claim>,
}

/// The claims, in the order of the file.
///
/// # Errors
/// If the file that is compiled in is not right.
pub fn load() -> anyhow::Result<Vec<Claim>> {
    let File { claim } = toml::from_str(CLAIMS).context("paper/claims.toml is not right")?;
    for claim in &claim {
        ensure!(claim.best.is_none() == claim.why.is_none(), "{}: best and why go together", claim.id);
    }
    Ok(claim)
}

/// SHA-256 of the claims file.
pub fn digest() -> String {
    sha256(CLAIMS.as_bytes())
}

impl Claim {
    /// Judges the claim by what the boots of one guest gave; `None` if its rule is not about results, or if
    /// something that the rule looks at has not been run.
    pub fn judge(&self, results: &GuestResults) -> Option<Judgement> {
        let mut judgement = match &self.rule {
            Rule::QuotaSuffices { quota_bytes } => quota_suffices(results, *quota_bytes),
            Rule::WarmReadsNothing { most_share } => warm_reads_nothing(results, *most_share),
            Rule::SmallWorkingSet { most_share } => small_working_set(results, *most_share),
            Rule::SmallClustersSave { larger_cluster_bytes, smaller_cluster_bytes } => {
                small_clusters_save(results, *larger_cluster_bytes, *smaller_cluster_bytes)
            }
            Rule::FallsThenFlat { tolerance_share } => falls_then_flat(results, *tolerance_share),
            Rule::NotTestableHere { .. } | Rule::NeedsAClock => None,
        }?;
        if let Some(best) = self.best {
            judgement.verdict = judgement.verdict.max(best);
        }
        Some(judgement)
    }
}

fn quota_suffices(results: &GuestResults, quota: u64) -> Option<Judgement> {
    let needs = results.needs.as_deref()?;
    let largest = |alone: bool| {
        needs.iter().filter(|row| (row.boots.len() == 1) == alone).max_by_key(|row| row.need.quota)
    };
    let one = largest(true)?;
    // With a single boot on record, all boots are that one.
    let all = largest(false).unwrap_or(one);
    let verdict = if all.need.quota <= quota && one.need.quota <= quota {
        Verdict::Reproduced
    } else if one.need.quota <= quota {
        Verdict::Partly
    } else {
        Verdict::NotReproduced
    };
    let needed = |what: &str, row: &NeedRow| {
        format!(
            "{what} needs a quota of at most {} (at clusters of {}), of {}.",
            mb(row.need.quota as f64),
            cluster(row.cluster_size),
            mb(quota as f64)
        )
    };
    let boots = results.guest.boots.len();
    let measured = vec![
        needed("Any one boot", one),
        needed(&format!("What all {boots} boots read, one after the other,"), all),
    ];
    Some(Judgement { verdict, measured })
}

fn warm_reads_nothing(results: &GuestResults, most_share: f64) -> Option<Judgement> {
    let rows = results.f4.as_deref()?;
    let plain = f4::plain(rows)?.mean;
    let most = most_share * plain;
    let warm = f4::curves(rows, Layout::Warm);
    let repeated =
        warm.iter().filter_map(|curve| curve.points.last()).map(|(_, left)| left.max).fold(0.0, f64::max);
    let mut measured = vec![format!(
        "With a sufficient quota, a boot that is repeated reads {} from the base image ({}, {} cluster sizes, the \
         worst).",
        mb(repeated),
        counted(results.guest.boots.len(), "boot"),
        warm.len()
    )];
    let pairs = results.pairs.as_deref()?;
    let residuals = t2::residuals(pairs);
    let worst = residuals.iter().max_by(|a, b| a.1.max.total_cmp(&b.1.max));
    let Some((cluster_size, left)) = worst else {
        measured.push("There is no other boot to try it with.".to_owned());
        let verdict = if repeated == 0.0 { Verdict::Partly } else { Verdict::NotReproduced };
        return Some(Judgement { verdict, measured });
    };
    let worst_mean = residuals.iter().map(|(_, left)| left.mean).fold(0.0, f64::max);
    let nothing = pairs.iter().filter(|pair| pair.outcome.base_bytes_read == 0).count();
    measured.push(format!(
        "A boot after another reads at most {} (clusters of {}), {} of the plain overlay's {}; over the pairs, the \
         largest mean of a cluster size is {}. In {nothing} of {} cases it reads nothing at all.",
        mb(left.max),
        cluster(*cluster_size),
        percent(left.max / plain),
        mb(plain),
        mb(worst_mean),
        pairs.len()
    ));
    let verdict = if repeated == 0.0 && left.max <= most {
        Verdict::Reproduced
    } else if worst_mean <= most {
        Verdict::Partly
    } else {
        Verdict::NotReproduced
    };
    Some(Judgement { verdict, measured })
}

fn small_working_set(results: &GuestResults, most_share: f64) -> Option<Judgement> {
    let rows = results.t1.as_deref()?;
    let mut measured = Vec::new();
    for (granularity, working_set) in t1::summaries(rows) {
        measured.push(format!(
            "At {}: {}; that is {} of the {} MB that the image has allocated and {} of its disk of {}.",
            cluster(granularity),
            mb_summary(&working_set),
            percent(working_set.mean / results.guest.allocated_bytes as f64),
            megabytes(results.guest.allocated_bytes as f64, 0),
            percent(working_set.mean / results.guest.disk_bytes as f64),
            cluster(results.guest.disk_bytes)
        ));
    }
    let verdict = if rows.iter().all(|row| row.share_of_allocated() <= most_share) {
        Verdict::Reproduced
    } else if rows.iter().all(|row| row.share_of_disk() <= most_share) {
        Verdict::Partly
    } else {
        Verdict::NotReproduced
    };
    Some(Judgement { verdict, measured })
}

fn small_clusters_save(results: &GuestResults, larger: u64, smaller: u64) -> Option<Judgement> {
    let rows = results.f4.as_deref()?;
    let plain = f4::plain(rows)?;
    let cost_larger = f4::cost_of_filling(rows, larger)?;
    let cost_smaller = f4::cost_of_filling(rows, smaller)?;
    let larger_draws_more = cost_larger.low() > 0.0;
    let smaller_does_not = cost_smaller.high() <= 0.0;
    let verdict = match (larger_draws_more, smaller_does_not) {
        // The rule asks for an interval, and one boot has none.
        _ if plain.count < 2 => Verdict::NotTestableHere,
        (true, true) => Verdict::Reproduced,
        (false, false) => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let cost = |cluster_size: u64, cost: &Summary| {
        format!("Cold minus plain at clusters of {}: {}.", cluster(cluster_size), mb_summary(cost))
    };
    let plain = format!("A plain overlay reads {}.", mb_summary(&plain));
    Some(Judgement {
        verdict,
        measured: vec![plain, cost(larger, &cost_larger), cost(smaller, &cost_smaller)],
    })
}

fn falls_then_flat(results: &GuestResults, tolerance_share: f64) -> Option<Judgement> {
    let rows = results.f4.as_deref()?;
    let tolerance = tolerance_share * f4::plain(rows)?.mean;
    let needs = results.needs.as_deref()?;
    let (mut falls, mut flat) = (true, true);
    let (mut steepest_rise, mut widest_plateau) = (0.0f64, 0.0f64);
    for curve in f4::curves(rows, Layout::Warm) {
        let (rise, fallen) = fall(&curve, t2::largest_single_need(needs, curve.cluster_size)?)?;
        let plateau = plateau(&curve, t2::largest_single_need(needs, curve.cluster_size)?)?;
        falls &= fallen && rise <= tolerance;
        flat &= plateau <= tolerance;
        steepest_rise = steepest_rise.max(rise);
        widest_plateau = widest_plateau.max(plateau);
    }
    let verdict = match (falls, flat) {
        (true, true) => Verdict::Reproduced,
        (false, false) => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let mut measured = vec![format!(
        "Warm: up to the sufficient quota the largest rise from one quota to the next is {}, and beyond it the \
         points differ by at most {} (tolerance {}).",
        mb(steepest_rise),
        mb(widest_plateau),
        mb(tolerance)
    )];
    let cold = f4::curves(rows, Layout::Cold);
    let ends = cold.iter().filter_map(|curve| {
        let ((_, first), (_, last)) = (curve.points.first()?, curve.points.last()?);
        Some(format!("{} to {} ({})", mb(first.mean), mb(last.mean), cluster(curve.cluster_size)))
    });
    let ends: Vec<String> = ends.collect();
    measured.push(format!("Cold, not judged, from the smallest quota to the largest: {}.", ends.join(", ")));
    Some(Judgement { verdict, measured })
}

/// The largest rise of the mean from one point to the next up to the first point at which the quota suffices,
/// and whether that point lies lower than the first; in bytes.
fn fall(curve: &Curve, sufficient: u64) -> Option<(f64, bool)> {
    let end = curve.points.iter().position(|(quota, _)| *quota >= sufficient)?;
    let means: Vec<f64> = curve.points.get(..=end)?.iter().map(|(_, traffic)| traffic.mean).collect();
    let rise = means.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    Some((rise, means.last()? < means.first()?))
}

/// How far apart the means lie from the first point on at which the quota suffices; in bytes.
fn plateau(curve: &Curve, sufficient: u64) -> Option<f64> {
    let means =
        curve.points.iter().filter(|(quota, _)| *quota >= sufficient).map(|(_, traffic)| traffic.mean);
    let all = Summary::of(means)?;
    Some(all.max - all.min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(means: &[f64]) -> Curve {
        let points = means.iter().enumerate().map(|(i, mean)| (i as u64, Summary::of([*mean]).unwrap()));
        Curve { cluster_size: 512, points: points.collect() }
    }

    #[test]
    fn every_claim_of_the_file_is_understood_and_named_once() {
        let claims = load().unwrap();
        let mut ids: Vec<&str> = claims.iter().map(|claim| claim.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), claims.len());
        for id in ["C1", "C2", "C3", "C9", "C10", "C11", "C13"] {
            assert!(ids.contains(&id), "{id} is missing");
        }
    }

    #[test]
    fn a_falling_curve_that_stays_down_has_no_rise_and_a_narrow_plateau() {
        let falling = curve(&[60.0, 40.0, 20.0, 0.0, 0.0, 0.0]);
        assert_eq!(fall(&falling, 3), Some((0.0, true)));
        assert_eq!(plateau(&falling, 3), Some(0.0));
    }

    #[test]
    fn a_bump_and_a_late_change_are_seen() {
        let bumpy = curve(&[60.0, 63.0, 20.0, 0.0, 7.0]);
        assert_eq!(fall(&bumpy, 3), Some((3.0, true)));
        assert_eq!(plateau(&bumpy, 3), Some(7.0));
        assert_eq!(fall(&curve(&[5.0, 5.0]), 1), Some((0.0, false)));
        assert_eq!(fall(&bumpy, 9), None);
    }
}
