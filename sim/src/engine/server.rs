//! Queues with servers.

use super::Simulation;
use super::account::{Census, Law, Mismatch, Usage, Violation};
use super::semaphore::Semaphore;
use super::time::{Span, Time};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// A queue, first come first served, before a number of equal servers.
#[derive(Clone)]
pub struct Server {
    shared: Rc<Shared>,
}

struct Shared {
    simulation: Simulation,
    name: Rc<str>,
    servers: usize,
    free: Semaphore,
    books: RefCell<Books>,
}

#[derive(Default)]
struct Books {
    census: Census,
    in_service: u64,
    /// Integral of `in_service` up to `last`, picoseconds.
    busy: i128,
    last: Time,
    /// What services took that are over, picoseconds: what was asked for, or what a dropped one had until then.
    served: i128,
    /// Instants at which the services that go on began.
    begins: i128,
}

impl Server {
    /// A queue with `servers` servers. The name is for messages.
    ///
    /// # Panics
    /// Without a server.
    pub fn new(simulation: &Simulation, name: impl Into<Rc<str>>, servers: usize) -> Server {
        let name = name.into();
        assert!(servers > 0, "server `{name}` needs at least one server");
        let free = Semaphore::of_kind(simulation, "server", name.clone(), servers);
        let books = RefCell::default();
        Server { shared: Rc::new(Shared { simulation: simulation.clone(), name, servers, free, books }) }
    }

    /// Waits for a server, and is served for `span`. The amount, such as bytes, is only counted.
    pub async fn serve(&self, amount: u64, span: Span) {
        self.serve_with(amount, || span).await;
    }

    /// As [`Server::serve`], with a service time that is determined when service begins. A future that is
    /// dropped leaves the queue, or frees its server.
    pub async fn serve_with(&self, amount: u64, span: impl FnOnce() -> Span) {
        let mut visit = Visit::begin(&self.shared, amount);
        let _server = self.shared.free.acquire().await;
        let span = span();
        visit.serve();
        self.shared.simulation.sleep(span).await;
        visit.complete(span);
    }

    /// What it did until now.
    pub fn usage(&self) -> Usage {
        let mut books = self.shared.books.borrow_mut();
        books.settle(self.shared.simulation.now());
        Usage {
            requests: books.census.completed.requests,
            amount: books.census.completed.amount,
            busy: Span::from_picoseconds(u64::try_from(books.busy).unwrap_or(u64::MAX)),
            in_system_time: books.census.in_system_time(),
            servers: self.shared.servers,
        }
    }

    /// Checks the books until now against the laws of queues.
    ///
    /// # Errors
    /// If they break one.
    pub fn check(&self) -> Result<(), Violation> {
        let now = self.shared.simulation.now();
        let checked = self.shared.books.borrow_mut().check(now);
        checked.map_err(|mismatch| mismatch.of(format!("server `{}`", self.shared.name)))
    }
}

impl Books {
    fn settle(&mut self, now: Time) {
        self.census.settle(now);
        self.busy += i128::from(self.in_service) * i128::from(now.since(self.last).picoseconds());
        self.last = now;
    }

    fn begin_service(&mut self, now: Time) {
        self.settle(now);
        self.in_service += 1;
        self.begins += i128::from(now.picoseconds());
    }

    fn end_service(&mut self, now: Time, began: Time, span: Span) {
        self.settle(now);
        self.in_service -= 1;
        self.begins -= i128::from(began.picoseconds());
        self.served += i128::from(span.picoseconds());
    }

    fn check(&mut self, now: Time) -> Result<(), Mismatch> {
        self.settle(now);
        let going_on = i128::from(self.in_service) * i128::from(now.picoseconds()) - self.begins;
        Mismatch::unless_equal(Law::Utilisation, "picoseconds", self.busy, self.served + going_on)?;
        self.census.check(now)
    }
}

/// A request in the system.
struct Visit<'a> {
    shared: &'a Shared,
    amount: u64,
    since: Time,
    began: Option<Time>,
    completed: bool,
}

impl<'a> Visit<'a> {
    fn begin(shared: &'a Shared, amount: u64) -> Visit<'a> {
        let since = shared.simulation.now();
        shared.books.borrow_mut().census.arrive(since, amount);
        Visit { shared, amount, since, began: None, completed: false }
    }

    fn serve(&mut self) {
        let now = self.shared.simulation.now();
        self.began = Some(now);
        self.shared.books.borrow_mut().begin_service(now);
    }

    fn complete(&mut self, span: Span) {
        let now = self.shared.simulation.now();
        let mut books = self.shared.books.borrow_mut();
        if let Some(began) = self.began.take() {
            books.end_service(now, began, span);
        }
        books.census.complete(now, self.since, self.amount);
        self.completed = true;
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.completed {
            return;
        }
        let now = self.shared.simulation.now();
        let mut books = self.shared.books.borrow_mut();
        if let Some(began) = self.began {
            books.end_service(now, began, now.since(began));
        }
        books.census.cancel(now, self.since, self.amount);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_not_busy_as_long_as_it_served_is_noticed() {
        let simulation = Simulation::new();
        let disk = Server::new(&simulation, "disk", 1);
        simulation.block_on(disk.serve(4096, Span::from_microseconds(5))).unwrap();
        disk.check().unwrap();
        disk.shared.books.borrow_mut().busy -= 1;
        let violation = disk.check().unwrap_err();
        assert_eq!((violation.resource.as_str(), violation.law), ("server `disk`", Law::Utilisation));
        let message =
            "server `disk` breaks the utilisation law: 4999999 picoseconds on one side, 5000000 on the other";
        assert_eq!(violation.to_string(), message);
    }
}
