//! The NBD server against clients that keep to the protocol, and clients that do not.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::nbd::{Export, Listener, Server, Statistics};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::{Memory, Storage};

const SIZE: u64 = 1 << 20;

/// A server with a writable export "disk" of a mebibyte and a read-only one "ro".
struct Running {
    folder: tempfile::TempDir,
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (stop, stopped) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = LocalRuntime::new();
            runtime.block_on(async {
                let server = Server::new(
                    vec![export("disk", true, &runtime).await, export("ro", false, &runtime).await],
                    runtime.clone(),
                );
                let stopper = stop_watch(&server, stopped, &runtime);
                let listener = Listener::unix(&path).unwrap();
                ready.send(()).unwrap();
                server.serve(listener).await.unwrap();
                stopper.join().unwrap();
            });
        });
        is_ready.recv().unwrap();
        Running { folder, stop, thread: Some(thread) }
    }

    fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.folder.path().join("s")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Client { stream }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(ended.is_some_and(|ended| ended.is_ok()), "the server panicked");
        }
    }
}

/// Stops the server, from its own thread, when told to from another.
fn stop_watch(
    server: &Rc<Server<Memory>>,
    stopped: mpsc::Receiver<()>,
    runtime: &Rc<LocalRuntime>,
) -> JoinHandle<()> {
    use vmicache_format::runtime::Runtime;
    let (here, there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    let here = runtime.watch(here).unwrap();
    let server = server.clone();
    runtime.spawn(Box::pin(async move {
        drop(here.when_readable(|mut socket: &UnixStream| socket.read(&mut [0])).await);
        server.stop();
    }));
    thread::spawn(move || {
        let _ = stopped.recv();
        drop(there);
    })
}

async fn export(name: &str, writable: bool, runtime: &Rc<LocalRuntime>) -> Rc<Export<Memory>> {
    let memory = Memory::default();
    memory.set_len(SIZE).await.unwrap();
    let raw = RawImage::open(memory, name, writable).await.unwrap();
    let disk = Disk::new(vec![Rc::new(Layer::Raw(raw))], Filling::Beside, runtime.clone()).unwrap();
    Rc::new(Export {
        name: name.into(),
        description: String::new(),
        disk,
        writable,
        delay_read: Duration::ZERO,
        statistics: Statistics::default(),
        recorder: None,
    })
}

struct Client {
    stream: UnixStream,
}

const GO: u32 = 7;
const IHAVEOPT: &[u8] = b"IHAVEOPT";

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [IHAVEOPT, &number.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

fn go(name: &str) -> Vec<u8> {
    option(GO, &[&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), &[0, 0]].concat())
}

fn request(command: u16, flags: u16, offset: u64, length: u32) -> Vec<u8> {
    let (magic, cookie) = (0x2560_9513_u32.to_be_bytes(), 77_u64.to_be_bytes());
    let (flags, command) = (flags.to_be_bytes(), command.to_be_bytes());
    [&magic[..], &flags, &command, &cookie, &offset.to_be_bytes(), &length.to_be_bytes()].concat()
}

impl Client {
    fn send(&mut self, bytes: &[u8]) -> &mut Self {
        // The server may have hung up already, and rightly so.
        drop(self.stream.write_all(bytes));
        self
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Takes an option's reply: its kind and data.
    fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let header = self.take(20);
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let data = self.take(number(16) as usize);
        (number(12), data)
    }

    fn greet(&mut self) -> &mut Self {
        assert_eq!(&self.take(18)[..16], b"NBDMAGICIHAVEOPT");
        self.send(&3_u32.to_be_bytes())
    }

    fn enter(&mut self, name: &str) -> &mut Self {
        self.greet().send(&go(name));
        while self.option_reply().0 != 1 {}
        self
    }

    /// Takes a simple reply: its error.
    fn reply(&mut self) -> u32 {
        let reply = self.take(16);
        assert_eq!(&reply[..4], 0x6744_6698_u32.to_be_bytes());
        assert_eq!(&reply[8..], 77_u64.to_be_bytes());
        u32::from_be_bytes(reply[4..8].try_into().unwrap())
    }

    fn is_hung_up_on(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the server still waits"),
        }
    }
}

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

fn whole_session() -> Vec<u8> {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend(option(8, &[]));
    bytes.extend(option(3, &[]));
    bytes.extend(go("disk"));
    bytes.extend(request(WRITE, 1, 100, 3));
    bytes.extend(b"abc");
    bytes.extend(request(READ, 0, 99, 5));
    bytes.extend(request(FLUSH, 0, 0, 0));
    bytes.extend(request(DISCONNECT, 0, 0, 0));
    bytes
}

#[test]
fn what_is_written_is_read() {
    let server = Running::start();
    let mut client = server.connect();
    client.enter("disk").send(&request(WRITE, 0, 100, 3)).send(b"abc");
    assert_eq!(client.reply(), 0);
    client.send(&request(READ, 0, 99, 5));
    assert_eq!(client.reply(), 0);
    assert_eq!(client.take(5), b"\0abc\0");
    // The other end of the disk; then everything beyond.
    for (command, offset, length, errno) in [
        (READ, SIZE - 1, 1, 0),
        (READ, SIZE, 1, 22),
        (READ, u64::MAX, 2, 22),
        (READ, 0, 33 << 20, 22),
        (99, 0, 1, 22),
        (7, 0, 512, 22),
        (FLUSH, 0, 1, 22),
        (FLUSH, 0, 0, 0),
        (4, 0, 512, 0),
        (6, SIZE - 512, 1024, 28),
        (6, 0, SIZE as u32, 0),
    ] {
        client.send(&request(command, 0, offset, length));
        assert_eq!(client.reply(), errno, "command {command} at {offset}, {length} bytes");
        if command == READ && errno == 0 {
            client.take(length as usize);
        }
    }
    client.send(&request(WRITE, 0, SIZE - 1, 2)).send(b"zz");
    assert_eq!(client.reply(), 28);
    client.send(&request(READ, 1 << 15, 0, 1));
    assert_eq!(client.reply(), 22);
    client.send(&request(DISCONNECT, 0, 0, 0)).is_hung_up_on();
}

