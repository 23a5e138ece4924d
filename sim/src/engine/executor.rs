//! The executor: tasks, and the loop that runs them in simulated time.

use super::deadlock::{Blocked, Deadlock};
use super::time::{Span, Time};
use super::timers::{Sleep, Timers};
use super::waiting::{Bell, Waited, Waiter};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use vmicache_format::runtime::{LocalFuture, Runtime};

/// The future that `block_on` was called with is no task.
const MAIN: u32 = u32::MAX;

const MAX_TASKS: u32 = 1 << 31;

/// A simulation: a clock, and tasks that run on one thread in simulated time.
///
/// Tasks that are woken at an instant run in the order in which they were woken, all of them before the next
/// timer fires; timers of the same instant fire in the order in which they were set. So a run is a function
/// of its input.
///
/// Clones are handles of the same simulation. The handle that [`Simulation::new`] returned owns the tasks:
/// when it is dropped, tasks that are not done are dropped too, whoever else still has a handle, and those
/// that are spawned later are dropped at once. Tasks can therefore hold handles without keeping themselves
/// alive.
pub struct Simulation {
    core: Rc<Core>,
    owner: bool,
}

struct Core {
    now: Cell<Time>,
    /// Who is being polled, and where its own waker is.
    current: Cell<(u32, *const Waker)>,
    tasks: RefCell<Tasks>,
    ready: RefCell<VecDeque<u32>>,
    woken: Arc<Woken>,
    timers: RefCell<Timers>,
    resources: RefCell<Resources>,
    image_task: Rc<str>,
    running: Cell<bool>,
    closed: Cell<bool>,
}

/// Tasks that were woken through a waker, in order. Wakers are `Send`, hence the lock; what awaits the
/// engine's own resources directly goes another way.
#[derive(Default)]
struct Woken {
    any: AtomicBool,
    slots: Mutex<Vec<u32>>,
}

struct SlotWaker {
    slot: u32,
    woken: Arc<Woken>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.slots.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
        self.woken.any.store(true, Ordering::Release);
    }
}

/// Wakers are made by so many.
const CHUNK: usize = 64;

#[derive(Default)]
struct Tasks {
    /// By slot; empty when it is free, and while its task is being polled.
    futures: Vec<Option<LocalFuture<()>>>,
    names: Vec<Rc<str>>,
    /// By slot. They stay for the next task, and are shared so that they can be lent to a poll.
    wakers: Vec<Rc<[Waker]>>,
    free: Vec<u32>,
    live: usize,
}

#[derive(Default)]
struct Resources {
    all: Vec<Weak<dyn Waited>>,
    /// Look for dropped ones when there are so many.
    sweep_at: usize,
}

/// What a step of the loop came to.
enum Step {
    Poll(u32),
    Nothing,
    Done,
}

impl Simulation {
    /// A simulation without tasks, at [`Time::ZERO`].
    pub fn new() -> Simulation {
        Simulation {
            core: Rc::new(Core {
                now: Cell::default(),
                current: Cell::new((MAIN, ptr::null())),
                tasks: RefCell::default(),
                ready: RefCell::default(),
                woken: Arc::default(),
                timers: RefCell::default(),
                resources: RefCell::default(),
                image_task: "image task".into(),
                running: Cell::new(false),
                closed: Cell::new(false),
            }),
            owner: true,
        }
    }

    /// The simulated time.
    #[inline]
    pub fn now(&self) -> Time {
        self.core.now.get()
    }

    /// Runs `task` beside the caller; it begins when those that were woken before have had their turn. The
    /// name is for messages.
    pub fn spawn(&self, name: impl Into<Rc<str>>, task: impl Future<Output = ()> + 'static) {
        self.spawn_boxed(name.into(), Box::pin(task));
    }

    /// Completes `span` from now; at once, if that is no time.
    #[inline]
    pub fn sleep(&self, span: Span) -> Sleep {
        self.sleep_until(self.now() + span)
    }

    /// Completes at `at`; at once, if that is not in the future. [`Time::MAX`] never comes.
    #[inline]
    pub fn sleep_until(&self, at: Time) -> Sleep {
        Sleep::new(self, at)
    }

