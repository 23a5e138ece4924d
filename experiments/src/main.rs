//! `vmicache`: what cache images change for virtual machine boots.

mod base_image;
mod cells;
mod cli;
mod commands;
mod did_you_mean;
mod figures;
mod inputs;
mod leave_one_out;
mod margin;
mod memo;
mod need;
mod output;
mod recording;
mod reproduce;
mod results;
mod scenario;
mod size;
mod stats;
mod sweep;
mod terminal;
mod units;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
