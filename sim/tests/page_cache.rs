//! The page cache keeps, fetches, reads ahead, writes back and forgets as Linux's does.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;

use futures_util::future::{join, join_all, select};
use proptest::prelude::*;
use vmicache_sim::engine::{Simulation, Span, Time};
use vmicache_sim::models::{Backing, CachedFile, PageCache};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;

fn milliseconds(ms: u64) -> Span {
    Span::from_microseconds(1000 * ms)
}

/// A file every request of which takes a millisecond, and is written down as (offset, bytes), both in KiB if
/// whole.
#[derive(Clone)]
struct Slow {
    sim: Simulation,
    reads: Rc<RefCell<Vec<(u64, u64)>>>,
    writes: Rc<RefCell<Vec<(u64, u64)>>>,
    largest: u64,
}

impl Slow {
    fn new(sim: &Simulation) -> Slow {
        Slow { sim: sim.clone(), reads: Rc::default(), writes: Rc::default(), largest: MIB }
    }

    /// The reads since the last look, offsets and lengths in pages.
    fn pages_read(&self) -> Vec<(u64, u64)> {
        self.reads.take().into_iter().map(|(offset, bytes)| (offset / PAGE, bytes.div_ceil(PAGE))).collect()
    }

    fn pages_written(&self) -> Vec<(u64, u64)> {
        self.writes.take().into_iter().map(|(offset, bytes)| (offset / PAGE, bytes.div_ceil(PAGE))).collect()
    }
}

impl Backing for Slow {
    async fn read(&self, offset: u64, bytes: u64) {
        self.reads.borrow_mut().push((offset, bytes));
        self.sim.sleep(milliseconds(1)).await;
    }

    async fn write(&self, offset: u64, bytes: u64) {
        self.writes.borrow_mut().push((offset, bytes));
        self.sim.sleep(milliseconds(1)).await;
    }

    fn largest_request(&self) -> u64 {
        self.largest
    }
}

struct Setup {
    sim: Simulation,
    below: Slow,
    cache: PageCache,
    file: CachedFile<Slow>,
}

impl Setup {
    fn new(capacity_bytes: u64, readahead_bytes: u64) -> Setup {
        let sim = Simulation::new();
        let below = Slow::new(&sim);
        let cache = PageCache::new(&sim, "cache", capacity_bytes);
        let file = cache.file(below.clone(), readahead_bytes);
        Setup { sim, below, cache, file }
    }

    fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let result = self.sim.block_on(main).unwrap();
        self.cache.check().unwrap();
        result
    }

    /// Reads so many pages from `page` on; returns whether it waited.
    async fn read_pages(&self, page: u64, pages: u64) -> bool {
        let before = self.sim.now();
        self.file.read(page * PAGE, pages * PAGE, GIB).await;
        self.sim.now() > before
    }

    async fn write_pages(&self, page: u64, pages: u64) {
        self.file.write(page * PAGE, pages * PAGE, GIB).await;
    }
}

#[test]
fn what_was_read_is_a_hit_and_takes_no_time() {
    let setup = Setup::new(MIB, 0);
    setup.run(async {
        assert!(setup.read_pages(3, 5).await);
        assert!(!setup.read_pages(3, 5).await);
        setup.file.read(3 * PAGE + 17, 1000, GIB).await;
        assert_eq!(setup.below.pages_read(), [(3, 5)]);
        // Pages 2 and 8 are missing on both sides: two requests, at the same time.
        let before = setup.sim.now();
        assert!(setup.read_pages(2, 7).await);
        assert_eq!(setup.sim.now().since(before), milliseconds(1));
        assert_eq!(setup.below.pages_read(), [(2, 1), (8, 1)]);
    });
    let used = setup.cache.usage();
    assert_eq!(used.asked_bytes, (5 + 5 + 7) * PAGE + 1000);
    assert_eq!(used.hit_bytes, (5 + 5) * PAGE + 1000);
    assert_eq!((used.missed_bytes, used.awaited_bytes), ((5 + 2) * PAGE, 0));
    assert_eq!((used.fetched_bytes, used.readahead_bytes), ((5 + 2) * PAGE, 0));
    assert_eq!((used.resident_bytes, used.evicted_bytes), (7 * PAGE, 0));
}

