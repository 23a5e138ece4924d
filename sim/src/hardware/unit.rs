//! The units at the end of keys.

/// A unit, as keys end with it.
pub(super) struct Unit {
    suffix: &'static str,
    /// The name that people read.
    pub name: &'static str,
    /// One of it, in seconds, bytes, bits a second, bytes a second or turns a second.
    pub factor: f64,
}

const fn unit(suffix: &'static str, name: &'static str, factor: f64) -> Unit {
    Unit { suffix, name, factor }
}

/// Those that profiles use, and those that one could take for them.
const UNITS: &[Unit] = &[
    unit("_ns", "nanoseconds", 1e-9),
    unit("_us", "microseconds", 1e-6),
    unit("_ms", "milliseconds", 1e-3),
    unit("_s", "seconds", 1.0),
    unit("_bytes", "bytes", 1.0),
    unit("_kb", "kB of 1000 bytes", 1e3),
    unit("_mb", "MB of 1000^2 bytes", 1e6),
    unit("_gb", "GB of 1000^3 bytes", 1e9),
    unit("_tb", "TB of 1000^4 bytes", 1e12),
    unit("_kib", "KiB of 1024 bytes", 1024.0),
    unit("_mib", "MiB of 1024^2 bytes", 1048576.0),
    unit("_gib", "GiB of 1024^3 bytes", 1073741824.0),
    unit("_tib", "TiB of 1024^4 bytes", 1099511627776.0),
    unit("_bit_s", "bits a second", 1.0),
    unit("_kbit_s", "1000 bits a second", 1e3),
    unit("_mbit_s", "1000^2 bits a second", 1e6),
    unit("_gbit_s", "1000^3 bits a second", 1e9),
    unit("_bytes_s", "bytes a second", 1.0),
    unit("_kb_s", "1000 bytes a second", 1e3),
    unit("_mb_s", "1000^2 bytes a second", 1e6),
    unit("_gb_s", "1000^3 bytes a second", 1e9),
    unit("_kib_s", "1024 bytes a second", 1024.0),
    unit("_mib_s", "1024^2 bytes a second", 1048576.0),
    unit("_gib_s", "1024^3 bytes a second", 1073741824.0),
    unit("_rpm", "turns a minute", 1.0 / 60.0),
    unit("_hz", "turns a second", 1.0),
];

/// What `key` is about, and its unit, if it has one.
pub(super) fn unit_of(key: &str) -> (&str, Option<&'static Unit>) {
    let units = UNITS.iter().filter(|unit| key.ends_with(unit.suffix));
    // The longest: mbit_s is no second.
    match units.max_by_key(|unit| unit.suffix.len()) {
        Some(unit) => (key.strip_suffix(unit.suffix).unwrap_or(key), Some(unit)),
        None => (key, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unit_counts() {
        for (key, quantity, name) in [
            ("bandwidth_mbit_s", "bandwidth", Some("1000^2 bits a second")),
            ("outer_mb_s", "outer", Some("1000^2 bytes a second")),
            ("jitter_s", "jitter", Some("seconds")),
            ("server_cpu_us", "server_cpu", Some("microseconds")),
            ("slots", "slots", None),
            ("server_threads", "server_threads", None),
        ] {
            let (about, unit) = unit_of(key);
            assert_eq!((about, unit.map(|unit| unit.name)), (quantity, name));
        }
    }
}
