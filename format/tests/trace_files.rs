//! Trace files: what is written is read back, and what is wrong in one is named.

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::error::Error;
use std::io::{self, Read, Write};
use std::time::Duration;
use vmicache_format::trace::{
    MAX_BYTES, MAX_LINE, MAX_METADATA, MAX_REQUESTS, Metadata, MetadataError, Op, Request, Trace, TraceError,
};

fn parse(text: &str) -> Result<Trace, TraceError> {
    Trace::parse(text.as_bytes(), "boot.csv")
}

fn rows(rows: &str) -> Result<Trace, TraceError> {
    parse(&format!("start_us,end_us,op,offset,length\n{rows}"))
}

fn message(result: Result<Trace, TraceError>) -> String {
    result.expect_err("the trace is wrong").to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn columns_are_found_by_name() {
    let text = "length,comment,op,start_us,offset,end_us\r\n512,first,read,0,4096,80\r\n\r\n 0 ,,flush,90,0, 95 \r\n";
    let us = Duration::from_micros;
    let read = Request { start: us(0), end: us(80), op: Op::Read, offset: 4096, length: 512 };
    let flush = Request { start: us(90), end: us(95), op: Op::Flush, offset: 0, length: 0 };
    assert_eq!(parse(text).unwrap().requests, [read, flush]);
}

#[test]
fn requests_are_put_in_order_of_issue() {
    let trace = rows("20,30,read,3,1\n0,50,read,1,1\n20,25,read,4,1\n0,9,read,2,1\n").unwrap();
    let offsets: Vec<u64> = trace.requests.iter().map(|request| request.offset).collect();
    assert_eq!(offsets, [1, 2, 3, 4]);
}

#[test]
fn wrong_fields_are_named() {
    let wrong = [
        ("5,4,read,0,1", "end_us", "\"4\"", "before its start_us, 5"),
        ("-1,4,read,0,1", "start_us", "\"-1\"", "a whole number of microseconds from 0 to 8640000000000"),
        ("0,1e3,read,0,1", "end_us", "\"1e3\"", "a whole number of microseconds"),
        ("0,8640000000001,read,0,1", "end_us", "\"8640000000001\"", "from 0 to 8640000000000"),
        ("0,1,fetch,0,1", "op", "\"fetch\"", "read, write, zero, trim or flush"),
        ("0,1,read,0,-512", "length", "\"-512\"", "a whole number of bytes"),
        ("0,1,read,18446744073709551616,1", "offset", "\"18446744073709551616\"", "a whole number of bytes"),
        ("0,1,read,9223372036854775807,1", "length", "\"1\"", "at most 0"),
        ("0,1,read,0x200,1", "offset", "\"0x200\"", "a whole number of bytes"),
        ("0,1,write,0,0", "length", "\"0\"", "a write has at least 1 byte"),
        ("0,1,flush,0,4096", "length", "\"4096\"", "a flush has the offset 0 and the length 0"),
        ("0,1,,0,1", "op", "\"\"", "read, write"),
        ("0,1,re\u{1b}[31mad,0,1", "op", "\\u{1b}", "read, write"),
    ];
    for (row, column, value, right) in wrong {
        // After CRLF and a blank line, so that the line number is put to the test too.
        let text = format!("start_us,end_us,op,offset,length\r\n0,1,read,0,1\r\n\r\n{row}\r\n");
        let message = message(parse(&text));
        assert!(message.starts_with(&format!("boot.csv, line 4, column {column}: ")), "{message}");
        assert!(message.contains(value) && message.contains(right), "{message}");
    }
}

#[test]
fn wrong_lines_are_named() {
    let short = message(rows("0,1,read,0,1\n0,1,read\n"));
    assert!(short.starts_with("boot.csv, line 3: 3 fields; right would be 5"), "{short}");
    let missing = message(parse("start,end_us,op,offset,length\n0,1,read,0,1\n"));
    assert!(missing.contains("no column start_us"), "{missing}");
    assert!(missing.contains("\"start,end_us,op,offset,length\""), "{missing}");
    let twice = message(parse("op,start_us,end_us,op,offset,length\nread,0,1,read,0,1\n"));
    assert!(twice.contains("names the column op twice"), "{twice}");
    let unended = message(parse("start_us,end_us,op,offset,length\n\n\n0,1,read,0,x"));
    assert!(unended.starts_with("boot.csv, line 4, column length"), "{unended}");
    let headless = message(parse("0,1,read,0,1\n"));
    assert!(headless.contains("no column start_us"), "{headless}");
}

#[test]
fn a_trace_without_requests_is_refused() {
    for text in ["", "\n\n", "start_us,end_us,op,offset,length\n"] {
        assert!(matches!(parse(text), Err(TraceError::Empty { .. })), "{text:?}");
    }
}

#[test]
fn damaged_compression_is_told_from_bad_rows() {
    let text: String =
        (0..5000).map(|i| format!("{i},{},read,{},512\n", i + 7919 % (i + 1), i * 7)).collect();
    let whole = gzip(format!("start_us,end_us,op,offset,length\n{text}").as_bytes());
    assert_eq!(Trace::parse(&whole[..], "boot").unwrap().requests.len(), 5000);

    let cut = Trace::parse(&whole[..whole.len() / 2], "boot").unwrap_err();
    assert!(matches!(cut, TraceError::Truncated { line, .. } if line > 100), "{cut:?}");
    for cut in [2, 9, whole.len() - 1] {
        let error = Trace::parse(&whole[..cut], "boot").unwrap_err();
        assert!(matches!(error, TraceError::Truncated { .. }), "{cut}: {error:?}");
    }

    let mut followed = whole.clone();
    followed.extend_from_slice(b"0,1,read,0,512\n");
    let error = Trace::parse(&followed[..], "boot").unwrap_err();
    assert!(matches!(error, TraceError::Damaged { .. } | TraceError::Truncated { .. }), "{error:?}");

    let mut flipped = whole.clone();
    let checksum = flipped.len() - 6;
    flipped[checksum] ^= 1;
    assert!(matches!(Trace::parse(&flipped[..], "boot"), Err(TraceError::Damaged { .. })));

    // Members in a row are one file to gzip.
    let mut members = gzip(b"start_us,end_us,op,offset,length\n0,1,read,0,1\n");
    members.extend(gzip(b"2,3,read,0,1\n"));
    assert_eq!(Trace::parse(&members[..], "boot").unwrap().requests.len(), 2);
}

/// The header, then `line` for ever.
fn endless(line: &'static [u8]) -> impl Read {
    struct Endless(&'static [u8], usize);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            for byte in buffer.iter_mut() {
                *byte = self.0[self.1];
                self.1 = (self.1 + 1) % self.0.len();
            }
            Ok(buffer.len())
        }
    }
    io::Cursor::new(b"start_us,end_us,op,offset,length,x\n").chain(Endless(line, 0))
}

