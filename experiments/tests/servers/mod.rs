//! Servers that run while a test does.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

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

    pub fn status(&self) -> serde_json::Value {
        let socket = self.uri.rsplit_once("socket=").unwrap().1;
        let status = vmicache(&self.folder, &["status", "--json", &format!("{socket}.status")]);
        serde_json::from_str(&status).unwrap()
    }

    /// Ends it in order; what it says at the end.
    pub fn stop(mut self) -> String {
        run(&self.folder, "kill", &["-TERM", &self.child.id().to_string()]);
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        let left = fs::read_dir(&self.folder)
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let socket = self.uri.rsplit('/').next().unwrap_or_default();
        assert!(left.into_iter().all(|name| name != socket), "the socket was left behind");
        said
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
