//! The shipped hardware profiles are what they should be, and wrong ones are refused with errors that help.

use proptest::prelude::*;
use std::path::{Path, PathBuf};
use vmicache_sim::engine::Span;
use vmicache_sim::hardware::{
    CacheMode, DeviceProfile, HardDiskProfile, KeyProblem, MemoryProfile, Network, Profile, ProfileError,
};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/hardware").join(format!("{name}.toml"))
}

fn das_4() -> String {
    std::fs::read_to_string(shipped("das-4")).unwrap()
}

/// The error of the DAS-4 profile with `from`, where it first stands, replaced by `to`.
fn error_with(from: &str, to: &str) -> ProfileError {
    let text = das_4();
    assert!(text.contains(from), "the profile has no {from:?}");
    Profile::parse(&text.replacen(from, to, 1), "changed.toml").unwrap_err()
}

/// The number of the line of the DAS-4 profile that `start` begins, after the line `[section]`.
fn line_of(section: &str, start: &str) -> usize {
    let text = das_4();
    let mut lines = text.lines().enumerate().skip_while(|(_, line)| *line != format!("[{section}]"));
    lines.find(|(_, line)| line.starts_with(start)).unwrap().0 + 1
}

#[test]
fn das_4_is_as_the_paper_is_recalled() {
    let profile = Profile::read(&shipped("das-4")).unwrap();
    assert_eq!(profile.name, "das-4");
    assert_eq!(profile.compute_node.memory_bytes, 24 << 30);
    assert_eq!(profile.compute_node.cores, 8);
    assert_eq!(profile.compute_node.cache_mode, CacheMode::Writeback);
    assert_eq!(profile.storage_node.memory_bytes, 24 << 30);
    assert_eq!(profile.storage_node.disk, profile.compute_node.disk);
    let DeviceProfile::Raid0 { members, chunk_bytes, member } = &profile.storage_node.disk else {
        panic!("{:?} is no RAID-0", profile.storage_node.disk)
    };
    assert_eq!((*members, *chunk_bytes), (2, 512 << 10));
    assert_eq!(member.capacity_bytes, 1_000_000_000_000);
    // One turn of 7200 a minute: 60 s / 7200.
    assert_eq!(member.rotation, Span::from_picoseconds(8_333_333_333));
    assert_eq!(member.seek_track_to_track, Span::from_microseconds(230));
    assert_eq!(member.seek_average, Span::from_microseconds(8200));
    assert_eq!(member.outer_bytes_per_s, 175e6);
    let names: Vec<_> = profile.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["1gbe", "ib-qdr"]);
    // 1 Gb/s * 0.9415 / 8, and 15 Gb/s / 8.
    let payload: Vec<_> = profile.networks.iter().map(Network::payload_bytes_per_s).collect();
    assert_eq!(payload, [117_687_500.0, 1_875_000_000.0]);
    assert_eq!(profile.nfs.slots, 16);
    assert_eq!(profile.nfs.client_readahead_bytes, 15 * profile.nfs.rsize_bytes);
}

#[test]
fn the_modern_profile_is_faster_in_every_respect() {
    let old = Profile::read(&shipped("das-4")).unwrap();
    let new = Profile::read(&shipped("modern")).unwrap();
    assert_eq!(new.name, "modern");
    assert!(new.compute_node.cores > old.compute_node.cores);
    assert!(new.compute_node.memory_bytes > old.compute_node.memory_bytes);
    assert!(new.networks[0].payload_bytes_per_s() > old.networks[0].payload_bytes_per_s());
    let names: Vec<_> = new.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["25gbe", "100gbe"]);
    for disk in [&new.compute_node.disk, &new.storage_node.disk] {
        let DeviceProfile::SolidState(drive) = disk else { panic!("{disk:?} is no flash") };
        assert_eq!(drive.read_latency, Span::from_microseconds(80));
        assert!(drive.read_bytes_per_s > 2.0 * 175e6);
    }
}