#[test]
fn nothing_is_read_beyond_the_end_of_the_file() {
    let setup = Setup::new(MIB, 128 * KIB);
    let end = 5 * PAGE + 100;
    setup.run(async {
        setup.file.read(0, 64 * KIB, end).await;
        setup.file.read(end, 64 * KIB, end).await;
        setup.file.read(u64::MAX - 10, 64 * KIB, end).await;
        setup.file.read(5 * PAGE, u64::MAX, end).await;
        setup.file.read(0, 0, end).await;
    });
    assert_eq!(setup.below.reads.take(), [(0, end)]);
    assert_eq!(setup.cache.usage().asked_bytes, end + 100);
    assert_eq!(setup.cache.usage().readahead_bytes, 0);
}

#[test]
fn long_runs_are_cut_and_a_reader_waits_only_for_its_own_pieces() {
    let sim = Simulation::new();
    let below = Slow { largest: 64 * KIB, ..Slow::new(&sim) };
    let cache = PageCache::new(&sim, "cache", 64 * MIB);
    let file = cache.file(below.clone(), 0);
    sim.block_on(file.read(PAGE, 200 * KIB, GIB)).unwrap();
    assert_eq!(below.pages_read(), [(1, 16), (17, 16), (33, 16), (49, 2)]);
    // One page that comes with the first piece, while the second is slower: no more than the first is waited
    // for.
    let below = Slow::new(&sim);
    sim.block_on(cache.file(below.clone(), 0).read(0, 2 * MIB + PAGE, GIB)).unwrap();
    assert_eq!(below.pages_read(), [(0, 256), (256, 256), (512, 1)]);
}

#[test]
fn readers_of_one_page_cause_one_fetch() {
    let setup = Setup::new(MIB, 0);
    setup.run(async {
        let readers = (0..64).map(|reader| {
            let setup = &setup;
            async move {
                // They come one after the other while the first one's request takes its millisecond.
                setup.sim.sleep(Span::from_microseconds(10 * reader)).await;
                setup.file.reopen().read(7 * PAGE, PAGE, GIB).await;
                assert_eq!(setup.sim.now(), Time::ZERO + milliseconds(1));
            }
        });
        join_all(readers).await;
    });
    assert_eq!(setup.below.pages_read(), [(7, 1)]);
    let used = setup.cache.usage();
    assert_eq!((used.missed_bytes, used.awaited_bytes, used.hit_bytes), (PAGE, 63 * PAGE, 0));
}

#[test]
fn who_drops_a_read_stops_nobody_else() {
    let setup = Setup::new(MIB, 0);
    setup.run(async {
        let impatient = pin!(setup.read_pages(0, 4));
        select(impatient, pin!(setup.sim.sleep(Span::from_microseconds(500)))).await;
        setup.read_pages(2, 1).await;
        assert_eq!(setup.sim.now(), Time::ZERO + milliseconds(1));
        assert!(!setup.read_pages(0, 4).await);
    });
    assert_eq!(setup.below.pages_read(), [(0, 4)]);
}

#[test]
fn the_oldest_pages_leave_first() {
    // Room for 256 pages, that is four chunks of 64. A fifth makes the first one go, and so on.
    let setup = Setup::new(MIB, 0);
    setup.run(async {
        for chunk in 0..5 {
            setup.read_pages(64 * chunk, 64).await;
        }
        assert_eq!(setup.cache.usage().resident_bytes, MIB);
        assert_eq!(setup.cache.usage().evicted_bytes, 64 * PAGE);
        for chunk in 1..5 {
            assert!(!setup.read_pages(64 * chunk, 1).await, "chunk {chunk}");
        }
        // One page more, and one page goes: the lowest of chunk 1.
        setup.read_pages(1000, 1).await;
        assert_eq!(setup.cache.usage().evicted_bytes, 65 * PAGE);
        assert!(setup.read_pages(64, 1).await);
        assert!(!setup.read_pages(66, 62).await);
    });
}

