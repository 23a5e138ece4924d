//! Files in a page cache: reading, with readahead, and writing.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use smallvec::SmallVec;
use vmicache_format::runtime::Event;

use super::bits::{Bits, PAGE};
use super::pages::FileId;
use super::readahead::{Readahead, Window};
use super::{Backing, Fetch, Listeners, PageCache, State, bytes_of, length, pages_of};

type Runs = SmallVec<[Range<u64>; 4]>;

/// An open file in a page cache. Clones are the same open file; see [`reopen`](CachedFile::reopen).
#[derive(Clone)]
pub struct CachedFile<B> {
    pub(super) cache: PageCache,
    pub(super) id: FileId,
    pub(super) backing: B,
    open: Rc<RefCell<Open>>,
}

/// What belongs to an open file, not to the file.
struct Open {
    readahead_bytes: u64,
    readahead: Readahead,
    /// Where the last read ended.
    read_end: u64,
}

impl Open {
    fn new(readahead_bytes: u64) -> Open {
        Open { readahead_bytes, readahead: Readahead::new(readahead_bytes / PAGE), read_end: 0 }
    }
}

impl<B: Backing> CachedFile<B> {
    pub(super) fn new(cache: PageCache, id: FileId, backing: B, readahead_bytes: u64) -> CachedFile<B> {
        CachedFile { cache, id, backing, open: Rc::new(RefCell::new(Open::new(readahead_bytes))) }
    }

    /// The same file opened again: it shares its pages, and is read ahead for another reader.
    pub fn reopen(&self) -> CachedFile<B> {
        let open = Open::new(self.open.borrow().readahead_bytes);
        CachedFile { open: Rc::new(RefCell::new(open)), ..self.clone() }
    }

    /// Reads `bytes` bytes at `offset`, as far as they lie before `end_of_file`. What the cache has takes no
    /// time. Who drops the future stops no request that is under way for it.
    pub async fn read(&self, offset: u64, bytes: u64, end_of_file: u64) {
        let bytes = offset..offset.saturating_add(bytes).min(end_of_file);
        if bytes.is_empty() {
            return;
        }
        let last_end = std::mem::replace(&mut self.open.borrow_mut().read_end, bytes.end);
        for listener in self.begin_read(&bytes, end_of_file, last_end) {
            listener.await;
        }
        // To go on within a page is no second use of it.
        let continued = bytes.start == last_end && bytes.start % PAGE != 0;
        let used = bytes.start / PAGE + u64::from(continued)..pages_of(&bytes).end;
        self.cache.parts.state.borrow_mut().pages.touch(self.id, used);
    }

    /// Has the pages that are missing fetched, and some ahead; returns what to wait for.
    fn begin_read(&self, bytes: &Range<u64>, end_of_file: u64, last_end: u64) -> Listeners {
        let pages = pages_of(bytes);
        let mut state = self.cache.parts.state.borrow_mut();
        let state = &mut *state;
        state.usage.asked_bytes += bytes.end - bytes.start;
        if state.pages.first(self.id, pages.clone(), |bits| !bits.present | bits.marked).is_none() {
            state.usage.hit_bytes += bytes.end - bytes.start;
            return Listeners::new();
        }
        state.account(self.id, bytes);
        let readahead = &mut self.open.borrow_mut().readahead;
        let mut from = pages.start;
        while let Some(page) =
            state.pages.first(self.id, from..pages.end, |bits| bits.missing() | bits.marked)
        {
            let window = state.window(self.id, page, pages.end - page, readahead, last_end);
            if let Some(window) = window {
                self.fetch(state, window, &pages, end_of_file);
            }
            from = page + 1;
        }
        state.listeners(self.id, &pages)
    }

    /// Has a window's pages fetched, as far as they are missing and the file has them; those outside `asked`
    /// count as readahead. Each request is a task of its own, which no reader can stop.
    fn fetch(&self, state: &mut State, window: Window, asked: &Range<u64>, end_of_file: u64) {
        let end = window.pages.end.min(end_of_file.div_ceil(PAGE));
        let runs: Runs = state.pages.runs(self.id, window.pages.start..end, Bits::missing).collect();
        for pages in runs.into_iter().flat_map(|run| pieces(run, self.largest_request())) {
            let bytes = bytes_of(&pages, end_of_file);
            let ahead = [pages.start..pages.end.min(asked.start), pages.start.max(asked.end)..pages.end];
            state.usage.fetched_bytes += bytes.end - bytes.start;
            state.usage.readahead_bytes += ahead
                .iter()
                .map(|pages| bytes_of(pages, end_of_file))
                .map(|bytes| length(&bytes))
                .sum::<u64>();
            state.pages.begin_fetch(self.id, pages.clone());
            let done = Event::new();
            state.file(self.id).fetches.push(Fetch { pages: pages.clone(), done: done.clone() });
            let (cache, id, backing) = (self.cache.clone(), self.id, self.backing.clone());
            self.cache.parts.sim.spawn(self.cache.parts.fetch_name.clone(), async move {
                backing.read(bytes.start, bytes.end - bytes.start).await;
                cache.parts.state.borrow_mut().end_fetch(id, pages);
                done.notify();
            });
        }
        if let Some(marker) = window.marker {
            state.pages.mark(self.id, marker);
        }
    }

    /// Writes `bytes` bytes at `offset` of a file that ended at `end_of_file` before: to the cache, from
    /// where they are written to what is below after 30 s, or sooner. A page of which only a part is written,
    /// and the rest has data, is read first. Waits while too much is dirty.
    pub async fn write(&self, offset: u64, bytes: u64, end_of_file: u64) {
        const PIECE: u64 = 1 << 20;
        let end = offset.saturating_add(bytes);
        let mut from = offset;
        while from < end {
            let to = end.min((from / PIECE + 1).saturating_mul(PIECE));
            for listener in self.fetch_edges(&(from..to), end_of_file) {
                listener.await;
            }
            self.make_dirty(from..to, end_of_file);
            self.cache.throttle().await;
            from = to;
        }
    }

    /// Has the first and the last page fetched, as far as that is necessary before `bytes` are written.
    fn fetch_edges(&self, bytes: &Range<u64>, end_of_file: u64) -> Listeners {
        let mut state = self.cache.parts.state.borrow_mut();
        let mut listeners = Listeners::new();
        let Range { start: first, end } = pages_of(bytes);
        for page in [first, end - 1].into_iter().take(if first == end - 1 { 1 } else { 2 }) {
            let data = bytes_of(&(page..page + 1), end_of_file);
            let overwritten = bytes.start <= data.start && data.end <= bytes.end;
            if data.is_empty() || overwritten || state.pages.is(self.id, page, |bits| bits.present) {
                continue;
            }
            let window = Window { pages: page..page + 1, marker: None };
            self.fetch(&mut state, window, &(page..page + 1), end_of_file);
            listeners.extend(state.listeners(self.id, &(page..page + 1)));
        }
        listeners
    }

    /// Most pages that are asked of the backing at once.
    pub(super) fn largest_request(&self) -> u64 {
        (self.backing.largest_request() / PAGE).max(1)
    }
}

/// Cuts a run into pieces of at most `most` pages.
fn pieces(run: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let end = run.end;
    run.step_by(most as usize).map(move |start| start..end.min(start + most))
}
