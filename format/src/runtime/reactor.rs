//! Waiting for sockets, on one thread, through epoll.

use super::Event;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Stands for the descriptor by which other threads interrupt a wait.
const INTERRUPT: u64 = u64::MAX;
/// Readiness that one wait takes note of.
const BATCH: usize = 64;

/// What becomes ready of a socket.
#[derive(Clone, Debug, Default)]
struct Readiness {
    readable: Event,
    writable: Event,
}

pub(super) struct Reactor {
    epoll: Epoll,
    interrupt: Arc<EventFd>,
    sockets: RefCell<FxHashMap<u64, Readiness>>,
    next_token: Cell<u64>,
}

impl Reactor {
    pub fn new() -> io::Result<Rc<Self>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let interrupt = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&interrupt, EpollEvent::new(EpollFlags::EPOLLIN, INTERRUPT))?;
        Ok(Rc::new(Reactor {
            epoll,
            interrupt: Arc::new(interrupt),
            sockets: RefCell::default(),
            next_token: Cell::new(0),
        }))
    }

    pub fn interrupt(&self) -> Arc<EventFd> {
        self.interrupt.clone()
    }

    /// Waits until a socket becomes ready, another thread interrupts, or `most` has passed; wakes whoever
    /// waits for what became ready.
    pub fn wait(&self, most: Option<Duration>) {
        let mut ready = [EpollEvent::empty(); BATCH];
        let timeout = match most {
            None => EpollTimeout::NONE,
            Some(most) => match u16::try_from(most.as_millis()).unwrap_or(u16::MAX) {
                // epoll counts in milliseconds only.
                0 if !most.is_zero() => {
                    self.wait_briefly(most);
                    EpollTimeout::ZERO
                }
                whole => EpollTimeout::from(whole),
            },
        };
        // An interrupted wait is repeated by the caller, who finds nothing ready.
        let count = self.epoll.wait(&mut ready, timeout).unwrap_or(0);
        for event in ready.iter().take(count) {
            if event.data() == INTERRUPT {
                let _ = self.interrupt.read();
                continue;
            }
            let socket = self.sockets.borrow().get(&event.data()).cloned();
            let Some(socket) = socket else { continue };
            let gone = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR | EpollFlags::EPOLLRDHUP;
            if event.events().intersects(EpollFlags::EPOLLIN | gone) {
                socket.readable.notify();
            }
            if event.events().intersects(EpollFlags::EPOLLOUT | gone) {
                socket.writable.notify();
            }
        }
    }

    fn wait_briefly(&self, most: Duration) {
        let mut descriptors = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        let _ = ppoll(&mut descriptors, Some(TimeSpec::from(most)), None);
    }
}

/// A socket whose readiness tasks can wait for.
pub struct Watched<T: AsFd> {
    inner: T,
    token: u64,
    readiness: Readiness,
    reactor: Rc<Reactor>,
}

impl<T: AsFd> Watched<T> {
    pub(super) fn new(reactor: Rc<Reactor>, inner: T) -> io::Result<Self> {
        let token = reactor.next_token.get();
        reactor.next_token.set(token.wrapping_add(1));
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        reactor.epoll.add(&inner, EpollEvent::new(flags, token))?;
        let readiness = Readiness::default();
        reactor.sockets.borrow_mut().insert(token, readiness.clone());
        Ok(Watched { inner, token, readiness, reactor })
    }

    /// The socket itself.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// Repeats `operation`, which reads or accepts and does not block, until it no longer would block.
    ///
    /// # Errors
    /// What `operation` says.
    pub async fn when_readable<R>(&self, operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.when_ready(&self.readiness.readable, operation).await
    }

    /// Repeats `operation`, which writes and does not block, until it no longer would block.
    ///
    /// # Errors
    /// What `operation` says.
    pub async fn when_writable<R>(&self, operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.when_ready(&self.readiness.writable, operation).await
    }

    async fn when_ready<R>(
        &self,
        ready: &Event,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            // Before the attempt: what becomes ready after it is not missed.
            let listener = ready.listen();
            match operation(&self.inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => listener.await,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl<T: AsFd> Drop for Watched<T> {
    fn drop(&mut self) {
        self.reactor.sockets.borrow_mut().remove(&self.token);
        let _ = self.reactor.epoll.delete(&self.inner);
    }
}
