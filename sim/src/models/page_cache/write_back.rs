//! How what was written to the page cache gets below: when it is 30 s old, when a flush asks for it, or when
//! too much of the cache is dirty. As in Linux, a file is written as a whole then.

use std::ops::Range;

use futures_util::future::select;
use vmicache_format::runtime::Event;

use super::pages::FileId;
use super::{Backing, CachedFile, PageCache, State, bytes_of, pages_of};
use crate::engine::{Span, Time};

/// How old dirty pages become: Linux's `dirty_expire_centisecs`.
const EXPIRY: Span = Span::from_microseconds(30_000_000);
/// Writers wait when more than one page in this many is dirty: Linux's `dirty_ratio` of 20 %.
const DIRTY_SHARE: u64 = 5;

/// How a file's write-back stands. Its pages are written in rounds, by a task that exists while any is dirty.
#[derive(Default)]
pub(super) struct WriteBack {
    running: bool,
    /// Somebody waits for the next round.
    urged: bool,
    /// When the first of the pages became dirty that the next round will write.
    dirty_since: Option<Time>,
    /// Rounds that have begun, and that have ended; one at most is under way.
    begun: u64,
    ended: u64,
    /// For the task: a round is wanted.
    wanted: Event,
    /// For flushes: a round has ended.
    round_ended: Event,
}

impl WriteBack {
    fn urge(&mut self) {
        self.urged = true;
        self.wanted.notify();
    }
}

impl PageCache {
    /// Waits until no more pages are dirty than there may be.
    pub(super) async fn throttle(&self) {
        loop {
            let cleaned = {
                let mut state = self.parts.state.borrow_mut();
                let counts = state.pages.counts();
                if counts.dirty + counts.writing <= state.pages.capacity() / DIRTY_SHARE {
                    return;
                }
                state.urge_all();
                self.parts.cleaned.listen()
            };
            cleaned.await;
        }
    }
}

impl State {
    fn urge_all(&mut self) {
        let State { files, pages, .. } = self;
        for (id, file) in (0..).zip(files) {
            if !file.write_back.urged && pages.dirty_end(id).is_some() {
                file.write_back.urge();
            }
        }
    }

    /// Begins a round; returns the page before which it ends, so that it does not run after its writers.
    fn begin_round(&mut self, id: FileId) -> u64 {
        let end = self.pages.dirty_end(id).unwrap_or(0);
        let write_back = &mut self.file(id).write_back;
        write_back.urged = false;
        write_back.dirty_since = None;
        write_back.begun += 1;
        end
    }

    fn end_round(&mut self, id: FileId) {
        let write_back = &mut self.file(id).write_back;
        write_back.ended = write_back.begun;
        write_back.round_ended.notify();
    }
}

impl<B: Backing> CachedFile<B> {
    /// Writes what is dirty to what is below, and waits until it is there (`fsync`). Who drops the future
    /// does not stop the writing.
    pub async fn flush(&self) {
        let target = {
            let mut state = self.cache.parts.state.borrow_mut();
            let dirty = state.pages.dirty_end(self.id).is_some();
            let write_back = &mut state.file(self.id).write_back;
            if dirty {
                write_back.urge();
            }
            write_back.begun + u64::from(dirty)
        };
        while let Some(ended) = self.not_yet(target) {
            ended.await;
        }
    }

    /// What to wait for, if round `target` has not ended and there may still be something for it to write.
    fn not_yet(&self, target: u64) -> Option<impl Future<Output = ()>> {
        let mut state = self.cache.parts.state.borrow_mut();
        let dirty = state.pages.dirty_end(self.id).is_some();
        let write_back = &state.file(self.id).write_back;
        let idle = write_back.begun == write_back.ended && !dirty;
        (!idle && write_back.ended < target).then(|| write_back.round_ended.listen())
    }

    /// Makes the pages that `bytes` lie on dirty.
    pub(super) fn make_dirty(&self, bytes: Range<u64>, end_of_file: u64) {
        let parts = &self.cache.parts;
        let starts = {
            let mut state = parts.state.borrow_mut();
            state.pages.make_dirty(self.id, pages_of(&bytes));
            state.pages.touch(self.id, pages_of(&bytes));
            state.pages.shrink();
            let file = state.file(self.id);
            file.end = file.end.max(end_of_file).max(bytes.end);
            file.write_back.dirty_since.get_or_insert(parts.sim.now());
            !std::mem::replace(&mut file.write_back.running, true)
        };
        if starts {
            parts.sim.spawn(parts.write_back_name.clone(), self.clone().write_back());
        }
    }

    /// The task: ends when nothing is dirty.
    async fn write_back(self) {
        while self.round_is_due().await {
            self.round().await;
        }
    }

    /// Waits until pages are old enough or wanted below; `false` if none is dirty.
    async fn round_is_due(&self) -> bool {
        let sim = &self.cache.parts.sim;
        loop {
            let (due, wanted) = {
                let mut state = self.cache.parts.state.borrow_mut();
                let dirty = state.pages.dirty_end(self.id).is_some();
                let write_back = &mut state.file(self.id).write_back;
                let due = write_back.dirty_since.unwrap_or(sim.now()) + EXPIRY;
                if !dirty || write_back.urged || due <= sim.now() {
                    write_back.running = dirty;
                    return dirty;
                }
                (due, write_back.wanted.listen())
            };
            select(sim.sleep_until(due), wanted).await;
        }
    }

    /// Writes all dirty pages in the order of the file, one request after the other.
    async fn round(&self) {
        let parts = &self.cache.parts;
        let end = parts.state.borrow_mut().begin_round(self.id);
        let mut from = 0;
        while let Some((pages, bytes)) = self.begin_write(from, end) {
            from = pages.end;
            self.backing.write(bytes.start, bytes.end - bytes.start).await;
            {
                let mut state = parts.state.borrow_mut();
                state.usage.written_back_bytes += bytes.end - bytes.start;
                state.pages.end_write(self.id, pages);
                state.pages.shrink();
            }
            parts.cleaned.notify();
        }
        parts.state.borrow_mut().end_round(self.id);
    }

    /// The next pages and bytes to write in a round, from page `from` on and before page `end`.
    fn begin_write(&self, from: u64, end: u64) -> Option<(Range<u64>, Range<u64>)> {
        let mut state = self.cache.parts.state.borrow_mut();
        let pages = state.pages.dirty_run(self.id, from, self.largest_request())?;
        if pages.start >= end {
            return None;
        }
        state.pages.begin_write(self.id, pages.clone());
        let bytes = bytes_of(&pages, state.file(self.id).end);
        Some((pages, bytes))
    }
}
