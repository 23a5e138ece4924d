//! The results of a sweep as tables: a row each cell, and a row each point of the axes over its replications.

use super::columns::{Number, Run, numbers, outcome, scenario};
use super::{Cell, Row};
use crate::results::Table;
use crate::scenario::is_table;
use crate::stats::Summary;
use std::collections::BTreeMap;

/// The table whose values a difference is taken along.
const COMPARED: &str = "deployment";

/// `results`, a row each run, and `summary`, a row each point of the axes: mean and half the width of the 95 %
/// confidence interval over the replications. Where the deployment is an axis, `summary` has the differences to
/// the first deployment, too, replication by replication.
pub fn tables(runs: &[Run]) -> [Table; 2] {
    [results(runs), summary(runs)]
}

fn results(runs: &[Run]) -> Table {
    let cells: Vec<&Cell> = runs.iter().map(|(cell, _)| *cell).collect();
    let rows: Vec<&Row> = runs.iter().map(|(_, row)| *row).collect();
    let table = scenario(labels(Table::new("results"), &cells), &cells)
        .count("replication", cells.iter().map(|cell| cell.replication));
    outcome(table, &rows)
}

/// The runs of one point of the axes.
struct Point<'r> {
    first: &'r Cell,
    rows: Vec<&'r Row>,
}

fn summary(runs: &[Run]) -> Table {
    let points = points(runs);
    let cells: Vec<&Cell> = points.iter().map(|point| point.first).collect();
    let rows: Vec<&Row> = runs.iter().map(|(_, row)| *row).collect();
    let table = scenario(labels(Table::new("summary"), &cells), &cells)
        .count("replications", points.iter().map(|point| point.rows.len() as u64))
        .text("bottleneck", points.iter().map(|point| bottlenecks(&point.rows)));
    let numbers = numbers(&rows);
    let table = numbers.iter().fold(table, |table, (name, number)| {
        let over = |point: &Point| Summary::of(point.rows.iter().filter_map(|row| number(row)));
        interval(table, name, points.iter().map(over).collect())
    });
    match references(&points) {
        Some(references) => differences(table, &points, &references, &numbers),
        None => table,
    }
}

/// For whole tables that are axes, their values as they are printed.
fn labels(table: Table, cells: &[&Cell]) -> Table {
    let axes = cells.first().map(|cell| cell.settings.as_slice()).unwrap_or_default();
    axes.iter().enumerate().filter(|(_, (key, _))| is_table(key)).fold(table, |table, (axis, (key, _))| {
        let printed = cells.iter().map(|cell| cell.settings.get(axis).map(|(_, printed)| printed.as_str()));
        table.text_if(&format!("{key}_axis"), printed)
    })
}

/// Mean and half-width as two columns.
fn interval(table: Table, name: &str, summaries: Vec<Option<Summary>>) -> Table {
    let half_width = |summary: &Option<Summary>| summary.and_then(|summary| summary.half_width);
    table
        .real_if(name, summaries.iter().map(|summary| summary.map(|summary| summary.mean)))
        .real_if(&format!("{name}_half_width"), summaries.iter().map(half_width))
}

/// Runs that lie at one point of the axes, which follow each other.
fn points<'r>(runs: &[Run<'r>]) -> Vec<Point<'r>> {
    let groups = runs.chunk_by(|(one, _), (other, _)| one.settings == other.settings);
    let point = |group: &[Run<'r>]| {
        let first = group.first().map(|(cell, _)| *cell)?;
        Some(Point { first, rows: group.iter().map(|(_, row)| *row).collect() })
    };
    groups.filter_map(point).collect()
}

/// For each point, the number of the one that has the first deployment and is else the same; `None` if the
/// deployment is no axis.
fn references(points: &[Point]) -> Option<Vec<usize>> {
    let compared = |key: &str| key == COMPARED || key.starts_with("deployment.");
    points.first()?.first.settings.iter().find(|(key, _)| compared(key))?;
    let mut first = BTreeMap::new();
    let reference = |(number, point): (usize, &Point)| {
        let rest = point.first.settings.iter().filter(|(key, _)| !compared(key)).cloned();
        *first.entry(rest.collect::<Vec<_>>()).or_insert(number)
    };
    Some(points.iter().enumerate().map(reference).collect())
}

fn differences(table: Table, points: &[Point], references: &[usize], numbers: &[(String, Number)]) -> Table {
    numbers.iter().take(Row::MEASURES.len()).fold(table, |table, (name, number)| {
        let differences = points.iter().zip(references).map(|(point, reference)| {
            let reference = points.get(*reference)?;
            let pairs = point.rows.iter().zip(&reference.rows);
            Summary::of(pairs.filter_map(|(row, other)| Some(number(row)? - number(other)?)))
        });
        interval(table, &format!("{name}_difference"), differences.collect())
    })
}

/// The bottlenecks, the most frequent first, with how often each of several is one.
pub fn bottlenecks(rows: &[&Row]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(&row.bottleneck).or_default() += 1;
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    match counts.as_slice() {
        [(only, _)] => (*only).to_owned(),
        several => {
            several.iter().map(|(name, count)| format!("{name} ({count})")).collect::<Vec<_>>().join(", ")
        }
    }
}
