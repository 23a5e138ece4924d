//! The rows of the experiments as tables, each row with where it comes from.

use super::plan::{Experiment, Plan};
use super::{GuestResults, f4, storms, t1, t2, v1};
use crate::inputs::{Boot, Guest};
use crate::results::Table;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_sim::replay::{Layout, Outcome};

/// Version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The parameters of a run that no column holds, for the metadata of a file.
pub fn provenance(plan: &Plan, guests: &[&Guest]) -> Vec<(String, String)> {
    let mut pairs = vec![
        ("vmicache_version".to_owned(), VERSION.to_owned()),
        ("plan".to_owned(), plan.scope().to_owned()),
        ("granularities".to_owned(), format!("{:?}", plan.granularities)),
        ("clusters".to_owned(), listed(&plan.clusters)),
        (
            "margins".to_owned(),
            format!("{:?}", plan.margins.iter().map(|margin| margin.share()).collect::<Vec<_>>()),
        ),
        ("quota_steps".to_owned(), plan.quota_steps.to_string()),
    ];
    for guest in guests {
        pairs.push((format!("sha256 of {}", guest.name), guest.sha256.clone()));
        let boots = guest.boots.iter().chain(&guest.slowed);
        pairs.extend(boots.map(|boot| (format!("sha256 of {}", boot.name), boot.sha256.clone())));
    }
    pairs
}

/// The tables of all that has been run.
pub fn all(results: &[GuestResults], plan: &Plan) -> Vec<Table> {
    let mut tables = Vec::new();
    if plan.runs(Experiment::T1) {
        tables.push(t1(&rows(results, |result| result.t1.as_deref()), plan));
    }
    if plan.runs(Experiment::T2) {
        tables.push(t2(&rows(results, |result| result.needs.as_deref()), plan));
        tables.push(t2_pairs(&rows(results, |result| result.pairs.as_deref()), plan));
        tables.push(t2_left_out(&rows(results, |result| result.left_out.as_deref()), plan));
    }
    if plan.runs(Experiment::F4) {
        tables.push(f4(&rows(results, |result| result.f4.as_deref()), plan));
    }
    if plan.runs(Experiment::V1) {
        tables.push(v1(&rows(results, |result| result.v1.as_deref()), plan));
    }
    let all: Vec<&storms::Storms> = results.iter().filter_map(|result| result.storms.as_ref()).collect();
    tables.extend(plan.experiments.iter().filter_map(|experiment| storms::table(&all, *experiment, plan)));
    tables
}

/// The rows of one kind of every guest.
fn rows<'r, 'a, R>(
    results: &'r [GuestResults<'a>],
    of: impl Fn(&'r GuestResults<'a>) -> Option<&'r [R]>,
) -> Vec<&'r R> {
    results.iter().filter_map(of).flatten().collect()
}

fn t1(rows: &[&t1::Row], plan: &Plan) -> Table {
    start("T1", rows, plan, |row| row.guest)
        .text("boot", rows.iter().map(|row| row.boot.name.as_str()))
        .text("boot_sha256", rows.iter().map(|row| row.boot.sha256.as_str()))
        .count("granularity_bytes", rows.iter().map(|row| row.granularity))
        .count("working_set_bytes", rows.iter().map(|row| row.working_set))
        .real("share_of_allocated", rows.iter().map(|row| row.share_of_allocated()))
        .real("share_of_disk", rows.iter().map(|row| row.share_of_disk()))
}

fn t2(rows: &[&t2::NeedRow], plan: &Plan) -> Table {
    start("T2", rows, plan, |row| row.guest)
        .text("filled_by", rows.iter().map(|row| t2::filled_by(row.boots)))
        .text("filled_by_sha256", rows.iter().map(|row| hashes(row.boots)))
        .count("cluster_size_bytes", rows.iter().map(|row| row.clusters.size))
        .count("extended_l2", rows.iter().map(|row| u64::from(row.clusters.extended_l2)))
        .count("empty_cache_bytes", rows.iter().map(|row| row.need.empty_bytes))
        .count("smallest_quota_bytes", rows.iter().map(|row| row.need.quota))
        .count_if("base_bytes_read_one_cluster_below", rows.iter().map(|row| row.need.base_bytes_below))
        .count("cache_file_bytes", rows.iter().map(|row| row.need.cache.cache_file_bytes))
        .count("cache_bytes_in_use", rows.iter().map(|row| row.need.cache.cache_bytes_in_use))
        .count("cache_data_bytes", rows.iter().map(|row| row.need.cache.cache_data_bytes))
}

fn t2_pairs(rows: &[&t2::PairRow], plan: &Plan) -> Table {
    let table = start("T2-pairs", rows, plan, |row| row.guest)
        .text("filled_by", rows.iter().map(|row| row.filler.name.as_str()))
        .text("filled_by_sha256", rows.iter().map(|row| row.filler.sha256.as_str()))
        .text("boot", rows.iter().map(|row| row.boot.name.as_str()))
        .text("boot_sha256", rows.iter().map(|row| row.boot.sha256.as_str()))
        .count("cluster_size_bytes", rows.iter().map(|row| row.clusters.size))
        .count("extended_l2", rows.iter().map(|row| u64::from(row.clusters.extended_l2)));
    outcomes(table, rows.iter().map(|row| &row.outcome))
}