#[test]
fn a_read_only_export_takes_no_writes() {
    let server = Running::start();
    let mut client = server.connect();
    client.enter("ro");
    for command in [WRITE, 4, 6] {
        client.send(&request(command, 0, 0, 4));
        if command == WRITE {
            client.send(b"abcd");
        }
        assert_eq!(client.reply(), 1, "command {command}");
    }
    client.send(&request(READ, 0, 0, 4));
    assert_eq!((client.reply(), client.take(4)), (0, vec![0; 4]));
}

#[test]
fn the_oldest_way_to_choose_an_export_works() {
    let server = Running::start();
    let mut client = server.connect();
    assert_eq!(client.take(18).len(), 18);
    client.send(&1_u32.to_be_bytes()).send(&option(1, b"disk"));
    let answer = client.take(8 + 2 + 124);
    assert_eq!(&answer[..8], SIZE.to_be_bytes());
    assert_eq!(answer[10..], [0; 124]);
    client.send(&request(READ, 0, 0, 1));
    assert_eq!(client.reply(), 0);
}

#[test]
fn wrong_options_are_refused_and_do_no_harm() {
    const UNSUPPORTED: u32 = (1 << 31) + 1;
    const INVALID: u32 = (1 << 31) + 3;
    const UNKNOWN: u32 = (1 << 31) + 6;
    let server = Running::start();
    let mut client = server.connect();
    client.greet();
    for (sent, kind) in [
        (option(5, &[]), UNSUPPORTED),
        (option(12345, b"what"), UNSUPPORTED),
        (option(3, b"data"), INVALID),
        (go("none"), UNKNOWN),
        (option(GO, &[0, 0, 0, 200, 1]), INVALID),
        (option(GO, &[255; 6]), INVALID),
        (option(GO, &[0, 0, 0, 0, 0, 9, 0, 1]), INVALID),
        (option(10, &[]), INVALID),
        (option(8, b"data"), INVALID),
        (option(8, &[]), 1),
        (option(10, &[0, 0, 0, 0, 255, 255, 255, 255]), INVALID),
    ] {
        client.send(&sent);
        assert_eq!(client.option_reply().0, kind, "{sent:?}");
    }
    client.send(&go("disk"));
    assert_eq!(client.option_reply().0, 3);
    assert_eq!(client.option_reply().0, 1);
}

#[test]
fn clients_that_break_the_protocol_lose_their_connection_alone() {
    let server = Running::start();
    let mut good = server.connect();
    good.enter("disk");
    let huge_option = [IHAVEOPT, &GO.to_be_bytes(), &u32::MAX.to_be_bytes()].concat();
    for sent in [u32::MAX.to_be_bytes().to_vec(), [&3_u32.to_be_bytes()[..], b"NOTANOPT", &[0; 8]].concat()] {
        let mut client = server.connect();
        client.take(18);
        client.send(&sent).is_hung_up_on();
    }
    server.connect().greet().send(&huge_option).is_hung_up_on();
    server.connect().greet().send(&option(1, b"none")).is_hung_up_on();
    server.connect().enter("disk").send(&[0xff; 28]).is_hung_up_on();
    server.connect().enter("disk").send(&request(WRITE, 0, 0, u32::MAX)).is_hung_up_on();
    good.send(&request(READ, 0, 0, 1));
    assert_eq!(good.reply(), 0);
}

#[test]
fn a_client_may_vanish_after_any_byte() {
    let server = Running::start();
    let session = whole_session();
    for end in 0..=session.len() {
        server.connect().send(&session[..end]);
    }
    // And without taking a single answer.
    let mut deaf = server.connect();
    deaf.send(&session[..session.len() - 28]);
    // The server stops reading at some point, as it should.
    deaf.stream.set_nonblocking(true).unwrap();
    for _ in 0..1000 {
        deaf.send(&request(READ, 0, 0, 512));
    }
    drop(deaf);
    let mut client = server.connect();
    client.enter("disk").send(&request(READ, 0, 100, 3));
    assert_eq!(client.reply(), 0);
    // Whether anybody lived long enough to have it written is open.
    assert!([b"abc", b"\0\0\0"].contains(&client.take(3).as_slice().first_chunk().unwrap()));
}

#[test]
fn a_server_that_stops_answers_what_it_has_begun() {
    let server = Running::start();
    let mut client = server.connect();
    client.enter("disk");
    client.send(&request(READ, 0, 0, 1 << 20));
    assert_eq!(client.reply(), 0);
    let _ = server.stop.send(());
    // The answer is larger than a socket's buffer: the server had to wait for this client.
    assert_eq!(client.take(1 << 20), vec![0; 1 << 20]);
    client.is_hung_up_on();
}
