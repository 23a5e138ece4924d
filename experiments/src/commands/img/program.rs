//! Under which name the program speaks: its own, or that of qemu-img if it was started as that.

use crate::terminal::print;
use std::env;
use std::ffi::OsStr;
use std::io::{Write, stderr};
use std::path::Path;
use std::process::ExitCode;

/// The name that scripts start qemu-img by ends so.
const QEMU_IMG: &str = "qemu-img";

/// Whether the program was started under a name that ends in `qemu-img`.
pub fn is_qemu_img() -> bool {
    let name = env::args_os().next().unwrap_or_default();
    let file = Path::new(&name).file_name().unwrap_or(OsStr::new(""));
    file.as_encoded_bytes().ends_with(QEMU_IMG.as_bytes())
}

/// What messages begin with.
pub fn name() -> &'static str {
    if is_qemu_img() { QEMU_IMG } else { "vmicache" }
}

/// The exit code of a command that failed.
pub fn failure() -> ExitCode {
    ExitCode::from(if is_qemu_img() { 1 } else { 2 })
}

/// Says on standard error what has gone wrong.
pub fn complain(error: &anyhow::Error) {
    say(&without_numbers(&format!("{error:#}")));
}

/// Says something on standard error that stops nothing.
pub fn warn(text: &str) {
    say(&format!("warning: {}", without_numbers(text)));
}

fn say(text: &str) {
    // Where standard error is closed, the exit code has to tell.
    let _ = writeln!(stderr(), "{}: {text}", name());
}

/// Prints a line, unless nothing is to be printed.
///
/// # Errors
/// If standard output cannot be written.
pub fn tell(quiet: bool, line: &str) -> anyhow::Result<()> {
    if quiet { Ok(()) } else { print(&format!("{line}\n")) }
}

/// The text of an error without the numbers that the host's errors end with.
fn without_numbers(text: &str) -> String {
    const BEGIN: &str = " (os error ";
    let mut shorter = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(BEGIN) {
        let digits = behind.trim_start_matches(|c: char| c.is_ascii_digit());
        shorter.push_str(before);
        rest = match digits.strip_prefix(')') {
            Some(behind) => behind,
            None => {
                shorter.push_str(BEGIN);
                behind
            }
        };
    }
    shorter + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_numbers_are_left_out() {
        for (text, shorter) in [
            ("x: No space left on device (os error 28)", "x: No space left on device"),
            ("a (os error 2), b (os error 13) c", "a, b c"),
            ("a (os error x) b", "a (os error x) b"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(without_numbers(text), shorter);
        }
    }
}
