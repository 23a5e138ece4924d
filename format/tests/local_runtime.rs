//! The runtime of one thread in real time.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use vmicache_format::runtime::{LocalRuntime, Runtime};

#[test]
fn timers_are_seen_while_tasks_keep_the_thread_busy() {
    let runtime = LocalRuntime::new();
    let woken = Rc::new(Cell::new(false));
    let (busy, seen) = (woken.clone(), Rc::new(Cell::new(false)));
    let note = seen.clone();
    let begin = Instant::now();
    runtime.spawn(Box::pin(async move {
        // Should nobody be woken, it ends all the same.
        while !busy.get() && begin.elapsed() < Duration::from_secs(20) {
            common::turns(1).await;
        }
        note.set(busy.get());
    }));
    runtime.block_on(async {
        runtime.sleep(Duration::from_millis(1)).await;
        woken.set(true);
        common::turns(10).await;
    });
    assert!(seen.get(), "the sleeper was woken only when nobody else had anything to do");
}
