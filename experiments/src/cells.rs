//! Running the cells of an experiment in parallel, with a progress bar where it takes long.

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::io::{IsTerminal, stderr};
use std::sync::Once;
use std::time::{Duration, Instant};

/// A progress bar that comes and goes within this time would only flicker.
const PATIENCE: Duration = Duration::from_secs(2);

/// A pool of threads to run cells on.
pub struct Cells {
    pool: ThreadPool,
}

impl Cells {
    /// With `threads` threads, or as many as there are processors.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn new(threads: Option<usize>) -> anyhow::Result<Cells> {
        let pool = ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build();
        Ok(Cells { pool: pool.context("cannot start the threads")? })
    }

    /// Runs `cell` for each of `wanted`. The results are in the order of `wanted`, whatever the threads; so
    /// is the error, if there are several.
    ///
    /// # Errors
    /// The first error of a cell.
    pub fn each<C: Sync, R: Send>(
        &self,
        title: &'static str,
        wanted: &[C],
        cell: impl Fn(&C) -> anyhow::Result<R> + Sync,
    ) -> anyhow::Result<Vec<R>> {
        let progress = Progress::new(title, wanted.len());
        let results: Vec<anyhow::Result<R>> = self.pool.install(|| {
            wanted.par_iter().map(|wanted| cell(wanted).inspect(|_| progress.advance())).collect()
        });
        progress.bar.finish_and_clear();
        results.into_iter().collect()
    }
}

/// Shown on a terminal only, and only once the work has taken a while.
struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: Once,
}

impl Progress {
    fn new(title: &'static str, cells: usize) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(cells as u64), ProgressDrawTarget::hidden());
        // The template is ours and has no mistake; without it the bar would only look plainer.
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} cells, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(title);
        Progress { bar, started: Instant::now(), shown: Once::new() }
    }

    fn advance(&self) {
        self.bar.inc(1);
        if self.started.elapsed() > PATIENCE && stderr().is_terminal() {
            self.shown.call_once(|| self.bar.set_draw_target(ProgressDrawTarget::stderr()));
        }
    }
}
