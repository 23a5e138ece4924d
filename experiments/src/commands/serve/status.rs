//! What a server has served so far.

use super::address::Socket;
use super::{Storage, mb};
use crate::terminal::Table;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use vmicache_format::disk::Layer;
use vmicache_format::nbd::{Export, Listener, Server};
use vmicache_format::qcow2::{ClusterLayout, Mode};
use vmicache_format::runtime::{LocalRuntime, Runtime};
use vmicache_format::storage::{Counts, Totals};
use vmicache_format::trace::Op;

/// Of a whole server. Bytes are bytes, times microseconds.
#[derive(Serialize, Deserialize)]
pub struct Status {
    /// Clients that are connected.
    pub connections: usize,
    pub exports: Vec<ExportStatus>,
}

/// Of one export.
#[derive(Serialize, Deserialize)]
pub struct ExportStatus {
    pub name: String,
    pub operations: Vec<OperationStatus>,
    /// Top first.
    pub layers: Vec<LayerStatus>,
    pub failures: u64,
    pub last_failure: Option<String>,
    /// Requests that have been recorded.
    pub recorded: Option<usize>,
}

/// Of the requests of one operation.
#[derive(Serialize, Deserialize)]
pub struct OperationStatus {
    pub operation: String,
    pub requests: u64,
    pub bytes: u64,
    pub p50_us: u64,
    pub p95_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// Of one image of the chain: what was read from and written to its file for guests.
#[derive(Serialize, Deserialize)]
pub struct LayerStatus {
    pub image: String,
    pub kind: String,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub cache: Option<CacheStatus>,
}

/// Of a cache image.
#[derive(Serialize, Deserialize)]
pub struct CacheStatus {
    pub filling: bool,
    pub cluster_size: u64,
    pub extended_l2: bool,
    pub quota_bytes: u64,
    /// Known while it is being filled.
    pub in_use_bytes: Option<u64>,
    /// Bytes that guests found in it.
    pub hit_bytes: u64,
    /// Bytes that had to be read from below it.
    pub miss_bytes: u64,
    pub failed_fills: u64,
}

impl Status {
    pub fn of(server: &Server<Storage>) -> Self {
        let exports = server.exports().iter().map(|export| ExportStatus::of(export)).collect();
        Status { connections: server.connections(), exports }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for export in &self.exports {
            export.describe(&mut text);
        }
        text
    }
}

impl ExportStatus {
    fn of(export: &Export<Storage>) -> Self {
        let operations = Op::ALL.into_iter().map(|op| {
            let tally = export.statistics.of(op);
            let quantile = |share| tally.latency(share).as_micros() as u64;
            OperationStatus {
                operation: op.name().to_owned(),
                requests: tally.requests,
                bytes: tally.bytes,
                p50_us: quantile(0.5),
                p95_us: quantile(0.95),
                p99_us: quantile(0.99),
                max_us: quantile(1.0),
            }
        });
        let layers = export.disk.layers();
        let mut described: Vec<LayerStatus> = layers.iter().map(|layer| LayerStatus::of(layer)).collect();
        for below in (1..described.len()).rev() {
            let miss_bytes = described[below..].iter().map(|layer| layer.read_bytes).sum();
            if let Some(cache) = &mut described[below - 1].cache {
                cache.miss_bytes = miss_bytes;
            }
        }
        ExportStatus {
            name: export.name.clone(),
            operations: operations.filter(|operation| operation.requests > 0).collect(),
            layers: described,
            failures: export.statistics.failures(),
            last_failure: export.statistics.last_failure(),
            recorded: export.recorder.as_ref().map(|recorder| recorder.borrow().requests()),
        }
    }

