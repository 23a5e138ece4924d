//! The command line: its top level, and how errors leave the program.

use crate::commands::{completions, img, quota, reproduce, trace};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// What cache images change for virtual machine boots: traffic, working sets and quotas.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Regenerate the tables, figures and the report
    Reproduce(reproduce::Args),
    /// Look at recorded boots, or replay one through real images
    Trace(trace::Args),
    /// Find the smallest cache quota that serves boots without the base image
    Quota(quota::Args),
    /// Create and inspect images, in qemu-img's syntax
    Img(img::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// Parses the arguments, runs the command, and reports an error on standard error.
pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Reproduce(args) => reproduce::run(args),
        Command::Trace(args) => trace::run(args),
        Command::Quota(args) => quota::run(args),
        Command::Img(args) => img::run(args),
        Command::Completions(args) => completions::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("vmicache: {error:#}");
        ExitCode::from(2)
    })
}
