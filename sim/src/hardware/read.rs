//! Reading a profile from its file.

use super::error::ProfileError;
use super::section::{NAME, Quantity, Section, is_name, line, one_of};
use super::{
    CacheMode, ComputeNode, DeviceProfile, HardDiskProfile, MemoryProfile, Network, Nfs, Profile,
    SolidStateProfile, StorageNode,
};
use crate::engine::Span;
use std::path::Path;
use toml::de::DeTable;

/// What is slower or faster than this, in MB or Mbit a second, is no storage and no network.
const SLOWEST: f64 = 0.001;
const FASTEST: f64 = 1e7;

const fn quantity(key: &'static str, least: f64, most: f64) -> Quantity {
    Quantity { key, least, most }
}

const MEMORY: Quantity = quantity("memory_gib", 0.001, 1048576.0);
const CORES: Quantity = quantity("cores", 1.0, 65536.0);
const READAHEAD: Quantity = quantity("readahead_kib", 0.0, 1048576.0);

const CAPACITY: Quantity = quantity("capacity_gb", 0.001, 1e6);
const ROTATION: Quantity = quantity("rotation_rpm", 60.0, 1e6);
const OVERHEAD: Quantity = quantity("overhead_ms", 0.0, 1000.0);
const SEEK_TRACK_TO_TRACK: Quantity = quantity("seek_track_to_track_ms", 0.0, 1000.0);
const SEEK_AVERAGE: Quantity = quantity("seek_average_ms", 0.0, 1000.0);
const SEEK_FULL_STROKE: Quantity = quantity("seek_full_stroke_ms", 0.0, 1000.0);
const OUTER: Quantity = quantity("outer_mb_s", SLOWEST, FASTEST);
const INNER: Quantity = quantity("inner_mb_s", SLOWEST, FASTEST);
const HARD_DISK: &[Quantity] =
    &[CAPACITY, ROTATION, OVERHEAD, SEEK_TRACK_TO_TRACK, SEEK_AVERAGE, SEEK_FULL_STROKE, OUTER, INNER];

const MEMBERS: Quantity = quantity("members", 2.0, 1024.0);
const CHUNK: Quantity = quantity("chunk_kib", 4.0, 1048576.0);

const READ_LATENCY: Quantity = quantity("read_latency_us", 0.0, 1e6);
const WRITE_LATENCY: Quantity = quantity("write_latency_us", 0.0, 1e6);
const CHANNELS: Quantity = quantity("channels", 1.0, 65536.0);
const READ: Quantity = quantity("read_mb_s", SLOWEST, FASTEST);
const WRITE: Quantity = quantity("write_mb_s", SLOWEST, FASTEST);

const LATENCY: Quantity = quantity("latency_us", 0.0, 1e6);
const BANDWIDTH: Quantity = quantity("bandwidth_mb_s", SLOWEST, FASTEST);

const LINE_RATE: Quantity = quantity("bandwidth_mbit_s", SLOWEST, FASTEST);
const PAYLOAD_SHARE: Quantity = quantity("payload_share", 0.01, 1.0);
const ROUND_TRIP: Quantity = quantity("round_trip_us", 0.0, 1e7);

const RSIZE: Quantity = quantity("rsize_kib", 1.0, 65536.0);
const SLOTS: Quantity = quantity("slots", 1.0, 65536.0);
const SERVER_THREADS: Quantity = quantity("server_threads", 1.0, 65536.0);
const SERVER_CPU: Quantity = quantity("server_cpu_us", 0.0, 1e6);
const CLIENT_READAHEAD: Quantity = quantity("client_readahead_kib", 0.0, 1048576.0);

const CACHE_MODES: &[(&str, CacheMode)] = &[
    ("none", CacheMode::None),
    ("writeback", CacheMode::Writeback),
    ("writethrough", CacheMode::Writethrough),
];

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a profile: the error names file, line and key, what is wrong and what
    /// would be right.
    pub fn read(path: &Path) -> Result<Profile, ProfileError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Profile::parse(&text, &file),
            Err(source) => Err(ProfileError::Unreadable { file, source }),
        }
    }

    /// Reads a profile from the text of its file; errors call it `file`.
    ///
    /// # Errors
    /// As [`Profile::read`].
    pub fn parse(text: &str, file: &str) -> Result<Profile, ProfileError> {
        let table = DeTable::parse(text).map_err(|error| ProfileError::Syntax {
            file: file.into(),
            line: line(text, error.span().map_or(0, |span| span.start)),
            problem: error.message().into(),
        })?;
        let whole = Section::whole(file, text, &table);
        whole.allow(&[
            "name",
            "title",
            "default_network",
            "compute_node",
            "storage_node",
            "networks",
            "nfs",
        ])?;
        Ok(Profile {
            name: whole.name("name")?.into(),
            title: whole.text("title")?.into(),
            compute_node: compute_node(&whole.section("compute_node")?)?,
            storage_node: storage_node(&whole.section("storage_node")?)?,
            networks: networks(&whole)?,
            nfs: nfs(&whole.section("nfs")?)?,
            facts: whole.facts(),
        })
    }
}

fn compute_node(node: &Section<'_>) -> Result<ComputeNode, ProfileError> {
    node.allow(&[MEMORY.key, CORES.key, "cache_mode", READAHEAD.key, "disk", "memory"])?;
    Ok(ComputeNode {
        memory_bytes: node.bytes(MEMORY)?,
        cores: node.count(CORES)?,
        cache_mode: node.choice("cache_mode", CACHE_MODES)?,
        disk: device(&node.section("disk")?)?,
        memory: memory(&node.section("memory")?, &[])?,
        readahead_bytes: node.bytes(READAHEAD)?,
    })
}

