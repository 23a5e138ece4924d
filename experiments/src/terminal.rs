//! What the commands print: aligned tables, text that survives a closed pipe, and progress bars.

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};
use std::sync::Once;
use std::time::{Duration, Instant};

/// A progress bar that comes and goes within this time would only flicker.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints `text` to standard output. That its reader has gone away, as `head` does, is no error.
///
/// # Errors
/// If standard output cannot be written for another reason.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints `value` as indented JSON.
///
/// # Errors
/// If standard output cannot be written.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// A table: the first column to the left, the others, which hold numbers, to the right.
#[derive(Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Adds a row.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as lines, each after `indent` blanks.
    pub fn text(&self, indent: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => line.push_str(&format!("{cell:<width$}")),
                    _ => line.push_str(&format!("  {cell:>width$}")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A progress bar on standard error: shown on a terminal only, once the work has taken a while, until it is
/// dropped.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: Once,
}

impl Progress {
    /// Of work in so many steps; `unit` is what they are called.
    pub fn of_steps(title: &'static str, unit: &str, steps: u64) -> Progress {
        Progress::new(title, &format!("{{pos}}/{{len}} {unit}"), steps)
    }

    /// Of work on so many bytes.
    pub fn of_bytes(title: &'static str, bytes: u64) -> Progress {
        Progress::new(title, "{bytes}/{total_bytes}", bytes)
    }

    fn new(title: &'static str, counts: &str, length: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
        // The template is ours and has no mistake; without it the bar would only look plainer.
        if let Ok(style) =
            ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {counts}, {{eta}} left"))
        {
            bar.set_style(style);
        }
        bar.set_message(title);
        Progress { bar, started: Instant::now(), shown: Once::new() }
    }

    /// One more step is done.
    pub fn advance(&self) {
        self.bar.inc(1);
        self.show();
    }

    /// The work has come so far.
    pub fn set(&self, position: u64) {
        self.bar.set_position(position);
        self.show();
    }

    fn show(&self) {
        if self.started.elapsed() > PATIENCE && stderr().is_terminal() {
            self.shown.call_once(|| self.bar.set_draw_target(ProgressDrawTarget::stderr()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let mut table = Table::default();
        table.row(["size", "±"]);
        table.row(["4 KiB", "63.71"]);
        table.row(["half"]);
        assert_eq!(table.text(2), "  size       ±\n  4 KiB  63.71\n  half\n");
    }
}
