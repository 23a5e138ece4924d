//! `vmicache completions`: completion scripts for shells.

use crate::cli::Cli;
use crate::terminal::print;
use clap::CommandFactory;
use clap_complete::{Shell, generate};
use std::process::ExitCode;

/// Arguments of `vmicache completions`.
#[derive(clap::Args)]
pub struct Args {
    /// The shell whose script is printed
    shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// If the script cannot be printed.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    generate(args.shell, &mut command, name, &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
