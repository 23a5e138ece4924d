//! Buffers for what is read from files, used over and over.
//!
//! A fresh buffer of such a size is memory that the host has to map and clear page by page, which costs a third of
//! what reading cached data into it does.

use bytes::Bytes;
use std::cell::RefCell;
use std::io;
use std::mem;
use std::ops::Range;

/// Smaller buffers come as fast from the allocator.
const SMALLEST: usize = 1 << 9;
/// Larger ones are rare.
const LARGEST: usize = 2 << 20;
/// Bytes that a thread keeps.
const KEPT: usize = 8 << 20;
/// Where the bytes of a buffer begin: to elsewhere the host takes half as long again to copy.
const ALIGNMENT: usize = 64;
/// Powers of two from the smallest to the largest.
const SIZES: usize = (LARGEST.ilog2() - SMALLEST.ilog2()) as usize + 1;

/// Buffers that nobody uses, by size.
struct Free {
    buffers: [Vec<Vec<u8>>; SIZES],
    bytes: usize,
}

impl Free {
    /// Those of a size, a power of two.
    fn of_size(&mut self, size: usize) -> Option<&mut Vec<Vec<u8>>> {
        self.buffers.get_mut(size.ilog2().saturating_sub(SMALLEST.ilog2()) as usize)
    }
}

thread_local! {
    static FREE: RefCell<Free> = const { RefCell::new(Free { buffers: [const { Vec::new() }; SIZES], bytes: 0 }) };
}

/// `len` bytes that `fill` has written, all of them; what it finds in them is of no meaning.
///
/// # Errors
/// What `fill` says.
pub(super) fn filled(len: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Bytes> {
    if !(SMALLEST..=LARGEST).contains(&len) {
        let mut bytes = vec![0; len];
        fill(&mut bytes)?;
        return Ok(bytes.into());
    }
    let mut buffer = Buffer::of(len);
    fill(buffer.as_mut())?;
    Ok(Bytes::from_owner(buffer))
}

/// A buffer in use; on its drop the thread keeps its memory.
struct Buffer {
    /// Some more than the buffer's, to align them.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    /// A power of two.
    size: usize,
}

impl Buffer {
    fn of(len: usize) -> Self {
        let size = len.next_power_of_two();
        let kept = FREE.with_borrow_mut(|free| {
            let kept = free.of_size(size)?.pop()?;
            free.bytes = free.bytes.saturating_sub(kept.len());
            Some(kept)
        });
        let bytes = kept.unwrap_or_else(|| vec![0; size.saturating_add(ALIGNMENT)]);
        let start = bytes.as_ptr().addr().wrapping_neg() % ALIGNMENT;
        Buffer { bytes, start, len, size }
    }

    fn place(&self) -> Range<usize> {
        self.start..self.start.saturating_add(self.len)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(self.place()).unwrap_or_default()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        let place = self.place();
        self.bytes.get_mut(place).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = mem::take(&mut self.bytes);
        // A thread that ends keeps nothing.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            let kept = free.bytes.saturating_add(bytes.len());
            if kept <= KEPT
                && let Some(buffers) = free.of_size(self.size)
            {
                buffers.push(bytes);
                free.bytes = kept;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(len: usize, byte: u8) -> Bytes {
        filled(len, |bytes| {
            bytes.fill(byte);
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn a_buffer_is_used_again_once_nobody_reads_it() {
        let first = of(100_000, 1);
        let part = first.slice(5..10);
        let place = first.as_ptr();
        drop(first);
        let second = of(131_072, 2);
        assert!(second.as_ptr() != place && part == [1; 5][..]);
        assert_eq!(of(4096, 4).as_ptr().addr() % ALIGNMENT, 0);
        drop(part);
        let third = of(100_001, 3);
        assert_eq!((third.as_ptr(), third.len()), (place, 100_001));
        assert!(second.iter().all(|byte| *byte == 2) && third.iter().all(|byte| *byte == 3));
    }

    #[test]
    fn a_failed_read_gives_nothing_and_memory_is_bounded() {
        assert!(filled(SMALLEST, |_| Err(io::Error::other("no"))).is_err());
        drop((0..32).map(|byte| of(1 << 20, byte)).collect::<Vec<_>>());
        let kept = FREE.with_borrow(|free| free.buffers.iter().flatten().map(Vec::len).sum::<usize>());
        assert!((KEPT / 2..=KEPT).contains(&kept), "{kept}");
    }
}
