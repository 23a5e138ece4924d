//! `vmicache reproduce`.

use std::process::ExitCode;

/// Arguments of `vmicache reproduce`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("reproduce is not here")
}
