//! How far a command has come, as qemu-img prints it with `-p`.

use std::io::{Write, stdout};

/// In per cent; smaller steps are not printed.
const STEP: f32 = 1.0;

/// A line on standard output that is written over and over, if it was asked for.
pub struct Progress {
    shown: bool,
    percent: f32,
    printed: f32,
}

impl Progress {
    /// Nothing is done yet.
    pub fn new(shown: bool) -> Progress {
        let mut progress = Progress { shown, percent: 0.0, printed: 0.0 };
        progress.set(0.0);
        progress
    }

    /// So many per cent are done.
    pub fn set(&mut self, percent: f32) {
        self.percent = percent.min(100.0);
        let is_far = (self.percent - self.printed).abs() > STEP;
        if is_far || self.percent == 0.0 || self.percent == 100.0 {
            self.printed = self.percent;
            self.print(&format!("    ({:.2}/100%)\r", self.percent));
        }
    }

    /// So many of all bytes are done.
    pub fn set_part(&mut self, done: u64, all: u64) {
        self.set(100.0 * done as f32 / all.max(1) as f32);
    }

    /// One more of so many steps of `bytes`.
    pub fn advance(&mut self, bytes: u64, all: u64) {
        self.set(self.percent + 100.0 * bytes as f32 / all.max(1) as f32);
    }

    fn print(&self, text: &str) {
        if self.shown {
            // That nobody reads it stops no work.
            let mut stdout = stdout().lock();
            let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.print("\n");
    }
}
