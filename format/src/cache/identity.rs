//! Recognising the base image of a cache, at a cost that does not grow with the base.

use crate::byte_range::{range_at, round_down};
use sha2::{Digest, Sha256};
use std::fmt;
use std::ops::Range;

/// Bytes at either end of the base that enter the digest.
const END_BYTES: u64 = 64 << 10;
/// Blocks between the ends that enter the digest, evenly spread.
const SAMPLES: u64 = 32;
const LAST_SAMPLE: u128 = SAMPLES as u128 - 1;
/// Bytes of each of them.
const SAMPLE_BYTES: u64 = 4096;

const KIND_DIGEST: u8 = 1;
const KIND_VERSION: u8 = 2;

/// What a cache remembers of its base image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseIdentity {
    /// The base's virtual size in bytes, and a SHA-256 digest of its ends and of a fixed sample of blocks.
    Digest {
        /// Bytes of the base's disk.
        length: u64,
        /// Over the sampled ranges, in order.
        digest: [u8; 32],
    },
    /// A name of the base's content that the operator vouches for.
    Version(String),
}

/// How the identity of the base is established when a cache is made or opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IdentityCheck {
    /// Sampled blocks of the base are read and digested.
    #[default]
    Sample,
    /// The operator states the version of the base.
    Version(String),
    /// It is not: `info` and other readers that serve no guest.
    Skip,
}

impl BaseIdentity {
    /// The digest over `samples`, the content of the sampled ranges of a base of `length` bytes.
    pub(crate) fn of_samples<'a>(length: u64, samples: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Sha256::new();
        samples.for_each(|sample| hasher.update(sample));
        BaseIdentity::Digest { length, digest: hasher.finalize().into() }
    }

    /// Reads the extension's content; `None` for a kind that this version does not know.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (kind, content) = (data.first()?, data.get(8..)?);
        match *kind {
            KIND_DIGEST => {
                let length = u64::from_be_bytes(content.get(..8)?.try_into().ok()?);
                Some(BaseIdentity::Digest { length, digest: content.get(8..)?.try_into().ok()? })
            }
            KIND_VERSION => String::from_utf8(content.to_vec()).ok().map(BaseIdentity::Version),
            _ => None,
        }
    }

    /// The extension's content: the kind, seven zero bytes, then the length and the digest, or the version.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, content) = match self {
            BaseIdentity::Digest { length, digest } => {
                (KIND_DIGEST, [&length.to_be_bytes()[..], digest].concat())
            }
            BaseIdentity::Version(version) => (KIND_VERSION, version.as_bytes().to_vec()),
        };
        [vec![kind, 0, 0, 0, 0, 0, 0, 0], content].concat()
    }

    /// How `other` differs from this, in words; `None` if it does not.
    pub fn difference(&self, other: &BaseIdentity) -> Option<String> {
        match (self, other) {
            _ if self == other => None,
            (BaseIdentity::Digest { length: a, .. }, BaseIdentity::Digest { length: b, .. }) if a != b => {
                Some(format!("that one had {a} bytes, this one has {b}"))
            }
            (BaseIdentity::Digest { .. }, BaseIdentity::Digest { .. }) => {
                Some("sampled blocks have another content".into())
            }
            _ => Some(format!("that one was {self}, this one is {other}")),
        }
    }
}

impl fmt::Display for BaseIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BaseIdentity::Digest { length, digest } => {
                write!(f, "{length} bytes, sample ")?;
                digest[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            BaseIdentity::Version(version) => write!(f, "version {version:?}"),
        }
    }
}

/// Which ranges of a base of `length` bytes are sampled: both ends, and blocks evenly spread between.
pub(crate) fn sample_ranges(length: u64) -> Vec<Range<u64>> {
    if length <= 2 * END_BYTES + SAMPLES * SAMPLE_BYTES {
        return if length == 0 { vec![] } else { vec![Range { start: 0, end: length }] };
    }
    let between = length.saturating_sub(2 * END_BYTES);
    let samples = (0..SAMPLES).map(|i| {
        // Through u128: a base may be close to 2^63 bytes long.
        let at = u128::from(between.saturating_sub(SAMPLE_BYTES)).saturating_mul(u128::from(i)) / LAST_SAMPLE;
        range_at(round_down(END_BYTES.saturating_add(at as u64), 512), SAMPLE_BYTES)
    });
    let end = length.saturating_sub(END_BYTES)..length;
    std::iter::once(0..END_BYTES).chain(samples).chain(std::iter::once(end)).collect()
}
