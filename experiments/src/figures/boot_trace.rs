//! Recorded boots: where on the disk they read and write over time, and how long the guest computes between.

use super::plot::{Axis, Band, Curve, axes, draw_curve, legend};
use super::style::{Canvas, Drawing, GRID, INK, LOOKS, Look, Marker, Style};
use crate::stats::Summary;
use crate::units::MB;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::time::Duration;
use vmicache_format::trace::{Dependencies, Op, Trace};

/// Think times below are shown as this: the recordings' resolution.
const SHORTEST: Duration = Duration::from_micros(1);
/// Points of a distribution: more could not be told apart.
const POINTS: usize = 400;
/// Boots that surely fit beside each other in the legend.
const LEGEND_COLUMNS: usize = 3;
/// Most characters of a name in the legend.
const LONGEST_NAME: usize = 30;
/// Units between the rows of the legend.
const LEGEND_ROW: f64 = 20.0;

/// Two panels, a colour for each boot.
pub struct BootTrace {
    boots: Vec<Boot>,
}

struct Boot {
    look: Look,
    /// Seconds from the first request, and the offset in megabytes.
    reads: Vec<(f64, f64)>,
    /// The same of what changes the disk: writes, zeroes and trims.
    writes: Vec<(f64, f64)>,
    /// Per cent of the requests that have at most a think time, by its decimal logarithm in milliseconds.
    curve: Curve,
}

impl BootTrace {
    /// The figure for boots and their names.
    pub fn new<'a>(boots: impl IntoIterator<Item = (String, &'a Trace)>) -> BootTrace {
        let boots = boots.into_iter().enumerate().map(|(i, (name, boot))| Boot::new(&name, boot, look(i)));
        BootTrace { boots: boots.collect() }
    }

    fn offsets<DB>(&self, canvas: &Canvas<DB>, style: Style) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let points = || self.boots.iter().flat_map(|boot| boot.reads.iter().chain(&boot.writes));
        let right = end(points().map(|(seconds, _)| *seconds));
        let top = end(points().map(|(_, offset)| *offset));
        let x = Axis::plain("time since the first request (s)", 0.0..right * 1.02);
        let y = Axis::plain("offset on the disk (MB)", 0.0..top * 1.05);
        let mut chart = axes(canvas, style, Some("What the guest reads and writes"), x, y)?;
        for boot in &self.boots {
            let dot = |at: &(f64, f64)| EmptyElement::at(*at) + read_mark(style, boot.look.colour);
            chart.draw_series(boot.reads.iter().map(dot))?;
        }
        for boot in &self.boots {
            let square = |at: &(f64, f64)| {
                let [white, border] = write_mark(style, boot.look.colour);
                EmptyElement::at(*at) + white + border
            };
            chart.draw_series(boot.writes.iter().map(square))?;
        }
        Ok(())
    }

    fn thinks<DB>(&self, canvas: &Canvas<DB>, style: Style) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let all = || self.boots.iter().flat_map(|boot| boot.curve.points.iter().map(|(think, _)| *think));
        let left = all().fold(0.0, f64::min).floor();
        let right = all().fold(left + 1.0, f64::max).ceil();
        let x = Axis { title: "think time before a request (ms)", range: left..right, number: &milliseconds };
        let y = Axis::plain("requests with at most that (%)", 0.0..100.0);
        let mut chart = axes(canvas, style, Some("How long it computes between requests"), x, y)?;
        for decade in (left as i32 + 1)..right as i32 {
            let x = f64::from(decade);
            chart.draw_series(LineSeries::new([(x, 0.0), (x, 100.0)], style.stroke(GRID, 0.8)))?;
        }
        self.boots
            .iter()
            .try_for_each(|boot| draw_curve(&mut chart, style, &boot.curve, Band::Range, boot.look))
    }

    /// Says what the marks mean and names the boots.
    fn legend<DB>(&self, canvas: &Canvas<DB>, style: Style) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let text = style.label().pos(Pos::new(HPos::Left, VPos::Center));
        let (read, [white, border]) = (read_mark(style, INK), write_mark(style, INK));
        let (first, second) = (style.px(4.0), style.px(74.0));
        let y = style.px(10.0);
        canvas.draw(&(EmptyElement::at((first, y)) + read))?;
        canvas.draw(&(EmptyElement::at((second, y)) + white + border))?;
        for (x, label) in [(first, "read"), (second, "write, zero or trim")] {
            canvas.draw(&Text::new(label, (x + style.px(9.0), y), text.clone()))?;
        }
        let (_, names) = canvas.split_vertically(style.px(LEGEND_ROW));
        let entries: Vec<_> = self.boots.iter().map(|boot| (boot.curve.label.clone(), boot.look)).collect();
        legend(&names, style, &entries)
    }

    fn legend_height(&self) -> f64 {
        LEGEND_ROW * (1 + self.boots.len().div_ceil(LEGEND_COLUMNS)) as f64 + 14.0
    }
}

