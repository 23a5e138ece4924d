//! Sizes as qemu-img takes them: `512`, `64K`, `1.5G`.

use thiserror::Error;
use vmicache_format::qcow2::ClusterLayout;

/// The largest file an operating system can address.
const MOST: u64 = i64::MAX as u64;
/// Suffixes and the power of 1024 that each stands for.
const SUFFIXES: &str = "bkmgtpe";
/// What qemu-img says of its own sizes, for the help texts.
pub const HELP: &str = "Sizes are bytes, or numbers with a suffix for powers of 1024 as in qemu-img: b, K (or KiB), \
     M, G, T, P, E; 1.5G is 1610612736 bytes. Results in MB count 1000000 bytes.";

/// Why a text is not a size.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SizeError {
    /// Not a number with one of the suffixes.
    #[error(
        "not a size; bytes or a number with a suffix b, K, M, G, T, P or E would be, such as 65536, 64K, 1.5G"
    )]
    Malformed,
    /// Below zero.
    #[error("a size cannot be negative")]
    Negative,
    /// Part of a byte.
    #[error("not a whole number of bytes")]
    Fraction,
    /// Too large for a file.
    #[error("too large; at most {MOST} bytes (8 EiB less one) would be right")]
    TooLarge,
    /// Not a cluster size of the format.
    #[error("not a cluster size; a power of two from 512 to 2M would be")]
    Cluster,
    /// Not a cluster size that extended L2 entries go with.
    #[error("extended L2 entries need clusters of 16K to 2M, which 32 subclusters each are made of")]
    ExtendedL2,
    /// Zero, where at least one byte is needed.
    #[error("a size of at least 1 would be right")]
    Zero,
    /// Not whole sectors.
    #[error("not a disk size; a multiple of 512 would be")]
    Sectors,
}

/// The bytes that `text` stands for. Fractions need a suffix, and what they leave of a byte is dropped.
///
/// # Errors
/// If `text` is not a number with one of the suffixes, is negative, or is too large.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('-') {
        return Err(parse(rest).map_or_else(|error| error, |_| SizeError::Negative));
    }
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let (number, suffix) = text.split_at(text.find(|c| !digits(c)).unwrap_or(text.len()));
    let shift = shift(suffix.trim_start()).ok_or(SizeError::Malformed)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits_only(fraction) || number.ends_with('.') {
        return Err(SizeError::Malformed);
    }
    if shift == 0 && !fraction.is_empty() {
        return Err(SizeError::Fraction);
    }
    let whole: u64 = whole.parse().map_err(|_| SizeError::TooLarge)?;
    let whole = u128::from(whole) << shift;
    // 18 decimal places are finer than a byte of an exbibyte.
    let fraction = &fraction[..fraction.len().min(18)];
    let part = fraction.parse::<u128>().unwrap_or(0) << shift;
    let bytes = whole + part / 10u128.pow(fraction.len() as u32);
    u64::try_from(bytes).ok().filter(|bytes| *bytes <= MOST).ok_or(SizeError::TooLarge)
}

/// The power of two that `suffix` multiplies by.
fn shift(suffix: &str) -> Option<u32> {
    let lower = suffix.to_ascii_lowercase();
    let letter = match lower.strip_suffix("ib") {
        Some("b") => return None,
        Some(letter) => letter,
        None => &lower,
    };
    match letter {
        "" if suffix.is_empty() => Some(0),
        "" => None,
        letter if letter.len() == 1 => SUFFIXES.find(letter).map(|power| 10 * power as u32),
        _ => None,
    }
}

/// A cluster size: a power of two from 512 bytes to 2 MiB.
///
/// # Errors
/// If `text` is not such a size.
pub fn parse_cluster_size(text: &str) -> Result<u64, SizeError> {
    let bytes = parse(text)?;
    if bytes.is_power_of_two() && (512..=2 << 20).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(SizeError::Cluster)
    }
}

