//! How every figure looks: fonts, colours, markers and sizes; and one drawing rendered to PNG and SVG.

use anyhow::{Context, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use std::sync::OnceLock;

/// Family of all text; the regular and the semibold cut are compiled in.
pub const FONT: &str = "Open Sans";
/// What a viewer without [`FONT`] shows the text of an SVG in.
const FONT_FALLBACK: &str = "Open Sans, Helvetica, Arial, sans-serif";
/// The regular cut, for pages that embed it.
pub const FONT_REGULAR: &[u8] = include_bytes!("../../assets/fonts/OpenSans-Regular.ttf");
/// The semibold cut, for pages that embed it.
pub const FONT_SEMIBOLD: &[u8] = include_bytes!("../../assets/fonts/OpenSans-Semibold.ttf");

/// Device pixels a unit in a PNG: a figure 720 units wide has 300 dpi at 18 cm, two columns of a journal.
const PNG_SCALE: u32 = 3;
/// So that the 2160 pixels of a figure 720 units wide print 18 cm wide.
const PNG_PIXELS_PER_METRE: u32 = 12_000;
/// Plotters places everything on whole pixels; an SVG is drawn larger than shown, so that rounding is finer.
const SVG_SCALE: u32 = 8;

/// Text and axes.
pub const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Lines that only guide the eye.
pub const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// The line that the others are compared with.
pub const REFERENCE: Look = look(INK, Some((7.0, 4.0)), Marker::None, 0.0);

/// The looks of a figure's curves, in order. The colours are those of Okabe and Ito, which the colour-blind
/// tell apart; markers and dashes tell the curves apart in grey. Later markers are smaller, so that where
/// curves coincide, each still shows around the next.
pub const LOOKS: [Look; 6] = [
    look(RGBColor(0x00, 0x72, 0xb2), None, Marker::OpenCircle, 4.8),
    look(RGBColor(0xd5, 0x5e, 0x00), Some((8.0, 3.0)), Marker::Square, 3.4),
    look(RGBColor(0x00, 0x9e, 0x73), Some((2.0, 2.5)), Marker::Triangle, 3.2),
    look(RGBColor(0xcc, 0x79, 0xa7), Some((12.0, 3.0)), Marker::Diamond, 2.9),
    look(RGBColor(0xe6, 0x9f, 0x00), Some((5.0, 2.0)), Marker::OpenSquare, 2.7),
    look(RGBColor(0x56, 0xb4, 0xe9), Some((3.0, 5.0)), Marker::Circle, 2.4),
];

/// How one curve is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Of line, marker and band.
    pub colour: RGBColor,
    /// Length and gap in units; `None` is a solid line.
    pub dash: Option<(f64, f64)>,
    /// At every data point.
    pub marker: Marker,
    /// Half-width of the marker in units.
    pub radius: f64,
}

const fn look(colour: RGBColor, dash: Option<(f64, f64)>, marker: Marker, radius: f64) -> Look {
    Look { colour, dash, marker, radius }
}

/// The shape at a data point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// No marker.
    None,
    /// ●
    Circle,
    /// ■
    Square,
    /// ▲
    Triangle,
    /// ◆
    Diamond,
    /// ○
    OpenCircle,
    /// □
    OpenSquare,
}

impl Marker {
    /// Whether it is a border around white.
    pub fn is_open(self) -> bool {
        matches!(self, Marker::OpenCircle | Marker::OpenSquare)
    }

    /// Its corners around the origin, for a half-width of `r`; sized so that all shapes look equally large.
    pub fn corners(self, r: f64) -> Vec<(i32, i32)> {
        let around = |count: u32, first: f64, radius: f64| {
            let angle = move |i| (first + 360.0 * f64::from(i) / f64::from(count)).to_radians();
            let corner =
                move |i| ((radius * angle(i).cos()).round() as i32, (radius * angle(i).sin()).round() as i32);
            (0..count).map(corner).collect()
        };
        match self {
            Marker::None => Vec::new(),
            Marker::Circle | Marker::OpenCircle => around(24, 0.0, r),
            Marker::Square | Marker::OpenSquare => around(4, 45.0, r * 1.3),
            Marker::Triangle => around(3, 270.0, r * 1.4),
            Marker::Diamond => around(4, 0.0, r * 1.35),
        }
    }
}

/// Sizes in device pixels for one rendering. A unit is a CSS pixel of the SVG as shown.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    scale: u32,
}

impl Style {
    /// `units` in device pixels.
    pub fn px(self, units: f64) -> i32 {
        (units * f64::from(self.scale)).round() as i32
    }

