//! Queues built from the engine's own parts, against what theory says of them.
//!
//! Each mean is over the seeds 1 to 30. It has to be known to one per cent (half the 95 % confidence interval),
//! and to lie within 3.5 standard errors of theory. That the criterion finds a fault is part of each test:
//! service that takes 3 % longer must be rejected.

use rand::RngExt;
use std::cell::RefCell;
use std::rc::Rc;
use vmicache_sim::engine::{Link, Server, Simulation, Span, Stream, Streams};

const SEEDS: u64 = 30;
/// Student's t for 97.5 % and 29 degrees of freedom.
const T_29: f64 = 2.045;

const WARM_UP: usize = 15_000;

/// Draws a service time in seconds: one, on average.
type Service = fn(&mut Stream) -> f64;

fn exponential(random: &mut Stream, mean: f64) -> f64 {
    -mean * libm::log(1.0 - random.random::<f64>())
}

fn exponential_service(random: &mut Stream) -> f64 {
    exponential(random, 1.0)
}

fn constant_service(_: &mut Stream) -> f64 {
    1.0
}

/// A fifth takes three seconds on average and the others half a second: the variance is 3.
fn hyperexponential_service(random: &mut Stream) -> f64 {
    let mean = if random.random::<f64>() < 0.2 { 3.0 } else { 0.5 };
    exponential(random, mean)
}

/// Where customers are served.
#[derive(Clone)]
enum Station {
    Queue(Server),
    Shared(Link),
}

/// Units a second of the shared link.
const CAPACITY: f64 = 1e9;

impl Station {
    fn queue(simulation: &Simulation) -> Station {
        Station::Queue(Server::new(simulation, "queue", 1))
    }

    fn shared(simulation: &Simulation) -> Station {
        Station::Shared(Link::new(simulation, "shared", CAPACITY))
    }

    async fn serve(&self, seconds: f64) {
        match self {
            Station::Queue(server) => server.serve(1, Span::from_seconds(seconds)).await,
            Station::Shared(link) => link.transfer((seconds * CAPACITY) as u64, f64::INFINITY).await,
        }
    }

    fn check(&self) {
        let checked = match self {
            Station::Queue(server) => server.check(),
            Station::Shared(link) => link.check(),
        };
        checked.expect("the books are right");
    }
}

/// A station and its customers.
#[derive(Clone, Copy)]
struct Queue {
    station: fn(&Simulation) -> Station,
    service: Service,
    utilisation: f64,
    customers: usize,
}

/// Mean time in the system of the customers after the first ones, in seconds, with service that takes
/// `longer` times what it should.
fn mean_sojourn(queue: Queue, seed: u64, longer: f64) -> f64 {
    let Queue { station, service, utilisation, customers } = queue;
    let simulation = Simulation::new();
    let station = station(&simulation);
    let sojourns = Rc::new(RefCell::new(Vec::with_capacity(customers)));
    let streams = Streams::new(seed, 0);
    let (handle, own_station, own_sojourns) = (simulation.clone(), station.clone(), sojourns.clone());
    simulation.spawn("arrivals", async move {
        let (mut arrivals, mut services) = (streams.stream("arrivals"), streams.stream("service"));
        let name: Rc<str> = "customer".into();
        for customer in 0..customers {
            handle.sleep(Span::from_seconds(exponential(&mut arrivals, 1.0 / utilisation))).await;
            let seconds = longer * service(&mut services);
            let (simulation, station, sojourns) = (handle.clone(), own_station.clone(), own_sojourns.clone());
            handle.spawn(name.clone(), async move {
                let since = simulation.now();
                station.serve(seconds).await;
                if customer >= WARM_UP {
                    sojourns.borrow_mut().push(simulation.now().since(since).seconds());
                }
            });
        }
    });
    simulation.run().expect("nobody waits for another");
    station.check();
    let sojourns = sojourns.borrow();
    assert_eq!(sojourns.len(), customers - WARM_UP);
    sojourns.iter().sum::<f64>() / sojourns.len() as f64
}

/// Whether means of replications are those of a theory.
fn agrees(means: &[f64], theory: f64) -> Result<(), String> {
    let count = means.len() as f64;
    let mean = means.iter().sum::<f64>() / count;
    let variance = means.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / (count - 1.0);
    let error = (variance / count).sqrt();
    let found = format!("{mean:.4} s with a standard error of {error:.4} s; theory says {theory:.4} s");
    match () {
        () if T_29 * error > 0.01 * theory => Err(format!("not known well enough: {found}")),
        () if (mean - theory).abs() > 3.5 * error => Err(format!("too far off: {found}")),
        () => Ok(()),
    }
}

fn test(queue: Queue, theory: f64) {
    let means =
        |longer: f64| -> Vec<f64> { (1..=SEEDS).map(|seed| mean_sojourn(queue, seed, longer)).collect() };
    agrees(&means(1.0), theory).unwrap_or_else(|problem| panic!("{problem}"));
    let problem = agrees(&means(1.03), theory).expect_err("service that takes longer must be noticed");
    assert!(problem.starts_with("too far off"), "{problem}");
}

/// M/M/1: E\[S\] / (1 - rho).
#[test]
fn exponential_service_in_order() {
    let queue =
        Queue { station: Station::queue, service: exponential_service, utilisation: 0.8, customers: 200_000 };
    test(queue, 1.0 / (1.0 - 0.8));
}

/// M/D/1 (Pollaczek and Khinchine): E\[S\] + rho E\[S\] / (2 (1 - rho)).
#[test]
fn constant_service_in_order() {
    let queue =
        Queue { station: Station::queue, service: constant_service, utilisation: 0.8, customers: 100_000 };
    test(queue, 1.0 + 0.8 / (2.0 * (1.0 - 0.8)));
}

/// M/G/1 with processor sharing: E\[S\] / (1 - rho), whatever the distribution.
#[test]
fn hyperexponential_service_shared() {
    let queue = Queue {
        station: Station::shared,
        service: hyperexponential_service,
        utilisation: 0.7,
        customers: 300_000,
    };
    test(queue, 1.0 / (1.0 - 0.7));
}
