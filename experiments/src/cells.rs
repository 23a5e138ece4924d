//! Running the cells of an experiment in parallel, with a progress bar where it takes long.

use crate::terminal::Progress;
use anyhow::Context;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

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
        let progress = Progress::of_steps(title, "cells", wanted.len() as u64);
        let results: Vec<anyhow::Result<R>> = self.pool.install(|| {
            wanted.par_iter().map(|wanted| cell(wanted).inspect(|_| progress.advance())).collect()
        });
        drop(progress);
        results.into_iter().collect()
    }
}
