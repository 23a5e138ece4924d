//! The shared link against known makespans, and against sharing done the slow, obvious way.

use futures_util::future::{join_all, select};
use proptest::prelude::*;
use vmicache_sim::engine::{Link, Simulation, Span, Time};

/// The generator of the known makespans: a linear congruential one of 64 bits with Knuth's multiplier, seeded
/// by the client's number.
struct Lcg(u64);

impl Lcg {
    fn new(seed: u64) -> Lcg {
        let mut generator = Lcg(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03);
        generator.uniform();
        generator.uniform();
        generator
    }

    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }
}

/// When the last of `clients` clients is done, each of which thinks for 0.5 to 1.5 ms and then transfers
/// 64 KiB at no more than 125 MB/s over a link of 4 GB/s, `transfers` times.
fn makespan(clients: u64, transfers: u32) -> Time {
    let simulation = Simulation::new();
    let link = Link::new(&simulation, "link", 4e9);
    for client in 0..clients {
        let (handle, link) = (simulation.clone(), link.clone());
        simulation.spawn("client", async move {
            let mut generator = Lcg::new(client);
            for _ in 0..transfers {
                handle.sleep(Span::from_seconds(1e-3 * (0.5 + generator.uniform()))).await;
                link.transfer(65536, 125e6).await;
            }
        });
    }
    simulation.run().expect("nobody waits for another");
    link.check().expect("the books are right");
    assert_eq!(link.usage().amount, clients * u64::from(transfers) * 65536);
    simulation.now()
}

/// The figures are those of a plain event loop and of two other simulators, to every digit that these agree on.
#[test]
fn makespans_are_the_known_ones() {
    assert_eq!(makespan(64, 200).to_string(), "0.317308026 s");
    assert_eq!(makespan(64, 1000).to_string(), "1.544451753 s");
    assert_eq!(makespan(512, 10).to_string(), "0.084466471 s");
}

#[derive(Clone, Debug)]
struct Flow {
    begin: Span,
    amount: u64,
    cap: f64,
    /// It is dropped so long after its beginning, unless it has ended by then.
    patience: Option<Span>,
}

/// Everyone's rate: whoever has a cap below an equal share of what is left gets the cap, until nobody has;
/// the others get that share.
fn fill(capacity: f64, caps: &[f64]) -> Vec<f64> {
    let mut rates = vec![None; caps.len()];
    loop {
        let given: f64 = rates.iter().flatten().sum();
        let open = rates.iter().filter(|rate| rate.is_none()).count();
        let share = (capacity - given) / open as f64;
        let low: Vec<usize> = (0..caps.len()).filter(|&i| rates[i].is_none() && caps[i] <= share).collect();
        if low.is_empty() {
            return rates.into_iter().map(|rate| rate.unwrap_or(share)).collect();
        }
        low.into_iter().for_each(|i| rates[i] = Some(caps[i]));
    }
}

/// When each flow leaves, in seconds: step by step from one change to the next, with everyone's remaining
/// amount.
fn slow(capacity: f64, flows: &[Flow]) -> Vec<f64> {
    let begins: Vec<f64> = flows.iter().map(|flow| flow.begin.seconds()).collect();
    let ends: Vec<f64> = flows
        .iter()
        .map(|flow| flow.patience.map_or(f64::INFINITY, |patience| (flow.begin + patience).seconds()))
        .collect();
    let mut remaining: Vec<f64> = flows.iter().map(|flow| flow.amount as f64).collect();
    let mut left = vec![None; flows.len()];
    let mut now = 0.0;
    while left.iter().any(Option::is_none) {
        let active: Vec<usize> =
            (0..flows.len()).filter(|&i| begins[i] <= now && left[i].is_none()).collect();
        let rates = fill(capacity, &active.iter().map(|&i| flows[i].cap).collect::<Vec<_>>());
        let begins = begins.iter().copied().filter(|&begin| begin > now);
        let ending = active.iter().zip(&rates).map(|(&i, rate)| (now + remaining[i] / rate).min(ends[i]));
        let next = begins.chain(ending.clone()).fold(f64::INFINITY, f64::min);
        let gone: Vec<bool> = ending.map(|end| end <= next).collect();
        for ((&i, rate), gone) in active.iter().zip(&rates).zip(gone) {
            remaining[i] -= rate * (next - now);
            if gone {
                left[i] = Some(next);
            }
        }
        now = next;
    }
    left.into_iter().flatten().collect()
}

/// When each flow leaves, in the engine.
fn engine(capacity: f64, flows: &[Flow]) -> Vec<f64> {
    let simulation = Simulation::new();
    let link = Link::new(&simulation, "link", capacity);
    let clients = flows.iter().map(|flow| {
        let (simulation, link) = (&simulation, &link);
        async move {
            simulation.sleep(flow.begin).await;
            let transfer = link.transfer(flow.amount, flow.cap);
            match flow.patience {
                None => transfer.await,
                Some(patience) => drop(select(transfer, simulation.sleep(patience)).await),
            }
            link.check().expect("the books are right");
            simulation.now().seconds()
        }
    });
    simulation.block_on(join_all(clients)).expect("nobody waits for another")
}

fn span() -> impl Strategy<Value = Span> {
    (0..2_000_000_u64).prop_map(Span::from_microseconds)
}

fn cap() -> impl Strategy<Value = f64> {
    prop_oneof![
        prop::sample::select(vec![1e5, 3e5, 1e6, 1e7, f64::INFINITY]),
        (1_000..20_000_000_u64).prop_map(|cap| cap as f64),
    ]
}

fn flow() -> impl Strategy<Value = Flow> {
    (span(), 0..3_000_000_u64, cap(), prop::option::weighted(0.3, span()))
        .prop_map(|(begin, amount, cap, patience)| Flow { begin, amount, cap, patience })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn unequal_caps_share_as_the_obvious_way_does(
        capacity in 100_000..20_000_000_u64,
        flows in prop::collection::vec(flow(), 1..40),
    ) {
        let (slow, engine) = (slow(capacity as f64, &flows), engine(capacity as f64, &flows));
        for (flow, (slow, engine)) in flows.iter().zip(slow.iter().zip(&engine)) {
            // Up to 80 changes, each a picosecond early or late; and a slow flow may be shifted by what
            // faster ones moved in that time.
            prop_assert!((slow - engine).abs() < 1e-8, "{flow:?}: {slow} by the obvious way, {engine} here");
        }
    }
}
