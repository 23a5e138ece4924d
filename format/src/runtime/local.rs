//! A runtime for one thread of the host, in real time.

use super::reactor::{Reactor, Watched};
use super::{LocalFuture, Runtime};
use nix::sys::eventfd::EventFd;
use std::cell::{Cell, OnceCell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The future that `block_on` was called with is no task of the runtime.
const MAIN: usize = usize::MAX;

/// Tasks that were woken, by slot. Wakers may be called from any thread, hence the lock.
struct ReadyQueue {
    slots: Mutex<VecDeque<usize>>,
    thread: Thread,
    /// Interrupts a thread that waits for sockets.
    interrupt: OnceLock<Arc<EventFd>>,
    /// The thread has nothing to do and sleeps, or is about to.
    parked: AtomicBool,
}

impl ReadyQueue {
    fn push(&self, slot: usize) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).push_back(slot);
        if self.parked.load(Ordering::SeqCst) && self.parked.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
            if let Some(interrupt) = self.interrupt.get() {
                // Fails only when it has been signalled for ages: then the thread is awake.
                let _ = interrupt.write(1);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn pop(&self) -> Option<usize> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

struct SlotWaker {
    slot: usize,
    queue: Arc<ReadyQueue>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.queue.push(self.slot);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.queue.push(self.slot);
    }
}

struct Slot {
    /// `None`: free, or being polled.
    task: Option<LocalFuture<()>>,
    waker: Waker,
}

#[derive(Default)]
struct Tasks {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

/// Tasks that run between two looks at sockets and timers.
const TASKS_BETWEEN_LOOKS: u32 = 64;

type Timers = Rc<RefCell<BTreeMap<Reverse<(Duration, u64)>, Waker>>>;

/// A deterministic executor for one thread: tasks run in the order in which they were woken.
pub struct LocalRuntime {
    tasks: RefCell<Tasks>,
    queue: Arc<ReadyQueue>,
    timers: Timers,
    timer_count: Rc<Cell<u64>>,
    begin: Instant,
    /// Made with the first socket.
    reactor: OnceCell<Rc<Reactor>>,
}

impl LocalRuntime {
    /// A runtime without tasks, for the calling thread.
    pub fn new() -> Rc<Self> {
        Rc::new(LocalRuntime {
            tasks: RefCell::default(),
            queue: Arc::new(ReadyQueue {
                slots: Mutex::default(),
                thread: thread::current(),
                interrupt: OnceLock::new(),
                parked: AtomicBool::new(false),
            }),
            timers: Timers::default(),
            timer_count: Rc::default(),
            begin: Instant::now(),
            reactor: OnceCell::new(),
        })
    }

    /// Takes over a socket, from now on not blocking, whose readiness tasks of this runtime can wait for.
    ///
    /// # Errors
    /// If the host cannot watch it.
    pub fn watch<T: AsFd>(&self, socket: T) -> io::Result<Watched<T>> {
        let reactor = match self.reactor.get() {
            Some(reactor) => reactor,
            None => {
                let reactor = Reactor::new()?;
                let _ = self.queue.interrupt.set(reactor.interrupt());
                self.reactor.get_or_init(|| reactor)
            }
        };
        Watched::new(reactor.clone(), socket)
    }

    /// Runs `main`, and beside it the runtime's tasks, until `main` completes. Tasks that are not done by
    /// then go on at the next call.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let main_waker = Waker::from(Arc::new(SlotWaker { slot: MAIN, queue: self.queue.clone() }));
        if let Poll::Ready(value) = main.as_mut().poll(&mut Context::from_waker(&main_waker)) {
            return value;
        }
        let mut tasks = 0u32;
        loop {
            tasks = tasks.wrapping_add(1);
            if tasks.is_multiple_of(TASKS_BETWEEN_LOOKS) {
                self.look_at_sockets();
                self.wake_due();
            }
            match self.queue.pop() {
                Some(MAIN) => {
                    if let Poll::Ready(value) = main.as_mut().poll(&mut Context::from_waker(&main_waker)) {
                        return value;
                    }
                }
                Some(slot) => self.poll_task(slot),
                None => self.wait(),
            }
        }
    }

    /// Wakes those whose sockets have become ready.
    fn look_at_sockets(&self) {
        if let Some(reactor) = self.reactor.get() {
            reactor.wait(Some(Duration::ZERO));
        }
    }

    /// Wakes those whose time has come, while others keep the thread busy.
    fn wake_due(&self) {
        let now = self.now();
        let mut timers = self.timers.borrow_mut();
        while let Some(timer) = timers.last_entry().filter(|timer| timer.key().0.0 <= now) {
            timer.remove().wake();
        }
    }

    /// Runs tasks until none can go on by itself.
    pub fn run_until_idle(&self) {
        while let Some(slot) = self.queue.pop() {
            if slot != MAIN {
                self.poll_task(slot);
            }
        }
    }

    fn poll_task(&self, slot: usize) {
        let (mut task, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(slot) = tasks.slots.get_mut(slot) else { return };
            let Some(task) = slot.task.take() else { return };
            (task, slot.waker.clone())
        };
        let done = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        // A finished task may own the last handle of an image: it goes before the list is borrowed.
        let task = if done {
            drop(task);
            None
        } else {
            Some(task)
        };
        let mut tasks = self.tasks.borrow_mut();
        if task.is_none() {
            tasks.free.push(slot);
        }
        if let Some(slot) = tasks.slots.get_mut(slot) {
            slot.task = task;
        }
    }

    /// Sleeps until a timer is due or a waker is called from another thread.
    fn wait(&self) {
        let now = self.now();
        let next = {
            let mut timers = self.timers.borrow_mut();
            match timers.last_entry() {
                Some(timer) if timer.key().0.0 <= now => return timer.remove().wake(),
                timer => timer.map(|timer| timer.key().0.0.saturating_sub(now)),
            }
        };
        self.queue.parked.store(true, Ordering::SeqCst);
        // Whoever came between the last look and the flag has not seen the flag.
        if self.queue.is_empty() {
            match (self.reactor.get(), next) {
                (Some(reactor), next) => reactor.wait(next),
                (None, Some(pause)) => thread::park_timeout(pause),
                (None, None) => thread::park(),
            }
        }
        self.queue.parked.store(false, Ordering::SeqCst);
    }
}

impl Runtime for LocalRuntime {
    fn spawn(&self, task: LocalFuture<()>) {
        let mut tasks = self.tasks.borrow_mut();
        let slot = tasks.free.pop().unwrap_or(tasks.slots.len());
        match tasks.slots.get_mut(slot) {
            Some(free) => free.task = Some(task),
            None => {
                let waker = Waker::from(Arc::new(SlotWaker { slot, queue: self.queue.clone() }));
                tasks.slots.push(Slot { task: Some(task), waker });
            }
        }
        self.queue.push(slot);
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn begins_in_place(&self) -> bool {
        self.queue.is_empty()
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<()> {
        let (timers, count, begin) = (self.timers.clone(), self.timer_count.clone(), self.begin);
        let deadline = self.now().saturating_add(duration);
        Box::pin(async move {
            count.update(|count| count.wrapping_add(1));
            let key = Reverse((deadline, count.get()));
            let _registration = Registration { timers: timers.clone(), key };
            poll_fn(|context| {
                if begin.elapsed() >= deadline {
                    return Poll::Ready(());
                }
                timers.borrow_mut().insert(key, context.waker().clone());
                Poll::Pending
            })
            .await;
        })
    }
}

/// A timer whose sleeper is dropped leaves nothing behind.
struct Registration {
    timers: Timers,
    key: Reverse<(Duration, u64)>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.timers.borrow_mut().remove(&self.key);
    }
}
