//! `vmicache reproduce`: tables, figures and the report, from the recorded boots and storms of them.

use crate::cells::Cells;
use crate::inputs::{find_traces, load_guests};
use crate::output::Folder;
use crate::reproduce::{Experiment, Plan, files, run as run_plan};
use crate::terminal::print;
use clap::value_parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `vmicache reproduce`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder for the results; made if missing
    #[arg(long, value_name = "DIR", default_value = "paper/out")]
    out: PathBuf,
    /// Folder of recorded boots; by default data/traces in this folder or one above
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Only these experiments, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', ignore_case = true)]
    only: Vec<Experiment>,
    /// Fewer boots, cluster sizes and quotas, and small storms, on which no claim is judged
    #[arg(long)]
    quick: bool,
    /// Threads to run cells on, at most 1024; by default one a processor
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024), allow_hyphen_values = true)]
    threads: Option<u16>,
}

/// Runs the command.
///
/// # Errors
/// If the recorded boots cannot be read or replayed, or the results cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let plan = Plan::new(&args.only, args.quick);
    let cells = Cells::new(args.threads.map(usize::from))?;
    let guests = load_guests(&find_traces(args.data.as_deref())?, plan.most_boots)?;
    let folder = Folder::open(&args.out)?;
    let results = run_plan(&guests, &plan, &cells)?;
    let files = files(&results, &plan)?;
    folder.publish(&files)?;
    print(&format!(
        "{} files in {}; start with {}\n",
        files.len(),
        args.out.display(),
        args.out.join("report.html").display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