/// What follows a cluster size to say that its L2 entries are extended.
const EXTENDED_L2: &str = "+extended-l2";

/// A layout of clusters: a cluster size, such as `64K`, or with extended L2 entries `64K+extended-l2`.
///
/// # Errors
/// If `text` is not such a size, or one that extended L2 entries do not go with.
pub fn parse_clusters(text: &str) -> Result<ClusterLayout, SizeError> {
    let (size, extended_l2) = match text.trim_end().strip_suffix(EXTENDED_L2) {
        Some(size) => (size, true),
        None => (text, false),
    };
    cluster_layout(parse_cluster_size(size)?, extended_l2)
}

/// Clusters of this size, with extended L2 entries or without.
///
/// # Errors
/// If extended L2 entries do not go with the size.
pub fn cluster_layout(size: u64, extended_l2: bool) -> Result<ClusterLayout, SizeError> {
    let layout = ClusterLayout { size, extended_l2 };
    if extended_l2 && !layout.is_allowed() { Err(SizeError::ExtendedL2) } else { Ok(layout) }
}

/// The size of a disk: whole sectors of 512 bytes, at least one.
///
/// # Errors
/// If `text` is not such a size.
pub fn parse_disk_size(text: &str) -> Result<u64, SizeError> {
    parse_positive(text)
        .and_then(|bytes| if bytes.is_multiple_of(512) { Ok(bytes) } else { Err(SizeError::Sectors) })
}

/// A size of at least one byte.
///
/// # Errors
/// If `text` is not such a size.
pub fn parse_positive(text: &str) -> Result<u64, SizeError> {
    parse(text).and_then(|bytes| if bytes > 0 { Ok(bytes) } else { Err(SizeError::Zero) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_mean_what_qemu_img_means() {
        let right = [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("64K", 65_536),
            ("64k", 65_536),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("100M", 104_857_600),
            ("2G", 2 << 30),
            ("1.5G", 1_610_612_736),
            ("1.1k", 1126),
            ("0.5T", 1 << 39),
            ("1P", 1 << 50),
            ("7E", 7 << 60),
            ("9223372036854775807", i64::MAX as u64),
            (" 4096 ", 4096),
        ];
        for (text, bytes) in right {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        use SizeError::*;
        let malformed = [
            "", "x", "64Q", "64KB", "12ib", "12bib", "1..5M", "1.", ".5M", "64KK", "0x10", "1e3", "+5", "5M5",
        ];
        for text in malformed {
            assert_eq!(parse(text), Err(Malformed), "{text}");
        }
        for (text, error) in [
            ("-1", Negative),
            ("-64K", Negative),
            ("-x", Malformed),
            ("1.5", Fraction),
            ("8E", TooLarge),
            ("9223372036854775808", TooLarge),
            ("99999999999999999999999", TooLarge),
            ("18446744073709551615E", TooLarge),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn clusters_and_disks_have_sizes_of_their_own() {
        assert_eq!(parse_cluster_size("2M"), Ok(2 << 20));
        for text in ["0", "256", "1000", "4M"] {
            assert_eq!(parse_cluster_size(text), Err(SizeError::Cluster), "{text}");
        }
        let (standard, extended) = (ClusterLayout::standard(65_536), ClusterLayout::extended(65_536));
        assert_eq!([parse_clusters("64K"), parse_clusters("64K+extended-l2")], [Ok(standard), Ok(extended)]);
        for (text, error) in [
            ("8K+extended-l2", SizeError::ExtendedL2),
            ("4M+extended-l2", SizeError::Cluster),
            ("64K+extended", SizeError::Malformed),
            ("+extended-l2", SizeError::Malformed),
        ] {
            assert_eq!(parse_clusters(text), Err(error), "{text}");
        }
        assert_eq!(parse_disk_size("1K"), Ok(1024));
        assert_eq!(parse_disk_size("1000"), Err(SizeError::Sectors));
        assert_eq!(parse_disk_size("0"), Err(SizeError::Zero));
    }
}