#[test]
fn input_without_end_is_refused() {
    let long = Trace::parse(endless(b"0"), "bomb").unwrap_err();
    assert!(matches!(long, TraceError::LongLine { line: 1, .. }), "{long:?}");
    assert!(long.to_string().contains(&MAX_LINE.to_string()), "{long}");
    let blank = Trace::parse(endless(b"\n"), "bomb").unwrap_err();
    assert!(matches!(blank, TraceError::TooLarge { .. }), "{blank:?}");
    assert!(blank.to_string().contains(&MAX_BYTES.to_string()), "{blank}");
    let many = Trace::parse(endless(b"0,1,read,0,1,\n"), "bomb").unwrap_err();
    assert!(matches!(many, TraceError::TooManyRequests { .. }), "{many:?}");
    assert!(many.to_string().contains(&MAX_REQUESTS.to_string()), "{many}");
}

#[test]
fn metadata_come_back_as_they_were() {
    let trace = rows("0,1,read,0,4096\n").unwrap();
    let mut metadata = Metadata::default();
    metadata.set(Metadata::GUEST, "Debian 12: minimal, größer").unwrap();
    metadata.set(Metadata::HOST, "a").unwrap();
    metadata.set("x-2", "# 1, \"2\"").unwrap();
    metadata.set(Metadata::HOST, "b").unwrap();
    let pairs: Vec<_> = metadata.iter().collect();
    assert_eq!(pairs, [("guest", "Debian 12: minimal, größer"), ("host", "b"), ("x-2", "# 1, \"2\"")]);
    let folder = tempfile::tempdir().unwrap();
    for name in ["boot.csv", "boot.csv.gz"] {
        let path = folder.path().join(name);
        trace.save_with_metadata(&path, &metadata).unwrap();
        assert_eq!(Trace::open_with_metadata(&path).unwrap(), (metadata.clone(), trace.clone()));
        assert_eq!(Trace::open(&path).unwrap(), trace);
    }
    trace.save(&folder.path().join("plain.csv")).unwrap();
    assert!(Trace::open_with_metadata(&folder.path().join("plain.csv")).unwrap().0.is_empty());
}

#[test]
fn what_cannot_be_metadata_is_refused() {
    let mut metadata = Metadata::default();
    for key in ["", "Guest", "a b", "a:b", "ä", "a\n"] {
        assert!(matches!(metadata.set(key, "x"), Err(MetadataError::Key(_))), "{key:?}");
    }
    for value in ["", " x", "x ", "a\nb", "a\tb", "\u{1b}[31m"] {
        assert!(matches!(metadata.set("guest", value), Err(MetadataError::Value(_))), "{value:?}");
    }
    assert!(matches!(metadata.set("guest", &"x".repeat(MAX_LINE as usize)), Err(MetadataError::Long(_))));
    assert!(metadata.is_empty());
    (0..MAX_METADATA).for_each(|i| metadata.set(&format!("k{i}"), "x").unwrap());
    assert_eq!(metadata.set("more", "x"), Err(MetadataError::TooMany));
    metadata.set("k0", "y").unwrap();
}

