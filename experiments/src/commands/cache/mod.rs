//! `vmicache cache`: cache images in use: what they hold, whether it is right, and emptying them.

mod drop;
mod info;
mod verify;

use anyhow::{Context, ensure};
use clap::Subcommand;
use std::path::Path;
use std::process::ExitCode;
use vmicache_format::cache::IdentityCheck;
use vmicache_format::files::begins_as_qcow2;
use vmicache_format::qcow2::header::Header;
use vmicache_format::qcow2::read_header;
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Access, HostFile};

/// Shown below the subcommands.
const EXAMPLES: &str = "\
Examples:
  vmicache cache info cache.qcow2
  vmicache cache verify cache.qcow2 || vmicache cache drop cache.qcow2
  vmicache warm cache.qcow2 --base base.raw --quota 100M --trace boot.csv.gz";

/// Arguments of `vmicache cache`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tell what a cache image holds, counted from its tables
    Info(info::Args),
    /// Compare everything that a cache image holds with its base
    Verify(verify::Args),
    /// Empty a cache image, for its base as it is now
    Drop(drop::Args),
}

/// Runs the command.
///
/// # Errors
/// As the subcommands.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Info(args) => info::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Drop(args) => drop::run(&args),
    }
}

/// The header of the cache image at `path`; nothing is locked.
///
/// # Errors
/// If the file cannot be read or is no cache image.
pub fn header_of(path: &Path) -> anyhow::Result<Header> {
    let runtime = LocalRuntime::new();
    let name = path.display().to_string();
    ensure!(
        runtime.block_on(begins_as_qcow2(path))?,
        "{name}: this is no qcow2 image, so it is no cache image"
    );
    let storage = HostFile::open(path, Access::Inspect).with_context(|| name.clone())?;
    let header = runtime.block_on(read_header(&storage, &name))?;
    ensure!(
        header.cache().is_some(),
        "{name}: this is no cache image: no quota is recorded in it, as `vmicache warm` or \
         `vmicache img create -o cache_img_quota=SIZE` do"
    );
    Ok(header)
}

/// How a base is recognised: by the version that the operator states, or by what it holds.
pub fn identity_check(base_version: Option<&str>) -> IdentityCheck {
    base_version.map_or(IdentityCheck::Sample, |version| IdentityCheck::Version(version.to_owned()))
}
