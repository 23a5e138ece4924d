//! What is added to the smallest quota, so that other boots find room too.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A share of the smallest quota, in hundredths of a per cent: exact, so that the same quota comes out everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Margin(u32);

/// What is recommended beyond the smallest quota if nobody says otherwise: many times what any boot on record has read
/// that the others had not.
pub const RECOMMENDED: Margin = Margin::percent(5);

/// The whole, in the unit of a margin.
const WHOLE: u32 = 10_000;

/// Why a text is not a margin.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "not a margin; a number of per cent from 0 to 100 with at most two decimals would be, such as 10% or 2.5%"
)]
pub struct MarginError;

impl Margin {
    /// So many per cent.
    pub const fn percent(percent: u32) -> Margin {
        Margin(percent * (WHOLE / 100))
    }

    /// The margin as a share: 0.1 for 10 %.
    pub fn share(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    /// The quota to recommend where `smallest` is the smallest that suffices: both are bytes, and whole clusters of
    /// `cluster_size` bytes.
    pub fn above(self, smallest: u64, cluster_size: u64) -> u64 {
        let more = u128::from(smallest) * u128::from(self.0);
        let clusters = more.div_ceil(u128::from(WHOLE) * u128::from(cluster_size));
        let more = u64::try_from(clusters).unwrap_or(u64::MAX).saturating_mul(cluster_size);
        smallest.saturating_add(more)
    }
}

impl FromStr for Margin {
    type Err = MarginError;

    fn from_str(text: &str) -> Result<Margin, MarginError> {
        let number = text.trim();
        let number = number.strip_suffix('%').unwrap_or(number).trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "00"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) || decimals.len() > 2 {
            return Err(MarginError);
        }
        let parse = |digits: &str| digits.parse::<u32>().map_err(|_| MarginError);
        let hundredths = parse(&format!("{decimals:0<2}"))?;
        let margin = parse(whole)?.checked_mul(WHOLE / 100).and_then(|whole| whole.checked_add(hundredths));
        margin.filter(|margin| *margin <= WHOLE).map(Margin).ok_or(MarginError)
    }
}

/// `10 %`, `2.5 %`.
impl fmt::Display for Margin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", crate::units::set_percent(self.share()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_read_as_people_write_them() {
        let right = [("10%", 1000), ("10", 1000), ("2.5 %", 250), ("0", 0), ("0.05%", 5), (" 100% ", 10_000)];
        for (text, hundredths) in right {
            assert_eq!(text.parse(), Ok(Margin(hundredths)), "{text}");
        }
        for text in ["", "%", "-1%", "101%", "100.01", "1.234", "1.", ".5", "x", "1e1", "99999999999", "+5"] {
            assert_eq!(text.parse::<Margin>(), Err(MarginError), "{text}");
        }
        assert_eq!([Margin(1000), Margin(250), Margin(0)].map(|m| m.to_string()), ["10 %", "2.5 %", "0 %"]);
    }

    #[test]
    fn what_is_recommended_is_whole_clusters_and_no_less_than_the_margin() {
        assert_eq!(Margin::percent(0).above(10 * 4096, 4096), 10 * 4096);
        assert_eq!(Margin::percent(10).above(10 * 4096, 4096), 11 * 4096);
        assert_eq!(Margin::percent(10).above(11 * 4096, 4096), 13 * 4096);
        assert_eq!(Margin(1).above(65_536, 512), 65_536 + 512);
        assert_eq!(Margin::percent(100).above(u64::MAX - 511, 512), u64::MAX);
    }
}
