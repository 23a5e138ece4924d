//! `vmicache img`.

use std::process::ExitCode;

/// Arguments of `vmicache img`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("img is not here")
}
