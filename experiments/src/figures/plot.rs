//! What the figures have in common: axes, curves with bands, legends.

use super::style::{Canvas, GRID, INK, Look, Marker, Style};
use crate::stats::Summary;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

/// How strongly a band is coloured.
const BAND_OPACITY: f64 = 0.22;
/// Units that the sample of a curve takes in a legend.
const SAMPLE: f64 = 40.0;

/// A chart with numbers on both axes.
pub type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// One quantity against another.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its name in the legend.
    pub label: String,
    /// Abscissa, and what the replications gave there.
    pub points: Vec<(f64, Summary)>,
}

/// What the band around a curve's means shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Band {
    /// From the smallest to the largest replication.
    Range,
    /// The 95 % confidence interval of the mean.
    Interval,
}

impl Band {
    /// Its ends at one point.
    fn ends(self, at: &Summary) -> (f64, f64) {
        match self {
            Band::Range => (at.min, at.max),
            Band::Interval => (at.low(), at.high()),
        }
    }
}

/// What stands beside an axis, and its range.
pub struct Axis<'a> {
    /// The quantity with its unit.
    pub title: &'a str,
    /// From where to where it goes.
    pub range: Range<f64>,
    /// What is written at a tick.
    pub number: &'a dyn Fn(&f64) -> String,
}

impl<'a> Axis<'a> {
    /// An axis with plain numbers.
    pub fn plain(title: &'a str, range: Range<f64>) -> Axis<'a> {
        Axis { title, range, number: &number }
    }
}

/// Axes, ticks and grid on `canvas`, under the heading.
///
/// # Errors
/// If the backend fails.
pub fn axes<'a, DB>(
    canvas: &'a Canvas<DB>,
    style: Style,
    heading: Option<&str>,
    x: Axis,
    y: Axis,
) -> anyhow::Result<Chart<'a, DB>>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let mut builder = ChartBuilder::on(canvas);
    if let Some(heading) = heading {
        builder.caption(heading, style.heading());
    }
    let mut chart = builder
        .margin_left(style.px(12.0))
        .margin_right(style.px(14.0))
        .margin_bottom(style.px(4.0))
        .x_label_area_size(style.px(42.0))
        .y_label_area_size(style.px(50.0))
        .build_cartesian_2d(x.range, y.range)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(style.stroke(GRID, 0.8))
        .light_line_style(TRANSPARENT)
        .axis_style(style.stroke(INK, 1.0))
        .set_all_tick_mark_size(style.px(5.0))
        .x_labels(8)
        .y_labels(11)
        .x_label_formatter(x.number)
        .y_label_formatter(y.number)
        .label_style(style.small())
        .axis_desc_style(style.label())
        .x_desc(x.title)
        .y_desc(y.title)
        .draw()?;
    Ok(chart)
}

/// A tick's number without needless decimals, and without the error of a sum of steps.
fn number(value: &f64) -> String {
    let rounded = (value * 1e9).round() / 1e9;
    // No "-0".
    format!("{}", rounded + 0.0)
}

/// Draws the curve's band, then its mean with markers.
///
/// # Errors
/// If the backend fails.
pub fn draw_curve<DB>(
    chart: &mut Chart<DB>,
    style: Style,
    curve: &Curve,
    band: Band,
    look: Look,
) -> anyhow::Result<()>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let lower = curve.points.iter().map(|(x, y)| (*x, band.ends(y).0));
    let upper = curve.points.iter().rev().map(|(x, y)| (*x, band.ends(y).1));
    let band = Polygon::new(lower.chain(upper).collect::<Vec<_>>(), look.colour.mix(BAND_OPACITY).filled());
    chart.draw_series([band])?;
    let mean = || curve.points.iter().map(|(x, y)| (*x, y.mean));
    match look.dash {
        None => {
            chart.draw_series(LineSeries::new(mean(), style.stroke(look.colour, 1.8)))?;
        }
        Some((dash, gap)) => {
            let stroke = style.stroke(look.colour, 1.8);
            chart.draw_series(DashedLineSeries::new(mean(), style.px(dash), style.px(gap), stroke))?;
        }
    }
    if look.marker != Marker::None {
        chart.draw_series(mean().map(|at| {
            let (area, border) = marker(look, style);
            EmptyElement::at(at) + area + border
        }))?;
    }
    Ok(())
}

/// Draws a legend in rows from the top left of `canvas`.
///
/// # Errors
/// If the backend fails.
pub fn legend<DB>(canvas: &Canvas<DB>, style: Style, entries: &[(String, Look)]) -> anyhow::Result<()>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let (width, _) = canvas.dim_in_pixel();
    let (mut x, mut y) = (0, style.px(12.0));
    for (label, look) in entries {
        let (text, _) = canvas.estimate_text_size(label, &style.label())?;
        let entry = style.px(SAMPLE + 30.0) + text as i32;
        if x > 0 && x + entry > width as i32 {
            (x, y) = (0, y + style.px(20.0));
        }
        draw_sample(canvas, style, *look, (x, y))?;
        let place = Pos::new(HPos::Left, VPos::Center);
        canvas.draw(&Text::new(label.as_str(), (x + style.px(SAMPLE + 7.0), y), style.label().pos(place)))?;
        x += entry;
    }
    Ok(())
}

fn draw_sample<DB>(canvas: &Canvas<DB>, style: Style, look: Look, (x, y): (i32, i32)) -> anyhow::Result<()>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let line = vec![(x, y), (x + style.px(SAMPLE), y)];
    let stroke = style.stroke(look.colour, 1.8);
    match look.dash {
        None => canvas.draw(&PathElement::new(line, stroke))?,
        Some((dash, gap)) => {
            let dashes = DashedPathElement::new(line, style.px(dash), style.px(gap), stroke);
            canvas.draw(&dashes)?;
        }
    }
    if look.marker != Marker::None {
        let (area, border) = marker(look, style);
        canvas.draw(&(EmptyElement::at((x + style.px(SAMPLE / 2.0), y)) + area + border))?;
    }
    Ok(())
}

/// In device pixels.
type Place = (i32, i32);

/// A marker around the origin: its area and its border. Open ones are white, to stand out on their line.
fn marker(look: Look, style: Style) -> (Polygon<Place>, PathElement<Place>) {
    let corners: Vec<Place> = look.marker.corners(f64::from(style.px(look.radius)));
    let border: Vec<Place> = corners.iter().chain(corners.first()).copied().collect();
    let fill = if look.marker.is_open() { WHITE } else { look.colour };
    (Polygon::new(corners, fill.filled()), PathElement::new(border, style.stroke(look.colour, 1.4)))
}
