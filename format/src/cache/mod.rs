//! Cache images: what marks a qcow2 image as one, and which base image it belongs to.

mod describe;
mod identity;

pub use describe::{Description, describe};
pub(crate) use identity::sample_ranges;
pub use identity::{BaseIdentity, IdentityCheck};

/// The header extension of a cache image. Both values are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheExtension {
    /// Host bytes that the image's tables reach, as of the last close; only a hint to others.
    pub in_use: u64,
    /// What the length of the image's file may not exceed.
    pub quota: u64,
}

impl CacheExtension {
    /// Reads the extension's 16 bytes; `None` for another length.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let data: &[u8; 16] = data.try_into().ok()?;
        let (in_use, quota) = data.split_at(8);
        Some(CacheExtension {
            in_use: u64::from_be_bytes(in_use.try_into().ok()?),
            quota: u64::from_be_bytes(quota.try_into().ok()?),
        })
    }

    /// The extension's 16 bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        [self.in_use.to_be_bytes(), self.quota.to_be_bytes()].concat()
    }
}
