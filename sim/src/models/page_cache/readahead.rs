//! How much is read ahead: Linux's on-demand algorithm (`mm/readahead.c`).
//!
//! Numbers are of pages. A window is read as a whole; the first page that nobody asked for yet is its marker,
//! and whoever comes to it has the next window read beside.

use std::ops::Range;

/// A request is read whole up to here, though readahead stops earlier: 1 MiB.
const LARGEST_REQUEST: u64 = 256;

/// Pages to be read, as far as they are not in memory, and the one of them to be marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) pages: Range<u64>,
    pub(super) marker: Option<u64>,
}

/// What an open file remembers: its last window, and how much of it lay ahead of the reader.
#[derive(Clone, Debug)]
pub(super) struct Readahead {
    most: u64,
    start: u64,
    size: u64,
    ahead: u64,
}

impl Readahead {
    /// Reads at most `most` pages ahead; with 0 only what is asked for.
    pub(super) fn new(most: u64) -> Readahead {
        Readahead { most, start: 0, size: 0, ahead: 0 }
    }

    /// What to read when `page`, the first of `wanted` ones, is not in memory. `previous` is the page where
    /// the last read ended; `history` counts the pages right before that are in memory, up to a number.
    pub(super) fn miss(
        &mut self,
        page: u64,
        wanted: u64,
        previous: Option<u64>,
        history: impl FnOnce(u64) -> u64,
    ) -> Window {
        let as_asked = Window { pages: page..page + wanted, marker: None };
        if self.most == 0 {
            return as_asked;
        }
        let most = self.most.max(wanted.min(LARGEST_REQUEST));
        let sequential = previous.is_some_and(|previous| page == previous || page == previous + 1);
        if page > 0 && page == self.start + self.size {
            return self.next(page, most);
        }
        if page == 0 || wanted > most || sequential {
            let size = initial_size(wanted, most);
            return self.window(
                page,
                page..page + size,
                if size > wanted { size - wanted } else { size },
                most,
            );
        }
        // What one of several streams has left in memory, where the state belongs to another.
        let history = history(most);
        if history <= wanted {
            return as_asked;
        }
        let seen = if history >= page { 2 * history } else { history };
        self.window(page, page..page + most.min(seen + wanted), 1, most)
    }

    /// What to read when a reader that wants `wanted` pages comes to the marker at `page`; `hole` finds the
    /// first page behind it that is not in memory, within a number of pages.
    pub(super) fn marker(
        &mut self,
        page: u64,
        wanted: u64,
        hole: impl FnOnce(u64) -> Option<u64>,
    ) -> Option<Window> {
        if self.most == 0 {
            return None;
        }
        let most = self.most.max(wanted.min(LARGEST_REQUEST));
        if page + self.ahead == self.start + self.size || page == self.start + self.size {
            return Some(self.next(page, most));
        }
        let start = hole(most)?;
        let size = next_size(start - page + wanted, most);
        Some(self.window(page, start..start + size, size, most))
    }

    /// The window behind the last one.
    fn next(&mut self, page: u64, most: u64) -> Window {
        let start = self.start + self.size;
        let size = next_size(self.size, most);
        self.window(page, start..start + size, size, most)
    }

    fn window(&mut self, page: u64, pages: Range<u64>, ahead: u64, most: u64) -> Window {
        self.start = pages.start;
        self.size = pages.end - pages.start;
        self.ahead = ahead;
        if page == self.start && self.size == self.ahead {
            // The reader would come to the marker at once: the window after this one is made part of it.
            let next = next_size(self.size, most);
            (self.size, self.ahead) =
                if self.size + next <= most { (self.size + next, next) } else { (most, most / 2) };
        }
        let end = self.start + self.size;
        Window { pages: self.start..end, marker: Some(end - self.ahead).filter(|marker| *marker < end) }
    }
}

fn initial_size(wanted: u64, most: u64) -> u64 {
    let size = wanted.next_power_of_two();
    if size <= most / 32 {
        size * 4
    } else if size <= most / 4 {
        size * 2
    } else {
        most
    }
}

fn next_size(size: u64, most: u64) -> u64 {
    most.min(if size < most / 16 { size * 4 } else { size * 2 })
}
