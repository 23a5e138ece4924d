//! What a client is sent.

use super::connection::{Share, Stream};
use super::protocol::Small;
use crate::runtime::{Event, Watched};
use bytes::Bytes;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::rc::Rc;

/// The host takes at most this many parts at once (`IOV_MAX`).
const MAX_PARTS: usize = 1024;

/// A part of a reply.
pub(super) enum Part {
    Small(Small),
    Data(Bytes),
}

impl Part {
    fn as_slice(&self) -> &[u8] {
        match self {
            Part::Small(small) => small.as_slice(),
            Part::Data(data) => data,
        }
    }
}

pub(super) type Parts = SmallVec<[Part; 2]>;

struct Reply {
    parts: Parts,
    /// The memory that it takes until it is sent.
    _share: Option<Share>,
}

/// Replies on their way to a client, in order.
#[derive(Default)]
pub(super) struct Output {
    replies: RefCell<VecDeque<Reply>>,
    queued: Event,
    /// No more replies will come.
    closed: Cell<bool>,
    /// The client takes none any more.
    failed: Cell<bool>,
}

impl Output {
    /// Puts a reply behind those that wait.
    pub fn push(&self, parts: Parts, share: Option<Share>) {
        if self.failed.get() {
            return;
        }
        let was_empty = {
            let mut replies = self.replies.borrow_mut();
            replies.push_back(Reply { parts, _share: share });
            replies.len() == 1
        };
        if was_empty {
            self.queued.notify();
        }
    }

    /// No more replies will come: [`run`](Self::run) ends when those that wait are sent.
    pub fn close(&self) {
        self.closed.set(true);
        self.queued.notify();
    }

    /// Whether the client takes no more replies.
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Whether no reply will be sent any more.
    pub fn is_over(&self) -> bool {
        self.closed.get() || self.failed.get()
    }

    /// Sends replies as the client takes them.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn run(&self, socket: &Rc<Watched<Stream>>) -> io::Result<()> {
        loop {
            let queued = self.queued.listen();
            if self.replies.borrow().is_empty() {
                if self.closed.get() {
                    return Ok(());
                }
                queued.await;
            } else if let Err(error) = self.send_all(socket).await {
                self.failed.set(true);
                self.replies.borrow_mut().clear();
                return Err(error);
            }
        }
    }

    async fn send_all(&self, socket: &Rc<Watched<Stream>>) -> io::Result<()> {
        let mut sent = 0;
        loop {
            if self.replies.borrow().is_empty() {
                return Ok(());
            }
            let count = socket.when_writable(|socket| self.send_some(socket, sent)).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero));
            }
            sent = self.drop_sent(count.saturating_add(sent));
        }
    }

    /// Sends what the socket takes at once, but for the first `sent` bytes.
    fn send_some(&self, mut socket: &Stream, sent: usize) -> io::Result<usize> {
        let replies = self.replies.borrow();
        let mut slices: SmallVec<[IoSlice<'_>; 64]> = SmallVec::new();
        let mut skip = sent;
        for part in replies.iter().flat_map(|reply| &reply.parts) {
            let bytes = part.as_slice();
            if let Some(rest) = bytes.get(skip..).filter(|rest| !rest.is_empty()) {
                slices.push(IoSlice::new(rest));
                if slices.len() == MAX_PARTS {
                    break;
                }
            }
            skip = skip.saturating_sub(bytes.len());
        }
        socket.write_vectored(&slices)
    }

    /// Drops the replies that lie whole in the first `sent` bytes; how many of these belong to the next.
    fn drop_sent(&self, mut sent: usize) -> usize {
        let mut done = SmallVec::<[Reply; 16]>::new();
        let mut replies = self.replies.borrow_mut();
        while let Some(reply) = replies.front() {
            let length: usize = reply.parts.iter().map(|part| part.as_slice().len()).sum();
            let Some(rest) = sent.checked_sub(length) else { break };
            sent = rest;
            done.extend(replies.pop_front());
        }
        // What they held may wake others, once the list is free.
        drop(replies);
        sent
    }
}