#[test]
fn wrong_metadata_lines_are_named() {
    let header = "start_us,end_us,op,offset,length\n0,1,read,0,1\n";
    let many: String = (0..=MAX_METADATA).map(|i| format!("# k{i}: x\n")).collect();
    let wrong = [
        ("# guest: a\n\n# no pair\n", 3, "# key: value"),
        ("# Guest: a\n", 1, "lower-case"),
        ("# guest:\n", 1, "printable"),
        ("# guest: a\n# guest: b\n", 2, "twice"),
        (&many, 65, "more than 64"),
    ];
    for (lines, line, right) in wrong {
        let message = message(parse(&format!("{lines}{header}")));
        assert!(message.starts_with(&format!("boot.csv, line {line}: ")), "{message}");
        assert!(message.contains(right), "{message}");
    }
    let long = parse(&format!("# guest: {}\n{header}", "x".repeat(MAX_LINE as usize))).unwrap_err();
    assert!(matches!(long, TraceError::LongLine { line: 0, .. }), "{long:?}");
}

#[test]
fn lines_are_counted_from_the_first_line_of_metadata() {
    let header = "start_us,end_us,op,offset,length\n";
    let row = message(parse(&format!("# guest: a\r\n\r\n# host: b\n{header}0,1,read,0,1\n0,1,fetch,0,1\n")));
    assert!(row.starts_with("boot.csv, line 6, column op"), "{row}");
    let missing = message(parse("# guest: a\nstart,end_us,op,offset,length\n"));
    assert!(missing.starts_with("boot.csv: line 2 is "), "{missing}");
    let late = message(parse(&format!("{header}# guest: a\n0,1,read,0,1\n")));
    assert!(late.starts_with("boot.csv, line 2: 1 fields"), "{late}");
}

#[test]
fn requests_beyond_the_disk_are_named() {
    let trace = rows("0,1,read,0,4096\n2,3,write,8192,512\n4,5,read,4096,4096\n").unwrap();
    assert!(trace.check_within(8704).is_ok());
    let error = trace.check_within(8703).unwrap_err().to_string();
    assert!(error.starts_with("request 2, a write of 512 bytes at offset 8192, ends beyond"), "{error}");
    assert!(error.contains("8703") && error.contains("8704"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Trace::open("no/such/boot.csv.gz".as_ref()).unwrap_err();
    assert!(error.to_string().contains("no/such/boot.csv.gz"), "{error}");
    assert!(error.source().is_some());
}

#[test]
fn saving_is_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let trace = rows("0,1,read,0,4096\n").unwrap();
    let error = trace.save(&folder.path().join("none/boot.csv")).unwrap_err();
    assert!(error.to_string().contains("boot.csv"), "{error}");
    // A folder cannot be replaced by a file: the new file is there already when that is noticed.
    std::fs::create_dir(folder.path().join("boot.csv")).unwrap();
    assert!(matches!(trace.save(&folder.path().join("boot.csv")), Err(TraceError::Write { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something is left behind");
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let ranged = prop::sample::select(&Op::ALL[..4]);
    let times = (0..8_000_000_000_000u64, 0..1_000_000u64);
    let request = (times, ranged, 0..1u64 << 62, 1..1u64 << 62, prop::bool::weighted(0.1)).prop_map(
        |((start, took), op, offset, length, flush)| {
            let (op, offset, length) = if flush { (Op::Flush, 0, 0) } else { (op, offset, length) };
            let (start, end) = (Duration::from_micros(start), Duration::from_micros(start + took));
            Request { start, end, op, offset, length }
        },
    );
    prop::collection::vec(request, 1..50)
}

proptest! {
    #[test]
    fn what_is_saved_is_read_back(mut requests in requests()) {
        requests.sort_by_key(|request| request.start);
        let trace = Trace { requests };
        let folder = tempfile::tempdir().unwrap();
        for name in ["boot.csv", "boot.csv.gz"] {
            let path = folder.path().join(name);
            trace.save(&path).unwrap();
            let first = std::fs::read(&path).unwrap();
            prop_assert_eq!(first.starts_with(&[0x1f, 0x8b]), name.ends_with(".gz"));
            prop_assert_eq!(&Trace::open(&path).unwrap(), &trace);
            trace.save(&path).unwrap();
            prop_assert_eq!(std::fs::read(&path).unwrap(), first);
        }
    }

    #[test]
    fn no_input_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), valid in any::<bool>()) {
        let mut text = if valid { b"start_us,end_us,op,offset,length\n".to_vec() } else { Vec::new() };
        text.extend(&bytes);
        let _ = Trace::parse(&text[..], "noise");
        let _ = Trace::parse(&gzip(&text)[..], "noise");
    }
}
