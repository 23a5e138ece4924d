//! A virtual machine that replays a recorded boot on a disk.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use vmicache_format::Result;
use vmicache_format::disk::Disk;
use vmicache_format::storage::{Payload, Storage};
use vmicache_format::trace::{Dependencies, Op, Request, Trace};

/// Replays the requests of `boot` on `disk` in closed loop: each is issued when the one it waits for, by
/// `dependencies`, has completed. There is no clock here, so think times do not matter; written data is
/// zeroes, since recordings do not hold it; a trim asks nothing of an image.
///
/// # Errors
/// The first error of a request; those in flight are dropped.
pub async fn boot<S: Storage>(disk: &Disk<S>, boot: &Trace, dependencies: &Dependencies) -> Result<()> {
    let mut completed = vec![false; boot.requests.len()];
    let mut in_flight = InFlight::default();
    for (number, request) in boot.requests.iter().enumerate() {
        let waits_for = dependencies.links.get(number).and_then(|link| link.waits_for);
        while waits_for.is_some_and(|earlier| !completed[earlier]) {
            completed[in_flight.next_completion().await?] = true;
        }
        // It is under way before the guest goes on.
        let begun =
            poll_fn(|context| Poll::Ready(in_flight.begin(number, issue(disk, request), context))).await;
        completed[number] = begun?;
    }
    while !in_flight.requests.is_empty() {
        in_flight.next_completion().await?;
    }
    Ok(())
}

/// Requests that have been issued and not completed, with their numbers; guests have few at a time.
struct InFlight<F> {
    requests: Vec<(usize, Pin<Box<Option<F>>>)>,
    /// Places of earlier requests, to be used again: a request is too large to be allocated each time.
    spare: Vec<Pin<Box<Option<F>>>>,
}

impl<F> Default for InFlight<F> {
    fn default() -> Self {
        InFlight { requests: vec![], spare: vec![] }
    }
}

impl<F: Future<Output = Result<()>>> InFlight<F> {
    /// Polls a request for the first time, and keeps it if it has not completed by then. Says whether it has.
    fn begin(&mut self, number: usize, request: F, context: &mut Context<'_>) -> Result<bool> {
        let mut place = self.spare.pop().unwrap_or_else(|| Box::pin(None));
        place.as_mut().set(Some(request));
        match poll_place(&mut place, context) {
            Poll::Ready(outcome) => {
                self.spare.push(place);
                outcome.map(|()| true)
            }
            Poll::Pending => {
                self.requests.push((number, place));
                Ok(false)
            }
        }
    }

    /// Waits until a request completes; returns its number.
    async fn next_completion(&mut self) -> Result<usize> {
        poll_fn(|context| {
            for index in 0..self.requests.len() {
                if let Poll::Ready(outcome) = poll_place(&mut self.requests[index].1, context) {
                    let (number, place) = self.requests.remove(index);
                    self.spare.push(place);
                    return Poll::Ready(outcome.map(|()| number));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Polls the request in a place; once it has completed, the place is empty.
fn poll_place<F: Future<Output = Result<()>>>(
    place: &mut Pin<Box<Option<F>>>,
    context: &mut Context<'_>,
) -> Poll<Result<()>> {
    let Some(request) = place.as_mut().as_pin_mut() else { return Poll::Ready(Ok(())) };
    let outcome = request.poll(context);
    if outcome.is_ready() {
        place.as_mut().set(None);
    }
    outcome
}

async fn issue<S: Storage>(disk: &Disk<S>, request: &Request) -> Result<()> {
    match request.op {
        Op::Read => disk.read(request.offset, request.length).await.map(drop),
        // Boxed: most requests are reads, and need not carry the state of the others.
        Op::Write => Box::pin(disk.write(request.offset, S::Payload::zeroed(request.length))).await,
        Op::Zero => Box::pin(disk.write_zeroes(request.offset, request.length)).await,
        Op::Trim => Ok(()),
        Op::Flush => Box::pin(disk.flush()).await,
    }
}
