//! C12 and C13: what filling costs, and what happens with a growing quota.

use super::Judgement;
use super::court::{Change, Court, axis, verdict};
use crate::reproduce::f4::{self, Curve};
use crate::reproduce::{GuestResults, t2};
use crate::scenario::{DeploymentKind, Settings};
use crate::stats::Summary;
use crate::units::{counted, mb, seconds_summary};
use vmicache_sim::hardware::CacheMode;
use vmicache_sim::replay::Layout;
use vmicache_sim::storm::State;

/// C12.
pub fn filling_slows(court: &Court, network: &str, nodes: u32) -> Option<Judgement> {
    let change = |sweep: &str, plain: CacheMode, kind: DeploymentKind, nodes: u32| {
        let plain = court.storms.plain_of_f3(plain, network, nodes)?;
        let quota = court.storms.quotas(sweep).last().copied()?;
        let cold = court.storms.cell_of_f3(sweep, kind, State::Cold, network, nodes, quota)?;
        court.change(&plain, &cold)
    };
    let in_path = |kind, nodes| change("F3-in-path", CacheMode::Writethrough, kind, nodes);
    let (disk, memory) = (
        in_path(DeploymentKind::ComputeDiskCache, nodes)?,
        in_path(DeploymentKind::ComputeMemoryCache, nodes)?,
    );
    let machines = |nodes: u32| counted(nodes as usize, "virtual machine");
    let sentence = |change: &Change, how: &str, place: &str, nodes| {
        change.sentence(&format!("{}, plain against cold {place}, filled {how}", machines(nodes)))
    };
    let mut measured = vec![
        sentence(&disk, "in the read's path", "on disk", nodes),
        sentence(&memory, "in the read's path", "in memory", nodes),
    ];
    for other in axis(court, "F3-in-path", |settings| settings.nodes, u32::MAX) {
        for (kind, place) in
            [(DeploymentKind::ComputeDiskCache, "on disk"), (DeploymentKind::ComputeMemoryCache, "in memory")]
        {
            if other != nodes
                && let Some(change) = in_path(kind, other)
            {
                measured.push(sentence(&change, "in the read's path (not judged)", place, other));
            }
            if let Some(change) = change("F3-beside", CacheMode::Writeback, kind, other) {
                measured.push(sentence(&change, "beside the read (not judged)", place, other));
            }
        }
    }
    Some(Judgement { verdict: verdict(&[disk.grows(), memory.is_flat()]), measured })
}

/// C13: traffic of single boots, and boot time of storms; tolerances as shares of what a plain overlay takes.
pub fn falls_then_flat(
    results: &GuestResults,
    court: &Court,
    [traffic, boot_time]: [f64; 2],
    network: &str,
    nodes: u32,
) -> Option<Judgement> {
    let (traffic_falls, traffic_flat, mut measured) = traffic_by_quota(results, traffic)?;
    let of = |settings: &Settings| settings.deployment.clusters();
    let clusters = court.storms.values("F3-beside", of).first().copied()?;
    let sufficient = t2::largest_single_need(results.needs.as_deref()?, clusters)?;
    let (time_falls, time_flat, times) = boot_time_by_quota(court, network, nodes, sufficient, boot_time)?;
    measured.extend(times);
    let verdict = verdict(&[traffic_falls, traffic_flat, time_falls, time_flat]);
    Some(Judgement { verdict, measured })
}

