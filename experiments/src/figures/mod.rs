//! Figures that a journal can print, as PNG and SVG.

pub mod boot_times;
pub mod boot_trace;
mod plot;
pub mod quota_need;
mod style;
pub mod traffic;

pub use plot::Curve;
pub use style::{FONT, FONT_REGULAR, FONT_SEMIBOLD, LOOKS, Look, Picture, REFERENCE, render};
