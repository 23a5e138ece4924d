//! `vmicache trace`: recorded boots, in numbers and through real images.

mod info;
mod replay;

use anyhow::Context;
use clap::Subcommand;
use std::path::Path;
use std::process::ExitCode;
use vmicache_format::trace::Trace;

/// Arguments of `vmicache trace`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what recorded boots ask of their disk, and what they have in common
    Info(info::Args),
    /// Replay one boot through real images and count what the base image serves
    Replay(replay::Args),
}

/// Runs the command.
///
/// # Errors
/// As the subcommands.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Info(args) => info::run(args),
        Command::Replay(args) => replay::run(args),
    }
}

/// Reads a trace and checks that it fits a disk of `disk_size` bytes, if that is given.
///
/// # Errors
/// If the file is not a trace, or a request lies beyond the disk.
pub fn open(path: &Path, disk_size: Option<u64>) -> anyhow::Result<Trace> {
    let trace = Trace::open(path)?;
    if let Some(disk_size) = disk_size {
        trace.check_within(disk_size).with_context(|| path.display().to_string())?;
    }
    Ok(trace)
}