    /// Text of axes and legends.
    pub fn label(self) -> TextStyle<'static> {
        self.text(14.0, FontStyle::Normal)
    }

    /// Numbers at the ticks, notes.
    pub fn small(self) -> TextStyle<'static> {
        self.text(12.5, FontStyle::Normal)
    }

    /// Heading of a panel.
    pub fn heading(self) -> TextStyle<'static> {
        self.text(15.0, FontStyle::Bold)
    }

    /// A line of `width` units.
    pub fn stroke(self, colour: RGBColor, width: f64) -> ShapeStyle {
        colour.stroke_width(self.px(width).unsigned_abs().max(1))
    }

    fn text(self, size: f64, cut: FontStyle) -> TextStyle<'static> {
        (FONT, self.px(size), cut).into_font().color(&INK)
    }
}

/// The area that a figure draws on.
pub type Canvas<DB> = DrawingArea<DB, Shift>;

/// Something that can be drawn on any backend.
pub trait Drawing {
    /// What it shows, in a few words; the SVG carries it as its title.
    fn title(&self) -> String;

    /// Width and height in units.
    fn size(&self) -> (u32, u32);

    /// Draws on `canvas`, with every size taken from `style`.
    fn draw<DB>(&self, canvas: &Canvas<DB>, style: Style) -> anyhow::Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static;
}

/// One drawing in both formats.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Portable Network Graphics, on white.
    pub png: Vec<u8>,
    /// Scalable Vector Graphics, on white.
    pub svg: String,
}

/// Renders `drawing` to PNG and SVG.
///
/// # Errors
/// If the drawing itself fails or the picture cannot be encoded.
pub fn render(drawing: &impl Drawing) -> anyhow::Result<Picture> {
    Ok(Picture { png: render_png(drawing)?, svg: render_svg(drawing)? })
}

/// Renders `drawing` to PNG.
///
/// # Errors
/// As [`render`].
pub fn render_png(drawing: &impl Drawing) -> anyhow::Result<Vec<u8>> {
    let (width, height) = scaled(drawing.size(), PNG_SCALE);
    let mut pixels = vec![0; width as usize * height as usize * 3];
    let canvas = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    paint(drawing, canvas, PNG_SCALE)?;
    encode_png(&pixels, width, height).context("cannot encode the picture")
}

fn encode_png(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    encoder.set_pixel_dims(Some(png::PixelDimensions {
        xppu: PNG_PIXELS_PER_METRE,
        yppu: PNG_PIXELS_PER_METRE,
        unit: png::Unit::Meter,
    }));
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file)
}

/// Renders `drawing` to SVG.
///
/// # Errors
/// As [`render`].
pub fn render_svg(drawing: &impl Drawing) -> anyhow::Result<String> {
    let (width, height) = drawing.size();
    let drawn = scaled((width, height), SVG_SCALE);
    let mut svg = String::new();
    paint(drawing, SVGBackend::with_string(&mut svg, drawn).into_drawing_area(), SVG_SCALE)?;
    let (w, h) = drawn;
    let title = drawing.title().replace('&', "&amp;").replace('<', "&lt;");
    let opening =
        format!(r#"<svg width="{w}" height="{h}" viewBox="0 0 {w} {h}" xmlns="http://www.w3.org/2000/svg">"#);
    let shown = format!(
        r#"<svg width="{width}" height="{height}" viewBox="0 0 {w} {h}" role="img" xmlns="http://www.w3.org/2000/svg">
<title>{title}</title>"#
    );
    Ok(svg
        .replacen(&opening, &shown, 1)
        .replace(&format!("font-family=\"{FONT}\""), &format!("font-family=\"{FONT_FALLBACK}\"")))
}

fn paint<DB>(drawing: &impl Drawing, canvas: Canvas<DB>, scale: u32) -> anyhow::Result<()>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    register_fonts()?;
    canvas.fill(&WHITE)?;
    drawing.draw(&canvas, Style { scale })?;
    canvas.present()?;
    Ok(())
}

fn scaled((width, height): (u32, u32), scale: u32) -> (u32, u32) {
    (width * scale, height * scale)
}

fn register_fonts() -> anyhow::Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        register_font(FONT, FontStyle::Normal, FONT_REGULAR).is_ok()
            && register_font(FONT, FontStyle::Bold, FONT_SEMIBOLD).is_ok()
    });
    if *done { Ok(()) } else { Err(anyhow!("the font {FONT} that is compiled in cannot be read")) }
}
