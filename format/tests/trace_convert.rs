//! Logs of other recorders: what they say becomes a trace, what they do not is said, and what is wrong is named.

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::io::Write;
use std::time::Duration;
use vmicache_format::trace::convert::{Converted, Source};
use vmicache_format::trace::{Metadata, Op, Trace, TraceError};

/// Recorded with nbdkit 1.32.5, its delay filter and qemu-io.
const NBDKIT: &str = "\
2026-11-24 02:26:24.381960 Ready thread_model=3
2026-11-24 02:26:24.399832 Preconnect id=1 readonly=0 ...
2026-11-24 02:26:24.399847 ...Preconnect id=1 return=0
2026-11-24 02:26:24.400152 connection=1 Connect export=\"\" tls=0 size=0x800000 write=1 flush=1
2026-11-24 02:26:24.400394 connection=1 Read id=1 offset=0x0 count=0x1000 ...
2026-11-24 02:26:24.400609 connection=1 Read id=2 offset=0x10000 count=0x200 ...
2026-11-24 02:26:24.403531 connection=1 ...Read id=1 return=0
2026-11-24 02:26:24.403695 connection=1 ...Read id=2 return=0
2026-11-24 02:26:24.403823 connection=1 Write id=3 offset=0x100000 count=0x2000 fua=1 ...
2026-11-24 02:26:24.403864 connection=1 ...Write id=3 return=0
2026-11-24 02:26:24.403956 connection=1 Zero id=4 offset=0x200000 count=0x10000 trim=0 fua=1 fast=0 ...
2026-11-24 02:26:24.403962 connection=1 ...Zero id=4 return=0
2026-11-24 02:26:24.404047 connection=1 Trim id=5 offset=0x300000 count=0x10000 fua=0 ...
2026-11-24 02:26:24.404055 connection=1 ...Trim id=5 return=0
2026-11-24 02:26:24.404132 connection=1 Flush id=6 ...
2026-11-24 02:26:24.404136 connection=1 ...Flush id=6 return=0
2026-11-24 02:26:24.408391 connection=1 Disconnect transactions=6
";

const QEMU: &str = "\
qemu-system-x86_64: warning: host doesn't support requested feature
4242@1700000000.999900:blk_co_preadv blk 0x564b1c68b5e0 bs 0x564b1c67eb50 offset 0 bytes 512 flags 0x0
4242@1700000001.000150:blk_co_pwritev blk 0x564b1c68b5e0 bs 0x564b1c67eb50 offset 1048576 bytes 8192 flags 0x0
4243@1700000001.000200:blk_co_pwritev blk 0x564b1c68b5e0 bs 0x564b1c67eb50 offset 2097152 bytes 65536 flags 0x2
";

const BLKTRACE: &str = "\
  8,0    3        1     0.000000000   697  Q   R 2048 + 8 [kworker]
  8,0    3        2     0.000001000   697  G   R 2048 + 8 [kworker]
  8,0    3        3     0.000001500   697  P   N [kworker]
  8,0    3        4     0.000005000   697  Q   R 2056 + 8 [kworker]
  8,0    3        5     0.000006000   697  M   R 2056 + 8 [kworker]
  8,0    3        6     0.000010000   697  D   R 2048 + 16 [kworker]
  8,0    1        1     0.000110999     0  C   R 2048 + 16 [0]
  8,0    3        7     0.000200000   697  D  WS 4096 + 8 [jbd2]
  8,0    3        8     0.000300000   697  D  FN [jbd2]
  8,0    1        2     0.000350000     0  C  FN 0 [0]
  8,0    3        9     0.000400000   697  D  DS 8192 + 128 [fstrim]
  8,0    1        3     0.000500000     0  C  DS 8192 + 128 [0]
CPU0 (8,0):
 Reads Queued:           2,        8KiB\t Writes Queued:           1,        4KiB
";

fn convert(source: Source, log: &str) -> Result<Converted, TraceError> {
    source.convert_from(log.as_bytes(), "boot.log")
}

