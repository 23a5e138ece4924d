//! `vmicache trace`.

use std::process::ExitCode;

/// Arguments of `vmicache trace`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("trace is not here")
}
