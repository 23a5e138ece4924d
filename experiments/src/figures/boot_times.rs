//! Boot times of storms: panels of curves over nodes, images or quotas.

use super::plot::{Axis, Band, Curve, axes, draw_curve, legend};
use super::style::{Canvas, Drawing, Look, Style};
use plotters::prelude::DrawingBackend;

/// Units that the legend takes.
const LEGEND: f64 = 40.0;
/// Height in units of a row of panels.
const ROW: u32 = 340;
/// Room on a logarithmic axis before its first and after its last tick, in doublings.
const DOUBLING_ROOM: f64 = 0.2;

/// Panels in rows.
pub struct BootTimes {
    /// What it shows.
    pub title: String,
    /// What the boot time is drawn against.
    pub abscissa: Abscissa,
    /// The curves' names and looks.
    pub legend: Vec<(String, Look)>,
    /// Row by row, each with as many panels.
    pub rows: Vec<Vec<Panel>>,
    /// Whether the panels of a row have the same vertical axis; else each has its own.
    pub same_axes: bool,
}

/// Curves under a heading; boot times in seconds.
pub struct Panel {
    /// What its runs have in common.
    pub heading: String,
    /// Each with its look.
    pub curves: Vec<(Curve, Look)>,
}

/// A horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abscissa {
    /// Numbers of this, each twice the one before.
    Doublings(&'static str),
    /// This, from zero on.
    Linear(&'static str),
}

impl Abscissa {
    /// Where `value` stands.
    pub fn at(self, value: f64) -> f64 {
        match self {
            Abscissa::Doublings(_) => libm::log2(value),
            Abscissa::Linear(_) => value,
        }
    }

    /// The axis up to the rightmost point.
    fn axis(self, right: f64) -> Axis<'static> {
        match self {
            Abscissa::Doublings(title) => {
                let range = -DOUBLING_ROOM..right + DOUBLING_ROOM;
                Axis { title, range, number: &power_of_two }
            }
            Abscissa::Linear(title) => Axis::plain(title, 0.0..right),
        }
    }
}

/// What is written at a tick of an axis of binary logarithms.
fn power_of_two(logarithm: &f64) -> String {
    if logarithm.fract().abs() > 1e-9 {
        return String::new();
    }
    format!("{}", libm::exp2(*logarithm).round())
}

impl BootTimes {
    /// The rightmost point of all panels, so that they are comparable.
    fn right(&self) -> f64 {
        let points =
            self.rows.iter().flatten().flat_map(|panel| &panel.curves).flat_map(|(curve, _)| &curve.points);
        points.map(|(x, _)| *x).fold(0.0, f64::max).max(f64::MIN_POSITIVE)
    }

    fn panel<DB>(&self, canvas: &Canvas<DB>, style: Style, panel: &Panel, top: f64) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let y = Axis::plain("boot time (s)", 0.0..top);
        let mut chart = axes(canvas, style, Some(&panel.heading), self.abscissa.axis(self.right()), y)?;
        let mut drawn = panel.curves.iter();
        drawn.try_for_each(|(curve, look)| draw_curve(&mut chart, style, curve, Band::Interval, *look))
    }
}

/// Where the vertical axis of these panels ends.
fn top<'p>(panels: impl Iterator<Item = &'p Panel>) -> f64 {
    let points = panels.flat_map(|panel| &panel.curves).flat_map(|(curve, _)| &curve.points);
    points.map(|(_, seconds)| seconds.high()).fold(f64::MIN_POSITIVE, f64::max) * 1.08
}

impl Drawing for BootTimes {
    fn title(&self) -> String {
        self.title.clone()
    }

    fn size(&self) -> (u32, u32) {
        let columns = self.rows.first().map_or(0, Vec::len);
        let rows = u32::try_from(self.rows.len()).unwrap_or(1);
        (if columns > 1 { 960 } else { 720 }, LEGEND as u32 + rows * ROW)
    }

    fn draw<DB>(&self, canvas: &Canvas<DB>, style: Style) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let (head, panels) = canvas.split_vertically(style.px(LEGEND));
        let head = head.margin(style.px(12.0), 0, style.px(62.0), 0);
        legend(&head, style, &self.legend)?;
        let rows = panels.split_evenly((self.rows.len(), 1));
        for (area, row) in rows.iter().zip(&self.rows) {
            let of_row = top(row.iter());
            for (area, panel) in area.split_evenly((1, row.len())).iter().zip(row) {
                let top = if self.same_axes { of_row } else { top([panel].into_iter()) };
                self.panel(area, style, panel, top)?;
            }
        }
        Ok(())
    }
}