    /// Runs `main`, and beside it all tasks, in simulated time until `main` completes. Tasks that are not
    /// done by then go on at the next call.
    ///
    /// # Errors
    /// If `main` cannot complete.
    ///
    /// # Panics
    /// Inside a task.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> Result<T, Deadlock> {
        let _running = Running::begin(&self.core);
        let mut main = pin!(main);
        let waker = self.waker(MAIN);
        self.ready(MAIN);
        loop {
            match self.step() {
                Step::Poll(MAIN) => {
                    self.core.current.set((MAIN, &raw const waker));
                    let result = main.as_mut().poll(&mut Context::from_waker(&waker));
                    self.core.current.set((MAIN, ptr::null()));
                    if let Poll::Ready(value) = result {
                        return Ok(value);
                    }
                }
                Step::Poll(slot) => self.poll(slot),
                Step::Nothing => {}
                Step::Done => return Err(self.deadlock(true)),
            }
        }
    }

    /// Runs until no task is left.
    ///
    /// # Errors
    /// If some are left that cannot go on.
    ///
    /// # Panics
    /// Inside a task.
    pub fn run(&self) -> Result<(), Deadlock> {
        let _running = Running::begin(&self.core);
        loop {
            match self.step() {
                Step::Poll(MAIN) | Step::Nothing => {}
                Step::Poll(slot) => self.poll(slot),
                Step::Done if self.core.tasks.borrow().live == 0 => return Ok(()),
                Step::Done => return Err(self.deadlock(false)),
            }
        }
    }

    /// The simulation as what images run their tasks on.
    pub fn runtime(&self) -> Rc<dyn Runtime> {
        Rc::new(self.clone())
    }

    #[inline]
    pub(super) fn timers(&self) -> &RefCell<Timers> {
        &self.core.timers
    }

    /// The task that is being polled.
    pub(super) fn current(&self) -> u32 {
        self.core.current.get().0
    }

    /// The task that is being polled, if `context` is its own and not that of a part of it.
    #[inline]
    pub(super) fn direct(&self, context: &Context<'_>) -> Option<u32> {
        let (task, own) = self.core.current.get();
        ptr::eq(context.waker(), own).then_some(task)
    }

    /// Lets a waiter go on. Wakers may do anything: no resource may be borrowed.
    pub(super) fn wake(&self, waiter: Waiter) {
        match waiter {
            Waiter::Nobody => {}
            Waiter::Task(slot) => self.ready(slot),
            Waiter::Part(_, waker) => waker.wake(),
            Waiter::Bell(bell) => {
                if let Some(slot) = ring(&bell) {
                    self.ready(slot);
                }
            }
        }
    }

    /// Lets a deadlock name what its tasks wait for.
    pub(super) fn register(&self, resource: Weak<dyn Waited>) {
        let mut resources = self.core.resources.borrow_mut();
        if resources.all.len() >= resources.sweep_at {
            resources.all.retain(|resource| resource.strong_count() > 0);
            resources.sweep_at = (2 * resources.all.len()).max(64);
        }
        resources.all.push(resource);
    }

    fn waker(&self, slot: u32) -> Waker {
        Waker::from(Arc::new(SlotWaker { slot, woken: self.core.woken.clone() }))
    }

    fn spawn_boxed(&self, name: Rc<str>, task: LocalFuture<()>) {
        if self.core.closed.get() {
            return;
        }
        let slot = self.core.tasks.borrow_mut().insert(name, task, |slot| self.waker(slot));
        self.ready(slot);
    }

    fn ready(&self, slot: u32) {
        let mut ready = self.core.ready.borrow_mut();
        self.core.woken.drain_into(&mut ready);
        ready.push_back(slot);
    }

    #[inline]
    fn step(&self) -> Step {
        {
            let mut ready = self.core.ready.borrow_mut();
            self.core.woken.drain_into(&mut ready);
            if let Some(slot) = ready.pop_front() {
                return Step::Poll(slot);
            }
        }
        let fired = self.core.timers.borrow_mut().fire();
        let Some((at, waiter)) = fired else { return Step::Done };
        self.core.now.set(at);
        match waiter {
            Waiter::Task(slot) => Step::Poll(slot),
            other => {
                self.wake(other);
                Step::Nothing
            }
        }
    }

    #[inline]
    fn poll(&self, slot: u32) {
        let core = &*self.core;
        let taken = core.tasks.borrow_mut().take(slot);
        // It may have been woken after its end.
        let Some((mut task, wakers)) = taken else { return };
        let waker = &wakers[slot as usize % CHUNK];
        core.current.set((slot, waker));
        let done = task.as_mut().poll(&mut Context::from_waker(waker)).is_ready();
        core.current.set((MAIN, ptr::null()));
        if done || core.closed.get() {
            // Whatever the task owned may use the simulation as it goes.
            drop(task);
            core.tasks.borrow_mut().release(slot);
        } else {
            core.tasks.borrow_mut().futures[slot as usize] = Some(task);
        }
    }

    /// Drops all tasks.
    fn close(&self) {
        self.core.closed.set(true);
        let slots = self.core.tasks.borrow().futures.len();
        for slot in 0..slots as u32 {
            let taken = self.core.tasks.borrow_mut().take(slot);
            if let Some((task, _)) = taken {
                drop(task);
                self.core.tasks.borrow_mut().release(slot);
            }
        }
    }

    fn deadlock(&self, main: bool) -> Deadlock {
        let tasks = self.core.tasks.borrow();
        let resources: Vec<_> = self.core.resources.borrow().all.iter().filter_map(Weak::upgrade).collect();
        let waits: Vec<(u32, String)> = resources
            .iter()
            .flat_map(|resource| resource.waiting().into_iter().map(|task| (task, resource.title())))
            .collect();
        let blocked = |task: u32, name: &str| Blocked {
            task: name.to_owned(),
            resources: waits
                .iter()
                .filter(|(slot, _)| *slot == task)
                .map(|(_, title)| title.clone())
                .collect(),
        };
        let main = main.then(|| blocked(MAIN, "main"));
        let unfinished =
            tasks.futures.iter().zip(&tasks.names).enumerate().filter(|(_, (task, _))| task.is_some());
        let others = unfinished.map(|(slot, (_, name))| blocked(slot as u32, name));
        Deadlock { at: self.now(), blocked: main.into_iter().chain(others).collect() }
    }
}