#[test]
fn a_scan_does_not_evict_what_is_used_twice() {
    let setup = Setup::new(MIB, 0);
    setup.run(async {
        // 64 pages used twice; then a scan of 100 times the cache, in requests of half a page, each of them
        // once.
        setup.read_pages(0, 64).await;
        setup.read_pages(0, 64).await;
        let scan = setup.file.reopen();
        for request in 0..200 * 256 {
            scan.read(GIB / 2 + request * PAGE / 2, PAGE / 2, GIB).await;
        }
        assert!(!setup.read_pages(0, 64).await);
        // Had they been used once, they would be gone.
        setup.read_pages(1 << 12, 64).await;
        setup.read_pages(1 << 14, 256).await;
        assert!(setup.read_pages(1 << 12, 64).await);
    });
}

#[test]
fn the_active_list_holds_at_most_half() {
    let setup = Setup::new(MIB, 0);
    setup.run(async {
        // Four chunks are used twice, and so fill the cache; two of them must have become inactive again.
        for chunk in 0..4 {
            setup.read_pages(64 * chunk, 64).await;
            setup.read_pages(64 * chunk, 64).await;
        }
        // A scan of twice the cache makes those two leave, and only those.
        for request in 0..8 {
            setup.read_pages((1 << 14) + 64 * request, 64).await;
        }
        setup.below.pages_read();
        for chunk in 0..4 {
            setup.read_pages(64 * chunk, 1).await;
        }
        assert_eq!(setup.below.pages_read(), [(0, 1), (64, 1)]);
    });
}

#[test]
fn a_sequential_reader_gets_windows_that_grow() {
    // 32 pages at most, read page by page. Windows as in Linux: 1 page asked for makes 4 (1 <= 32/32), then
    // doubled up to 32: 4, 8, 16, 32, 32, ... Each is asked for when the reader comes to the marker of the
    // last.
    let setup = Setup::new(64 * MIB, 128 * KIB);
    setup.run(async {
        let mut waits = 0;
        for page in 0..100 {
            waits += u64::from(setup.read_pages(page, 1).await);
            // Slower than the disk, so that windows come in time.
            setup.sim.sleep(milliseconds(2)).await;
        }
        assert_eq!(waits, 1);
    });
    // Page 92 is the first of its window, and its marker.
    let windows = [(0, 4), (4, 8), (12, 16), (28, 32), (60, 32), (92, 32), (124, 32)];
    assert_eq!(setup.below.pages_read(), windows);
    // All pages but the first are read ahead.
    assert_eq!(setup.cache.usage().readahead_bytes, (156 - 1) * PAGE);
}

#[test]
fn windows_begin_with_the_size_of_the_request() {
    // 9 pages of 32: more than a quarter as a power of two (16), so the whole 32, with the marker behind the
    // 9; 5 pages: 8, which is a quarter, twice; 2 pages: twice that; 1 page of 256 KiB: 4 pages.
    for (readahead, wanted, expected) in [
        (128, 9, vec![(0, 32), (32, 32)]),
        (128, 5, vec![(0, 16), (16, 32)]),
        (128, 2, vec![(0, 4), (4, 8)]),
        (256, 2, vec![(0, 8), (8, 16)]),
        (4096, 1, vec![(0, 4), (4, 16)]),
    ] {
        let setup = Setup::new(64 * MIB, readahead * KIB);
        setup.run(async {
            setup.read_pages(0, wanted).await;
            setup.read_pages(wanted, 1).await;
        });
        setup.sim.run().unwrap();
        assert_eq!(setup.below.pages_read(), expected, "{wanted} of {readahead} KiB");
    }
}

#[test]
fn a_request_larger_than_the_window_is_read_whole() {
    // 100 pages at once, with 32 at most ahead: as asked, half of which is the marker's distance from the
    // end.
    let setup = Setup::new(64 * MIB, 128 * KIB);
    setup.run(setup.read_pages(0, 100));
    assert_eq!(setup.below.pages_read()[0], (0, 100));
}

