//! The report's sections on one guest: findings, tables and figures with their captions.

use super::claims::JudgedAt;
use super::pictures::Figure;
use super::plan::Experiment;
use super::{GuestResults, f4, storms, t1, t2, v1};
use crate::margin::Margin;
use crate::stats::Summary;
use crate::units::{cluster, counted, mb, mb_summary, megabytes, percent, proportion};
use maud::{Markup, PreEscaped, html};
use vmicache_format::qcow2::ClusterLayout;
use vmicache_sim::replay::Layout;

/// What matters most, in a sentence each.
pub fn findings(result: &GuestResults, at: &JudgedAt) -> Vec<String> {
    let mut findings = Vec::new();
    if let Some((granularity, set)) =
        result.t1.as_deref().and_then(|rows| t1::summaries(rows).into_iter().next())
    {
        findings.push(format!(
            "A boot reads {} of distinct data (at {}): {} of what the image has allocated.",
            mb_summary(&set),
            cluster(granularity),
            percent(set.mean / result.guest.allocated_bytes as f64)
        ));
    }
    if let Some(needs) = result.needs.as_deref() {
        let all = t2::clusters(needs).into_iter();
        let enough: Vec<(u64, ClusterLayout)> =
            all.filter_map(|clusters| Some((t2::largest_single_need(needs, clusters)?, clusters))).collect();
        if let (Some((least, best)), Some((most, worst))) = (enough.iter().min(), enough.iter().max()) {
            findings.push(format!(
                "Any boot can run again without the base image from a cache with a quota of {} at clusters of {}; at \
                 {} it takes {}.",
                mb(*least as f64),
                best,
                worst,
                mb(*most as f64)
            ));
        }
    }
    let read = result.pairs.iter().flatten().map(|pair| pair.outcome.base_bytes_read as f64);
    if let Some(left) = Summary::of(read) {
        findings.push(format!(
            "A boot that finds the cache filled by another boot still reads {} from the base image in the mean over all \
             pairs and layouts of clusters, and from {} to {}.",
            mb(left.mean),
            mb(left.min),
            mb(left.max)
        ));
    }
    findings.extend(result.left_out.as_deref().and_then(coverage));
    if let Some((rows, plain)) = result.f4.as_deref().and_then(|rows| Some((rows, f4::plain(rows)?))) {
        let filling = f4::curves(rows, Layout::Cold).into_iter().filter(|curve| !curve.clusters.extended_l2);
        let filling: Vec<String> = filling.filter_map(|curve| filled(&curve)).collect();
        if let (Some(first), Some(last)) = (filling.first(), filling.last()) {
            findings.push(format!(
                "Filling a cache of sufficient quota draws {first} and {last} from the storage node; a plain overlay {}.",
                mb_summary(&plain)
            ));
        }
        findings.extend(with_subclusters(result, rows));
    }
    if let Some(storms) = &result.storms {
        findings.extend(storms::findings(storms, at.cpu_seconds));
    }
    findings.extend(result.v1.as_deref().and_then(|rows| v1::section::finding(result.guest, rows)));
    findings
}

/// What filling a cache draws from the base, at the largest quota.
fn filled(curve: &f4::Curve) -> Option<String> {
    let (_, cold) = curve.points.last()?;
    Some(format!("{} at clusters of {}", mb_summary(cold), curve.clusters))
}

/// What caches with subclusters draw and need, beside plain overlays.
fn with_subclusters(result: &GuestResults, rows: &[f4::Row]) -> Option<String> {
    let cold: Vec<f4::Curve> =
        f4::curves(rows, Layout::Cold).into_iter().filter(|curve| curve.clusters.extended_l2).collect();
    let named = |size| cold.iter().find(|curve| curve.clusters.size == size);
    let (small, large) = (named(64 << 10)?, named(128 << 10)?);
    let draws_less = |clusters| f4::below_plain(rows, clusters).is_some_and(|(below, all)| below == all);
    let less: Vec<String> = cold
        .iter()
        .filter(|curve| draws_less(curve.clusters))
        .map(|curve| cluster(curve.clusters.size))
        .collect();
    let mut text =
        format!("With subclusters (extended L2) filling draws {} and {}. ", filled(small)?, filled(large)?);
    text.push_str(&match less.is_empty() {
        true => "With no such clusters every boot draws less than its plain overlay.".to_owned(),
        false => {
            format!("Every boot draws less than its plain overlay with such clusters of {}.", less.join(", "))
        }
    });
    if let Some(needs) = result.needs.as_deref() {
        let quota = |clusters| t2::largest_single_need(needs, clusters).map(|bytes| mb(bytes as f64));
        let standard = ClusterLayout::standard(small.clusters.size);
        text.push_str(&format!(
            " Their quota counts whole clusters: any boot needs {} at 64 KiB ({} without subclusters) and {} at 128 KiB.",
            quota(small.clusters)?,
            quota(standard)?,
            quota(large.clusters)?
        ));
    }
    Some(text)
}

