//! `vmicache`: what cache images change for virtual machine boots.

mod cli;
mod commands;
mod figures;
mod need;
mod output;
mod recording;
mod reproduce;
mod results;
mod size;
mod stats;
mod terminal;
mod units;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