    fn describe(&self, text: &mut String) {
        let mut table = Table::default();
        table.row(["requests", "number", "bytes", "p50 ms", "p95 ms", "p99 ms", "max ms"]);
        for operation in &self.operations {
            let ms = |us: u64| format!("{:.3}", us as f64 / 1000.0);
            let OperationStatus { p50_us, p95_us, p99_us, max_us, .. } = operation;
            let times = [p50_us, p95_us, p99_us, max_us].map(|us| ms(*us));
            let counts = [operation.operation.clone(), operation.requests.to_string(), mb(operation.bytes)];
            table.row(counts.into_iter().chain(times));
        }
        text.push_str(&table.text(0));
        let mut table = Table::default();
        table.row(["image", "reads", "read", "writes", "written"]);
        for layer in &self.layers {
            table.row([
                format!("{} ({})", layer.image, layer.kind),
                layer.reads.to_string(),
                mb(layer.read_bytes),
                layer.writes.to_string(),
                mb(layer.written_bytes),
            ]);
        }
        text.push_str(&table.text(0));
        for layer in &self.layers {
            if let Some(cache) = &layer.cache {
                let in_use =
                    cache.in_use_bytes.map_or(String::new(), |bytes| format!("{} in use of ", mb(bytes)));
                let clusters = ClusterLayout { size: cache.cluster_size, extended_l2: cache.extended_l2 };
                text.push_str(&format!(
                    "{}: clusters of {clusters}; {in_use}a quota of {}; hits {}, misses {}{}\n",
                    layer.image,
                    mb(cache.quota_bytes),
                    mb(cache.hit_bytes),
                    mb(cache.miss_bytes),
                    if cache.filling { "" } else { "; only read" },
                ));
            }
        }
        if let Some(last) = &self.last_failure {
            text.push_str(&format!("{} requests failed, the last with: {last}\n", self.failures));
        }
    }
}

impl LayerStatus {
    fn of(layer: &Layer<Storage>) -> Self {
        let (counts, kind, cache) = match layer {
            Layer::Raw(raw) => (raw.storage().counts(), "raw", None),
            Layer::Qcow2(image) => {
                let counts = image.storage().counts();
                let filling = image.mode() == Mode::Fill;
                let header = image.header();
                let clusters = ClusterLayout::of(&header);
                let cache = header.cache().map(|cache| CacheStatus {
                    filling,
                    cluster_size: clusters.size,
                    extended_l2: clusters.extended_l2,
                    quota_bytes: cache.quota,
                    in_use_bytes: filling.then(|| image.bytes_in_use()),
                    hit_bytes: counts.guest_reads.bytes,
                    miss_bytes: 0,
                    failed_fills: image.failed_fills(),
                });
                (counts, if cache.is_some() { "cache" } else { "qcow2" }, cache)
            }
        };
        let Counts { guest_reads: Totals { requests: reads, bytes: read_bytes }, guest_writes, .. } = counts;
        LayerStatus {
            image: layer.name().to_string(),
            kind: kind.to_owned(),
            reads,
            read_bytes,
            writes: guest_writes.requests,
            written_bytes: guest_writes.bytes,
            cache,
        }
    }
}

/// Tells the status, as JSON, to whoever connects to the socket at `path`.
///
/// # Errors
/// If the socket cannot be made.
pub fn listen(
    path: &Path,
    server: &Rc<Server<Storage>>,
    runtime: &Rc<LocalRuntime>,
) -> anyhow::Result<Socket> {
    let make = || {
        let Listener::Unix(socket) = Listener::unix(path)? else { unreachable!() };
        socket.set_nonblocking(true)?;
        runtime.watch(socket)
    };
    let socket = make().with_context(|| format!("cannot tell the status at {}", path.display()))?;
    let server = server.clone();
    runtime.spawn(Box::pin(async move {
        while let Ok((mut client, _)) = socket.when_readable(UnixListener::accept).await {
            if let Ok(status) = serde_json::to_vec(&Status::of(&server)) {
                // It fits the socket's buffer; a client that has gone needs none.
                let _ = client.write_all(&status);
            }
        }
    }));
    Ok(Socket(path.to_path_buf()))
}
