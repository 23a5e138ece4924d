//! A virtual machine that replays a recorded boot on a disk, in closed loop.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use vmicache_format::Result;
use vmicache_format::disk::Disk;
use vmicache_format::runtime::Event;
use vmicache_format::storage::{Payload, Storage};
use vmicache_format::trace::{Dependencies, Op, Request, Trace};

use crate::engine::Span;

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
        completed[number] = in_flight.begin(number, || issue(disk, request)).await?;
    }
    while !in_flight.requests.is_empty() {
        in_flight.next_completion().await?;
    }
    Ok(())
}

/// A recorded boot, ready to be replayed in simulated time. Virtual machines share it.
#[derive(Clone, Debug)]
pub struct BootPlan {
    requests: Vec<Request>,
    /// How long the guest computes before each request.
    thinks: Vec<Span>,
    /// The requests that wait for request `i`: `followers[first_follower[i]..first_follower[i + 1]]`.
    followers: Vec<u32>,
    first_follower: Vec<u32>,
    /// The requests that wait for nothing.
    roots: Vec<u32>,
    /// Beside its link, what a request must not overtake.
    order: Vec<SmallVec<[u32; 2]>>,
    cpu: Span,
}

/// Requests to one block of this many bytes keep their recorded order, if one of them writes: whether the
/// overlay, whose clusters have this size, has a block or asks below for it depends on that order.
const ORDERED_BLOCK: u64 = crate::replay::OVERLAY_CLUSTER_SIZE;

/// For each request the earlier ones that must have completed before it is issued, since one of the two writes.
fn recorded_order(requests: &[Request]) -> Vec<SmallVec<[u32; 2]>> {
    #[derive(Default)]
    struct Block {
        write: Option<u32>,
        reads_since: Vec<u32>,
    }
    let mut blocks: FxHashMap<u64, Block> = FxHashMap::default();
    let order = requests.iter().enumerate().map(|(i, request)| {
        let mut earlier = SmallVec::<[u32; 2]>::new();
        let writes = matches!(request.op, Op::Write | Op::Zero);
        if request.length == 0 || !(writes || request.op == Op::Read) {
            return earlier;
        }
        for number in request.offset / ORDERED_BLOCK..=(request.range().end - 1) / ORDERED_BLOCK {
            let block = blocks.entry(number).or_default();
            earlier.extend(block.write);
            if writes {
                earlier.extend(block.reads_since.drain(..));
                block.write = Some(i as u32);
            } else {
                block.reads_since.push(i as u32);
            }
        }
        earlier.sort_unstable();
        earlier.dedup();
        earlier
    });
    order.collect()
}

impl BootPlan {
    /// The requests of `boot`, each issued its think time after the completion of the one that it waits for.
    pub fn new(boot: &Trace, dependencies: &Dependencies) -> Self {
        let count = boot.requests.len();
        let waits_for = |i: usize| dependencies.links.get(i).and_then(|link| link.waits_for);
        let mut first_follower = vec![0u32; count + 1];
        for earlier in (0..count).filter_map(waits_for) {
            first_follower[earlier + 1] += 1;
        }
        for i in 0..count {
            first_follower[i + 1] += first_follower[i];
        }
        let mut next = first_follower.clone();
        let mut followers = vec![0u32; first_follower[count] as usize];
        let mut roots = Vec::new();
        for i in 0..count {
            match waits_for(i) {
                Some(earlier) => {
                    followers[next[earlier] as usize] = i as u32;
                    next[earlier] += 1;
                }
                None => roots.push(i as u32),
            }
        }
        let think = |i: usize| dependencies.links.get(i).map_or(Span::ZERO, |link| link.think.into());
        BootPlan {
            requests: boot.requests.clone(),
            thinks: (0..count).map(think).collect(),
            followers,
            first_follower,
            roots,
            order: recorded_order(&boot.requests),
            cpu: dependencies.predict_span(boot, |_| std::time::Duration::ZERO).into(),
        }
    }

    /// How long the guest computes in all: the length of the boot if its requests took no time.
    pub fn cpu(&self) -> Span {
        self.cpu
    }

    /// Requests of the boot.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether the boot asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    fn followers(&self, request: usize) -> &[u32] {
        &self.followers[self.first_follower[request] as usize..self.first_follower[request + 1] as usize]
    }

    /// Replays the boot: `think` waits for as long as the guest computes, `issue` does the request of that
    /// number.
    ///
    /// # Errors
    /// The first error of a request; those in flight are dropped.
    pub async fn replay(
        &self,
        think: impl AsyncFn(Span),
        issue: impl AsyncFn(usize, &Request) -> Result<()>,
    ) -> Result<()> {
        let completed = Completed { flags: RefCell::new(vec![false; self.len()]), changed: Event::new() };
        let mut in_flight = InFlight::default();
        let mut released: VecDeque<u32> = self.roots.iter().copied().collect();
        let step = async |number: usize| {
            let pause = self.thinks[number];
            if pause > Span::ZERO {
                think(pause).await;
            }
            for earlier in &self.order[number] {
                completed.wait_for(*earlier).await;
            }
            let outcome = issue(number, &self.requests[number]).await;
            completed.add(number);
            outcome
        };
        loop {
            while let Some(number) = released.pop_front() {
                let number = number as usize;
                if in_flight.begin(number, || step(number)).await? {
                    released.extend(self.followers(number));
                }
            }
            if in_flight.requests.is_empty() {
                return Ok(());
            }
            released.extend(self.followers(in_flight.next_completion().await?));
        }
    }
}

/// Which requests of a boot have completed.
struct Completed {
    flags: RefCell<Vec<bool>>,
    changed: Event,
}

impl Completed {
    fn add(&self, request: usize) {
        self.flags.borrow_mut()[request] = true;
        self.changed.notify();
    }

    async fn wait_for(&self, request: u32) {
        while !self.flags.borrow()[request as usize] {
            self.changed.listen().await;
        }
    }
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
    /// Begins a request, so that it is under way before the guest goes on, and keeps it if it has not completed
    /// by then. Says whether it has.
    async fn begin(&mut self, number: usize, request: impl Fn() -> F) -> Result<bool> {
        poll_fn(|context| Poll::Ready(self.poll_first(number, &request, context))).await
    }

    fn poll_first(
        &mut self,
        number: usize,
        // Made in its place: it is too large to be moved about.
        request: impl Fn() -> F,
        context: &mut Context<'_>,
    ) -> Result<bool> {
        let mut place = self.spare.pop().unwrap_or_else(|| Box::pin(None));
        place.as_mut().set(Some(request()));
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

/// Does one request of a guest on its disk.
///
/// # Errors
/// If it lies beyond the disk, or a storage fails.
pub async fn issue<S: Storage>(disk: &Disk<S>, request: &Request) -> Result<()> {
    match request.op {
        Op::Read => disk.read(request.offset, request.length).await.map(drop),
        // Boxed: most requests are reads, and need not carry the state of the others.
        Op::Write => Box::pin(disk.write(request.offset, S::Payload::zeroed(request.length))).await,
        Op::Zero => Box::pin(disk.write_zeroes(request.offset, request.length)).await,
        Op::Trim => Ok(()),
        Op::Flush => Box::pin(disk.flush()).await,
    }
}
