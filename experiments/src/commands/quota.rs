//! `vmicache quota`.

use std::process::ExitCode;

/// Arguments of `vmicache quota`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("quota is not here")
}
