//! `vmicache run`: one scenario, replicated.

mod report;
mod timeline;

use crate::cells::Cells;
use crate::inputs::Inputs;
use crate::output::{folder_of, temporary, write_file};
use crate::scenario::{self, Scenario};
use crate::sweep;
use crate::terminal::{print, print_json};
use anyhow::Context;
use clap::value_parser;
use report::{Json, Replication};
use std::path::PathBuf;
use std::process::ExitCode;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache run experiments/scenarios/boot-storm.toml
  vmicache run experiments/scenarios/boot-storm.toml --set nodes=16 --set network=ib-qdr --json
  vmicache run experiments/scenarios/boot-storm.toml --replications 1 --timeline storm.json

A timeline opens at https://ui.perfetto.dev.";

/// Arguments of `vmicache run`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", scenario::help()))]
pub struct Args {
    /// Scenario file
    #[arg(value_name = "SCENARIO")]
    scenario: PathBuf,
    /// Set a key of the scenario, whatever its file says; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// How often to run it, each time with other random streams [default: as the scenario says]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=10_000), allow_hyphen_values = true)]
    replications: Option<u16>,
    /// Print JSON: everything, with times in seconds and sizes in bytes
    #[arg(long)]
    json: bool,
    /// Write what happened when in the first replication to a file that Perfetto opens
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// Folder of recorded boots; by default data/traces in this folder or one above
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Threads to run replications on, at most 1024; by default one a processor
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024), allow_hyphen_values = true)]
    threads: Option<u16>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a key and a value would be right, such as nodes=4")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// Runs the command.
///
/// # Errors
/// If the scenario cannot be, or the timeline cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let inputs = Inputs::load(args.data.as_deref())?;
    let mut set = args.set;
    set.extend(args.replications.map(|number| ("replications".to_owned(), number.to_string())));
    let scenario = Scenario::read(&args.scenario, &set, &inputs)?;
    if let Some(path) = &args.timeline {
        // Better now than after all the work.
        temporary(folder_of(path)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let pool = Cells::new(args.threads.map(usize::from))?;
    let wanted: Vec<u64> = (0..u64::from(scenario.settings.replications)).collect();
    let replications = pool.each("run", &wanted, |&replication| {
        let timeline = args.timeline.is_some() && replication == 0;
        let (row, outcome) = sweep::run(&scenario, replication, timeline, &inputs)
            .with_context(|| format!("{}: replication {replication}", args.scenario.display()))?;
        Ok(Replication { row, outcome })
    })?;
    if let Some(path) = &args.timeline {
        let timeline = replications.first().and_then(|first| first.outcome.timeline.as_ref());
        write_file(path, &timeline::chrome_trace(timeline.context("there is no timeline")?)?)?;
    }
    if args.json {
        print_json(&Json::new(&scenario, &replications))?;
    } else {
        print(&report::text(&scenario, &replications))?;
    }
    Ok(ExitCode::SUCCESS)
}