fn rows(trace: &Trace) -> Vec<(u128, u128, Op, u64, u64)> {
    let row = |r: &vmicache_format::trace::Request| {
        (r.start.as_micros(), r.end.as_micros(), r.op, r.offset, r.length)
    };
    trace.requests.iter().map(row).collect()
}

#[test]
fn nbdkit_logs_become_traces() {
    let converted = convert(Source::NbdkitLog, NBDKIT).unwrap();
    let right = [
        (0, 3137, Op::Read, 0, 4096),
        (215, 3301, Op::Read, 65536, 512),
        (3429, 3470, Op::Write, 1 << 20, 8192),
        (3562, 3568, Op::Zero, 2 << 20, 65536),
        (3653, 3661, Op::Trim, 3 << 20, 65536),
        (3738, 3742, Op::Flush, 0, 0),
    ];
    assert_eq!(rows(&converted.trace), right);
    assert_eq!(converted.metadata.get(Metadata::RECORDED), Some("2026-11-24"));
    assert_eq!(converted.metadata.get(Metadata::SOURCE), Some("nbdkit-log"));
    assert_eq!(converted.lacks.len(), 1, "{:?}", converted.lacks);
}

#[test]
fn a_number_names_a_request_on_its_connection_and_midnight_is_no_step_back() {
    let log = "\
2026-12-31 23:59:59.999999 connection=1 Read id=1 offset=0x0 count=0x200 ...
2027-01-01 00:00:00.000009 connection=2 Read id=1 offset=0x400 count=0x200 ...
2027-01-01 00:00:00.000019 connection=2 ...Read id=1 return=0
2027-01-01 00:00:00.000029 connection=1 ...Read id=1 return=0
2027-01-01 00:00:00.000039 connection=1 Read id=2 offset=0x0 count=0x200 ...
2027-01-01 00:00:00.000049 connection=1 Flush id=3 ...
2027-01-01 00:00:00.000059 connection=1 ...Flush id=3 return=0
";
    let converted = convert(Source::NbdkitLog, log).unwrap();
    let times: Vec<_> = rows(&converted.trace).into_iter().map(|row| (row.0, row.1)).collect();
    assert_eq!(times, [(0, 30), (10, 20), (40, 60), (50, 60)]);
    assert!(converted.lacks.iter().any(|lack| lack.contains("1 requests")), "{:?}", converted.lacks);
}

#[test]
fn qemu_events_become_traces_without_completions() {
    let converted = convert(Source::QemuEvents, QEMU).unwrap();
    let right = [
        (0, 0, Op::Read, 0, 512),
        (250, 250, Op::Write, 1 << 20, 8192),
        (300, 300, Op::Zero, 2 << 20, 65536),
    ];
    assert_eq!(rows(&converted.trace), right);
    assert!(converted.lacks[0].contains("completions"), "{:?}", converted.lacks);
}

#[test]
fn blktrace_requests_go_from_driver_to_completion() {
    let converted = convert(Source::Blktrace, BLKTRACE).unwrap();
    let right = [
        (0, 100, Op::Read, 2048 * 512, 8192),
        (190, 490, Op::Write, 4096 * 512, 4096),
        (290, 340, Op::Flush, 0, 0),
        (390, 490, Op::Trim, 8192 * 512, 65536),
    ];
    assert_eq!(rows(&converted.trace), right);
    assert_eq!(converted.trace.requests[0].end, Duration::from_nanos(100_999));
    assert!(converted.lacks.iter().any(|lack| lack.contains("1 requests")), "{:?}", converted.lacks);
}

#[test]
fn without_a_driver_queue_requests_begin_when_they_are_queued() {
    let log = "253,0 0 1 0.000001 7 Q R 8 + 8 [dm]\n253,0 0 2 0.000005 7 C R 8 + 8 [0]\n";
    let converted = convert(Source::Blktrace, log).unwrap();
    assert_eq!(rows(&converted.trace), [(0, 4, Op::Read, 4096, 4096)]);
    assert!(converted.lacks.iter().any(|lack| lack.contains("(Q)")), "{:?}", converted.lacks);
}