#[test]
fn sequential_reads_within_pages_count_as_sequential() {
    // 3 KiB at a time from page 1000 on: the first is random and reads its page alone, the second lies on the
    // same page and the next: a stream.
    let setup = Setup::new(64 * MIB, 128 * KIB);
    setup.run(async {
        for request in 0..3 {
            setup.file.read(1000 * PAGE + request * 3 * KIB, 3 * KIB, GIB).await;
        }
    });
    assert_eq!(setup.below.pages_read()[..2], [(1000, 1), (1001, 4)]);
}

#[test]
fn a_random_reader_gets_what_it_asked_for() {
    let setup = Setup::new(64 * MIB, 128 * KIB);
    setup.run(async {
        for request in 1..500 {
            setup.read_pages(request * 7919 % 30_000, 3).await;
        }
    });
    let used = setup.cache.usage();
    assert_eq!(used.readahead_bytes, 0);
    assert_eq!(used.fetched_bytes, used.missed_bytes);
}

#[test]
fn interleaved_streams_of_one_open_file_are_recognised() {
    // Two readers of one open file, far from each other. The state knows one window only; markers and the
    // pages that the streams have left let both go on. Without readahead these would be 400 requests.
    let setup = Setup::new(64 * MIB, 128 * KIB);
    setup.run(async {
        for page in 0..200 {
            setup.read_pages(1000 + page, 1).await;
            setup.read_pages(20_000 + page, 1).await;
        }
    });
    let requests = setup.below.pages_read().len();
    assert!(requests <= 30, "{requests}");
}

#[test]
fn readahead_can_be_switched_off() {
    let setup = Setup::new(64 * MIB, 0);
    setup.run(async {
        for page in 0..10 {
            assert!(setup.read_pages(page, 1).await);
        }
    });
    assert_eq!(setup.below.pages_read().len(), 10);
}

#[test]
fn writes_are_resident_at_once_and_a_flush_leaves_nothing_dirty() {
    let setup = Setup::new(64 * MIB, 0);
    setup.run(async {
        // Written in any order, written back in the file's; neighbours as one request.
        for page in [9, 2, 500, 1, 3, 8] {
            setup.write_pages(page, 1).await;
        }
        assert_eq!(setup.sim.now(), Time::ZERO);
        assert_eq!(setup.cache.usage().dirty_bytes, 6 * PAGE);
        assert!(!setup.read_pages(1, 3).await);
        setup.file.flush().await;
        assert_eq!(setup.below.pages_written(), [(1, 3), (8, 2), (500, 1)]);
        assert_eq!(setup.sim.now(), Time::ZERO + milliseconds(3));
        assert_eq!(setup.cache.usage().dirty_bytes, 0);
        // Nothing is left to do.
        setup.file.flush().await;
        assert_eq!(setup.sim.now(), Time::ZERO + milliseconds(3));
        // A flush of one file is none of another.
        let other = setup.cache.file(setup.below.clone(), 0);
        other.write(0, 3 * MIB, 0).await;
        setup.file.flush().await;
        assert_eq!(setup.cache.usage().dirty_bytes, 3 * MIB);
        other.flush().await;
        assert_eq!(setup.below.pages_written(), [(0, 256), (256, 256), (512, 256)]);
    });
    setup.sim.run().unwrap();
    assert_eq!(setup.cache.usage().written_back_bytes, 6 * PAGE + 3 * MIB);
}

#[test]
fn a_flush_waits_for_what_was_dirty_when_it_came() {
    let setup = Setup::new(64 * MIB, 0);
    setup.run(async {
        setup.write_pages(0, 1).await;
        setup.write_pages(10, 1).await;
        let first = setup.file.flush();
        let second = async {
            // While page 0 is being written: it becomes dirty again, behind the round that is under way.
            setup.sim.sleep(Span::from_microseconds(500)).await;
            setup.write_pages(0, 1).await;
            setup.file.flush().await;
            assert_eq!(setup.cache.usage().dirty_bytes, 0);
        };
        join(first, second).await;
    });
    assert_eq!(setup.below.pages_written(), [(0, 1), (10, 1), (0, 1)]);
    assert_eq!(setup.sim.now(), Time::ZERO + milliseconds(3));
}

