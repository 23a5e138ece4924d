//! `vmicache trace`: recorded boots, in numbers and through real images.

mod convert;
mod info;
mod replay;

use clap::Subcommand;
use std::process::ExitCode;

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
    /// Make a trace of the log of nbdkit, QEMU or blktrace
    Convert(convert::Args),
}

/// Runs the command.
///
/// # Errors
/// As the subcommands.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Info(args) => info::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Convert(args) => convert::run(args),
    }
}
