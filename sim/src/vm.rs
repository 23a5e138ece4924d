//! A virtual machine that replays a recorded boot on a disk.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use futures_util::stream::{FuturesUnordered, StreamExt};
use vmicache_format::disk::Disk;
use vmicache_format::storage::{Payload, Storage};
use vmicache_format::trace::{Dependencies, Op, Request, Trace};
use vmicache_format::{Error, Result};

/// Replays the requests of `boot` on `disk` in closed loop: each is issued when the one it waits for, by
/// `dependencies`, has completed. There is no clock here, so think times do not matter; written data is
/// zeroes, since recordings do not hold it; a trim asks nothing of an image.
///
/// # Errors
/// The first error of a request; those in flight are dropped.
pub async fn boot<S: Storage>(disk: &Disk<S>, boot: &Trace, dependencies: &Dependencies) -> Result<()> {
    let mut completed = vec![false; boot.requests.len()];
    let mut in_flight = FuturesUnordered::new();
    for (number, request) in boot.requests.iter().enumerate() {
        let waits_for = dependencies.links.get(number).and_then(|link| link.waits_for);
        while waits_for.is_some_and(|earlier| !completed[earlier]) {
            match in_flight.next().await {
                Some((number, outcome)) => completed[number] = settle(outcome)?,
                None => break,
            }
        }
        // Most requests never wait for anything: only those that do take the dearer way.
        let mut issued: Pin<Box<dyn Future<Output = (usize, Result<()>)> + '_>> =
            Box::pin(async move { (number, issue(disk, request).await) });
        let now = poll_fn(|context| Poll::Ready(issued.as_mut().poll(context))).await;
        match now {
            Poll::Ready((_, outcome)) => completed[number] = settle(outcome)?,
            Poll::Pending => in_flight.push(issued),
        }
    }
    while let Some((_, outcome)) = in_flight.next().await {
        outcome?;
    }
    Ok(())
}

fn settle(outcome: Result<()>) -> Result<bool, Error> {
    outcome.map(|()| true)
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
