//! `vmicache sweep`: a scenario along axes, one row a cell.

use crate::cells::Cells;
use crate::inputs::Inputs;
use crate::output::Folder;
use crate::scenario;
use crate::sweep::{Cell, Row, Store, Sweep, run_cell, tables};
use crate::terminal::print;
use crate::units::counted;
use anyhow::Context;
use clap::value_parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache sweep experiments/scenarios/nodes-and-networks.toml --out results/nodes --dry-run
  vmicache sweep experiments/scenarios/nodes-and-networks.toml --out results/nodes

A sweep that was stopped goes on where it was when it is started again with the same folder. An axis may have got
longer since, and there may be more replications: only what is missing runs.";

/// A dry run lists at most so many missing cells.
const MOST_LISTED: usize = 20;

/// Arguments of `vmicache sweep`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", scenario::help()))]
pub struct Args {
    /// Sweep file: a scenario and the table `axes`, with a list of values for each key that varies
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder for the results; made if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only say how many cells there are, how many have been run, and which are missing
    #[arg(long)]
    dry_run: bool,
    /// Folder of recorded boots; by default data/traces in this folder or one above
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Threads to run cells on, at most 1024; by default one a processor
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024), allow_hyphen_values = true)]
    threads: Option<u16>,
}

/// Runs the command.
///
/// # Errors
/// If the sweep cannot be, a cell cannot be run, or the folder is another sweep's or cannot be written. The cells
/// that have been run until then are kept.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let file = args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {file}"))?;
    let sweep = Sweep::parse(&text, &file)?;
    let inputs = Inputs::load(args.data.as_deref())?;
    let cells = sweep.cells(&inputs)?;
    let store = Store::new(&args.out, &sweep, &cells)?;
    if args.dry_run {
        print(&plan(&cells, &store.stored()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let pool = Cells::new(args.threads.map(usize::from))?;
    let lock = store.open()?;
    let stored = store.stored();
    let there = stored.iter().flatten().count();
    let rows = run_missing(&cells, stored, &store, &inputs, &pool)?;
    let runs: Vec<(&Cell, &Row)> = cells.iter().zip(&rows).collect();
    let mut files = Vec::new();
    let provenance = store.provenance()?;
    for table in tables(&runs) {
        files.extend(table.files(&provenance)?);
    }
    Folder::open(&args.out)?.publish(&files)?;
    drop(lock);
    print(&format!(
        "{}, {there} of them from before; results.csv and summary.csv are in {}\n",
        counted(cells.len(), "cell"),
        args.out.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The row of every cell: as it is stored, or run now and stored at once.
fn run_missing(
    cells: &[Cell],
    stored: Vec<Option<Row>>,
    store: &Store,
    inputs: &Inputs,
    pool: &Cells,
) -> anyhow::Result<Vec<Row>> {
    let missing = cells.iter().enumerate().zip(&stored).filter(|(_, stored)| stored.is_none());
    let missing: Vec<(usize, &Cell)> = missing.map(|(cell, _)| cell).collect();
    let run = |&(number, cell): &(usize, &Cell)| {
        let row = run_cell(cell, inputs)?;
        store.store(number, &row).with_context(|| cell.described())?;
        Ok(row)
    };
    let mut fresh = pool.each("sweep", &missing, run)?.into_iter();
    let rows = stored.into_iter().map(|stored| stored.or_else(|| fresh.next()));
    rows.collect::<Option<_>>().context("a cell has no row")
}

/// What a sweep would run.
fn plan(cells: &[Cell], stored: &[Option<Row>]) -> String {
    let missing: Vec<&Cell> =
        cells.iter().zip(stored).filter(|(_, stored)| stored.is_none()).map(|(cell, _)| cell).collect();
    let mut text = format!(
        "{}, {} of them run, {} missing\n",
        counted(cells.len(), "cell"),
        cells.len() - missing.len(),
        missing.len()
    );
    for cell in missing.iter().take(MOST_LISTED) {
        text.push_str(&format!("  {}\n", cell.described()));
    }
    if missing.len() > MOST_LISTED {
        text.push_str(&format!("  and {} more\n", missing.len() - MOST_LISTED));
    }
    text
}