#[test]
fn every_kind_of_disk_can_be_read() {
    let text = das_4().replace("members", "#members").replace("chunk_kib", "#chunk_kib");
    let profile = Profile::parse(&text.replace("\"raid-0\"", "\"hard-disk\""), "changed.toml").unwrap();
    let DeviceProfile::HardDisk(disk) = &profile.compute_node.disk else { panic!() };
    assert_eq!(disk.overhead, Span::from_microseconds(100));
    assert_eq!(disk.seek_full_stroke, Span::from_microseconds(16_400));
    assert_eq!(disk.inner_bytes_per_s, 83e6);

    let text = das_4();
    let (before, rest) = text.split_once("[storage_node.disk]\n").unwrap();
    let (_, after) = rest.split_once("\n[storage_node.memory]").unwrap();
    let disk = "kind = \"memory\"\nlatency_us = { value = 2.5, source = \"x\" }\nbandwidth_mb_s = { value = 1_000, source \
                = \"x\" }\n";
    let text = format!("{before}[storage_node.disk]\n{disk}\n[storage_node.memory]{after}");
    let profile = Profile::parse(&text, "changed.toml").unwrap();
    let expected = MemoryProfile { latency: Span::from_picoseconds(2_500_000), bytes_per_s: 1e9 };
    assert_eq!(profile.storage_node.disk, DeviceProfile::Memory(expected));

    // What belongs to another kind of disk is not silently ignored.
    let error = error_with("\"raid-0\"", "\"hard-disk\"").to_string();
    assert!(error.contains("compute_node.disk.members is unknown"), "{error}");
}

#[test]
fn the_default_network_comes_first() {
    let text = das_4().replace("default_network = \"1gbe\"", "default_network = \"ib-qdr\"");
    let profile = Profile::parse(&text, "changed.toml").unwrap();
    let names: Vec<_> = profile.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["ib-qdr", "1gbe"]);
}

#[test]
fn every_value_is_reported_with_its_source_in_the_order_of_the_file() {
    let profile = Profile::read(&shipped("das-4")).unwrap();
    // Every value stands on a line of its own.
    let values: Vec<_> =
        das_4().lines().filter(|line| line.contains("{ value = ")).map(String::from).collect();
    assert_eq!(profile.facts.len(), values.len());
    for (fact, line) in profile.facts.iter().zip(&values) {
        let key = fact.key.rsplit('.').next().unwrap();
        assert!(line.starts_with(&format!("{key} = {{ value = ")), "{line} is not {}", fact.key);
        assert!(line.contains(&fact.value) && line.ends_with(&format!("source = \"{}\" }}", fact.source)));
    }
    let fact = profile.facts.iter().find(|fact| fact.key == "storage_node.disk.seek_average_ms").unwrap();
    assert_eq!(fact.value, "8.2");
    assert!(fact.source.starts_with("HGST Ultrastar 7K4000"));
    let fact = profile.facts.iter().find(|fact| fact.key == "compute_node.cache_mode").unwrap();
    assert_eq!(fact.value, "writeback");
}

#[test]
fn a_key_in_another_unit_is_told_from_an_unknown_one() {
    let line = line_of("compute_node.disk", "seek_average_ms");
    assert_eq!(
        error_with("seek_average_ms", "seek_average_us").to_string(),
        format!(
            "changed.toml, line {line}: compute_node.disk.seek_average_us is unknown; \
             did you mean seek_average_ms (milliseconds)?"
        )
    );
    assert_eq!(
        error_with("bandwidth_mbit_s", "bandwidth_gbit_s").to_string().split_once(' ').unwrap().1,
        format!(
            "line {}: networks.1gbe.bandwidth_gbit_s is unknown; did you mean bandwidth_mbit_s (1000^2 bits a \
             second)?",
            line_of("networks.1gbe", "bandwidth_mbit_s")
        )
    );
    let error = error_with("seek_full_stroke_ms", "seek_full_stroke").to_string();
    assert!(error.ends_with("seek_full_stroke is unknown; did you mean seek_full_stroke_ms (milliseconds)?"));
}

#[test]
fn an_unknown_key_is_refused_with_those_that_there_are() {
    for (from, to, key, known) in [
        (
            "name = ",
            "nmae = ",
            "nmae",
            "name, title, default_network, compute_node, storage_node, networks, nfs",
        ),
        ("rsize_kib", "wsize_kib", "nfs.wsize_kib", "rsize_kib, slots, server_threads"),
        (
            "members",
            "disks",
            "compute_node.disk.disks",
            "kind, members, chunk_kib, capacity_gb, rotation_rpm",
        ),
        ("cores = {", "cores = { note = 1,", "compute_node.cores.note", "value, source"),
    ] {
        let ProfileError::Key { key: found, problem, .. } = error_with(from, to) else { panic!("{to}") };
        assert_eq!(found, key);
        assert!(
            matches!(&problem, KeyProblem::Unknown { known: all } if all.starts_with(known)),
            "{problem}"
        );
    }
}

