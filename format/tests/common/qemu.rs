//! The stock QEMU tools.

use nix::fcntl::{FcntlArg, fcntl};
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

static STARTING: Mutex<()> = Mutex::new(());

/// While this is held, no other test starts a process. A process that is starting has, for a moment, a copy
/// of every file that is open here, and so keeps an image locked that was just closed.
pub fn no_process_starts() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process, and waits until it has let go of its copies of what is open here: it closes them one after the
/// other, a short while after it has begun.
fn start(command: &mut Command) -> io::Result<Child> {
    /// Higher than that of any file of an image.
    const LAST: i32 = 900;
    let (mut last_is_closed, last) = io::pipe()?;
    let last_to_close = fcntl(&last, FcntlArg::F_DUPFD_CLOEXEC(LAST))?;
    drop(last);
    // SAFETY: `fcntl` has just made it, and nobody else knows of it.
    let last_to_close = unsafe { OwnedFd::from_raw_fd(last_to_close) };
    let process = command.spawn();
    drop(last_to_close);
    last_is_closed.read_to_end(&mut Vec::new())?;
    process
}

fn run(tool: &str, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(tool);
    command
        .current_dir(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = {
        let _starting = no_process_starts();
        start(&mut command)
    };
    let output = started.and_then(|process| process.wait_with_output());
    output
        .unwrap_or_else(|error| panic!("{tool} cannot be run (Debian: apt-get install qemu-utils): {error}"))
}

/// Runs `qemu-img` in `folder`, and returns what it prints.
#[track_caller]
pub fn img(folder: &Path, arguments: &[&str]) -> String {
    let output = run("qemu-img", folder, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "qemu-img {arguments:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Runs `qemu-io` in `folder` with some commands, none of which may fail, and returns what it prints.
#[track_caller]
pub fn io(folder: &Path, options: &[&str], image: &str, commands: &[String]) -> String {
    let mut arguments = options.to_vec();
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(image);
    run_io(folder, &arguments)
}

/// The same for commands that open the image themselves.
#[track_caller]
pub fn io_commands(folder: &Path, commands: &[String]) -> String {
    let arguments: Vec<&str> = commands.iter().flat_map(|command| ["-c", command]).collect();
    run_io(folder, &arguments)
}

#[track_caller]
fn run_io(folder: &Path, arguments: &[&str]) -> String {
    let output = run("qemu-io", folder, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // qemu-io exits with 0 although a read found another pattern.
    let failed =
        ["failed", "error", "rror:", "ailed:"].iter().any(|word| out.contains(word) || err.contains(word));
    assert!(output.status.success() && !failed, "qemu-io {arguments:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// No error and no leak.
#[track_caller]
pub fn check(folder: &Path, image: &str) {
    let output = run("qemu-img", folder, &["check", "-q", "-f", "qcow2", image]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "qemu-img check {image}: {}\n{out:.2000}{err}", output.status);
}

/// No error; the numbers of the clusters that leaked.
#[track_caller]
pub fn leaks(folder: &Path, image: &str) -> Vec<u64> {
    let output = run("qemu-img", folder, &["check", "-f", "qcow2", image]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let accepted = matches!(output.status.code(), Some(0 | 3));
    assert!(accepted, "qemu-img check {image}: {}\n{out:.2000}{err}", output.status);
    // They may begin in the middle of a line.
    let leaks = out.split("Leaked cluster ").skip(1).chain(err.split("Leaked cluster ").skip(1));
    let numbers = leaks.filter_map(|rest| rest.split(' ').next()?.parse().ok());
    numbers.collect()
}

/// No error; leaks are allowed.
#[track_caller]
pub fn check_but_for_leaks(folder: &Path, image: &str) {
    let output = run("qemu-img", folder, &["check", "-q", "-f", "qcow2", image]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let accepted = matches!(output.status.code(), Some(0 | 3));
    assert!(accepted, "qemu-img check {image}: {}\n{out:.2000}{err}", output.status);
}

/// The bytes of the disk that QEMU sees in an image and its backing files.
#[track_caller]
pub fn content(folder: &Path, image: &str) -> Vec<u8> {
    img(folder, &["convert", "-f", "qcow2", "-O", "raw", image, "content.raw"]);
    std::fs::read(folder.join("content.raw")).expect("qemu-img wrote it")
}

/// Runs a tool in `folder`, whatever it says.
pub fn output(tool: &str, folder: &Path, arguments: &[&str]) -> Output {
    run(tool, folder, arguments)
}

/// What `qemu-img check` says of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// 0 clean, 1 not checked, 2 errors, 3 leaks only.
    pub code: i32,
    /// The JSON, and what is said beside it.
    pub json: String,
    pub messages: String,
}

impl Checked {
    /// A number of the JSON; what is left out is 0.
    pub fn number(&self, key: &str) -> u64 {
        let Some((_, rest)) = self.json.split_once(&format!("\"{key}\": ")) else { return 0 };
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    }
}

/// Runs `qemu-img check` with further options.
pub fn checked(folder: &Path, options: &[&str], image: &str) -> Checked {
    let mut arguments = vec!["check", "-f", "qcow2", "--output", "json"];
    arguments.extend(options);
    arguments.push(image);
    let output = run("qemu-img", folder, &arguments);
    Checked {
        code: output.status.code().unwrap_or(-1),
        json: String::from_utf8_lossy(&output.stdout).into_owned(),
        messages: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The bytes of the disk that QEMU sees, if it can read all of it.
pub fn readable_content(folder: &Path, image: &str) -> Option<Vec<u8>> {
    let arguments = ["convert", "-f", "qcow2", "-O", "raw", image, "content.raw"];
    let output = run("qemu-img", folder, &arguments);
    output.status.success().then(|| std::fs::read(folder.join("content.raw")).expect("qemu-img wrote it"))
}