#[test]
fn who_drops_a_flush_does_not_stop_the_writing() {
    let setup = Setup::new(64 * MIB, 0);
    setup.run(async {
        setup.write_pages(0, 1).await;
        select(pin!(setup.file.flush()), pin!(setup.sim.sleep(Span::from_microseconds(100)))).await;
    });
    setup.sim.run().unwrap();
    assert_eq!(setup.sim.now(), Time::ZERO + milliseconds(1));
    assert_eq!(setup.cache.usage().dirty_bytes, 0);
}

#[test]
fn dirty_pages_are_written_back_when_they_are_30_seconds_old() {
    let setup = Setup::new(64 * MIB, 0);
    setup.run(async {
        setup.sim.sleep(milliseconds(1000)).await;
        setup.write_pages(5, 1).await;
        setup.sim.sleep(milliseconds(20_000)).await;
        setup.write_pages(900, 1).await;
        setup.sim.sleep(milliseconds(9_999)).await;
        assert_eq!(setup.below.pages_written(), []);
    });
    // What keeps the simulation going is the write-back, and it ends: at 31 s, with the whole file.
    setup.sim.run().unwrap();
    assert_eq!(setup.below.pages_written(), [(5, 1), (900, 1)]);
    assert_eq!(setup.sim.now(), Time::ZERO + milliseconds(31_002));
    assert_eq!(setup.cache.usage().dirty_bytes, 0);
    // And it begins again.
    setup.run(setup.write_pages(6, 1));
    setup.sim.run().unwrap();
    assert_eq!(setup.sim.now(), Time::ZERO + milliseconds(61_003));
}

#[test]
fn writers_wait_when_a_fifth_of_the_cache_is_dirty() {
    // 10 MiB: up to 2 MiB are dirty without anybody waiting. Of 8 MiB, written 1 MiB at a time, 6 have to be
    // written back first, a millisecond each.
    let setup = Setup::new(10 * MIB, 0);
    setup.run(async {
        setup.file.write(0, 2 * MIB, 0).await;
        assert_eq!(setup.sim.now(), Time::ZERO);
        setup.file.write(2 * MIB, 6 * MIB, 2 * MIB).await;
        assert_eq!(setup.sim.now(), Time::ZERO + milliseconds(6));
        assert_eq!(setup.cache.usage().dirty_bytes, 2 * MIB);
    });
}

#[test]
fn a_partial_write_reads_the_rest_of_its_page() {
    let setup = Setup::new(64 * MIB, 128 * KIB);
    let end = 10 * PAGE + 2000;
    setup.run(async {
        // The middle of page 3, which has data: read first, and it alone.
        setup.file.write(3 * PAGE + 100, 200, end).await;
        assert_eq!(setup.below.reads.take(), [(3 * PAGE, PAGE)]);
        // Again: it is there.
        setup.file.write(3 * PAGE + 500, 200, end).await;
        // A whole page; from the start of the last page to beyond its data; beyond the end.
        setup.file.write(5 * PAGE, PAGE, end).await;
        setup.file.write(10 * PAGE, 2000, end).await;
        setup.file.write(20 * PAGE + 5, 5, end).await;
        assert_eq!(setup.below.reads.take(), []);
        // From the middle of page 6 to the middle of page 8: both ends are read, at once.
        let before = setup.sim.now();
        setup.file.write(6 * PAGE + 1, 2 * PAGE, end).await;
        assert_eq!(setup.below.reads.take(), [(6 * PAGE, PAGE), (8 * PAGE, PAGE)]);
        assert_eq!(setup.sim.now().since(before), milliseconds(1));
        setup.file.flush().await;
    });
    // Beyond the end the file is as long as the last write made it.
    assert_eq!(
        setup.below.writes.take(),
        [(3 * PAGE, PAGE), (5 * PAGE, 4 * PAGE), (10 * PAGE, 2000 + 2096), (20 * PAGE, 10)]
    );
    assert_eq!(setup.cache.usage().asked_bytes, 0);
}

