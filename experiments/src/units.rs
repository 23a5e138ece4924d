//! Numbers as people read them: megabytes of 10⁶ bytes, cluster sizes in binary units, shares in per cent,
//! digests in hexadecimal.

use crate::stats::{Proportion, Summary};

/// Bytes in a megabyte (MB).
pub const MB: f64 = 1e6;

/// `65.59 MB`; below one megabyte to the kilobyte, `0.457 MB`.
pub fn mb(bytes: f64) -> String {
    format!("{} MB", megabytes(bytes, if bytes == 0.0 || bytes.abs() >= MB { 2 } else { 3 }))
}

/// The number of megabytes with so many decimals, and with a minus sign as it is printed.
pub fn megabytes(bytes: f64, decimals: usize) -> String {
    let number = format!("{:.decimals$}", (bytes / MB).abs());
    let zero = number.chars().all(|digit| matches!(digit, '0' | '.'));
    if bytes < 0.0 && !zero { format!("−{number}") } else { number }
}

/// `63.40 ± 0.11 MB (63.22 to 63.57)`: mean, half-width of the confidence interval, range.
pub fn mb_summary(summary: &Summary) -> String {
    let half =
        summary.half_width.map(|half_width| format!(" ± {}", megabytes(half_width, 2))).unwrap_or_default();
    let [mean, min, max] = [summary.mean, summary.min, summary.max].map(|bytes| megabytes(bytes, 2));
    format!("{mean}{half} MB ({min} to {max})")
}

/// `3.71 ± 0.02 s`: mean and half-width of the confidence interval.
pub fn seconds_summary(summary: &Summary) -> String {
    let half = summary.half_width.map(|half_width| format!(" ± {half_width:.2}")).unwrap_or_default();
    format!("{:.2}{half} s", summary.mean)
}

/// `9.3 ± 0.2 %`: mean and half-width of a share.
pub fn percent_summary(share: &Summary) -> String {
    let half = share.half_width.map(|half_width| format!(" ± {:.1}", half_width * 100.0)).unwrap_or_default();
    format!("{:.1}{half} %", share.mean * 100.0)
}

/// `+9.3 ± 0.2 %`, `−4.0 ± 0.1 %`: the same of a share that something has grown by.
pub fn growth(share: &Summary) -> String {
    let size = Summary { mean: share.mean.abs(), ..*share };
    let sign = if share.mean < 0.0 { "−" } else { "+" };
    format!("{sign}{}", percent_summary(&size))
}

/// `512 B`, `4 KiB`, `2 GiB`: sizes that are round in binary.
pub fn cluster(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(bits, _)| bytes >= 1 << bits && bytes.is_multiple_of(1 << bits));
    unit.map_or_else(|| format!("{bytes} B"), |(bits, name)| format!("{} {name}", bytes >> bits))
}

/// A measured share: `16.6 %`, below one per cent `0.70 %`.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent != 0.0 && percent.abs() < 1.0 { format!("{percent:.2} %") } else { format!("{percent:.1} %") }
}

/// `8 of 10 (44.4 % to 97.5 %)`: how many succeeded, and the interval of the share.
pub fn proportion(of: &Proportion) -> String {
    format!("{} of {} ({} to {})", of.hits, of.count, percent(of.low), percent(of.high))
}

/// A share that was set and not measured: `1 %`, `0.5 %`.
pub fn set_percent(share: f64) -> String {
    format!("{} %", (share * 1e6).round() / 1e4)
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `1 boot`, `6 boots`.
pub fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_are_written_as_people_read_them() {
        assert_eq!([512, 1536, 4096, 1 << 31].map(cluster), ["512 B", "1536 B", "4 KiB", "2 GiB"]);
        assert_eq!([65_590_000.0, 457_000.0, 0.0].map(mb), ["65.59 MB", "0.457 MB", "0.00 MB"]);
        assert_eq!((megabytes(-1_884_000.0, 2), megabytes(-1.0, 2)), ("−1.88".into(), "0.00".into()));
        let share = Summary::of([-0.041, -0.039]).unwrap();
        assert_eq!((percent_summary(&share), growth(&share)), ("-4.0 ± 1.3 %".into(), "−4.0 ± 1.3 %".into()));
        assert_eq!(growth(&Summary::of([0.5]).unwrap()), "+50.0 %");
        assert_eq!(seconds_summary(&Summary::of([1.0, 1.0]).unwrap()), "1.00 ± 0.00 s");
        assert_eq!([0.166, 0.006_99].map(percent), ["16.6 %", "0.70 %"]);
        assert_eq!([0.1, 0.005].map(set_percent), ["10 %", "0.5 %"]);
        let covered = Proportion::of((0..10).map(|trial| trial < 8)).unwrap();
        assert_eq!(proportion(&covered), "8 of 10 (44.4 % to 97.5 %)");
    }
}
