//! `vmicache status`: what a server has served.

use super::serve::Status;
use crate::terminal::{print, print_json};
use anyhow::Context;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache status cache.qcow2.sock.status
  vmicache status vm1.sock.status --json";

/// Arguments of `vmicache status`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The status socket of the server: by default its own socket's name with .status added
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,
    /// Print JSON: bytes and microseconds
    #[arg(long)]
    json: bool,
}

/// How long a server that is busy may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command.
///
/// # Errors
/// If no server answers there.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let ask = || {
        let mut server = UnixStream::connect(&args.socket)?;
        server.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        server.read_to_string(&mut answer)?;
        anyhow::Ok(serde_json::from_str::<Status>(&answer)?)
    };
    let status = ask().with_context(|| format!("no status of a server at {}", args.socket.display()))?;
    if args.json {
        print_json(&status)?
    } else {
        print(&status.text())?
    }
    Ok(ExitCode::SUCCESS)
}