/// Whether traffic falls up to the sufficient quota, and whether it is flat beyond, and the numbers.
fn traffic_by_quota(results: &GuestResults, tolerance_share: f64) -> Option<(bool, bool, Vec<String>)> {
    let rows = results.f4.as_deref()?;
    let tolerance = tolerance_share * f4::plain(rows)?.mean;
    let needs = results.needs.as_deref()?;
    let (mut falls, mut flat) = (true, true);
    let (mut steepest_rise, mut widest_plateau) = (0.0f64, 0.0f64);
    // Which is a claim about clusters without subclusters: there were no others.
    let standard = |layout| f4::curves(rows, layout).into_iter().filter(|curve| !curve.clusters.extended_l2);
    for curve in standard(Layout::Warm) {
        let sufficient = t2::largest_single_need(needs, curve.clusters)?;
        let means = means(&curve);
        let (rise, fallen) = fall(&means, sufficient)?;
        let plateau = plateau(&means, sufficient)?;
        falls &= fallen && rise <= tolerance;
        flat &= plateau <= tolerance;
        steepest_rise = steepest_rise.max(rise);
        widest_plateau = widest_plateau.max(plateau);
    }
    let mut measured = vec![format!(
        "Traffic, warm: up to the sufficient quota the largest rise from one quota to the next is {}, and beyond it the \
         points differ by at most {} (tolerance {}).",
        mb(steepest_rise),
        mb(widest_plateau),
        mb(tolerance)
    )];
    let ends = standard(Layout::Cold).filter_map(|curve| {
        let ((_, first), (_, last)) = (curve.points.first()?, curve.points.last()?);
        Some(format!("{} to {} ({})", mb(first.mean), mb(last.mean), curve.clusters))
    });
    let ends: Vec<String> = ends.collect();
    measured.push(format!(
        "Traffic, cold, not judged, from the smallest quota to the largest: {}.",
        ends.join(", ")
    ));
    Some((falls, flat, measured))
}

/// The half of C13 about boot time: whether it falls up to the sufficient quota, and whether it is flat beyond, and the
/// numbers that this rests on.
fn boot_time_by_quota(
    court: &Court,
    network: &str,
    nodes: u32,
    sufficient: u64,
    tolerance_share: f64,
) -> Option<(bool, bool, Vec<String>)> {
    let plain = court.storms.plain_of_f3(CacheMode::Writeback, network, nodes)?.boot()?;
    let tolerance = tolerance_share * plain.mean;
    let (mut falls, mut flat, mut measured) = (true, true, Vec::new());
    for (kind, place) in
        [(DeploymentKind::ComputeDiskCache, "on disk"), (DeploymentKind::ComputeMemoryCache, "in memory")]
    {
        let quotas = court.storms.quotas("F3-beside");
        let boot = |quota: &u64| {
            let cell = court.storms.cell_of_f3("F3-beside", kind, State::Warm, network, nodes, *quota)?;
            cell.boot().map(|boot| (*quota, boot))
        };
        let points = quotas.iter().map(boot).collect::<Option<Vec<_>>>()?;
        let curve: Vec<(u64, f64)> = points.iter().map(|(quota, boot)| (*quota, boot.mean)).collect();
        let (rise, fallen) = fall(&curve, sufficient)?;
        let plateau = plateau(&curve, sufficient)?;
        falls &= fallen && rise <= tolerance;
        flat &= plateau <= tolerance;
        let (first, last) = (points.first()?.1, points.last()?.1);
        measured.push(format!(
            "Boot time of {nodes} virtual machines, warm {place}: {} with the smallest quota, {} with the largest; up to \
             the sufficient quota the largest rise is {rise:.2} s, beyond it the points differ by at most {plateau:.2} s \
             (tolerance {tolerance:.2} s); plain {}.",
            seconds_summary(&first),
            seconds_summary(&last),
            seconds_summary(&plain)
        ));
    }
    Some((falls, flat, measured))
}

fn means(curve: &Curve) -> Vec<(u64, f64)> {
    curve.points.iter().map(|(quota, traffic)| (*quota, traffic.mean)).collect()
}

/// The largest rise from one point to the next up to the first at which the quota suffices, and whether that one lies
/// lower than the first of all.
fn fall(points: &[(u64, f64)], sufficient: u64) -> Option<(f64, bool)> {
    let end = points.iter().position(|(quota, _)| *quota >= sufficient)?;
    let values: Vec<f64> = points.get(..=end)?.iter().map(|(_, value)| *value).collect();
    let rise = values.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    Some((rise, values.last()? < values.first()?))
}

/// How far apart the points lie from the first one on at which the quota suffices.
fn plateau(points: &[(u64, f64)], sufficient: u64) -> Option<f64> {
    let values = points.iter().filter(|(quota, _)| *quota >= sufficient).map(|(_, value)| *value);
    let all = Summary::of(values)?;
    Some(all.max - all.min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(values: &[f64]) -> Vec<(u64, f64)> {
        values.iter().enumerate().map(|(i, value)| (i as u64, *value)).collect()
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
