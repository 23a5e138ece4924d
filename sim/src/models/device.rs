//! Devices that hold images.

use std::rc::Rc;

use futures_util::future::join_all;
use smallvec::SmallVec;

use super::hard_disk::HardDisk;
use crate::engine::{Link, Server, Simulation, Span, Streams, Usage, Violation};
use crate::hardware::{DeviceProfile, HardDiskProfile, MemoryProfile, SolidStateProfile};

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the device.
    Read,
    /// To the device.
    Write,
}

/// A device that holds images: hard disk, RAID-0 of hard disks, solid-state drive or memory. Clones are the
/// same device.
#[derive(Clone)]
pub struct Device {
    kind: Rc<Kind>,
    capacity: Option<u64>,
}

enum Kind {
    Disks(Stripes),
    SolidState(SolidState),
    Memory(Memory),
}

impl Device {
    /// A device that does nothing yet. A hard disk draws from the stream `disk rotation <its name>`; the
    /// members of a RAID are named `<name> member 0` and so on.
    pub fn new(sim: &Simulation, name: &str, profile: &DeviceProfile, streams: &Streams) -> Device {
        let kind = match profile {
            DeviceProfile::HardDisk(disk) => Kind::Disks(Stripes {
                chunk: u64::MAX,
                members: vec![HardDisk::new(sim, name, disk, streams)],
            }),
            DeviceProfile::Raid0 { members, chunk_bytes, member } => {
                Kind::Disks(Stripes::new(sim, name, *members, *chunk_bytes, member, streams))
            }
            DeviceProfile::SolidState(profile) => Kind::SolidState(SolidState::new(sim, name, profile)),
            DeviceProfile::Memory(profile) => Kind::Memory(Memory::new(sim, name, profile)),
        };
        Device { kind: Rc::new(kind), capacity: profile.capacity_bytes() }
    }

    /// Reads or writes `bytes` bytes at `offset`, and waits until that is done. No bytes take no time; what
    /// lies beyond the capacity of a hard disk takes as long as at its end.
    pub async fn access(&self, direction: Direction, offset: u64, bytes: u64) {
        if bytes == 0 {
            return;
        }
        match &*self.kind {
            Kind::Disks(disks) => disks.access(offset, bytes).await,
            Kind::SolidState(drive) => drive.access(direction, bytes).await,
            Kind::Memory(memory) => memory.access(bytes).await,
        }
    }

    /// Bytes it holds, if its profile says so.
    pub fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    /// What each of its queues did, with its name; members of a RAID apart.
    pub fn usages(&self) -> Vec<(String, Usage)> {
        match &*self.kind {
            Kind::Disks(disks) => {
                disks.members.iter().map(|disk| (disk.name().to_owned(), disk.queue().usage())).collect()
            }
            Kind::SolidState(drive) => vec![
                (format!("{} commands", drive.name), drive.commands.usage()),
                (format!("{} reads", drive.name), drive.reads.usage()),
                (format!("{} writes", drive.name), drive.writes.usage()),
            ],
            Kind::Memory(memory) => vec![(memory.name.clone(), memory.copying.usage())],
        }
    }

    /// Checks the accounts of its queues.
    ///
    /// # Errors
    /// The first law that does not hold.
    pub fn check(&self) -> Result<(), Violation> {
        match &*self.kind {
            Kind::Disks(disks) => disks.members.iter().try_for_each(|disk| disk.queue().check()),
            Kind::SolidState(drive) => {
                drive.commands.check()?;
                drive.reads.check()?;
                drive.writes.check()
            }
            Kind::Memory(memory) => memory.copying.check(),
        }
    }
}

/// Hard disks that take turns at chunks; one alone has them all.
struct Stripes {
    chunk: u64,
    members: Vec<HardDisk>,
}

impl Stripes {
    fn new(
        sim: &Simulation,
        name: &str,
        members: u32,
        chunk_bytes: u64,
        profile: &HardDiskProfile,
        streams: &Streams,
    ) -> Stripes {
        let member = |number| HardDisk::new(sim, &format!("{name} member {number}"), profile, streams);
        Stripes { chunk: chunk_bytes.max(1), members: (0..members.max(1)).map(member).collect() }
    }

    /// Ends with the last of its fragments. Chunks that follow one another on a member are contiguous there,
    /// so that each member has at most one fragment.
    async fn access(&self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes);
        let fragments: SmallVec<[_; 4]> = (0..)
            .zip(&self.members)
            .map(|(number, disk)| (disk, self.before(number, offset), self.before(number, end)))
            .filter(|(_, from, to)| from < to)
            .collect();
        match fragments[..] {
            [(disk, from, to)] => disk.access(from, to - from).await,
            _ => drop(join_all(fragments.iter().map(|(disk, from, to)| disk.access(*from, to - from))).await),
        }
    }

    /// How many of the bytes before `offset` lie on a member: where the next one lies there.
    fn before(&self, member: u64, offset: u64) -> u64 {
        let stripe = self.chunk.saturating_mul(self.members.len() as u64);
        let in_stripe = (offset % stripe).saturating_sub(self.chunk.saturating_mul(member)).min(self.chunk);
        offset / stripe * self.chunk + in_stripe
    }
}

/// Flash: a few commands at a time, whose data shares the way out or in.
struct SolidState {
    name: String,
    profile: SolidStateProfile,
    commands: Server,
    reads: Link,
    writes: Link,
}

impl SolidState {
    fn new(sim: &Simulation, name: &str, profile: &SolidStateProfile) -> SolidState {
        SolidState {
            name: name.to_owned(),
            profile: profile.clone(),
            commands: Server::new(sim, format!("{name} commands"), profile.channels.max(1) as usize),
            reads: Link::new(sim, format!("{name} reads"), profile.read_bytes_per_s),
            writes: Link::new(sim, format!("{name} writes"), profile.write_bytes_per_s),
        }
    }

    async fn access(&self, direction: Direction, bytes: u64) {
        let (latency, data, rate) = match direction {
            Direction::Read => (self.profile.read_latency, &self.reads, self.profile.read_bytes_per_s),
            Direction::Write => (self.profile.write_latency, &self.writes, self.profile.write_bytes_per_s),
        };
        self.commands.serve(0, latency).await;
        data.transfer(bytes, rate).await;
    }
}

/// Memory: any number of requests at once, which share the copying rate.
struct Memory {
    name: String,
    sim: Simulation,
    latency: Span,
    rate: f64,
    copying: Link,
}

impl Memory {
    fn new(sim: &Simulation, name: &str, profile: &MemoryProfile) -> Memory {
        Memory {
            name: name.to_owned(),
            sim: sim.clone(),
            latency: profile.latency,
            rate: profile.bytes_per_s,
            copying: Link::new(sim, name, profile.bytes_per_s),
        }
    }

    async fn access(&self, bytes: u64) {
        self.sim.sleep(self.latency).await;
        self.copying.transfer(bytes, self.rate).await;
    }
}