#[test]
fn the_last_partial_page_that_a_write_covers_is_not_read() {
    let setup = Setup::new(64 * MIB, 0);
    setup.run(async {
        setup.file.write(PAGE, 2000, PAGE + 2000).await;
        assert_eq!(setup.below.reads.take(), []);
        setup.file.flush().await;
    });
    assert_eq!(setup.below.writes.take(), [(PAGE, 2000)]);
}

#[test]
fn a_cache_of_no_bytes_keeps_nothing_and_works() {
    let setup = Setup::new(0, 128 * KIB);
    setup.run(async {
        assert!(setup.read_pages(5, 2).await);
        assert!(setup.read_pages(5, 2).await);
        setup.write_pages(0, 3).await;
        assert_eq!(setup.cache.usage().dirty_bytes, 0);
        assert_eq!(setup.cache.usage().resident_bytes, 0);
    });
    assert_eq!(setup.below.pages_written(), [(0, 3)]);
}

#[derive(Clone, Debug)]
enum Action {
    Read(u64, u64),
    Write(u64, u64),
    Flush,
    Drop(u64, u64),
}

fn action() -> impl Strategy<Value = Action> {
    let place = || (0..600 * PAGE, 1..40 * PAGE);
    prop_oneof![
        6 => place().prop_map(|(offset, bytes)| Action::Read(offset, bytes)),
        3 => place().prop_map(|(offset, bytes)| Action::Write(offset, bytes)),
        1 => Just(Action::Flush),
        1 => place().prop_map(|(offset, bytes)| Action::Drop(offset, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever several tasks do to several files at once: nothing is lost, nobody waits for ever, and after
    /// a flush of all files every byte written is below.
    #[test]
    fn books_balance(
        capacity in 0_u64..400,
        readahead in prop_oneof![Just(0), Just(128 * KIB), Just(20 * KIB)],
        tasks in prop::collection::vec(prop::collection::vec((0..2_usize, 0..1500_u64, action()), 1..20), 1..6),
    ) {
        let setup = Setup::new(capacity * PAGE, readahead);
        let files = [setup.file.clone(), setup.cache.file(setup.below.clone(), readahead)];
        let written = Cell::new(0);
        setup.run(async {
            let (setup, files, written) = (&setup, &files, &written);
            join_all(tasks.iter().map(|actions| async move {
                for (file, pause, action) in actions {
                    setup.sim.sleep(Span::from_microseconds(*pause)).await;
                    let file = &files[*file];
                    let end = 500 * PAGE + 77;
                    match *action {
                        Action::Read(offset, bytes) => file.read(offset, bytes, end).await,
                        Action::Write(offset, bytes) => {
                            file.write(offset, bytes, end).await;
                            written.set(written.get() + bytes);
                        }
                        Action::Flush => file.flush().await,
                        Action::Drop(offset, bytes) => {
                            let read = pin!(file.read(offset, bytes, end));
                            select(read, pin!(setup.sim.sleep(Span::from_microseconds(300)))).await;
                        }
                    }
                    setup.cache.check().unwrap();
                }
            })).await;
            join_all(files.iter().map(CachedFile::flush)).await;
        });
        setup.sim.run().unwrap();
        setup.cache.check().unwrap();
        let used = setup.cache.usage();
        prop_assert_eq!(used.dirty_bytes, 0);
        prop_assert!(used.resident_bytes <= capacity * PAGE);
        prop_assert!(written.get() == 0 || used.written_back_bytes > 0);
        let read: u64 = setup.below.reads.borrow().iter().map(|(_, bytes)| bytes).sum();
        let wrote: u64 = setup.below.writes.borrow().iter().map(|(_, bytes)| bytes).sum();
        prop_assert_eq!((used.fetched_bytes, used.written_back_bytes), (read, wrote));
    }
}
