//! The page cache of a node.

mod bits;
mod file;
mod pages;
mod readahead;
mod recency;
mod write_back;

pub use file::CachedFile;

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use smallvec::SmallVec;
use vmicache_format::runtime::{Event, Listener};

use crate::engine::{Law, Simulation, Violation};
use bits::{Bits, PAGE};
use pages::{FileId, Pages};
use readahead::{Readahead, Window};
use write_back::WriteBack;

/// What a page cache reads from and writes to: a file on a device or of another node.
#[expect(async_fn_in_trait, reason = "a simulation and everything in it stay on one thread")]
pub trait Backing: Clone + 'static {
    /// Reads `bytes` bytes at `offset`.
    async fn read(&self, offset: u64, bytes: u64);

    /// Writes `bytes` bytes at `offset`.
    async fn write(&self, offset: u64, bytes: u64);

    /// Most bytes that the cache asks for at once: what is longer becomes several requests, and a reader
    /// waits only for those that hold what it asked for.
    fn largest_request(&self) -> u64 {
        1 << 20
    }
}

/// What a page cache did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCacheUse {
    /// Bytes that were asked of it, up to the ends of the files.
    pub asked_bytes: u64,
    /// Of these, bytes that it had.
    pub hit_bytes: u64,
    /// Of these, bytes that were already on the way, for another reader or by readahead.
    pub awaited_bytes: u64,
    /// Of these, bytes that had to be fetched.
    pub missed_bytes: u64,
    /// Bytes that it asked of what is below.
    pub fetched_bytes: u64,
    /// Of these, bytes on pages that no reader had asked for.
    pub readahead_bytes: u64,
    /// Bytes that it wrote to what is below.
    pub written_back_bytes: u64,
    /// Bytes of the pages that it has evicted.
    pub evicted_bytes: u64,
    /// Bytes of the pages that still have to be written.
    pub dirty_bytes: u64,
    /// Bytes of the pages that it holds.
    pub resident_bytes: u64,
}

/// The page cache of a node: one for all its files, with the least recently used pages leaving first (see
/// Linux's inactive and active lists). Clones are the same cache.
#[derive(Clone)]
pub struct PageCache {
    parts: Rc<Parts>,
}

struct Parts {
    sim: Simulation,
    name: Rc<str>,
    fetch_name: Rc<str>,
    write_back_name: Rc<str>,
    state: RefCell<State>,
    /// Dirty pages have been written.
    cleaned: Event,
}

struct State {
    pages: Pages,
    files: Vec<File>,
    usage: PageCacheUse,
}

/// A file, of which nothing else is known than what was read and written.
#[derive(Default)]
struct File {
    /// Where the furthest write, or what was there before it, ended.
    end: u64,
    fetches: Vec<Fetch>,
    write_back: WriteBack,
}

/// A request for pages that is under way.
struct Fetch {
    pages: Range<u64>,
    done: Event,
}

type Listeners = SmallVec<[Listener; 2]>;

impl PageCache {
    /// An empty cache of whole pages of 4 KiB, as many as fit into `capacity_bytes`.
    pub fn new(sim: &Simulation, name: &str, capacity_bytes: u64) -> PageCache {
        let state =
            State { pages: Pages::new(capacity_bytes / PAGE), files: vec![], usage: PageCacheUse::default() };
        let parts = Parts {
            sim: sim.clone(),
            name: name.into(),
            fetch_name: format!("{name}: fetch").into(),
            write_back_name: format!("{name}: write-back").into(),
            state: RefCell::new(state),
            cleaned: Event::new(),
        };
        PageCache { parts: Rc::new(parts) }
    }

    /// Opens a file of which nothing is cached; at most `readahead_bytes` are read ahead of its reader.
    pub fn file<B: Backing>(&self, backing: B, readahead_bytes: u64) -> CachedFile<B> {
        let mut state = self.parts.state.borrow_mut();
        state.files.push(File::default());
        let id = (state.files.len() - 1) as FileId;
        CachedFile::new(self.clone(), id, backing, readahead_bytes)
    }

    /// What it did so far.
    pub fn usage(&self) -> PageCacheUse {
        let state = self.parts.state.borrow();
        let counts = state.pages.counts();
        PageCacheUse {
            evicted_bytes: counts.evicted * PAGE,
            dirty_bytes: (counts.dirty + counts.writing) * PAGE,
            resident_bytes: counts.present * PAGE,
            ..state.usage
        }
    }

