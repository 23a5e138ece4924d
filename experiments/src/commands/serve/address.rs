//! Where a server listens.

use anyhow::Context;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use vmicache_format::nbd::Listener;

/// Where clients find the server.
pub enum Address {
    Unix(Socket),
    Tcp(SocketAddr),
}

/// A socket in the file system; the file goes with this.
pub struct Socket(pub PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        // Another server may have replaced or removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Address {
    /// What the options say; without any, a socket beside the image.
    pub fn of(
        socket: Option<&Path>,
        listen: Option<&str>,
        image: &Path,
    ) -> anyhow::Result<(Address, Listener)> {
        let Some(listen) = listen else {
            let path = socket.map_or_else(|| with_ending(image, ".sock"), Path::to_path_buf);
            let listener = Listener::unix(&path);
            let listener = listener.with_context(|| format!("cannot listen at {}", path.display()))?;
            return Ok((Address::Unix(Socket(path)), listener));
        };
        let address = match listen.parse::<u16>() {
            Ok(port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            Err(_) => listen.to_socket_addrs().ok().and_then(|mut found| found.next()).with_context(|| {
                format!("--listen {listen}: a port, or an address and a port such as 10.0.0.1:10809, would be right")
            })?,
        };
        let listener = Listener::tcp(address).with_context(|| format!("cannot listen at {address}"))?;
        let address = listener.port().map_or(address, |port| SocketAddr::new(address.ip(), port));
        Ok((Address::Tcp(address), listener))
    }

    /// Where the status is told unless the operator says otherwise.
    pub fn status_socket(&self) -> Option<PathBuf> {
        match self {
            Address::Unix(socket) => Some(with_ending(&socket.0, ".status")),
            Address::Tcp(_) => None,
        }
    }

    /// What clients are to be told.
    pub fn uri(&self, export: &str) -> String {
        match self {
            Address::Unix(socket) => {
                // Clients may run in another folder.
                let path = std::path::absolute(&socket.0).unwrap_or_else(|_| socket.0.clone());
                format!("nbd+unix:///{export}?socket={}", path.display())
            }
            Address::Tcp(address) => format!("nbd://{address}/{export}"),
        }
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