fn ring(bell: &Weak<dyn Bell>) -> Option<u32> {
    bell.upgrade()?.ring()
}

impl Woken {
    #[inline]
    fn drain_into(&self, ready: &mut VecDeque<u32>) {
        if self.any.load(Ordering::Acquire) {
            self.any.store(false, Ordering::Relaxed);
            ready.extend(self.slots.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
        }
    }
}

impl Tasks {
    fn insert(&mut self, name: Rc<str>, task: LocalFuture<()>, waker: impl Fn(u32) -> Waker) -> u32 {
        self.live += 1;
        if let Some(slot) = self.free.pop() {
            self.futures[slot as usize] = Some(task);
            self.names[slot as usize] = name;
            return slot;
        }
        let slot = self.futures.len() as u32;
        assert!(slot < MAX_TASKS, "no more than {MAX_TASKS} tasks at once");
        if self.futures.len() == self.wakers.len() * CHUNK {
            self.wakers.push((slot..slot + CHUNK as u32).map(waker).collect());
        }
        self.futures.push(Some(task));
        self.names.push(name);
        slot
    }

    /// Takes a task out, to be polled or dropped, with the wakers of its chunk.
    #[inline]
    fn take(&mut self, slot: u32) -> Option<(LocalFuture<()>, Rc<[Waker]>)> {
        let task = self.futures.get_mut(slot as usize)?.take()?;
        Some((task, self.wakers[slot as usize / CHUNK].clone()))
    }

    fn release(&mut self, slot: u32) {
        self.free.push(slot);
        self.live -= 1;
    }
}

/// The loop is running; ends with the scope, also when a task panics.
struct Running<'a>(&'a Core);

impl<'a> Running<'a> {
    fn begin(core: &'a Core) -> Running<'a> {
        assert!(!core.running.replace(true), "a task cannot run the simulation that runs it");
        Running(core)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        self.0.current.set((MAIN, ptr::null()));
    }
}

impl Clone for Simulation {
    #[inline]
    fn clone(&self) -> Simulation {
        Simulation { core: self.core.clone(), owner: false }
    }
}

impl Drop for Simulation {
    #[inline]
    fn drop(&mut self) {
        if self.owner {
            self.close();
        }
    }
}
impl Default for Simulation {
    fn default() -> Simulation {
        Simulation::new()
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl Runtime for Simulation {
    fn spawn(&self, task: LocalFuture<()>) {
        self.spawn_boxed(self.core.image_task.clone(), task);
    }

    fn now(&self) -> Duration {
        self.core.now.get().since(Time::ZERO).into()
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<()> {
        Box::pin(Simulation::sleep(self, duration.into()))
    }
}