/// How many boots a quota serves that the others recommend, under the first margin and the last.
fn coverage(rows: &[t2::LeftOutRow]) -> Option<String> {
    let margins = t2::margins(rows);
    let at = |margin: &Margin| {
        let all = t2::left_out_clusters(rows).into_iter();
        let covered =
            all.filter_map(|clusters| t2::covered(rows, clusters, *margin)).min_by_key(|of| of.hits)?;
        Some(format!("{} with a margin of {margin}", proportion(&covered)))
    };
    let (first, last) = (at(margins.first()?)?, at(margins.last()?)?);
    Some(format!(
        "A quota that the other boots recommend serves a boot left out, at the worst layout of clusters: {first}, {last}. These \
         are boots of one image on one machine, and no evidence about other images."
    ))
}

/// All sections on one guest.
pub fn guest(result: &GuestResults, figures: &[Figure]) -> Markup {
    let of = |experiment| figures.iter().find(|f| f.guest == result.guest.name && f.experiment == experiment);
    html! {
        @if let Some(rows) = &result.t1 { (working_sets(result, rows)) }
        @if let (Some(needs), Some(pairs)) = (&result.needs, &result.pairs) {
            (quotas(result, needs, pairs, of(Experiment::T2)))
        }
        @if let Some(rows) = result.left_out.as_deref().filter(|rows| !rows.is_empty()) { (left_out(result, rows)) }
        @for experiment in Experiment::ALL {
            @match (experiment, &result.f4, &result.storms) {
                (Experiment::F4, Some(rows), _) => (traffic(result, rows, of(experiment))),
                (_, _, Some(storms)) => (storms::section(storms, experiment, &result.guest.title, of(experiment)).unwrap_or_default()),
                _ => {},
            }
        }
        @if let Some(rows) = &result.v1 {
            (v1::section::section(result.guest, rows, of(Experiment::V1)).unwrap_or_default())
        }
    }
}

fn who(result: &GuestResults) -> String {
    format!("{}, {}", result.guest.title, counted(result.guest.boots.len(), "recorded boot"))
}

fn working_sets(result: &GuestResults, rows: &[t1::Row]) -> Markup {
    html! {
        h2 { "T1: read working set of a boot" }
        div.table { table {
            thead { tr { th { "Granularity" } (summary_heads("Working set (MB)"))
                th.number { "of allocated" } th.number { "of the disk" } } }
            tbody { @for (granularity, set) in t1::summaries(rows) {
                tr {
                    td { (cluster(granularity)) }
                    (summary_cells(&set))
                    td.number { (percent(set.mean / result.guest.allocated_bytes as f64)) }
                    td.number { (percent(set.mean / result.guest.disk_bytes as f64)) }
                }
            } }
            caption {
                (who(result)) ". A block counts when a byte of it is read that the guest has not written before. The image has "
                (megabytes(result.guest.allocated_bytes as f64, 0)) " MB allocated (to the megabyte) on a disk of "
                (cluster(result.guest.disk_bytes)) ". " (replications())
            }
        } }
    }
}

