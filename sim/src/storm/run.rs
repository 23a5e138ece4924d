//! Running a boot storm.

use super::measure::measure;
use super::{BootOptions, Outcome, Recorder, Recording, Start, Storm, StormError, VmOutcome};
use crate::deployment::{Chain, Place, Site, WarmCaches};
use crate::engine::{Law, Simulation, Span, Streams, Time, Violation};
use crate::models::{Build, ComputeNode, Load, StorageNode};
use crate::vm::{BootPlan, issue};
use rand::RngExt;
use rand_distr::{Distribution, Triangular};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use vmicache_format::runtime::Event;
use vmicache_format::trace::Op;

/// Runs a boot storm.
///
/// # Errors
/// If the storm cannot be (see [`StormError`]), or one of the checks on what came out fails.
pub fn run(storm: &Storm<'_>) -> Result<Outcome, StormError> {
    storm.check()?;
    let sim = Simulation::new();
    let recorder = if storm.timeline { Recorder::new(&sim) } else { Recorder::default() };
    let streams = Streams::new(storm.seed, storm.replication);
    let site = Rc::new(build(storm, &sim, &streams, &recorder));
    let plans = plans(storm);
    let finished = sim.block_on(async {
        let vms = open_all(storm, &site, &plans, &streams, &recorder).await?;
        let progress = Rc::new(Progress::new(vms.len()));
        for vm in vms {
            let name = format!("virtual machine {}", vm.number);
            sim.spawn(name, vm.run(sim.clone(), site.clone(), progress.clone()));
        }
        progress.wait_for(&progress.booting).await?;
        let mut outcome = measure(&site, &progress.vms.borrow(), &progress.chains.borrow());
        progress.wait_for(&progress.settling).await?;
        outcome.settled = sim.now().since(outcome.first_start());
        Ok::<_, StormError>(outcome)
    });
    let mut outcome = finished??;
    outcome.timeline = recorder.take();
    check(&site, storm)?;
    Ok(outcome)
}

/// Checks the accounts of every resource, and that what left the storage node arrived, but for what may still be
/// on its way.
fn check(site: &Site, storm: &Storm<'_>) -> Result<(), Violation> {
    site.storage.check()?;
    site.nodes.iter().try_for_each(ComputeNode::check)?;
    let sent = site.storage.server().port_usage().amount;
    let received: u64 = site.nodes.iter().map(|node| node.nfs().received_bytes()).sum();
    let nfs = &storm.hardware.nfs;
    let on_the_way =
        u64::from(storm.nodes).saturating_mul(u64::from(nfs.slots)).saturating_mul(nfs.rsize_bytes);
    if received <= sent && sent - received <= on_the_way {
        return Ok(());
    }
    Err(Violation {
        resource: "storage node network port".into(),
        law: Law::Conservation,
        unit: "bytes",
        left: sent as f64,
        right: received as f64,
    })
}

/// The nodes of the storm.
fn build(storm: &Storm<'_>, sim: &Simulation, streams: &Streams, recorder: &Recorder) -> Site {
    let (hardware, network) = (storm.hardware, storm.network);
    let build = Build { sim, hardware, network, streams, recorder };
    let storage = StorageNode::new(&build, storm.reserved_storage_memory());
    let load = Load { cache_mode: storm.cache_mode, reserved_bytes: storm.reserved_compute_memory() };
    let nodes = (0..storm.nodes).map(|number| ComputeNode::new(&build, number, &load, &storage)).collect();
    let guest = Rc::new(storm.guest.clone());
    let warm = WarmCaches::new(guest.clone(), storm.boot.recording, streams);
    Site::new(guest, storm.deployment, storage, nodes, storm.images, warm, sim.runtime())
}

/// Each recorded boot with the factor that gives it the wanted seconds of computing.
fn plans(storm: &Storm<'_>) -> Vec<(Rc<BootPlan>, f64)> {
    let plan = |(boot, dependencies): &_| {
        let plan = BootPlan::new(boot, dependencies);
        let factor = match storm.boot.cpu_seconds {
            Some(wanted) if plan.cpu() > Span::ZERO => wanted / plan.cpu().seconds(),
            _ => 1.0,
        };
        (Rc::new(plan), factor)
    };
    storm.guest.boots.iter().map(plan).collect()
}

/// A virtual machine that is about to start.
struct Vm {
    number: u32,
    place: Place,
    recording: usize,
    start: Time,
    plan: Rc<BootPlan>,
    /// On its think times.
    factor: f64,
    cpu: Span,
    chain: Rc<Chain>,
    recorder: Recorder,
}