#[test]
fn whatever_is_missing_is_named_with_its_place() {
    let text = das_4();
    let removed = |start: &str| {
        let text: Vec<_> = text.lines().filter(|line| !line.starts_with(start)).collect();
        Profile::parse(&text.join("\n"), "changed.toml").unwrap_err().to_string()
    };
    assert_eq!(
        removed("seek_average_ms"),
        format!(
            "changed.toml, line {}: compute_node.disk.seek_average_ms is missing; seek_average_ms = {{ value = \
             ..., source = \"...\" }}, in milliseconds, would be right",
            line_of("compute_node.disk", "[compute_node.disk]")
        )
    );
    assert_eq!(removed("name"), "changed.toml, line 1: name is missing; name = \"...\" would be right");
    assert!(removed("kind").contains("compute_node.disk.kind is missing; kind = \"...\" would be right"));
    // Every value is needed.
    let mut values = 0;
    for line in text.lines().filter(|line| line.contains("{ value = ")) {
        let start = line.split_once(" = ").unwrap().0;
        assert!(removed(start).contains(&format!(".{start} is missing; {start} = {{ value")), "{start}");
        values += 1;
    }
    assert!(values > 40, "{values}");
}

#[test]
fn a_missing_section_is_named() {
    let text = das_4();
    for section in
        ["compute_node.disk", "compute_node.memory", "storage_node.disk", "storage_node.memory", "nfs"]
    {
        let (before, rest) = text.split_once(&format!("[{section}]\n")).unwrap();
        let after = rest.find("\n[").map_or("", |next| &rest[next..]);
        let error = Profile::parse(&format!("{before}{after}"), "changed.toml").unwrap_err().to_string();
        let line = section.split_once('.').map_or(1, |(node, _)| line_of(node, "["));
        assert_eq!(
            error,
            format!("changed.toml, line {line}: {section} is missing; a section [{section}] would be right")
        );
    }
}

#[test]
fn a_value_needs_a_source() {
    let line = line_of("compute_node", "cores = { value = 8,");
    let text = das_4();
    let whole = text.lines().nth(line - 1).unwrap();
    for without in [
        "cores = { value = 8 }",
        "cores = { value = 8, source = \"\" }",
        "cores = { value = 8, source = \" \\t\" }",
    ] {
        assert_eq!(
            error_with(whole, without).to_string(),
            format!(
                "changed.toml, line {line}: compute_node.cores has no source; say where the value is from, or \
                 \"assumed: ...\" with why it is that value"
            )
        );
    }
    let error = error_with(whole, "cores = { value = 8, source = 4 }").to_string();
    assert!(error.ends_with("compute_node.cores.source is a number; a text would be right"), "{error}");
    let error = error_with(whole, "cores = { source = \"mine\" }").to_string();
    assert!(error.contains("compute_node.cores.value is missing; value = ... would be right"), "{error}");
    let error = error_with(whole, "cores = 8").to_string();
    let right = "compute_node.cores is a number; cores = { value = ..., source = \"...\" } would be right";
    assert!(error.ends_with(right), "{error}");
}

#[test]
fn a_value_of_another_type_is_refused() {
    for (from, to, right) in [
        (
            "cores = { value = 8",
            "cores = { value = \"eight\"",
            "cores is \"eight\"; a number from 1 to 65536 would",
        ),
        ("cores = { value = 8", "cores = { value = [8]", "cores is a list; a number from 1 to 65536 would"),
        ("cores = { value = 8", "cores = { value = true", "cores is true or false; a number from 1 to 65536"),
        ("cores = { value = 8", "cores = { value = 1979-05-27", "cores is a date; a number from 1 to 65536"),
        ("cores = { value = 8", "cores = { value = { a = 1 }", "cores is a table; a number from 1 to 65536"),
        ("\"writeback\"", "1", "cache_mode is a number; \"none\" or \"writeback\""),
        ("\"writeback\"", "\"unsafe\"", "is \"unsafe\"; \"none\" or \"writeback\" or \"writethrough\" would"),
        (
            "\"raid-0\"",
            "\"raid-5\"",
            "is \"raid-5\"; \"hard-disk\" or \"raid-0\" or \"solid-state\" or \"memory\"",
        ),
        ("\"raid-0\"", "0", "kind is a number; kind = \"...\" would be right"),
        ("title = \"DAS", "title = \"\" #", "title is empty; title = \"...\" would be right"),
        ("\"das-4\"", "\"../das 4\"", "is \"../das 4\"; letters, digits and any of - _ . would be right"),
        (
            "network = \"1gbe\"",
            "network = \"1GbE\"",
            "is \"1GbE\"; one of the networks, \"1gbe\" or \"ib-qdr\",",
        ),
        (
            "[networks.1gbe]",
            "[networks.\"1 gbe\"]",
            "is \"1gbe\"; one of the networks, \"1 gbe\" or \"ib-qdr\",",
        ),
        (
            "[networks.ib-qdr]",
            "[networks.\"ib qdr\"]",
            "networks.ib qdr is no name of a network; letters, digits",
        ),
    ] {
        let error = error_with(from, to).to_string();
        assert!(error.contains(right), "{error}");
    }
}

