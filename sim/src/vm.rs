//! A virtual machine that replays a recorded boot on a disk.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use vmicache_format::Result;
use vmicache_format::disk::Disk;
use vmicache_format::storage::{Payload, Storage};
use vmicache_format::trace::{Dependencies, Op, Request, Trace};

/// Requests that have been issued and not completed, with their numbers. Guests have few at a time.
type InFlight<'a> = Vec<(usize, Pin<Box<dyn Future<Output = Result<()>> + 'a>>)>;

/// Replays the requests of `boot` on `disk` in closed loop: each is issued when the one it waits for, by
/// `dependencies`, has completed. There is no clock here, so think times do not matter; written data is
/// zeroes, since recordings do not hold it; a trim asks nothing of an image.
///
/// # Errors
/// The first error of a request; those in flight are dropped.
pub async fn boot<S: Storage>(disk: &Disk<S>, boot: &Trace, dependencies: &Dependencies) -> Result<()> {
    let mut completed = vec![false; boot.requests.len()];
    let mut in_flight = InFlight::new();
    for (number, request) in boot.requests.iter().enumerate() {
        let waits_for = dependencies.links.get(number).and_then(|link| link.waits_for);
        while waits_for.is_some_and(|earlier| !completed[earlier]) {
            completed[next_completion(&mut in_flight).await?] = true;
        }
        in_flight.push((number, Box::pin(issue(disk, request))));
        // It is under way before the guest goes on.
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(poll_last(&mut in_flight, context))).await {
            completed[done?] = true;
        }
    }
    while !in_flight.is_empty() {
        next_completion(&mut in_flight).await?;
    }
    Ok(())
}

/// Waits until a request completes; returns its number.
async fn next_completion(in_flight: &mut InFlight<'_>) -> Result<usize> {
    poll_fn(|context| {
        for place in 0..in_flight.len() {
            if let Poll::Ready(outcome) = in_flight[place].1.as_mut().poll(context) {
                let (number, _) = in_flight.remove(place);
                return Poll::Ready(outcome.map(|()| number));
            }
        }
        Poll::Pending
    })
    .await
}

fn poll_last(in_flight: &mut InFlight<'_>, context: &mut Context<'_>) -> Poll<Result<usize>> {
    let Some((number, request)) = in_flight.last_mut() else { return Poll::Pending };
    let number = *number;
    let outcome = request.as_mut().poll(context);
    if outcome.is_ready() {
        in_flight.pop();
    }
    outcome.map_ok(|()| number)
}

async fn issue<S: Storage>(disk: &Disk<S>, request: &Request) -> Result<()> {
    match request.op {
        Op::Read => disk.read(request.offset, request.length).await.map(drop),
        Op::Write => disk.write(request.offset, S::Payload::zeroed(request.length)).await,
        Op::Zero => disk.write_zeroes(request.offset, request.length).await,
        Op::Trim => Ok(()),
        Op::Flush => disk.flush().await,
    }
}
