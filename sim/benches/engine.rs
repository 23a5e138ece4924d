//! The engine beside plain event loops written for one task each: timers, and a shared link.
//!
//! `cargo bench -p vmicache-sim --bench engine`
//!
//! Plain and engine run in turn; the figures are medians of the CPU time, in nanoseconds for each event.

use nix::time::{ClockId, clock_gettime};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use vmicache_sim::engine::{Link, Simulation, Span};

const RUNS: usize = 5;
const TRANSFERS: u32 = 640_000;

const CAPACITY: f64 = 4e9;
const CAP: f64 = 125e6;
const SIZE: u64 = 65536;

fn main() {
    println!("{:<32}{:>10}{:>10}{:>16}", "", "plain ns", "engine ns", "plain : engine");
    let chains = 1000;
    let steps = 5000;
    compare("timers, 1000 chains", chains * steps, || plain_timers(chains, steps), || timers(chains, steps));
    let costs = [64, 512, 4096].map(|clients| {
        let each = TRANSFERS / clients;
        let title = format!("shared link, {clients} clients");
        compare(&title, clients * each, || plain_link(clients, each), || link(clients, each))
    });
    let flat =
        costs.iter().copied().fold(0.0, f64::max) / costs.iter().copied().fold(f64::INFINITY, f64::min);
    println!("\nshared link, the dearest number of clients : the cheapest = {flat:.2}");
}

/// Runs both in turn, prints a line, and returns the engine's nanoseconds for each event.
fn compare(title: &str, events: u32, plain: impl Fn() -> f64, engine: impl Fn() -> f64) -> f64 {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        let ends = [timed(&mut times[0], &plain), timed(&mut times[1], &engine)];
        // Both simulate the same: up to a picosecond for each step of a client.
        assert!(
            (ends[0] - ends[1]).abs() < 1e-7,
            "{title}: plain ends at {} s, the engine at {} s",
            ends[0],
            ends[1]
        );
    }
    let [plain, engine] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[RUNS / 2] * 1e9 / f64::from(events)
    });
    println!("{title:<32}{plain:>10.1}{engine:>10.1}{:>16.2}", plain / engine);
    engine
}

fn timed(times: &mut Vec<f64>, run: impl Fn() -> f64) -> f64 {
    let begin = cpu_seconds();
    let end = run();
    times.push(cpu_seconds() - begin);
    end
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("the system tells the CPU time");
    time.tv_sec() as f64 + time.tv_nsec() as f64 * 1e-9
}

/// A linear congruential generator: cheap, so that little but the engine is measured.
struct Lcg(u64);

impl Lcg {
    fn new(seed: u32) -> Lcg {
        let mut generator = Lcg(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        generator.uniform();
        generator
    }

    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }
}

fn timers(chains: u32, steps: u32) -> f64 {
    let simulation = Simulation::new();
    for chain in 0..chains {
        let handle = simulation.clone();
        simulation.spawn("chain", async move {
            let mut random = Lcg::new(chain);
            for _ in 0..steps {
                handle.sleep(Span::from_seconds(0.5 + random.uniform())).await;
            }
        });
    }
    simulation.run().expect("nobody waits for another");
    simulation.now().seconds()
}

/// Bits of a positive float are ordered as the float is.
type Events = BinaryHeap<Reverse<(u64, u64, u32)>>;

fn plain_timers(chains: u32, steps: u32) -> f64 {
    let mut random: Vec<Lcg> = (0..chains).map(Lcg::new).collect();
    let mut left = vec![steps; chains as usize];
    let mut events = Events::with_capacity(random.len() + 1);
    let mut order = 0;
    for chain in 0..chains {
        events.push(Reverse(((0.5 + random[chain as usize].uniform()).to_bits(), order, chain)));
        order += 1;
    }
    let mut now = 0.0;
    while let Some(Reverse((at, _, id))) = events.pop() {
        now = f64::from_bits(at);
        let chain = id as usize;
        left[chain] -= 1;
        if left[chain] > 0 {
            events.push(Reverse(((now + 0.5 + random[chain].uniform()).to_bits(), order, id)));
            order += 1;
        }
    }
    now
}

fn link(clients: u32, transfers: u32) -> f64 {
    let simulation = Simulation::new();
    let link = Link::new(&simulation, "link", CAPACITY);
    for client in 0..clients {
        let (handle, link) = (simulation.clone(), link.clone());
        simulation.spawn("client", async move {
            let mut random = Lcg::new(client);
            for _ in 0..transfers {
                handle.sleep(Span::from_seconds(think(&mut random))).await;
                link.transfer(SIZE, CAP).await;
            }
        });
    }
    simulation.run().expect("nobody waits for another");
    simulation.now().seconds()
}

fn think(random: &mut Lcg) -> f64 {
    1e-3 * (0.5 + random.uniform())
}

fn plain_link(clients: u32, transfers: u32) -> f64 {
    let mut random: Vec<Lcg> = (0..clients).map(Lcg::new).collect();
    let mut left = vec![transfers; clients as usize];
    let mut thinking = Events::with_capacity(random.len() + 1);
    let mut flows = Events::with_capacity(random.len() + 1);
    let mut order = 0;
    for client in 0..clients {
        thinking.push(Reverse((think(&mut random[client as usize]).to_bits(), order, client)));
        order += 1;
    }
    // What every flow has moved since the link was last empty, as of `now`.
    let (mut moved, mut now) = (0.0, 0.0_f64);
    loop {
        let rate = CAP.min(CAPACITY / flows.len() as f64);
        let end = flows
            .peek()
            .map_or(f64::INFINITY, |flow| now + (f64::from_bits(flow.0.0) - moved).max(0.0) / rate);
        let begin = thinking.peek().map_or(f64::INFINITY, |event| f64::from_bits(event.0.0));
        if end <= begin {
            let Some(Reverse((finish, _, client))) = flows.pop() else { return now };
            (moved, now) = (f64::from_bits(finish), end);
            let index = client as usize;
            left[index] -= 1;
            if left[index] > 0 {
                thinking.push(Reverse(((now + think(&mut random[index])).to_bits(), order, client)));
                order += 1;
            }
        } else if let Some(Reverse((at, _, client))) = thinking.pop() {
            let at = f64::from_bits(at);
            moved = if flows.is_empty() { 0.0 } else { moved + (at - now) * rate };
            now = at;
            flows.push(Reverse(((moved + SIZE as f64).to_bits(), order, client)));
            order += 1;
        }
    }
}