    /// Checks that every byte asked for was had, awaited or fetched, that every page that came is here or has
    /// been evicted, and that every page that became dirty has been written or is still to be.
    ///
    /// # Errors
    /// The first of these laws that does not hold.
    pub fn check(&self) -> Result<(), Violation> {
        let state = self.parts.state.borrow();
        let (used, counts) = (&state.usage, state.pages.counts());
        let recount = state.pages.recount();
        let laws = [
            ("bytes asked for", used.asked_bytes, used.hit_bytes + used.awaited_bytes + used.missed_bytes),
            ("pages that came", counts.entered, counts.evicted + recount.present),
            ("pages made dirty", counts.dirtied, counts.written + recount.dirty + recount.writing),
            ("pages on the lists", counts.present, state.pages.listed()),
            ("pages present", counts.present, recount.present),
            ("pages dirty", counts.dirty + counts.writing, recount.dirty + recount.writing),
        ];
        let broken = laws.into_iter().find(|(_, left, right)| left != right);
        broken.map_or(Ok(()), |(unit, left, right)| {
            Err(Violation {
                resource: format!("page cache `{}`", self.parts.name),
                law: Law::Conservation,
                unit,
                left: left as f64,
                right: right as f64,
            })
        })
    }
}

impl State {
    fn file(&mut self, id: FileId) -> &mut File {
        &mut self.files[id as usize]
    }

    /// Whether what was asked for is there, on the way or missing.
    fn account(&mut self, id: FileId, bytes: &Range<u64>) {
        let sum = |wanted: fn(&Bits) -> u64| {
            let runs = self.pages.runs(id, pages_of(bytes), wanted);
            runs.map(|run| length(&(bytes.start.max(run.start * PAGE)..bytes.end.min(run.end * PAGE))))
                .sum::<u64>()
        };
        let hit = sum(|bits| bits.present);
        let awaited = sum(|bits| bits.fetching & !bits.present);
        let missed = sum(Bits::missing);
        self.usage.hit_bytes += hit;
        self.usage.awaited_bytes += awaited;
        self.usage.missed_bytes += missed;
    }

    /// What to read when a reader that wants `wanted` pages comes to `page`, which is missing or marked.
    fn window(
        &mut self,
        id: FileId,
        page: u64,
        wanted: u64,
        readahead: &mut Readahead,
        last_end: u64,
    ) -> Option<Window> {
        if self.pages.is(id, page, Bits::missing) {
            let previous = last_end.checked_sub(1).map(|last| last / PAGE);
            let history = |most| self.pages.present_before(id, page, most);
            Some(readahead.miss(page, wanted, previous, history))
        } else {
            self.pages.unmark(id, page);
            readahead
                .marker(page, wanted, |most| self.pages.first(id, page + 1..page + 1 + most, Bits::missing))
        }
    }

    fn end_fetch(&mut self, id: FileId, pages: Range<u64>) {
        self.file(id).fetches.retain(|fetch| fetch.pages != pages);
        self.pages.end_fetch(id, pages);
        self.pages.shrink();
    }

    /// The ends of the requests that some of `pages` come with.
    fn listeners(&mut self, id: FileId, pages: &Range<u64>) -> Listeners {
        let fetches = self.file(id).fetches.iter();
        fetches
            .filter(|fetch| fetch.pages.start < pages.end && pages.start < fetch.pages.end)
            .map(|fetch| fetch.done.listen())
            .collect()
    }
}

fn length(bytes: &Range<u64>) -> u64 {
    bytes.end.saturating_sub(bytes.start)
}

fn pages_of(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / PAGE..bytes.end.div_ceil(PAGE)
}

/// The bytes on `pages` before `end_of_file`.
fn bytes_of(pages: &Range<u64>, end_of_file: u64) -> Range<u64> {
    pages.start.saturating_mul(PAGE)..pages.end.saturating_mul(PAGE).min(end_of_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Immediate;

    impl Backing for Immediate {
        async fn read(&self, _offset: u64, _bytes: u64) {}

        async fn write(&self, _offset: u64, _bytes: u64) {}
    }

    #[test]
    fn broken_books_are_noticed() {
        let sim = Simulation::new();
        let cache = PageCache::new(&sim, "cache", 1 << 20);
        let file = cache.file(Immediate, 0);
        sim.block_on(async {
            file.read(100, 5000, 1 << 20).await;
            file.write(1 << 19, 100, 0).await;
        })
        .unwrap();
        cache.check().unwrap();
        cache.parts.state.borrow_mut().usage.hit_bytes += 1;
        let broken = cache.check().unwrap_err().to_string();
        assert!(broken.contains("page cache `cache`") && broken.contains("bytes asked for"), "{broken}");
        cache.parts.state.borrow_mut().usage.hit_bytes -= 1;
        // A page that becomes present without having come.
        cache.parts.state.borrow_mut().pages.forge();
        assert!(cache.check().unwrap_err().to_string().contains("pages that came"));
    }
}