fn t2_left_out(rows: &[&t2::LeftOutRow], plan: &Plan) -> Table {
    let left_out = || rows.iter().map(|row| &row.left_out);
    start("T2-left-out", rows, plan, |row| row.guest)
        .text("boot", rows.iter().map(|row| row.boot.name.as_str()))
        .text("boot_sha256", rows.iter().map(|row| row.boot.sha256.as_str()))
        .text("filled_by_sha256", rows.iter().map(|row| hashes(others(row))))
        .count("cluster_size_bytes", rows.iter().map(|row| row.clusters.size))
        .count("extended_l2", rows.iter().map(|row| u64::from(row.clusters.extended_l2)))
        .real("margin", left_out().map(|at| at.margin.share()))
        .count("smallest_quota_bytes", left_out().map(|at| at.smallest_quota))
        .count("quota_bytes", left_out().map(|at| at.quota))
        .count("base_bytes_read_first", left_out().map(|at| at.first.base_bytes_read))
        .count("base_bytes_read_again", left_out().map(|at| at.again.base_bytes_read))
        .count("covered", left_out().map(|at| u64::from(at.is_covered())))
        .count("cache_file_bytes", left_out().map(|at| at.again.cache_file_bytes))
}

/// The boots that filled the cache.
fn others<'r>(row: &'r t2::LeftOutRow) -> impl Iterator<Item = &'r Boot> {
    row.guest.boots.iter().filter(|boot| boot.name != row.boot.name)
}

fn f4(rows: &[&f4::Row], plan: &Plan) -> Table {
    let table = start("F4", rows, plan, |row| row.guest)
        .text("layout", rows.iter().map(|row| layout(row.layout)))
        .text("boot", rows.iter().map(|row| row.boot.name.as_str()))
        .text("boot_sha256", rows.iter().map(|row| row.boot.sha256.as_str()))
        .count_if("cluster_size_bytes", rows.iter().map(|row| row.cache.map(|cache| cache.clusters.size)))
        .count_if("extended_l2", rows.iter().map(|row| row.cache.map(|c| u64::from(c.clusters.extended_l2))))
        .count_if("quota_bytes", rows.iter().map(|row| row.cache.map(|cache| cache.quota)));
    outcomes(table, rows.iter().map(|row| &row.outcome))
}

fn v1(rows: &[&v1::Row], plan: &Plan) -> Table {
    let microseconds = |time: std::time::Duration| time.as_micros() as u64;
    start("V1", rows, plan, |row| row.guest)
        .count("learnt_at_delay_us", rows.iter().map(|row| microseconds(row.learnt_at)))
        .count("delay_us", rows.iter().map(|row| microseconds(row.delay)))
        .count("recordings_learnt_from", rows.iter().map(|row| row.predicted.count as u64))
        .real("predicted_s", rows.iter().map(|row| row.predicted.mean))
        .real_if("predicted_interval_half_width_s", rows.iter().map(|row| row.interval()))
        .count("boots_measured", rows.iter().map(|row| row.measured.count as u64))
        .real("measured_s", rows.iter().map(|row| row.measured.mean))
        .real_if("measured_half_width_s", rows.iter().map(|row| row.measured.half_width))
        .real("measured_min_s", rows.iter().map(|row| row.measured.min))
        .real("measured_max_s", rows.iter().map(|row| row.measured.max))
        .real("error", rows.iter().map(|row| row.error()))
}

fn start<'a, R>(name: &'static str, rows: &[&R], plan: &Plan, guest: impl Fn(&R) -> &'a Guest) -> Table {
    Table::new(name)
        .text("vmicache_version", rows.iter().map(|_| VERSION))
        .text("plan", rows.iter().map(|_| plan.scope()))
        .text("guest", rows.iter().map(|row| guest(row).name.as_str()))
        .text("guest_sha256", rows.iter().map(|row| guest(row).sha256.as_str()))
        .count("disk_bytes", rows.iter().map(|row| guest(row).disk_bytes))
        .count("allocated_bytes", rows.iter().map(|row| guest(row).allocated_bytes))
}

fn outcomes<'a>(table: Table, outcomes: impl Iterator<Item = &'a Outcome> + Clone) -> Table {
    table
        .count("guest_requests", outcomes.clone().map(|o| o.guest_requests))
        .count("guest_bytes_read", outcomes.clone().map(|o| o.guest_bytes_read))
        .count("base_bytes_read", outcomes.clone().map(|o| o.base_bytes_read))
        .count("base_requests", outcomes.clone().map(|o| o.base_requests))
        .count("cache_bytes_in_use", outcomes.clone().map(|o| o.cache_bytes_in_use))
        .count("cache_data_bytes", outcomes.clone().map(|o| o.cache_data_bytes))
        .count("cache_file_bytes", outcomes.clone().map(|o| o.cache_file_bytes))
        .count("overlay_file_bytes", outcomes.map(|o| o.overlay_file_bytes))
}

fn hashes<'a>(boots: impl IntoIterator<Item = &'a Boot>) -> String {
    boots.into_iter().map(|boot| boot.sha256.as_str()).collect::<Vec<_>>().join(" ")
}

/// Layouts of clusters, as a table's metadata has them.
fn listed(clusters: &[ClusterLayout]) -> String {
    clusters.iter().map(ClusterLayout::to_string).collect::<Vec<_>>().join(", ")
}

fn layout(layout: Layout) -> &'static str {
    match layout {
        Layout::Plain => "plain",
        Layout::Cold => "cold",
        Layout::Warm => "warm",
    }
}
