//! QEMU's trace events of its block backends, where the guest's requests arrive, as its log backend prints them with
//! `-trace 'blk_co_p*' -msg timestamp=on`.

use super::{Converted, Log, Op, Request, Source, Trace, number, request, seconds, unlike};

const RIGHT: &str = "4242@1700000000.123456:blk_co_preadv blk 0x5581 bs 0x5582 offset 0 bytes 512 flags 0x0";
/// BDRV_REQ_ZERO_WRITE of QEMU's include/block: the write has no data.
const ZERO_WRITE: u64 = 0x2;

/// The requests of one log.
#[derive(Default)]
pub(super) struct QemuEvents {
    requests: Vec<Request>,
    /// The block backend, by its address.
    backend: Option<String>,
}

/// What stands before an event, the operation, and its arguments; none for other lines.
fn event(line: &str) -> Option<(&str, Op, &str)> {
    let (event, arguments) = line.split_once(' ')?;
    let (prefix, event) = event.rsplit_once(':').unwrap_or(("", event));
    match event {
        "blk_co_preadv" => Some((prefix, Op::Read, arguments)),
        "blk_co_pwritev" => Some((prefix, Op::Write, arguments)),
        _ => None,
    }
}

/// Whether a line is of this format.
pub(super) fn wrote(line: &str) -> bool {
    event(line).is_some()
}

fn argument<'a>(arguments: &'a str, key: &str) -> Option<&'a str> {
    let mut words = arguments.split_whitespace();
    words.find(|word| *word == key).and_then(|_| words.next())
}

impl QemuEvents {
    fn check_backend(&mut self, backend: &str) -> Result<(), String> {
        let first = self.backend.get_or_insert_with(|| backend.to_owned());
        if first == backend {
            return Ok(());
        }
        Err(format!("blk {backend} is another disk than blk {first} above; keep the lines of one disk"))
    }
}

impl Log for QemuEvents {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let Some((prefix, op, arguments)) = event(line) else { return Ok(()) };
        let time = prefix.split_once('@').and_then(|(_, time)| seconds(time)).ok_or_else(|| {
            let problem = "the event has no time; run QEMU with -msg timestamp=on";
            format!("{problem}: {}", unlike(line, RIGHT))
        })?;
        let value = |key| argument(arguments, key).ok_or_else(|| unlike(line, RIGHT));
        let whole = |key| value(key).and_then(|text| number(text).ok_or_else(|| unlike(line, RIGHT)));
        self.check_backend(value("blk")?)?;
        let zero = op == Op::Write && whole("flags")? & ZERO_WRITE != 0;
        let op = if zero { Op::Zero } else { op };
        self.requests.extend(request(time, op, whole("offset")?, whole("bytes")?)?);
        Ok(())
    }

    fn requests(&self) -> usize {
        self.requests.len()
    }

    fn finish(self: Box<Self>) -> Converted {
        let lacks = [
            "completions: every request is taken to complete when it is issued, so latencies and the number in flight \
             mean nothing, and think times hold the time of the storage",
            "flushes and trims: these events do not show them",
            "guest, image, hypervisor and host: the events do not name them",
        ];
        Converted {
            trace: Trace { requests: self.requests },
            metadata: Source::QemuEvents.metadata("QEMU, block trace events", None),
            lacks: lacks.map(str::to_owned).to_vec(),
        }
    }
}
