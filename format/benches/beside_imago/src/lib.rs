//! The requests that all programs make, one at a time: `PROGRAM TASK FILE COUNT [BASE]`.

use std::alloc::{Layout, alloc};

/// What is asked of an image.
pub struct Plan {
    /// Requests write; otherwise they read.
    pub write: bool,
    /// Bytes of a request.
    pub len: usize,
    /// The image's file.
    pub file: String,
    /// The file of its base, for the program that looks for none.
    pub base: Option<String>,
    /// Bytes from one request to the next, modulo the size of the disk.
    step: u64,
    count: u64,
}

/// Odd, so that steps of so many blocks come to every block of a disk whose size is a power of two.
const STRIDE: u64 = 314_159;
const KIB: u64 = 1 << 10;

impl Plan {
    /// The plan that the command line asks for.
    pub fn from_command_line() -> Self {
        let mut arguments = std::env::args().skip(1);
        let (Some(task), Some(file), Some(count)) = (arguments.next(), arguments.next(), arguments.next())
        else {
            refuse("arguments are missing")
        };
        let (write, len, step) = match task.as_str() {
            "seqread" => (false, 1024 * KIB, 1024 * KIB),
            "randread" => (false, 4 * KIB, 4 * KIB * STRIDE),
            "seqwrite" => (true, 64 * KIB, 64 * KIB),
            "randwrite" => (true, 4 * KIB, 4 * KIB * STRIDE),
            other => refuse(&format!("unknown task {other:?}")),
        };
        let Ok(count) = count.parse() else { refuse(&format!("{count:?} is no number of requests")) };
        Plan { write, len: len as usize, file, base: arguments.next(), step, count }
    }

    /// Where the requests begin on a disk of `size` bytes.
    pub fn offsets(&self, size: u64) -> impl Iterator<Item = u64> + use<> {
        let step = self.step;
        (0..self.count).scan(0, move |next, _| Some(std::mem::replace(next, (*next + step) % size)))
    }

    /// A buffer for one request, as aligned as a page, that stays for good.
    pub fn buffer(&self) -> &'static mut [u8] {
        let layout = Layout::from_size_align(self.len, 4096).expect("requests are not that long");
        // SAFETY: the layout is not empty; the memory is written before it is shown, and never freed.
        unsafe {
            let start = alloc(layout);
            assert!(!start.is_null(), "no memory");
            start.write_bytes(65, self.len);
            std::slice::from_raw_parts_mut(start, self.len)
        }
    }
}

fn refuse(problem: &str) -> ! {
    eprintln!("{problem}; usage: PROGRAM seqread|randread|seqwrite|randwrite FILE COUNT [BASE]");
    std::process::exit(2);
}

/// Something of what was read, so that nobody can leave the reading out, and all programs can be compared.
#[derive(Default)]
pub struct Sum(u64);

impl Sum {
    /// Takes note of a request's data.
    pub fn add(&mut self, bytes: &[u8]) {
        let ends = [bytes.first(), bytes.last()].into_iter().flatten();
        self.0 = ends.fold(self.0.wrapping_mul(31), |sum, byte| sum.wrapping_add(u64::from(*byte)));
    }

    /// Prints the sum, and the most memory that the process has held, in KiB.
    pub fn report(self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        println!("{} {}", self.0, peak.trim().trim_end_matches(" kB"));
    }
}