/// Where an axis ends that shows `values`; at one, if they are all zero.
fn end(values: impl Iterator<Item = f64>) -> f64 {
    let largest = values.fold(0.0, f64::max);
    if largest > 0.0 { largest } else { 1.0 }
}

impl Boot {
    fn new(name: &str, boot: &Trace, look: Look) -> Boot {
        let points = |wanted: &dyn Fn(Op) -> bool| {
            let requests = boot.requests.iter().filter(|request| wanted(request.op));
            requests.map(|request| (request.start.as_secs_f64(), request.offset as f64 / MB)).collect()
        };
        Boot {
            look,
            reads: points(&|op| op == Op::Read),
            writes: points(&|op| matches!(op, Op::Write | Op::Zero | Op::Trim)),
            curve: Curve { label: shortened(name), points: distribution(boot) },
        }
    }
}

fn distribution(boot: &Trace) -> Vec<(f64, Summary)> {
    let links = Dependencies::infer(boot).links;
    let mut thinks: Vec<Duration> = links.iter().map(|link| link.think.max(SHORTEST)).collect();
    thinks.sort_unstable();
    let last = thinks.len().saturating_sub(1);
    let mut ranks: Vec<usize> = (0..=POINTS).map(|i| last * i / POINTS).collect();
    ranks.dedup();
    let points = ranks.into_iter().filter_map(|rank| {
        let milliseconds = thinks.get(rank)?.as_secs_f64() * 1e3;
        let share = 100.0 * (rank + 1) as f64 / thinks.len() as f64;
        Some((milliseconds.log10(), Summary::of([share])?))
    });
    points.collect()
}

/// The look of the boot of that number: when the colours start again, their dashes differ.
fn look(number: usize) -> Look {
    let colours = LOOKS.len();
    let dash = LOOKS[(number + number / colours) % colours].dash;
    Look { dash, marker: Marker::None, ..LOOKS[number % colours] }
}

/// The name, or its end if it is too long for the legend.
fn shortened(name: &str) -> String {
    match name.chars().count().checked_sub(LONGEST_NAME) {
        None | Some(0) => name.to_owned(),
        Some(excess) => format!("…{}", name.chars().skip(excess + 1).collect::<String>()),
    }
}

/// What is written at a tick of an axis of decimal logarithms of milliseconds.
fn milliseconds(logarithm: &f64) -> String {
    if logarithm.fract().abs() > 1e-9 {
        return String::new();
    }
    let decimals = (-*logarithm).max(0.0) as usize;
    format!("{:.decimals$}", 10f64.powf(*logarithm))
}

fn read_mark(style: Style, colour: RGBColor) -> Circle<(i32, i32), i32> {
    Circle::new((0, 0), style.px(1.7), colour.filled())
}

/// An open square: white, and its border.
fn write_mark(style: Style, colour: RGBColor) -> [Rectangle<(i32, i32)>; 2] {
    let r = style.px(3.4);
    [WHITE.filled(), style.stroke(colour, 1.6)].map(|how| Rectangle::new([(-r, -r), (r, r)], how))
}

impl Drawing for BootTrace {
    fn title(&self) -> String {
        let names: Vec<&str> = self.boots.iter().map(|boot| boot.curve.label.as_str()).collect();
        format!("Disk offset over time and think times: {}", names.join(", "))
    }

    fn size(&self) -> (u32, u32) {
        (960, 400 + self.legend_height() as u32)
    }

    fn draw<DB>(&self, canvas: &Canvas<DB>, style: Style) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let (head, panels) = canvas.split_vertically(style.px(self.legend_height()));
        let head = head.margin(style.px(12.0), 0, style.px(56.0), style.px(14.0));
        self.legend(&head, style)?;
        let panels = panels.margin(0, 0, style.px(6.0), style.px(4.0));
        let (left, right) = panels.split_horizontally(style.px(540.0));
        self.offsets(&left, style)?;
        self.thinks(&right, style)
    }
}