#[test]
fn a_value_that_cannot_be_is_refused() {
    for (key, value, right) in [
        ("memory_gib", "-24", "from 0.001 to 1048576, in GiB of 1024^3 bytes,"),
        ("memory_gib", "1e300", "from 0.001 to 1048576"),
        ("memory_gib", "99999999999999999999999", "from 0.001 to 1048576"),
        ("cores", "0", "from 1 to 65536"),
        ("cores", "8.5", "a whole number"),
        ("cores", "0x08", "a number without prefix"),
        ("members", "1", "from 2 to 1024"),
        ("rotation_rpm", "0", "from 60 to 1000000, in turns a minute,"),
        ("seek_average_ms", "-1", "from 0 to 1000, in milliseconds,"),
        ("seek_average_ms", "nan", "from 0 to 1000"),
        ("seek_average_ms", "0.1", "at least seek_track_to_track_ms, 0.23,"),
        ("seek_full_stroke_ms", "8.1", "at least seek_average_ms, 8.2,"),
        ("outer_mb_s", "inf", "from 0.001 to 10000000"),
        ("outer_mb_s", "0", "from 0.001 to 10000000"),
        ("outer_mb_s", "82.9", "at least inner_mb_s, 83,"),
        ("bandwidth_mbit_s", "0.0", "from 0.001 to 10000000"),
        ("payload_share", "1.01", "from 0.01 to 1 would"),
        ("payload_share", "0", "from 0.01 to 1 would"),
        ("round_trip_us", "-inf", "from 0 to 10000000"),
        ("slots", "0", "from 1 to 65536"),
        ("rsize_kib", "0", "from 1 to 65536"),
    ] {
        let text = das_4();
        let start = format!("{key} = {{ value = ");
        let line = text.lines().find(|line| line.starts_with(&start)).unwrap();
        let was = line[start.len()..].split_once(',').unwrap().0;
        let error = error_with(&format!("{start}{was},"), &format!("{start}{value},"));
        let shown = error.to_string();
        let ProfileError::Key {
            line: found,
            key: dotted,
            problem: KeyProblem::WrongValue { expected, .. },
            ..
        } = error
        else {
            panic!("{shown}")
        };
        assert!(dotted.ends_with(&format!(".{key}")), "{shown}");
        assert_eq!(text.lines().nth(found - 1), Some(line));
        assert!(format!("{expected} would").contains(right), "{shown}");
    }
}

#[test]
fn what_is_no_toml_is_refused_with_its_line() {
    let line = line_of("compute_node", "cores");
    let error = error_with("cores = {", "cores = {{").to_string();
    assert!(error.starts_with(&format!("changed.toml, line {line}: ")), "{error}");
    let error = error_with("[nfs]", "[networks.1gbe]").to_string();
    assert!(
        error.starts_with(&format!("changed.toml, line {}: duplicate key", line_of("nfs", "["))),
        "{error}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Profile::read(Path::new("no/such.toml")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the hardware profile no/such.toml");
    assert!(std::error::Error::source(&error).is_some());
}