fn quotas(
    result: &GuestResults,
    needs: &[t2::NeedRow],
    pairs: &[t2::PairRow],
    figure: Option<&Figure>,
) -> Markup {
    let residuals = t2::residuals(pairs);
    let left = |clusters| residuals.iter().find(|(of, _)| *of == clusters).map(|(_, left)| left);
    html! {
        h2 { "T2: smallest quota that makes later boots read nothing" }
        @if let Some(figure) = figure {
            (picture(figure, "narrow", html! {
                (who(result)) ". Smallest quota with which a boot can run again without reading from the base image; what the \
                 boot copies into a cache of that quota; and the distinct bytes that a boot reads. Between quota and what \
                 is copied lies the image's metadata, and with subclusters (extended L2, 32 a cluster) the rest of the \
                 clusters of which only some are copied; between what is copied and the bytes read lies what the guest's \
                 writes make the overlay read to fill its own clusters of 64 KiB, and what the cache reads to fill its \
                 where they are larger than what the guest reads. Lines are means, bands go from the smallest to the largest boot; the axis does not begin at zero, and ends where what larger clusters need would press the rest together. Disk of "
                (cluster(result.guest.disk_bytes)) ", on which the size of the metadata depends."
            }))
        }
        div.table { table {
            thead { tr { th { "Clusters" } th.number { "Empty (MB)" } (summary_heads("Quota for one boot (MB)"))
                th.number { "for all (MB)" } th.number { "clusters of data (MB)" }
                th.number { "copied (MB)" } } }
            tbody { @for clusters in t2::clusters(needs) {
                @let single = || t2::single_needs(needs, clusters);
                tr {
                    td { (clusters) }
                    td.number { @if let Some(row) = single().next() { (megabytes(row.need.empty_bytes as f64, 3)) } }
                    @if let Some(quota) = Summary::of(single().map(|row| row.need.quota as f64)) { (summary_cells(&quota)) }
                    td.number { @match t2::joint_need(needs, clusters) {
                        Some(row) => (megabytes(row.need.quota as f64, 2)), None => "–" } }
                    td.number { @if let Some(data) = Summary::of(single().map(|row| row.need.cache.cache_data_bytes as f64)) {
                        (megabytes(data.mean, 2)) } }
                    td.number { @if let Some(copied) = Summary::of(single().map(|row| row.need.cache.base_bytes_read as f64)) {
                        (megabytes(copied.mean, 2)) } }
                }
            } }
            caption { (who(result)) ". Found by search: with one cluster less, each of these caches leaves something to \
                be read from the base image. Empty: length of the image before anything is copied into it, below which \
                there can be no quota. Clusters of data are whole ones, of which those with subclusters hold only what \
                was copied; the quota counts them whole. " (replications()) }
        } }
        @if !pairs.is_empty() {
            h3 { "Warmed by one boot, read by another" }
            div.table { table {
                thead { tr { th { "Clusters" } th.number { "Still read from the base (MB)" } th.number { "range" }
                    th.number { "pairs that read nothing" } } }
                tbody { @for clusters in t2::clusters(needs) {
                    @if let Some(left) = left(clusters) {
                        @let of_size = || pairs.iter().filter(|pair| pair.clusters == clusters);
                        tr {
                            td { (clusters) }
                            td.number { (megabytes(left.mean, 3)) }
                            td.number { (megabytes(left.min, 3)) " to " (megabytes(left.max, 3)) }
                            td.number { (of_size().filter(|pair| pair.outcome.base_bytes_read == 0).count()) " of " (left.count) }
                        }
                    }
                } }
                caption { (who(result)) ": all ordered pairs of different boots, quota without limit. The pairs share \
                    boots, so they are not independent and have no interval." }
            } }
        }
    }
}

fn left_out(result: &GuestResults, rows: &[t2::LeftOutRow]) -> Markup {
    let margins = t2::margins(rows);
    html! {
        h3 { "Recommended by the other boots" }
        div.table { table {
            thead { tr { th { "Clusters" } th.number { "Smallest quota of the others (MB)" }
                th.number { "The boot left out then reads first (MB)" } th.number { "range" }
                @for margin in &margins { th.number { "covered with a margin of " (margin) } } } }
            tbody { @for clusters in t2::left_out_clusters(rows) {
                tr {
                    td { (clusters) }
                    @if let Some(margin) = margins.last() {
                        @let of_size = || t2::at_margin(rows, clusters, *margin);
                        td.number { @if let Some(quota) = Summary::of(of_size().map(|row| row.left_out.smallest_quota as f64)) {
                            (megabytes(quota.min, 2)) " to " (megabytes(quota.max, 2)) } }
                        @if let Some(first) = Summary::of(of_size().map(|row| row.left_out.first.base_bytes_read as f64)) {
                            td.number { (megabytes(first.mean, 3)) }
                            td.number { (megabytes(first.min, 3)) " to " (megabytes(first.max, 3)) }
                        }
                    }
                    @for margin in &margins {
                        td.number { @if let Some(covered) = t2::covered(rows, clusters, *margin) { (proportion(&covered)) } }
                    }
                }
            } }
            caption { (who(result)) ": each boot is left out in turn. The others recommend a quota, theirs being the \
                smallest and the margin on top; a cache of that quota is filled by them, and then the boot left out boots \
                from it twice. It is covered if the second time it reads nothing from the base image: there was room for \
                what the others had not brought, which is what it read the first time (under the largest margin). In \
                brackets the exact 95 % interval of the share (Clopper and Pearson), as if the boots were independent. The \
                base is taken to have data everywhere. They are boots of one image on one machine: this is no evidence \
                about other images." }
        } }
    }
}