#[test]
fn the_source_is_told_from_the_lines_or_not_at_all() {
    for (source, log) in Source::ALL.into_iter().zip([NBDKIT, QEMU, BLKTRACE]) {
        assert_eq!(Source::detect_in(log.as_bytes(), "boot.log").unwrap(), source);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(log.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(Source::detect_in(&gzip[..], "boot.log").unwrap(), source);
        assert_eq!(source.convert_from(&gzip[..], "boot.log").unwrap(), convert(source, log).unwrap());
    }
    for log in ["", "start_us,end_us,op,offset,length\n0,1,read,0,1\n", &format!("{NBDKIT}{BLKTRACE}")] {
        let error = Source::detect_in(log.as_bytes(), "boot.log").unwrap_err().to_string();
        assert!(error.starts_with("boot.log: ") && error.contains("nbdkit-log, qemu-events"), "{error}");
    }
    let other = convert(Source::Blktrace, NBDKIT).unwrap_err().to_string();
    assert!(other.contains("no request of blktrace"), "{other}");
}

#[test]
fn wrong_lines_are_named() {
    let wrong = [
        (
            Source::NbdkitLog,
            "2026-11-24 02:26:24.4 connection=1 Read id=1 offset=0x0 ...",
            "offset=0x0 count=0x200",
        ),
        (
            Source::NbdkitLog,
            "2026-13-24 02:26:24.4 connection=1 Read id=1 offset=0x0 count=0x1 ...",
            "2020-08-06",
        ),
        (
            Source::NbdkitLog,
            "2026-11-24 02:26:24.4 connection=1 Read id=1 offset=0xffffffffffffffff count=0x200 ...",
            "end of any disk",
        ),
        (
            Source::QemuEvents,
            "blk_co_preadv blk 0x1 bs 0x2 offset 0 bytes 512 flags 0x0",
            "-msg timestamp=on",
        ),
        (
            Source::QemuEvents,
            "1@2.000001:blk_co_preadv blk 0x564b1c68b5e0 bs 0x2 offset x bytes 512 flags 0x0",
            "such as",
        ),
        (
            Source::QemuEvents,
            "1@2.000001:blk_co_preadv blk 0x1 bs 0x2 offset 0 bytes 512 flags 0x0",
            "one disk",
        ),
        (Source::Blktrace, "8,16 1 1 0.1 1 D R 8 + 8 [x]", "one device"),
        (Source::Blktrace, "8,0 1 1 0.1 1 D R 8 + x [x]", "such as"),
        (Source::Blktrace, "8,0 1 1 0.1 1 D R 18446744073709551615 + 8 [x]", "such as"),
        (
            Source::Blktrace,
            "8,0 1 1 8640001.0 1 Q R 8 + 8 [x]\n8,0 1 1 8640001.0 1 D R 8 + 8 [x]",
            "100 days",
        ),
    ];
    for (source, line, right) in wrong {
        let log = match source {
            Source::NbdkitLog => NBDKIT,
            Source::QemuEvents => QEMU,
            Source::Blktrace => BLKTRACE,
        };
        let number = log.lines().count() + 1;
        let error = convert(source, &format!("{log}{line}")).unwrap_err();
        assert!(matches!(error, TraceError::Source { line, .. } if line >= number as u64), "{error:?}");
        assert!(error.to_string().contains(right), "{error}");
    }
}

proptest! {
    #[test]
    fn no_log_makes_a_converter_panic(
        lines in prop::collection::vec((prop::sample::select(vec![NBDKIT, QEMU, BLKTRACE]), 0..20usize, 0..120usize, any::<u8>()), 0..30)
    ) {
        let mut log = Vec::new();
        for (of, line, at, byte) in lines {
            let mut line = of.lines().nth(line).unwrap_or_default().as_bytes().to_vec();
            if let Some(old) = line.get_mut(at) {
                *old = byte;
            }
            log.extend(line);
            log.push(b'\n');
        }
        for source in Source::ALL {
            let _ = source.convert_from(&log[..], "noise");
        }
    }
}