fn storage_node(node: &Section<'_>) -> Result<StorageNode, ProfileError> {
    node.allow(&[MEMORY.key, READAHEAD.key, "disk", "memory"])?;
    Ok(StorageNode {
        memory_bytes: node.bytes(MEMORY)?,
        disk: device(&node.section("disk")?)?,
        memory: memory(&node.section("memory")?, &[])?,
        readahead_bytes: node.bytes(READAHEAD)?,
    })
}

fn device(disk: &Section<'_>) -> Result<DeviceProfile, ProfileError> {
    match disk.text("kind")? {
        "hard-disk" => Ok(DeviceProfile::HardDisk(hard_disk(disk, &["kind"])?)),
        "raid-0" => Ok(DeviceProfile::Raid0 {
            member: hard_disk(disk, &["kind", MEMBERS.key, CHUNK.key])?,
            members: disk.count(MEMBERS)?,
            chunk_bytes: disk.bytes(CHUNK)?,
        }),
        "solid-state" => Ok(DeviceProfile::SolidState(solid_state(disk)?)),
        "memory" => Ok(DeviceProfile::Memory(memory(disk, &["kind"])?)),
        other => {
            let kinds = one_of(["hard-disk", "raid-0", "solid-state", "memory"].into_iter());
            Err(disk.wrong("kind", format!("{other:?}"), kinds))
        }
    }
}

fn hard_disk(disk: &Section<'_>, others: &[&str]) -> Result<HardDiskProfile, ProfileError> {
    let own = HARD_DISK.iter().map(|quantity| quantity.key);
    disk.allow(&others.iter().copied().chain(own).collect::<Vec<_>>())?;
    rising(disk, SEEK_TRACK_TO_TRACK, SEEK_AVERAGE)?;
    rising(disk, SEEK_AVERAGE, SEEK_FULL_STROKE)?;
    rising(disk, INNER, OUTER)?;
    Ok(HardDiskProfile {
        capacity_bytes: disk.bytes(CAPACITY)?,
        rotation: Span::from_seconds(60.0 / disk.number(ROTATION)?),
        overhead: disk.span(OVERHEAD)?,
        seek_track_to_track: disk.span(SEEK_TRACK_TO_TRACK)?,
        seek_average: disk.span(SEEK_AVERAGE)?,
        seek_full_stroke: disk.span(SEEK_FULL_STROKE)?,
        outer_bytes_per_s: disk.rate(OUTER)?,
        inner_bytes_per_s: disk.rate(INNER)?,
    })
}

/// Checks that `most` is at least `least`.
fn rising(disk: &Section<'_>, least: Quantity, most: Quantity) -> Result<(), ProfileError> {
    let (low, high) = (disk.number(least)?, disk.number(most)?);
    match low <= high {
        true => Ok(()),
        false => Err(disk.wrong(most.key, high.to_string(), format!("at least {}, {low},", least.key))),
    }
}

fn solid_state(disk: &Section<'_>) -> Result<SolidStateProfile, ProfileError> {
    disk.allow(&["kind", READ_LATENCY.key, WRITE_LATENCY.key, CHANNELS.key, READ.key, WRITE.key])?;
    Ok(SolidStateProfile {
        read_latency: disk.span(READ_LATENCY)?,
        write_latency: disk.span(WRITE_LATENCY)?,
        channels: disk.count(CHANNELS)?,
        read_bytes_per_s: disk.rate(READ)?,
        write_bytes_per_s: disk.rate(WRITE)?,
    })
}

fn memory(memory: &Section<'_>, others: &[&str]) -> Result<MemoryProfile, ProfileError> {
    memory.allow(&[others, &[LATENCY.key, BANDWIDTH.key]].concat())?;
    Ok(MemoryProfile { latency: memory.span(LATENCY)?, bytes_per_s: memory.rate(BANDWIDTH)? })
}

/// The networks, the default first, the others in the order of the file.
fn networks(whole: &Section<'_>) -> Result<Vec<Network>, ProfileError> {
    let default = whole.text("default_network")?;
    let section = whole.section("networks")?;
    let names = section.keys();
    if !names.contains(&default) {
        let expected = format!("one of the networks, {},", one_of(names.into_iter()));
        return Err(whole.wrong("default_network", format!("{default:?}"), expected));
    }
    let mut networks =
        names.into_iter().map(|name| network(&section, name)).collect::<Result<Vec<_>, _>>()?;
    networks.sort_by_key(|network| network.name != default);
    Ok(networks)
}

fn network(networks: &Section<'_>, name: &str) -> Result<Network, ProfileError> {
    if !is_name(name) {
        return Err(networks.wrong(name, "no name of a network".into(), NAME.into()));
    }
    let network = networks.section(name)?;
    network.allow(&["title", LINE_RATE.key, PAYLOAD_SHARE.key, ROUND_TRIP.key])?;
    Ok(Network {
        name: name.into(),
        title: network.text("title")?.into(),
        bits_per_s: network.rate(LINE_RATE)?,
        payload_share: network.number(PAYLOAD_SHARE)?,
        round_trip: network.span(ROUND_TRIP)?,
    })
}

fn nfs(nfs: &Section<'_>) -> Result<Nfs, ProfileError> {
    nfs.allow(&[RSIZE.key, SLOTS.key, SERVER_THREADS.key, SERVER_CPU.key, CLIENT_READAHEAD.key])?;
    Ok(Nfs {
        rsize_bytes: nfs.bytes(RSIZE)?,
        slots: nfs.count(SLOTS)?,
        server_threads: nfs.count(SERVER_THREADS)?,
        server_cpu: nfs.span(SERVER_CPU)?,
        client_readahead_bytes: nfs.bytes(CLIENT_READAHEAD)?,
    })
}
