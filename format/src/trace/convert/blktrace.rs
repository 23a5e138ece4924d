//! What `blkparse` prints by default: device, processor, sequence number, time, process, action, operation, and first
//! sector `+` number of sectors.
//!
//! A request goes from D, when the driver gets it, to C, its completion. A device without a request queue has no D;
//! there requests begin at Q, when they are queued.

use super::{Converted, Log, Op, Recorder, Source, Trace, request, seconds, unlike};

const RIGHT: &str = "8,0 1 42 0.000123456 1234 D R 2048 + 8 [init]";
/// Sectors are of 512 bytes, whatever the device.
const SECTOR: u64 = 512;

type Key = (Op, u64, u64);

/// The requests of one log.
#[derive(Default)]
pub(super) struct Blktrace {
    issued: Recorder<Key>,
    queued: Recorder<Key>,
    device: Option<String>,
    /// Requests whose operation blktrace does not tell.
    unnamed: u64,
}

/// Whether a line is of this format: it begins with a device, and its fourth word is a time.
pub(super) fn wrote(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let device = words.next().and_then(|word| word.split_once(','));
    device.is_some_and(|(major, minor)| [major, minor].iter().all(|part| part.parse::<u32>().is_ok()))
        && words.nth(2).and_then(seconds).is_some()
}

impl Blktrace {
    fn check_device(&mut self, device: &str) -> Result<(), String> {
        let first = self.device.get_or_insert_with(|| device.to_owned());
        if first == device {
            return Ok(());
        }
        Err(format!("{device} is another device than {first} above; keep the lines of one device"))
    }
}

impl Log for Blktrace {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if !wrote(line) {
            // The summary at the end, and what blkparse warns of.
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [device, _, _, time, _, action, operation, rest @ ..] = words.as_slice() else {
            // Plugging and messages have fewer words.
            return Ok(());
        };
        if !["Q", "D", "C"].contains(action) {
            return Ok(());
        }
        self.check_device(device)?;
        let time = seconds(time).ok_or_else(|| unlike(line, RIGHT))?;
        let (sector, sectors) = sectors(rest).ok_or_else(|| unlike(line, RIGHT))?;
        let Some(op) = op(operation, sectors) else {
            self.unnamed = self.unnamed.saturating_add(u64::from(*action == "D"));
            return Ok(());
        };
        let bytes = |sectors: u64| sectors.checked_mul(SECTOR).ok_or_else(|| unlike(line, RIGHT));
        let Some(request) = request(time, op, bytes(sector)?, bytes(sectors)?)? else { return Ok(()) };
        let key = (op, request.offset, request.length);
        match *action {
            "D" => self.issued.issue(key, request),
            "Q" => self.queued.issue(key, request),
            _ => {
                self.issued.complete(&key, time);
                self.queued.complete(&key, time);
            }
        }
        Ok(())
    }

    fn requests(&self) -> usize {
        self.issued.requests.len().max(self.queued.requests.len())
    }

    fn finish(self: Box<Self>) -> Converted {
        let mut lacks = vec![
            "guest, image, hypervisor and host: the recording does not name them".to_owned(),
            "the date: times count from the start of the recording".to_owned(),
            "zeroing: blktrace has no letter for it".to_owned(),
        ];
        if self.unnamed > 0 {
            lacks.push(format!("the operation of {} requests (N): they are left out", self.unnamed));
        }
        let recorder = if self.issued.requests.is_empty() {
            lacks.push("issues to the driver (D): requests begin when they are queued (Q)".to_owned());
            self.queued
        } else {
            lacks.push("requests before merging: they are as the driver got them (D)".to_owned());
            self.issued
        };
        let (requests, incomplete) = recorder.finish();
        lacks.extend(incomplete);
        let metadata = Source::Blktrace.metadata("blktrace", None);
        Converted { trace: Trace { requests }, metadata, lacks }
    }
}

/// First sector and number of sectors; a flush may have none.
fn sectors(rest: &[&str]) -> Option<(u64, u64)> {
    match rest {
        [sector, "+", sectors, ..] => Some((sector.parse().ok()?, sectors.parse().ok()?)),
        _ => Some((0, 0)),
    }
}

/// The operation that the letters name; a write that is only to flush is a flush.
fn op(letters: &str, sectors: u64) -> Option<Op> {
    if letters.contains('D') {
        Some(Op::Trim)
    } else if letters.contains('F') && sectors == 0 {
        Some(Op::Flush)
    } else if letters.contains('W') {
        Some(Op::Write)
    } else if letters.contains('R') {
        Some(Op::Read)
    } else {
        None
    }
}
