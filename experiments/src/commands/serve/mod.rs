//! `vmicache serve`: an image as an NBD export.

mod address;
mod metadata;
mod status;

pub use status::Status;

use crate::output::folder_of;
use crate::terminal::print;
use crate::units;
use address::Address;
use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::cell::RefCell;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use vmicache_format::cache::IdentityCheck;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::files::{ChainOptions, Format, NamedFiles, begins_as_qcow2, open_chain_in};
use vmicache_format::nbd::{Export, Recorder, Server, Statistics};
use vmicache_format::qcow2::Mode;
use vmicache_format::runtime::{LocalRuntime, Runtime};
use vmicache_format::storage::{Counting, HostFile};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache serve cache.qcow2
  vmicache serve overlay.qcow2 --writable --socket vm1.sock --record boot.csv.gz
  vmicache serve base.raw --listen 10809 --name debian-12

A virtual machine attaches to it by the URI that is printed:
  qemu-system-x86_64 -drive file='nbd+unix:///?socket=vm1.sock',format=raw,if=virtio ...
Caches in the chain below the image fill as guests read. `vmicache status` tells how far they are. Stop the
server with Ctrl-C or SIGTERM: it finishes what is in flight and closes the images.";

/// Arguments of `vmicache serve`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image: an overlay, a cache or a base, with everything that it is backed by
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Format of the image: raw or qcow2 [default: as its first bytes say]
    #[arg(short, long, value_name = "FMT")]
    format: Option<Format>,
    /// Unix socket to listen at, for its owner alone [default: the image's name with .sock added]
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    socket: Option<PathBuf>,
    /// TCP port, or address and port, to listen at; a port alone means this host only
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    listen: Option<String>,
    /// Name of the export; clients that ask for none get it too
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// Let clients write to the image
    #[arg(short, long)]
    writable: bool,
    /// Only read caches, keep nothing
    #[arg(long)]
    no_fill: bool,
    /// Let reads wait until the cache's copy is written too
    #[arg(long, conflicts_with = "no_fill")]
    fill_in_path: bool,
    /// Version of the base image, for caches that were made with one
    #[arg(long, value_name = "VERSION")]
    base_version: Option<String>,
    /// Record every request to this file, as CSV or, named .gz, compressed
    #[arg(long, value_name = "TRACE")]
    record: Option<PathBuf>,
    /// What to note with the recording, such as guest=debian-12-minimal; may be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "record")]
    note: Vec<String>,
    /// Hold every read back by so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0.0, allow_hyphen_values = true)]
    delay_read: f64,
    /// Unix socket that tells the status [default: that of the server with .status added]
    #[arg(long, value_name = "PATH")]
    status: Option<PathBuf>,
}

type Storage = Counting<HostFile>;

/// Runs the command.
///
/// # Errors
/// If the image cannot be opened, the address is taken, or the recording cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = LocalRuntime::new();
    runtime.block_on(serve(&args, runtime.clone()))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &Args, runtime: Rc<LocalRuntime>) -> anyhow::Result<()> {
    let delay_read = delay(args.delay_read)?;
    let recorder = match &args.record {
        None => None,
        Some(path) => {
            let recorder = Recorder::new(folder_of(path));
            let recorder = recorder.with_context(|| format!("cannot record to {}", path.display()))?;
            Some(Rc::new(RefCell::new(recorder)))
        }
    };
    let disk = open(args, runtime.clone()).await?;
    let metadata = metadata::of(args, &disk, runtime.clone()).await?;
    // From here on, signals end the server in order.
    let (signals, ours) = UnixStream::pair().context("cannot wait for signals")?;
    for signal in [SIGINT, SIGTERM] {
        pipe::register(signal, ours.try_clone()?).context("cannot wait for signals")?;
    }
    let (address, listener) = Address::of(args.socket.as_deref(), args.listen.as_deref(), &args.image)?;
    let status_address = args.status.clone().or_else(|| address.status_socket());
    let export = Rc::new(Export {
        name: args.name.clone(),
        description: args.image.display().to_string(),
        disk: disk.clone(),
        writable: args.writable,
        delay_read,
        statistics: Statistics::default(),
        recorder: recorder.clone(),
    });
    let server = Server::new(vec![export.clone()], runtime.clone());
    let _status = match &status_address {
        Some(path) => Some(status::listen(path, &server, &runtime)?),
        None => None,
    };
    stop_on_signal(signals, &server, &runtime)?;
    print(&greeting(args, &disk, &address))?;
    server.serve(listener).await.context("cannot wait for clients")?;
    disk.close().await?;
    if let (Some(path), Some(recorder)) = (&args.record, recorder) {
        let trace = recorder.borrow_mut().finish();
        let trace = trace.with_context(|| format!("the recording {} is not whole", path.display()))?;
        trace.save_with_metadata(path, &metadata)?;
    }
    print(&Status::of(&server).text())
}

fn delay(ms: f64) -> anyhow::Result<Duration> {
    anyhow::ensure!(
        (0.0..=60_000.0).contains(&ms),
        "--delay-read {ms}: from 0 to 60000 milliseconds would be right"
    );
    Ok(Duration::from_secs_f64(ms / 1000.0))
}

async fn open(args: &Args, runtime: Rc<LocalRuntime>) -> anyhow::Result<Disk<Storage>> {
    let format = match args.format {
        Some(format) => format,
        // The operator points at this very file; what lies below it is never guessed.
        None if begins_as_qcow2(&args.image).await? => Format::Qcow2,
        None => Format::Raw,
    };
    let options = ChainOptions {
        writable: args.writable,
        fill: !args.no_fill,
        share: true,
        filling: if args.fill_in_path { Filling::InPath } else { Filling::Beside },
        identity: match &args.base_version {
            Some(version) => IdentityCheck::Version(version.clone()),
            None => IdentityCheck::Sample,
        },
        named_files: NamedFiles::Allow,
        ..ChainOptions::default()
    };
    let runtime: Rc<dyn Runtime> = runtime;
    Ok(open_chain_in(&args.image, format, &options, runtime, |_, file| Counting::new(file)).await?)
}

fn stop_on_signal(
    signals: UnixStream,
    server: &Rc<Server<Storage>>,
    runtime: &Rc<LocalRuntime>,
) -> anyhow::Result<()> {
    signals.set_nonblocking(true)?;
    let signals = runtime.watch(signals).context("cannot wait for signals")?;
    let server = server.clone();
    runtime.spawn(Box::pin(async move {
        let mut byte = [0];
        if signals.when_readable(|mut signals: &UnixStream| signals.read(&mut byte)).await.is_ok() {
            server.stop();
        }
    }));
    Ok(())
}

fn greeting(args: &Args, disk: &Disk<Storage>, address: &Address) -> String {
    let access = if args.writable { "writable" } else { "read-only" };
    let mut text = format!(
        "Serving {} ({}, {access}) at {}\n",
        args.image.display(),
        mb(disk.size()),
        address.uri(&args.name)
    );
    for layer in disk.layers() {
        if let Layer::Qcow2(image) = &**layer
            && let Some(cache) = image.header().cache()
        {
            let state = match image.mode() {
                Mode::Fill => format!("filling, {} of {}", mb(image.bytes_in_use()), mb(cache.quota)),
                _ => "only read".to_owned(),
            };
            text.push_str(&format!("  cache {}: {state}\n", layer.name()));
        }
    }
    text
}

/// Megabytes, as people read them.
fn mb(bytes: u64) -> String {
    units::mb(bytes as f64)
}
