//! V1 in the report: tables and figure.

use super::Row;
use crate::figures::boot_times::{Abscissa, BootTimes, Panel};
use crate::figures::{Curve, LOOKS};
use crate::inputs::Guest;
use crate::reproduce::pictures::Figure;
use crate::reproduce::sections::picture;
use crate::stats::Summary;
use crate::units::counted;
use maud::{Markup, html};
use std::collections::BTreeSet;
use std::time::Duration;

/// The error of the prediction beyond which a row is told apart, where it lies outside its interval too.
const CLOSE: f64 = 0.05;
/// From this delay on, the storage is slow enough that the mean error says how good the dependencies are.
const SLOW: Duration = Duration::from_millis(5);

/// The rows that were predicted from the recordings that boot storms learn from, by rising delay.
fn learnt<'r, 'a>(guest: &Guest, rows: &'r [Row<'a>]) -> Vec<&'r Row<'a>> {
    let learn_from = guest.learnt_at();
    rows.iter().filter(|row| Some(row.learnt_at) == learn_from).collect()
}

/// Predicted and measured boot times against the delay.
pub fn figure(guest: &Guest, rows: &[Row]) -> Option<BootTimes> {
    let shown = learnt(guest, rows);
    let first = shown.first()?;
    let abscissa = Abscissa::Linear("delay of every read (ms)");
    let curve = |summary: &dyn Fn(&Row) -> Summary| Curve {
        label: String::new(),
        points: shown.iter().map(|row| (ms(row.delay), summary(row))).collect(),
    };
    let expected = |row: &Row| Summary { half_width: row.interval(), ..row.predicted };
    let predicted = format!("predicted from recordings at {} ms", ms(first.learnt_at));
    Some(BootTimes {
        title: format!("Boot time on slowed storage, predicted and measured: {}", guest.title),
        abscissa,
        legend: vec![("measured".to_owned(), LOOKS[0]), (predicted, LOOKS[1])],
        rows: vec![vec![Panel {
            heading: guest.title.clone(),
            curves: vec![(curve(&|row| row.measured), LOOKS[0]), (curve(&expected), LOOKS[1])],
        }]],
        same_axes: true,
    })
}

/// The finding in a sentence.
pub fn finding(guest: &Guest, rows: &[Row]) -> Option<String> {
    let others = learnt(guest, rows).into_iter().filter(|row| !row.is_own());
    let worst = others.max_by(|a, b| a.error().abs().total_cmp(&b.error().abs()))?;
    Some(format!(
        "Boots on storage of another speed are predicted to {:.1} % and better: the worst of the delays that the model \
         has not seen is {} ms, {:.2} s against {:.2} s measured.",
        100.0 * worst.error().abs(),
        ms(worst.delay),
        worst.predicted.mean,
        worst.measured.mean
    ))
}

/// The section on one guest; `None` if its boots were timed at one delay only.
pub fn section(guest: &Guest, rows: &[Row], figure: Option<&Figure>) -> Option<Markup> {
    let shown = learnt(guest, rows);
    let first = shown.first()?;
    Some(html! {
        h2 { "V1: boots on slowed storage, predicted and measured" }
        @if let Some(figure) = figure {
            (picture(figure, "narrow", html! {
                (guest.title) ". Seconds from power-on to the marker, every read being held back by the delay. Measured: means \
                 with 95 % intervals. Predicted: from the " (counted(first.predicted.count, "recording")) " at "
                (ms(first.learnt_at)) " ms; the band is where the mean of as many boots as were measured is expected with 95 %."
            }))
        }
        (side_by_side(guest, &shown))
        (by_delay_learnt_at(guest, rows))
    })
}

fn side_by_side(guest: &Guest, shown: &[&Row]) -> Markup {
    let others = || shown.iter().filter(|row| !row.is_own());
    let slow: Vec<f64> = others().filter(|row| row.delay >= SLOW).map(|row| row.error().abs()).collect();
    html! {
        div.table { table {
            thead { tr { th.number { "Delay (ms)" } th.number { "measured (s)" } th.number { "± 95 %" } th.number { "boots" }
                th.number { "predicted (s)" } th.number { "expected ±" } th.number { "error" } th { "" } } }
            tbody { @for row in shown {
                tr {
                    td.number { (ms(row.delay)) }
                    td.number { (seconds(row.measured.mean)) }
                    td.number { (or_dash(row.measured.half_width)) }
                    td.number { (row.measured.count) }
                    td.number { (seconds(row.predicted.mean)) }
                    td.number { (or_dash(row.interval())) }
                    td.number { (error(row)) }
                    td { (remark(row)) }
                }
            } }
            caption {
                (guest.title) ". Predicted: what boot storms replay, undelayed boots with the dependencies and think times of the \
                 recordings at the delay that is marked. Expected ±: half the 95 % prediction interval of the mean of the measured \
                 boots. "
                @if let Some(mean) = Summary::of(slow.iter().copied()) {
                    "Mean of the errors' sizes from " (ms(SLOW)) " ms on, without the delay learnt from: "
                    (format!("{:.1} %", 100.0 * mean.mean)) ". "
                }
                "Reads were held back at the server; beyond that they are as fast as a file in memory."
            }
        } }
    }
}

fn remark(row: &Row) -> &'static str {
    let expected = row.interval().is_some_and(|half| (row.predicted.mean - row.measured.mean).abs() <= half);
    match (row.is_own(), row.error().abs() <= CLOSE, expected) {
        (true, ..) => "learnt from these",
        (_, true, _) => "within 5 %",
        (_, false, true) => "within the interval",
        _ => "off",
    }
}

/// Errors for every delay that could be learnt from.
fn by_delay_learnt_at(guest: &Guest, rows: &[Row]) -> Markup {
    let delays: BTreeSet<Duration> = rows.iter().map(|row| row.delay).collect();
    let at = |learnt_at, delay| rows.iter().find(|row| row.learnt_at == learnt_at && row.delay == delay);
    html! {
        div.table { table {
            thead { tr { th { "Error at a delay of" } @for delay in &delays { th.number { (ms(*delay)) " ms" } } } }
            tbody { @for learnt_at in &delays {
                tr {
                    td { "learnt at " (ms(*learnt_at)) " ms" }
                    @for delay in &delays { td.number { @if let Some(row) = at(*learnt_at, *delay) { (error(row)) } } }
                }
            } }
            caption { (guest.title) ". The same for recordings at any one delay. Undelayed boots teach their own order, in which \
                readahead looks like dependence: on slower storage they promise too long a boot." }
        } }
    }
}

fn error(row: &Row) -> String {
    format!("{:+.1} %", 100.0 * row.error()).replace('-', "−")
}

fn ms(delay: Duration) -> f64 {
    delay.as_secs_f64() * 1000.0
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.2}")
}

fn or_dash(half_width: Option<f64>) -> String {
    half_width.map_or_else(|| "–".to_owned(), seconds)
}
