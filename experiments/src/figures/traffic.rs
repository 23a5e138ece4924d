//! F4: traffic at the storage node against quota, by layout of clusters.

use super::plot::{Axis, Band, Curve, axes, draw_curve, legend};
use super::style::{Canvas, Drawing, LOOKS, Look, REFERENCE, Style};
use crate::stats::Summary;
use plotters::prelude::DrawingBackend;

/// Two panels, cold and warm, with the same axes; quota and traffic in megabytes.
pub struct Traffic {
    /// The guest.
    pub guest: String,
    /// What a plain overlay reads: the line to beat.
    pub plain: Summary,
    /// One curve a layout of clusters, for boots that fill the cache.
    pub cold: Vec<Curve>,
    /// The same, for boots that find it filled; same labels in the same order.
    pub warm: Vec<Curve>,
}

impl Traffic {
    fn ends(&self) -> (f64, f64) {
        let points = || self.cold.iter().chain(&self.warm).flat_map(|curve| &curve.points);
        let right = points().map(|(quota, _)| *quota).fold(0.0, f64::max);
        let top = points().map(|(_, traffic)| traffic.max).fold(self.plain.max, f64::max);
        (right * 1.02, top * 1.08)
    }

    fn panel<DB>(
        &self,
        canvas: &Canvas<DB>,
        style: Style,
        heading: &str,
        curves: &[Curve],
    ) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let (right, top) = self.ends();
        let x = Axis::plain("quota of the cache image (MB)", 0.0..right);
        let y = Axis::plain("read from the base image (MB)", 0.0..top);
        let mut chart = axes(canvas, style, Some(heading), x, y)?;
        for (curve, look) in curves.iter().zip(LOOKS) {
            draw_curve(&mut chart, style, curve, Band::Range, look)?;
        }
        let plain = Curve { label: String::new(), points: vec![(0.0, self.plain), (right, self.plain)] };
        draw_curve(&mut chart, style, &plain, Band::Range, REFERENCE)
    }
}

impl Drawing for Traffic {
    fn title(&self) -> String {
        format!("Traffic at the storage node against quota, by layout of clusters: {}", self.guest)
    }

    fn size(&self) -> (u32, u32) {
        (960, 460)
    }

    fn draw<DB>(&self, canvas: &Canvas<DB>, style: Style) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let (head, panels) = canvas.split_vertically(style.px(60.0));
        let head = head.margin(style.px(12.0), 0, style.px(62.0), 0);
        let mut entries: Vec<(String, Look)> = vec![("plain overlay".to_owned(), REFERENCE)];
        entries.extend(self.warm.iter().zip(LOOKS).map(|(curve, look)| (curve.label.clone(), look)));
        legend(&head, style, &entries)?;
        let panels = panels.split_evenly((1, 2));
        let named =
            [("Cold: the boot fills the cache", &self.cold), ("Warm: the same boot again", &self.warm)];
        for (panel, (heading, curves)) in panels.iter().zip(named) {
            self.panel(panel, style, heading, curves)?;
        }
        Ok(())
    }
}
