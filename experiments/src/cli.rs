//! The command line: its top level, and how errors leave the program.

use crate::commands::{cache, completions, img, quota, reproduce, run, serve, status, sweep, trace, warm};
use anyhow::Context;
use clap::{Parser, Subcommand};
use signal_hook::consts::SIGXFSZ;
use std::env::args_os;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What cache images change for virtual machine boots: traffic, working sets and quotas.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Regenerate the tables, figures and the report
    Reproduce(reproduce::Args),
    /// Run a boot storm that a scenario file describes
    Run(run::Args),
    /// Run a scenario along axes; goes on where it was stopped
    Sweep(sweep::Args),
    /// Look at recorded boots, or replay one through real images
    Trace(trace::Args),
    /// Serve an image to virtual machines over NBD; caches fill as guests read
    Serve(serve::Args),
    /// Ask a server what it has served
    Status(status::Args),
    /// Find the smallest cache quota that serves boots without the base image
    Quota(quota::Args),
    /// Make or fill a cache image with what recorded boots read
    Warm(warm::Args),
    /// Look into cache images, verify them against their base, and empty them
    Cache(cache::Args),
    /// Create, inspect, convert, compare and resize images, in qemu-img's syntax
    Img(img::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// Parses the arguments, runs the command, and reports an error on standard error. Started under the name of qemu-img,
/// the program is `vmicache img`.
pub fn run() -> ExitCode {
    let is_ready = outlive_file_size_limits();
    if img::program::is_qemu_img() {
        return is_ready.map_or_else(failed, |()| img::qemu_img());
    }
    let Cli { command } = Cli::parse_from(img::with_sizes_apart(args_os()));
    is_ready.and_then(|()| command.run()).unwrap_or_else(failed)
}

fn failed(error: anyhow::Error) -> ExitCode {
    img::program::complain(&error);
    img::program::failure()
}

/// Makes a write beyond the limit on the length of files fail, as on a full disk. The signal would end the
/// program at once, and leave temporary files behind.
fn outlive_file_size_limits() -> anyhow::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
        .context("cannot handle the signal SIGXFSZ")?;
    Ok(())
}

impl Command {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Reproduce(args) => reproduce::run(args),
            Command::Run(args) => run::run(args),
            Command::Sweep(args) => sweep::run(args),
            Command::Trace(args) => trace::run(args),
            Command::Serve(args) => serve::run(args),
            Command::Status(args) => status::run(&args),
            Command::Quota(args) => quota::run(args),
            Command::Warm(args) => warm::run(&args),
            Command::Cache(args) => cache::run(args),
            Command::Img(args) => img::run(args),
            Command::Completions(args) => completions::run(args),
        }
    }
}
