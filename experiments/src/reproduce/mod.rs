//! The experiments on recorded boots and boot storms: their tables, figures, claims and report.

mod claims;
mod f4;
mod pictures;
mod plan;
mod report;
mod sections;
mod storms;
mod t1;
mod t2;
mod tables;
mod v1;

pub use plan::{Experiment, Plan};

use crate::cells::Cells;
use crate::inputs::Guest;
use crate::output::Named;

/// What the boots of one guest gave; `None` for what has not been run.
pub struct GuestResults<'a> {
    guest: &'a Guest,
    t1: Option<Vec<t1::Row<'a>>>,
    needs: Option<Vec<t2::NeedRow<'a>>>,
    pairs: Option<Vec<t2::PairRow<'a>>>,
    left_out: Option<Vec<t2::LeftOutRow<'a>>>,
    f4: Option<Vec<f4::Row<'a>>>,
    storms: Option<storms::Storms>,
    v1: Option<Vec<v1::Row<'a>>>,
}

/// Runs what `plan` has for every guest.
///
/// # Errors
/// If a boot cannot be replayed.
pub fn run<'a>(guests: &'a [Guest], plan: &Plan, cells: &Cells) -> anyhow::Result<Vec<GuestResults<'a>>> {
    let (t1, t2, f4) = (plan.runs(Experiment::T1), plan.runs(Experiment::T2), plan.runs(Experiment::F4));
    let v1 = plan.runs(Experiment::V1);
    let results = guests.iter().map(|guest| {
        Ok(GuestResults {
            guest,
            t1: t1.then(|| t1::run(guest, plan, cells)).transpose()?,
            needs: t2.then(|| t2::needs(guest, plan, cells)).transpose()?,
            pairs: t2.then(|| t2::pairs(guest, plan, cells)).transpose()?,
            left_out: t2.then(|| t2::left_out(guest, plan, cells)).transpose()?,
            f4: f4.then(|| f4::run(guest, plan, cells)).transpose()?,
            storms: if guest.storms { storms::run(guest, plan, cells)? } else { None },
            v1: v1.then(|| v1::run(guest, cells)).transpose()?,
        })
    });
    results.collect()
}

/// Everything that a run writes: tables, figures, and the report.
///
/// # Errors
/// If a table or a figure cannot be made.
pub fn files(results: &[GuestResults], plan: &Plan) -> anyhow::Result<Vec<Named>> {
    let mut files = Vec::new();
    let guests: Vec<&Guest> = results.iter().map(|result| result.guest).collect();
    let provenance = tables::provenance(plan, &guests);
    for table in tables::all(results, plan) {
        files.extend(table.files(&provenance)?);
    }
    let figures = pictures::all(results)?;
    let report = report::page(results, &figures, plan)?;
    for figure in figures {
        files.push((format!("{}.png", figure.name), figure.picture.png));
        files.push((format!("{}.svg", figure.name), figure.picture.svg.into_bytes()));
    }
    files.push(("report.html".to_owned(), report.into_bytes()));
    Ok(files)
}
