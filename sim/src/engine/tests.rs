//! The executor and its resources together.

use super::*;
use futures_util::future::{join, join_all, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use vmicache_format::runtime::{Event, Runtime};

const fn us(microseconds: u64) -> Span {
    Span::from_microseconds(microseconds)
}

fn at(microseconds: u64) -> Time {
    Time::ZERO + us(microseconds)
}

/// Notes that were taken in order, with their instants.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<(u64, String)>>>);

impl Log {
    fn note(&self, simulation: &Simulation, text: impl Into<String>) {
        self.0.borrow_mut().push((simulation.now().picoseconds() / 1_000_000, text.into()));
    }

    fn take(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

fn notes(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|(at, text)| (*at, (*text).to_owned())).collect()
}

/// Polls `future` once, in the running task.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_ready())).await
}

#[test]
fn simultaneous_events_happen_in_the_order_in_which_they_were_asked_for() {
    let simulation = Simulation::new();
    let log = Log::default();
    for (name, span) in [("a", 3), ("b", 1), ("c", 3), ("d", 0), ("e", 1)] {
        let (handle, log) = (simulation.clone(), log.clone());
        simulation.spawn(name, async move {
            handle.sleep(us(span)).await;
            log.note(&handle, name);
            let (inner, log) = (handle.clone(), log.clone());
            // Spawned at this instant: before the next timer, though that is due at the same one.
            handle.spawn("child", async move { log.note(&inner, format!("child of {name}")) });
        });
    }
    simulation.run().unwrap();
    let expected = [
        (0, "d"),
        (0, "child of d"),
        (1, "b"),
        (1, "child of b"),
        (1, "e"),
        (1, "child of e"),
        (3, "a"),
        (3, "child of a"),
        (3, "c"),
        (3, "child of c"),
    ];
    assert_eq!(log.take(), notes(&expected));
}

#[test]
fn wakers_and_direct_waits_share_one_queue() {
    let simulation = Simulation::new();
    let (log, event) = (Log::default(), Event::new());
    let gate = Semaphore::new(&simulation, "gate", 1);
    let held = simulation.block_on(gate.acquire()).unwrap();
    for number in 0..6 {
        let (handle, log, gate, listener) = (simulation.clone(), log.clone(), gate.clone(), event.listen());
        simulation.spawn("waiter", async move {
            if number % 2 == 0 {
                listener.await;
            } else {
                let _permit = gate.acquire().await;
            }
            log.note(&handle, number.to_string());
        });
    }
    simulation.block_on(simulation.sleep(us(1))).unwrap();
    event.notify();
    drop(held);
    simulation.run().unwrap();
    let expected = [(1, "0"), (1, "2"), (1, "4"), (1, "1"), (1, "3"), (1, "5")];
    assert_eq!(log.take(), notes(&expected));
}

#[test]
fn main_goes_on_beside_tasks_and_tasks_after_main() {
    let simulation = Simulation::new();
    let log = Log::default();
    let (handle, task_log) = (simulation.clone(), log.clone());
    simulation.spawn("ticker", async move {
        for _ in 0..3 {
            handle.sleep(us(2)).await;
            task_log.note(&handle, "tick");
        }
    });
    let result = simulation.block_on(async {
        simulation.sleep(us(3)).await;
        log.note(&simulation, "main");
        17
    });
    assert_eq!(result, Ok(17));
    assert_eq!(log.take(), notes(&[(2, "tick"), (3, "main")]));
    simulation.run().unwrap();
    assert_eq!(log.take(), notes(&[(4, "tick"), (6, "tick")]));
    assert_eq!(simulation.now(), at(6));
}

#[test]
fn dropped_sleeps_leave_no_timer() {
    let simulation = Simulation::new();
    simulation
        .block_on(async {
            for _ in 0..100 {
                select(simulation.sleep(us(1)), simulation.sleep(us(1_000_000))).await;
                assert_eq!(simulation.timers().borrow_mut().count(), 0);
            }
        })
        .unwrap();
    assert_eq!(simulation.now(), at(100));
}

#[test]
fn combinators_are_woken_through_their_own_wakers() {
    let simulation = Simulation::new();
    let order = simulation.block_on(async {
        let sleeps = (0..50_u64).map(|number| {
            let simulation = &simulation;
            async move {
                simulation.sleep(us((number * 7) % 50)).await;
                (number * 7) % 50
            }
        });
        sleeps.collect::<FuturesUnordered<_>>().collect::<Vec<_>>().await
    });
    assert_eq!(order, Ok((0..50).collect()));
}

#[test]
fn a_sleep_that_moves_to_another_task_wakes_that_one() {
    let simulation = Simulation::new();
    let mut sleep = simulation.sleep(us(5));
    simulation.block_on(async { assert!(!poll_once(&mut sleep).await) }).unwrap();
    let done = Rc::new(Cell::new(false));
    let seen = done.clone();
    simulation.spawn("heir", async move {
        sleep.await;
        seen.set(true);
    });
    simulation.run().unwrap();
    assert!(done.get());
    assert_eq!(simulation.now(), at(5));
}

#[test]
fn an_alarm_is_set_moved_and_cleared() {
    let simulation = Simulation::new();
    let alarm = Alarm::new(&simulation);
    let wait = |until: Time, step: u64| {
        let (alarm, simulation) = (&alarm, &simulation);
        poll_fn(move |context| {
            if simulation.now() >= until {
                return Poll::Ready(());
            }
            alarm.set(simulation.now() + us(step), context);
            Poll::Pending
        })
    };
    simulation.block_on(wait(at(10), 4)).unwrap();
    assert_eq!(simulation.now(), at(12));
    simulation
        .block_on(async {
            poll_fn(|context| {
                alarm.set(at(20), context);
                alarm.set(at(40), context);
                alarm.set(at(30), context);
                Poll::Ready(())
            })
            .await;
            poll_fn(|_| if simulation.now() > at(12) { Poll::Ready(()) } else { Poll::Pending }).await;
            assert_eq!(simulation.now(), at(30));
            poll_fn(|context| {
                alarm.set(at(50), context);
                Poll::Ready(())
            })
            .await;
            alarm.clear();
        })
        .unwrap();
    assert_eq!(simulation.timers().borrow_mut().count(), 0);
}

#[test]
fn a_deadlock_names_tasks_and_what_they_wait_for() {
    let simulation = Simulation::new();
    let slots = Semaphore::new(&simulation, "nfs slots", 1);
    let disk = Server::new(&simulation, "disk", 1);
    let (handle, held, own_disk) = (simulation.clone(), slots.clone(), disk.clone());
    simulation.spawn("holder", async move {
        let _permit = held.acquire().await;
        let mut serve = Box::pin(own_disk.serve(1, us(2)));
        poll_once(&mut serve).await;
        handle.sleep(us(1)).await;
        pending().await
    });
    for name in ["vm 1", "vm 2"] {
        let (slots, disk) = (slots.clone(), disk.clone());
        simulation.spawn(name, async move {
            let _permits = join(slots.acquire(), disk.serve(1, us(1))).await;
        });
    }
    let deadlock = simulation.run().unwrap_err();
    let both = vec!["semaphore `nfs slots`".to_owned(), "server `disk`".to_owned()];
    let expected = [("holder", vec![]), ("vm 1", both.clone()), ("vm 2", both)];
    let blocked = expected.map(|(task, resources)| Blocked { task: task.to_owned(), resources });
    assert_eq!(deadlock.blocked, blocked);
    assert_eq!(deadlock.at, at(2));
    assert!(deadlock.to_string().contains("task `vm 1` waits for semaphore `nfs slots` and server `disk`"));

    let deadlock = simulation.block_on(slots.acquire()).map(drop).unwrap_err();
    assert_eq!(deadlock.blocked[0].task, "main");
    assert_eq!(deadlock.blocked[0].resources, ["semaphore `nfs slots`"]);
}

#[test]
fn a_sleep_to_the_end_of_time_never_ends() {
    let simulation = Simulation::new();
    let deadlock = simulation.block_on(simulation.sleep(Span::MAX)).unwrap_err();
    assert_eq!((deadlock.at, deadlock.blocked.len()), (Time::ZERO, 1));
}

#[test]
fn the_first_handle_takes_unfinished_tasks_with_it() {
    let alive = Rc::new(());
    let simulation = Simulation::new();
    let handle = simulation.clone();
    let slots = Semaphore::new(&simulation, "slots", 1);
    let link = Link::new(&simulation, "link", 1e6);
    for _ in 0..3 {
        let (handle, slots, link, alive) = (simulation.clone(), slots.clone(), link.clone(), alive.clone());
        simulation.spawn("unfinished", async move {
            let _alive = alive;
            let _permit = slots.acquire().await;
            join(link.transfer(1_000_000, 1e6), handle.sleep(us(10_000_000))).await;
            handle.spawn("too late", async {});
        });
    }
    simulation.block_on(simulation.sleep(us(1))).unwrap();
    assert_eq!(Rc::strong_count(&alive), 4);
    drop(simulation);
    assert_eq!(Rc::strong_count(&alive), 1);
    let late = alive.clone();
    handle.spawn("too late", async move { drop(late) });
    assert_eq!(Rc::strong_count(&alive), 1);
    assert_eq!((slots.available(), handle.timers().borrow_mut().count()), (1, 0));
    link.check().unwrap();
}

#[test]
#[should_panic(expected = "a task cannot run the simulation that runs it")]
fn a_task_cannot_run_its_simulation() {
    let simulation = Simulation::new();
    let _ = simulation.block_on(async { simulation.run() });
}

#[test]
fn simulations_nest_and_keep_their_wakes_apart() {
    let (outer, inner) = (Simulation::new(), Simulation::new());
    let (outer_event, inner_event) = (Event::new(), Event::new());
    let result = outer.block_on(async {
        let listener = outer_event.listen();
        let found = inner.block_on(async {
            let listener = inner_event.listen();
            outer_event.notify();
            inner_event.notify();
            join(listener, inner.sleep(us(3))).await;
            inner.now()
        });
        join(listener, outer.sleep(us(1))).await;
        (found, outer.now())
    });
    assert_eq!(result, Ok((Ok(at(3)), at(1))));
}

#[test]
fn images_run_their_tasks_here() {
    let simulation = Simulation::new();
    let runtime: Rc<dyn Runtime> = simulation.runtime();
    let done = Event::new();
    let waits = simulation.block_on(async {
        let listener = done.listen();
        let (task_runtime, task_done) = (runtime.clone(), done.clone());
        runtime.spawn(Box::pin(async move {
            task_runtime.sleep(Duration::from_millis(5)).await;
            task_done.notify();
        }));
        listener.await;
        runtime.now()
    });
    assert_eq!(waits, Ok(Duration::from_millis(5)));
}

#[test]
fn permits_go_to_the_first_that_waits_and_past_those_that_left() {
    let simulation = Simulation::new();
    let slots = Semaphore::new(&simulation, "slots", 2);
    simulation
        .block_on(async {
            let (first, second) = (slots.acquire().await, slots.acquire().await);
            let mut queue: Vec<Acquire> = (0..5).map(|_| slots.acquire()).collect();
            for acquire in &mut queue {
                assert!(!poll_once(acquire).await);
            }
            drop(queue.remove(1));
            drop(first);
            drop(second);
            // Nobody overtakes, although two have not yet noticed that they were called.
            assert_eq!(slots.available(), 0);
            assert!(!poll_once(&mut slots.acquire()).await);
            // One that was called leaves: its permit goes on.
            drop(queue.remove(0));
            assert!(!poll_once(&mut queue[2]).await);
            let permits = join_all(queue.drain(..2)).await;
            assert!(!poll_once(&mut queue[0]).await);
            drop(permits);
            let _permit = queue.remove(0).await;
        })
        .unwrap();
    assert_eq!(slots.available(), 2);
}

#[test]
fn a_server_serves_in_order_and_determines_times_when_service_begins() {
    let simulation = Simulation::new();
    let disk = Server::new(&simulation, "disk", 2);
    let log = Log::default();
    for number in 0..5_u64 {
        let (handle, disk, log) = (simulation.clone(), disk.clone(), log.clone());
        simulation.spawn("request", async move {
            let begins = || {
                log.note(&handle, format!("begin {number}"));
                us(10)
            };
            disk.serve_with(100, begins).await;
        });
    }
    simulation.block_on(simulation.sleep(us(15))).unwrap();
    disk.check().unwrap();
    simulation.run().unwrap();
    disk.check().unwrap();
    let begins = [(0, "begin 0"), (0, "begin 1"), (10, "begin 2"), (10, "begin 3"), (20, "begin 4")];
    assert_eq!(log.take(), notes(&begins));
    let usage = disk.usage();
    // In the system: 5, 3 and 1 for 10 us each.
    let expected = Usage { requests: 5, amount: 500, busy: us(50), in_system_time: 90e-6, servers: 2 };
    assert_eq!(usage, expected);
    assert!((usage.utilisation(us(30)) - 5.0 / 6.0).abs() < 1e-12);
    assert!((usage.mean_in_system(us(30)) - 3.0).abs() < 1e-12);
}

#[test]
fn a_dropped_service_frees_its_server_and_is_accounted() {
    let simulation = Simulation::new();
    let disk = Server::new(&simulation, "disk", 1);
    simulation
        .block_on(async {
            let served = Box::pin(disk.serve(7, us(100)));
            let waiting = Box::pin(disk.serve(8, us(100)));
            let both = join(served, waiting);
            select(pin!(both), simulation.sleep(us(30))).await;
            disk.serve(9, us(5)).await;
        })
        .unwrap();
    disk.check().unwrap();
    let expected = Usage { requests: 1, amount: 9, busy: us(35), in_system_time: 65e-6, servers: 1 };
    assert_eq!((disk.usage(), simulation.now()), (expected, at(35)));
}

#[test]
fn transfers_share_a_link_up_to_their_caps() {
    let simulation = Simulation::new();
    let link = Link::new(&simulation, "port", 100e6);
    let ends = simulation.block_on(async {
        let transfer = |amount, cap| {
            let (link, simulation) = (&link, &simulation);
            async move {
                link.transfer(amount, cap).await;
                simulation.now()
            }
        };
        // 20 MB/s for the first; 40 MB/s for each other until 1 s, when the second has all. The third then has
        // what the first leaves: 80 MB/s, for 80 MB. Then the first is still there at 20 MB/s.
        join_all([
            transfer(100_000_000, 20e6),
            transfer(40_000_000, f64::INFINITY),
            transfer(120_000_000, 1e9),
        ])
        .await
    });
    assert_eq!(ends, Ok(vec![at(5_000_000), at(1_000_000), at(2_000_000)]));
    link.check().unwrap();
    let usage = link.usage();
    assert_eq!((usage.requests, usage.amount, usage.busy), (3, 260_000_000, Span::from_seconds(2.6)));
    assert!((usage.in_system_time - 8.0).abs() < 1e-12);
}

#[test]
fn a_dropped_transfer_leaves_the_link_to_the_others() {
    let simulation = Simulation::new();
    let link = Link::new(&simulation, "port", 100e6);
    simulation
        .block_on(async {
            let pair = join(link.transfer(50_000_000, 1e9), async {
                select(link.transfer(80_000_000, 1e9), simulation.sleep(us(500_000))).await;
                link.check().unwrap();
            });
            pair.await;
        })
        .unwrap();
    // 25 MB each until the drop; then 25 MB at 100 MB/s.
    assert_eq!(simulation.now(), at(750_000));
    link.check().unwrap();
    let usage = link.usage();
    assert_eq!((usage.requests, usage.amount, usage.busy), (1, 50_000_000, us(750_000)));
}

#[test]
fn a_transfer_that_nobody_polls_hinders_nobody() {
    let simulation = Simulation::new();
    let link = Link::new(&simulation, "port", 100e6);
    simulation
        .block_on(async {
            let mut forgotten = link.transfer(10_000_000, 1e9);
            assert!(!poll_once(&mut forgotten).await);
            link.transfer(50_000_000, 1e9).await;
            assert_eq!(simulation.now(), at(600_000));
            link.check().unwrap();
            assert_eq!(link.usage().requests, 2);
            assert!(poll_once(&mut forgotten).await);
        })
        .unwrap();
}

#[test]
fn an_empty_transfer_takes_no_time() {
    let simulation = Simulation::new();
    let link = Link::new(&simulation, "port", 1e6);
    simulation.block_on(link.transfer(0, 1.0)).unwrap();
    assert_eq!((simulation.now(), link.usage().requests), (Time::ZERO, 1));
}
