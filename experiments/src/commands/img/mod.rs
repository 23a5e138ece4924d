//! `vmicache img`: images, in qemu-img's syntax. Started under a name that ends in `qemu-img`, the program is this
//! command alone.

mod cache_mode;
mod check;
mod compare;
mod convert;
mod create;
mod describe;
mod file;
mod info;
mod json;
mod map;
mod naming;
mod new_image;
mod options;
mod preallocation;
pub mod program;
mod progress;
mod resize;
mod source;
mod unsupported;
mod zeroes;

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Shown below the subcommands.
const EXAMPLES: &str = "\
Examples:
  vmicache img create -f qcow2 -o cache_img_quota=100M -b base.qcow2 -F qcow2 cache.qcow2
  vmicache img create -f qcow2 -b cache.qcow2 -F qcow2 overlay.qcow2
  vmicache img info --backing-chain overlay.qcow2
  vmicache img convert -O qcow2 disk.raw disk.qcow2

Started under a name that ends in qemu-img, such as that of a link, vmicache is this command.";

/// Arguments of `vmicache img`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, infer_long_args = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[command(infer_long_args = true)]
enum Command {
    /// Make an empty image: a disk, an overlay or a cache image
    #[command(infer_long_args = true)]
    Create(create::Args),
    /// Describe an image, or a whole chain, from its metadata
    #[command(infer_long_args = true)]
    Info(info::Args),
    /// Look for errors and leaks in an image, and repair them
    #[command(infer_long_args = true)]
    Check(check::Args),
    /// Write the disk of one image, or of several in a row, into a new image
    #[command(infer_long_args = true)]
    Convert(Box<convert::Args>),
    /// Say whether two disks read alike
    #[command(infer_long_args = true)]
    Compare(compare::Args),
    /// Show where the bytes of a disk lie
    #[command(infer_long_args = true)]
    Map(map::Args),
    /// Make a disk larger or smaller
    #[command(infer_long_args = true)]
    Resize(resize::Args),
    /// Not supported
    #[command(hide = true)]
    Amend(unsupported::Args),
    /// Not supported
    #[command(hide = true)]
    Bench(unsupported::Args),
    /// Not supported
    #[command(hide = true)]
    Bitmap(unsupported::Args),
    /// Not supported
    #[command(hide = true)]
    Commit(unsupported::Args),
    /// Not supported
    #[command(hide = true)]
    Dd(unsupported::Args),
    /// Not supported
    #[command(hide = true)]
    Measure(unsupported::Args),
    /// Not supported
    #[command(hide = true)]
    Rebase(unsupported::Args),
    /// Not supported
    #[command(hide = true)]
    Snapshot(unsupported::Args),
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
        Command::Convert(args) => convert::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Resize(args) => resize::run(&args),
        Command::Amend(args) => unsupported::run("amend", &args),
        Command::Bench(args) => unsupported::run("bench", &args),
        Command::Bitmap(args) => unsupported::run("bitmap", &args),
        Command::Commit(args) => unsupported::run("commit", &args),
        Command::Dd(args) => unsupported::run("dd", &args),
        Command::Measure(args) => unsupported::run("measure", &args),
        Command::Rebase(args) => unsupported::run("rebase", &args),
        Command::Snapshot(args) => unsupported::run("snapshot", &args),
    }
}

/// The program under the name of qemu-img.
#[derive(Parser)]
#[command(name = "qemu-img", version, arg_required_else_help = true, infer_long_args = true)]
struct QemuImg {
    #[command(flatten)]
    args: Args,
}

/// Runs the program as qemu-img: with its name in messages, and its exit codes.
pub fn qemu_img() -> ExitCode {
    let args = match QemuImg::try_parse_from(with_sizes_apart(std::env::args_os())) {
        Ok(QemuImg { args }) => args,
        Err(problem) => {
            // Where nobody reads it, the exit code has to tell.
            let _ = problem.print();
            return if problem.use_stderr() { program::failure() } else { ExitCode::SUCCESS };
        }
    };
    run(args).unwrap_or_else(|error| {
        program::complain(&error);
        program::failure()
    })
}

/// The arguments of the program, in which the last one of `resize`, `-10G`, cannot be taken for an option.
pub fn with_sizes_apart(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let command = args.iter().skip(1).find(|arg| *arg != "img");
    let is_size = |arg: &OsString| {
        let text = arg.as_encoded_bytes();
        text.first() == Some(&b'-') && text.get(1).is_some_and(u8::is_ascii_digit)
    };
    let is_resize = command.is_some_and(|command| command == "resize");
    if is_resize && args.last().is_some_and(is_size) && !args.iter().any(|arg| arg == "--") {
        args.insert(args.len() - 1, "--".into());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_size_of_resize_is_set_apart() {
        for (args, apart) in [
            ("vmicache img resize x -10G", "vmicache img resize x -- -10G"),
            ("qemu-img resize -f raw x -1", "qemu-img resize -f raw x -- -1"),
            ("qemu-img resize x -- -1", "qemu-img resize x -- -1"),
            ("qemu-img resize x 1 -q", "qemu-img resize x 1 -q"),
            ("vmicache img create x -10G", "vmicache img create x -10G"),
            ("vmicache", "vmicache"),
        ] {
            let found = with_sizes_apart(args.split(' ').map(OsString::from));
            assert_eq!(found.join(std::ffi::OsStr::new(" ")), apart);
        }
    }
}
