//! Commands of qemu-img that there are not: each says so, and what to use instead.

use anyhow::bail;
use std::ffi::OsString;
use std::process::ExitCode;

/// Whatever stands behind the name of such a command.
#[derive(clap::Args)]
pub struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<OsString>,
}

/// Refuses the command.
///
/// # Errors
/// Always.
pub fn run(command: &str, _args: &Args) -> anyhow::Result<ExitCode> {
    bail!("not supported: {command}; stock qemu-img has it")
}