/// Whether a simulation can compute with every number of the profile.
fn is_usable(profile: &Profile) -> bool {
    let rate = |rate: f64| rate.is_finite() && rate >= 1.0;
    let short = |span: Span| span < Span::from_seconds(61.0);
    let disk = |disk: &HardDiskProfile| {
        disk.capacity_bytes > 0
            && disk.rotation > Span::ZERO
            && [disk.rotation, disk.overhead, disk.seek_full_stroke].into_iter().all(short)
            && disk.seek_track_to_track <= disk.seek_average
            && disk.seek_average <= disk.seek_full_stroke
            && rate(disk.inner_bytes_per_s)
            && disk.inner_bytes_per_s <= disk.outer_bytes_per_s
            && rate(disk.outer_bytes_per_s)
    };
    let device = |device: &DeviceProfile| match device {
        DeviceProfile::HardDisk(member) => disk(member),
        DeviceProfile::Raid0 { members, chunk_bytes, member } => {
            *members > 1 && *chunk_bytes > 0 && disk(member)
        }
        DeviceProfile::SolidState(drive) => {
            drive.channels > 0
                && [drive.read_latency, drive.write_latency].into_iter().all(short)
                && [drive.read_bytes_per_s, drive.write_bytes_per_s].into_iter().all(rate)
        }
        DeviceProfile::Memory(memory) => short(memory.latency) && rate(memory.bytes_per_s),
    };
    let Profile { compute_node, storage_node, networks, nfs, .. } = profile;
    compute_node.cores > 0
        && compute_node.memory_bytes > 0
        && storage_node.memory_bytes > 0
        && [&compute_node.disk, &storage_node.disk].into_iter().all(device)
        && [&compute_node.memory, &storage_node.memory].into_iter().all(|memory| rate(memory.bytes_per_s))
        && !networks.is_empty()
        && networks.iter().all(|network| rate(network.payload_bytes_per_s()) && short(network.round_trip))
        && nfs.rsize_bytes > 0
        && nfs.slots > 0
        && nfs.server_threads > 0
        && short(nfs.server_cpu)
}

/// Pieces of text that are likely to lead a reader of profiles astray.
const PIECES: &[&str] = &[
    "",
    "0",
    "-",
    "9",
    "1e308",
    "1e-308",
    "inf",
    "-nan",
    "0x",
    "_",
    ".",
    ",",
    "\"",
    "'''",
    "{",
    "}",
    "[",
    "]",
    "=",
    "#",
    "\n",
    "\r",
    "\0",
    "\u{feff}",
    "é",
    "value",
    "source",
    "kind = \"memory\"\n",
    "\"solid-state\"",
    "[nfs]\n",
    "[[networks]]\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A profile with a few changes anywhere is either refused or usable.
    #[test]
    fn no_text_makes_the_reader_panic_or_take_nonsense(
        modern in any::<bool>(),
        changes in
            prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, prop::sample::select(PIECES)), 1..5),
    ) {
        let mut text = std::fs::read_to_string(shipped(if modern { "modern" } else { "das-4" })).unwrap();
        for (place, cut, piece) in changes {
            let mut start = place.index(text.len());
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            let end = text[start..].char_indices().nth(cut).map_or(text.len(), |(offset, _)| start + offset);
            text.replace_range(start..end, piece);
        }
        match Profile::parse(&text, "changed.toml") {
            Ok(profile) => prop_assert!(is_usable(&profile), "{profile:?}"),
            Err(error) => prop_assert!(error.to_string().starts_with("changed.toml, line ")),
        }
    }

    /// Any number at the place of any value is either refused or usable.
    #[test]
    fn no_number_makes_the_reader_panic_or_take_nonsense(
        modern in any::<bool>(),
        place in any::<prop::sample::Index>(),
        number in prop_oneof![any::<f64>(), 0.0..2e7, 0.0..2.0, (0..100_000_u32).prop_map(f64::from)],
    ) {
        let text = std::fs::read_to_string(shipped(if modern { "modern" } else { "das-4" })).unwrap();
        let values: Vec<_> = text.match_indices("{ value = ").map(|(start, open)| start + open.len()).collect();
        let start = values[place.index(values.len())];
        let length = text[start..].find(',').unwrap();
        let number = if number.is_finite() { format!("{number:?}") } else { "inf".into() };
        let changed = format!("{}{number}{}", &text[..start], &text[start + length..]);
        match Profile::parse(&changed, "changed.toml") {
            Ok(profile) => prop_assert!(is_usable(&profile), "{profile:?}"),
            Err(error) => prop_assert!(
                matches!(&error, ProfileError::Key { problem: KeyProblem::WrongValue { .. }, .. }),
                "{error}"
            ),
        }
    }
}
