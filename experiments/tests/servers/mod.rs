//! Servers that run while a test does.

#![allow(dead_code, reason = "every test uses a part of it")]

pub mod client;
pub mod guests;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The program, in a folder.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmicache"));
    command.current_dir(folder);
    command
}

/// Runs the program; what it prints.
pub fn vmicache(folder: &Path, arguments: &[&str]) -> String {
    succeed(command(folder).args(arguments))
}

/// Runs another program; what it prints.
pub fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    succeed(Command::new(program).current_dir(folder).args(arguments))
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A server that is ready; it is killed if the test fails.
pub struct Serving {
    child: Child,
    output: BufReader<ChildStdout>,
    folder: PathBuf,
    pub uri: String,
    pub greeting: String,
}

impl Serving {
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = command(folder).arg("serve").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut greeting = String::new();
        output.read_line(&mut greeting).unwrap();
        let uri = greeting.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        assert!(uri.starts_with("nbd"), "the server did not start: {greeting}");
        // What it says of its caches comes in the same write.
        while output.buffer().contains(&b'\n') {
            output.read_line(&mut greeting).unwrap();
        }
        Serving { child, output, folder: folder.to_path_buf(), uri, greeting }
    }

    /// The socket at which it listens, if it is one of the file system.
    pub fn socket(&self) -> &Path {
        Path::new(self.uri.rsplit_once("socket=").unwrap().1)
    }

    pub fn status(&self) -> serde_json::Value {
        let status = format!("{}.status", self.socket().display());
        serde_json::from_str(&vmicache(&self.folder, &["status", "--json", &status])).unwrap()
    }

    pub fn signal(&self, name: &str) {
        run(&self.folder, "kill", &["-s", name, &self.child.id().to_string()]);
    }

    /// Ends it in order; what it says at the end.
    pub fn stop(self) -> String {
        self.signal("TERM");
        self.ends()
    }

    /// Waits for its end, after a signal; what it says then.
    pub fn ends(mut self) -> String {
        let asked = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(asked.elapsed() < PATIENCE, "the server does not end");
            thread::sleep(Duration::from_millis(2));
        }
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {said}");
        let left = fs::read_dir(&self.folder)
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let socket = self.uri.rsplit('/').next().unwrap_or_default();
        assert!(left.into_iter().all(|name| name != socket), "the socket was left behind");
        said
    }

    /// Ends it at once, in the middle of whatever it does.
    pub fn kill(self) {
        drop(self);
    }
}

/// After this a server that was asked to end hangs. It waits half a minute for clients that take no answers.
const PATIENCE: Duration = Duration::from_secs(25);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
