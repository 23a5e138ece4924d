//! An allocator that counts. A test binary that wants to know makes it its `#[global_allocator]`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what a thread has allocated. Each test has a thread, on which all of it runs.
pub struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn took(bytes: isize) {
    // Negative where this thread frees what another one allocated.
    let held = HELD.get().wrapping_add(bytes);
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

/// A stretch of time on this thread.
pub struct Watch {
    before: isize,
}

impl Watch {
    pub fn begin() -> Self {
        let before = HELD.get();
        MOST.set(before);
        Watch { before }
    }

    /// The most bytes that were held at a time since it began, beyond those held before.
    pub fn most(&self) -> isize {
        MOST.get() - self.before
    }
}

// SAFETY: everything is passed on as it is to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size() as isize);
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        took(-(layout.size() as isize));
        // SAFETY: the caller keeps the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}
