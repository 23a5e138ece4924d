//! T2: the smallest sufficient quota by cluster size, and how much is copied into a cache of that quota.

use super::plot::{Axis, Band, Curve, axes, draw_curve, legend};
use super::style::{Canvas, Drawing, LOOKS, Look, REFERENCE, Style};
use crate::units::cluster;
use plotters::prelude::DrawingBackend;

/// Curves over cluster sizes; everything in megabytes.
pub struct QuotaNeed {
    /// The guest.
    pub guest: String,
    /// Distinct bytes that a boot reads, by cluster size: a cache cannot hold less.
    pub reference: Curve,
    /// The other curves over cluster sizes; abscissa as [`abscissa`] gives it.
    pub curves: Vec<Curve>,
}

/// Where a cluster size stands on the axis: its binary logarithm.
pub fn abscissa(cluster_size: u64) -> f64 {
    f64::from(cluster_size.ilog2())
}

fn cluster_at(abscissa: &f64) -> String {
    cluster(1 << abscissa.round() as u32)
}

impl QuotaNeed {
    fn draw_panel<DB>(&self, canvas: &Canvas<DB>, style: Style) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let points = || self.curves.iter().chain([&self.reference]).flat_map(|curve| &curve.points);
        let left = points().map(|(x, _)| *x).fold(f64::INFINITY, f64::min) - 0.3;
        let right = points().map(|(x, _)| *x).fold(0.0, f64::max) + 0.3;
        let bottom = points().map(|(_, y)| y.min).fold(f64::INFINITY, f64::min);
        let top = points().map(|(_, y)| y.max).fold(0.0, f64::max);
        let room = (top - bottom) * 0.08;
        let x = Axis { title: "cluster size of the cache image", range: left..right, number: &cluster_at };
        let y = Axis::plain("size (MB)", bottom - room..top + room);
        let mut chart = axes(canvas, style, None, x, y)?;
        draw_curve(&mut chart, style, &self.reference, Band::Range, REFERENCE)?;
        for (curve, look) in self.curves.iter().zip(LOOKS) {
            // A short run may have no such clusters.
            if curve.points.is_empty() {
                continue;
            }
            draw_curve(&mut chart, style, curve, Band::Range, look)?;
        }
        Ok(())
    }
}

impl Drawing for QuotaNeed {
    fn title(&self) -> String {
        format!("Smallest sufficient quota by cluster size: {}", self.guest)
    }

    fn size(&self) -> (u32, u32) {
        (720, 440)
    }

    fn draw<DB>(&self, canvas: &Canvas<DB>, style: Style) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let (head, panel) = canvas.split_vertically(style.px(60.0));
        let head = head.margin(style.px(12.0), 0, style.px(62.0), 0);
        let mut entries: Vec<(String, Look)> =
            self.curves.iter().zip(LOOKS).map(|(curve, look)| (curve.label.clone(), look)).collect();
        entries.push((self.reference.label.clone(), REFERENCE));
        legend(&head, style, &entries)?;
        self.draw_panel(&panel, style)
    }
}
