//! Random streams: one for each purpose of each replication.

use rand_pcg::Pcg64;

/// A generator of random numbers, the same on every platform.
pub type Stream = Pcg64;

/// The streams of one replication. Each purpose has its own, so that a model that draws more or fewer numbers
/// changes nothing for the others, and two variants of a scenario see the same chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    seed: u64,
    replication: u64,
}

impl Streams {
    /// The streams of a replication of the runs with this seed.
    pub fn new(seed: u64, replication: u64) -> Streams {
        Streams { seed, replication }
    }

    /// The stream of a purpose, such as `start jitter`, from its beginning.
    pub fn stream(&self, purpose: &str) -> Stream {
        self.derive(purpose, None)
    }

    /// The stream of one of many alike, such as the think time of a virtual machine, from its beginning.
    pub fn numbered(&self, purpose: &str, number: u64) -> Stream {
        self.derive(purpose, Some(number))
    }

    fn derive(&self, purpose: &str, number: Option<u64>) -> Stream {
        let key =
            [self.seed, self.replication, fnv1a(purpose), u64::from(number.is_some()), number.unwrap_or(0)];
        let mut state = 0;
        let mut words = [0; 4];
        for word in key {
            state = split_mix(state ^ word);
        }
        for word in &mut words {
            state = split_mix(state);
            *word = state;
        }
        let wide = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        Pcg64::new(wide(words[0], words[1]), wide(words[2], words[3]))
    }
}

/// Fowler, Noll and Vo's hash, variant 1a, of 64 bits.
fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// A step of SplitMix64 (Steele, Lea and Flood, 2014).
fn split_mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    fn draw(mut stream: Stream) -> [u64; 2] {
        [stream.next_u64(), stream.next_u64()]
    }

    /// Results that were published stay reproducible only as long as these values stay.
    #[test]
    fn streams_are_the_same_for_ever() {
        let streams = Streams::new(1, 2);
        assert_eq!(
            draw(streams.stream("start jitter")),
            [18_082_138_135_485_498_108, 2_234_557_915_201_849_160]
        );
        assert_eq!(
            draw(streams.numbered("think time", 3)),
            [11_877_063_388_457_373_546, 15_411_768_167_606_928_313]
        );
    }

    /// The published values of both hashes.
    #[test]
    fn hashes_are_the_known_ones() {
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(split_mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn every_purpose_number_replication_and_seed_has_its_own() {
        let streams = Streams::new(1, 1);
        let all = [
            draw(streams.stream("a")),
            draw(streams.stream("b")),
            draw(streams.numbered("a", 0)),
            draw(streams.numbered("a", 1)),
            draw(Streams::new(1, 2).stream("a")),
            draw(Streams::new(2, 1).stream("a")),
            draw(Streams::new(0, 0).stream("a")),
        ];
        for (index, draws) in all.iter().enumerate() {
            assert!(!all[..index].contains(draws), "{index}");
        }
        assert_eq!(draw(streams.stream("a")), all[0]);
    }
}