fn traffic(result: &GuestResults, rows: &[f4::Row], figure: Option<&Figure>) -> Markup {
    let warm = f4::curves(rows, Layout::Warm);
    html! {
        h2 { "F4: traffic at the storage node against quota" }
        @if let Some(figure) = figure {
            (picture(figure, "wide", html! {
                (who(result)) ". Guest data read from the base image during one boot, against the quota of the cache \
                 image. Left: the boot fills an empty cache. Right: a fresh overlay over the cache that the same boot \
                 has filled. Dashed: a plain overlay without a cache. Lines are means over the boots, bands go from the \
                 smallest to the largest. Each curve begins at the empty image's own metadata, below which there can be \
                 no cache. The files F4.csv and F4.parquet have the layouts of clusters that are not drawn, too."
            }))
        }
        div.table { table {
            thead { tr { th { "Chain" } (summary_heads("Read from the base (MB)")) th.number { "against plain" }
                th.number { "boots below plain" } th.number { "warm (MB)" } } }
            tbody {
                @if let Some(plain) = f4::plain(rows) {
                    tr { td { "plain overlay" } (summary_cells(&plain)) td.number { "–" } td.number { "–" } td.number { "–" } }
                }
                @for (cold, warm) in f4::curves(rows, Layout::Cold).iter().zip(&warm) {
                    @if let (Some((_, cold_left)), Some((_, warm_left))) = (cold.points.last(), warm.points.last()) {
                        tr {
                            td { "cold, clusters of " (cold.clusters) }
                            (summary_cells(cold_left))
                            td.number { @if let Some(cost) = f4::cost_of_filling(rows, cold.clusters) { (signed(&cost)) } }
                            td.number { @if let Some((below, all)) = f4::below_plain(rows, cold.clusters) { (below) " of " (all) } }
                            td.number { (megabytes(warm_left.mean, 2)) }
                        }
                    }
                }
            }
            caption {
                (who(result)) ", at the largest quota of the axis"
                @if let Some((quota, _)) = warm.first().and_then(|curve| curve.points.last()) { " (" (megabytes(*quota as f64, 0)) " MB; more with subclusters, whose clusters are whole in it)" }
                ". Against plain: the mean difference boot by boot with its 95 % half-width. " (replications())
            }
        } }
    }
}

/// A figure with its caption.
pub fn picture(figure: &Figure, class: &str, caption: Markup) -> Markup {
    html! {
        figure class=(class) {
            (PreEscaped(&figure.picture.svg))
            figcaption { (caption) " Files: " code { (figure.name) ".png" } ", " code { (figure.name) ".svg" } "." }
        }
    }
}

fn replications() -> &'static str {
    "Mean over the boots, which are the replications, with its 95 % half-width (Student's t) and range."
}

fn summary_heads(what: &str) -> Markup {
    html! { th.number { (what) } th.number { "± 95 %" } th.number { "range" } }
}

fn summary_cells(summary: &Summary) -> Markup {
    html! {
        td.number { (megabytes(summary.mean, 2)) }
        td.number { @match summary.half_width { Some(half_width) => (megabytes(half_width, 2)), None => "–" } }
        td.number { (megabytes(summary.min, 2)) " to " (megabytes(summary.max, 2)) }
    }
}

fn signed(summary: &Summary) -> String {
    let sign = if summary.mean > 0.0 { "+" } else { "" };
    let half =
        summary.half_width.map(|half_width| format!(" ± {}", megabytes(half_width, 3))).unwrap_or_default();
    format!("{sign}{}{half}", megabytes(summary.mean, 3))
}
