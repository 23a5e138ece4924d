//! `vmicache`: what cache images change for virtual machine boots.

mod cli;
mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
