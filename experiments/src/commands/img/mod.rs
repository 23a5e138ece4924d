//! `vmicache img`: images, in qemu-img's syntax.

mod check;
mod create;
mod describe;
mod file;
mod info;
mod json;
mod options;

use clap::Subcommand;
use std::process::ExitCode;

/// Shown below the subcommands.
const EXAMPLES: &str = "\
Examples:
  vmicache img create -f qcow2 -o cache_img_quota=100M -b base.qcow2 -F qcow2 cache.qcow2
  vmicache img create -f qcow2 -b cache.qcow2 -F qcow2 overlay.qcow2
  vmicache img info --backing-chain overlay.qcow2";

/// Arguments of `vmicache img`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an empty image: a disk, an overlay or a cache image
    Create(create::Args),
    /// Describe an image, or a whole chain, from its metadata
    Info(info::Args),
    /// Look for errors and leaks in an image, and repair them
    Check(check::Args),
}

/// Runs the command.
///
/// # Errors
/// As the subcommands.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Create(args) => create::run(args),
        Command::Info(args) => info::run(&args),
        Command::Check(args) => check::run(&args),
    }
}