async fn open_all(
    storm: &Storm<'_>,
    site: &Site,
    plans: &[(Rc<BootPlan>, f64)],
    streams: &Streams,
    recorder: &Recorder,
) -> Result<Vec<Vm>, StormError> {
    // Where a node has fewer cores than virtual machines, each computes that much slower.
    let crowding = (f64::from(storm.vms_per_node) / f64::from(storm.hardware.compute_node.cores)).max(1.0);
    let mut vms = Vec::with_capacity(storm.vms() as usize);
    for number in 0..storm.vms() {
        let place = Place { node: number % storm.nodes, image: number % storm.images };
        let recording = recording(&storm.boot, storm.guest.boots.len(), streams, number);
        let (plan, scale) = &plans[recording];
        let factor = scale * noise(&storm.boot, streams, number) * crowding;
        vms.push(Vm {
            number,
            place,
            recording,
            start: start(storm.start, streams, number),
            plan: plan.clone(),
            factor,
            cpu: plan.cpu().scaled(factor),
            chain: Rc::new(site.open(place).await?),
            recorder: recorder
                .track(&format!("compute node {}", place.node), &format!("virtual machine {number}")),
        });
    }
    Ok(vms)
}

fn recording(boot: &BootOptions, recordings: usize, streams: &Streams, vm: u32) -> usize {
    match boot.recording {
        Recording::Only(recording) => recording,
        Recording::Drawn => streams.numbered("recording", u64::from(vm)).random_range(0..recordings),
    }
}

/// The factor on a virtual machine's think times.
fn noise(boot: &BootOptions, streams: &Streams, vm: u32) -> f64 {
    let width = boot.think_noise;
    match Triangular::new(1.0 - width, 1.0 + width, 1.0) {
        Ok(triangle) if width > 0.0 => triangle.sample(&mut streams.numbered("think time", u64::from(vm))),
        _ => 1.0,
    }
}

fn start(start: Start, streams: &Streams, vm: u32) -> Time {
    let after = match start {
        Start::AtOnce => Span::ZERO,
        Start::Jitter(most) => {
            let drawn = streams.numbered("start", u64::from(vm)).random_range(0..=most.picoseconds());
            Span::from_picoseconds(drawn)
        }
        Start::Staggered(interval) => {
            Span::from_picoseconds(interval.picoseconds().saturating_mul(u64::from(vm)))
        }
    };
    Time::ZERO + after
}

impl Vm {
    async fn run(self, sim: Simulation, site: Rc<Site>, progress: Rc<Progress>) {
        sim.sleep_until(self.start).await;
        let booted = self.boot(&sim, &site).await;
        let outcome = VmOutcome {
            node: self.place.node,
            image: self.place.image,
            recording: self.recording,
            started: self.start,
            booted: sim.now(),
            cpu: self.cpu,
            base_bytes: self.chain.below.base.counts().guest_reads.bytes,
        };
        progress.booted(self.number, outcome, &self.chain);
        let settled = match booted {
            Ok(()) => site.after_boot(self.place, &self.chain).await,
            Err(error) => Err(error),
        };
        progress.settled(settled);
    }

    async fn boot(&self, sim: &Simulation, site: &Site) -> vmicache_format::Result<()> {
        let whole = self.recorder.begin("boot", 0);
        site.before_boot(&self.chain).await?;
        let think = async |span: Span| sim.sleep(span.scaled(self.factor)).await;
        self.plan
            .replay(think, async |_, request| {
                let span = self.recorder.begin(name(request.op), request.length);
                issue(&self.chain.disk, request).await?;
                span.end();
                Ok(())
            })
            .await?;
        whole.end();
        Ok(())
    }
}

fn name(op: Op) -> &'static str {
    match op {
        Op::Read => "guest reads",
        Op::Write => "guest writes",
        Op::Zero => "guest zeroes",
        Op::Trim => "guest trims",
        Op::Flush => "guest flushes",
    }
}

/// How far the storm is.
struct Progress {
    vms: RefCell<Vec<Option<VmOutcome>>>,
    chains: RefCell<Vec<Rc<Chain>>>,
    booting: Cell<usize>,
    settling: Cell<usize>,
    failed: RefCell<Option<vmicache_format::Error>>,
    changed: Event,
}

impl Progress {
    fn new(vms: usize) -> Self {
        Progress {
            vms: RefCell::new(vec![None; vms]),
            chains: RefCell::default(),
            booting: Cell::new(vms),
            settling: Cell::new(vms),
            failed: RefCell::default(),
            changed: Event::new(),
        }
    }

    fn booted(&self, number: u32, outcome: VmOutcome, chain: &Rc<Chain>) {
        self.vms.borrow_mut()[number as usize] = Some(outcome);
        self.chains.borrow_mut().push(chain.clone());
        self.booting.set(self.booting.get() - 1);
        self.changed.notify();
    }

    fn settled(&self, result: vmicache_format::Result<()>) {
        if let Err(error) = result {
            self.failed.borrow_mut().get_or_insert(error);
        }
        self.settling.set(self.settling.get() - 1);
        self.changed.notify();
    }

    /// Waits until `left` is down to nothing, or something has failed.
    async fn wait_for(&self, left: &Cell<usize>) -> Result<(), StormError> {
        loop {
            let changed = self.changed.listen();
            if let Some(error) = self.failed.borrow().clone() {
                return Err(error.into());
            }
            if left.get() == 0 {
                return Ok(());
            }
            changed.await;
        }
    }
}
