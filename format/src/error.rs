//! What can go wrong with images.

use std::io;
use std::sync::Arc;

/// Why an image could not be made, opened, read or written. Offsets and lengths are in bytes. Cloned freely:
/// one failed fetch answers everyone who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The storage below failed.
    #[error("{image}: {action} at offset {offset}")]
    Io {
        /// The image's name.
        image: Arc<str>,
        /// What was being done.
        action: &'static str,
        /// Where in the image's file.
        offset: u64,
        /// What the storage said.
        source: Arc<io::Error>,
    },
    /// The file could not be opened or made.
    #[error("{image}")]
    File {
        /// The image's name.
        image: Arc<str>,
        /// What the host said.
        source: Arc<io::Error>,
    },
    /// The image's file breaks the format's rules.
    #[error("{image}: {structure} at offset {offset}: {problem}")]
    Invalid {
        /// The image's name.
        image: Arc<str>,
        /// Which structure is wrong.
        structure: &'static str,
        /// Where in the image's file.
        offset: u64,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The image uses a feature that is not handled.
    #[error("{image}: not supported: {feature}")]
    Unsupported {
        /// The image's name.
        image: Arc<str>,
        /// The feature, by its name in the format.
        feature: String,
    },
    /// The request cannot be served as it stands.
    #[error("{image}: {problem}")]
    Refused {
        /// The image's name.
        image: Arc<str>,
        /// Why, and what would be right.
        problem: String,
    },
    /// The cache belongs to another base image.
    #[error("{image}: the cache was made for another base image: {difference}; make a new cache")]
    OtherBase {
        /// The cache's name.
        image: Arc<str>,
        /// How the bases differ.
        difference: String,
    },
    /// A request goes beyond the disk.
    #[error("{image}: {length} bytes at offset {offset} lie beyond the disk of {size} bytes")]
    BeyondDisk {
        /// The image's name.
        image: Arc<str>,
        /// First byte of the request.
        offset: u64,
        /// Bytes of the request.
        length: u64,
        /// Bytes of the disk.
        size: u64,
    },
}

impl Error {
    /// What kind of failure the host reported, if it did.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Error::Io { source, .. } | Error::File { source, .. } => Some(source.kind()),
            _ => None,
        }
    }
}

/// What operations on images return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Builds errors about one image.
#[derive(Clone, Debug)]
pub(crate) struct Blame(pub Arc<str>);

impl Blame {
    pub fn io(&self, action: &'static str, offset: u64) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Io { image: self.0.clone(), action, offset, source: Arc::new(source) }
    }

    pub fn invalid(&self, structure: &'static str, offset: u64, problem: impl Into<String>) -> Error {
        Error::Invalid { image: self.0.clone(), structure, offset, problem: problem.into() }
    }

    pub fn unsupported(&self, feature: impl Into<String>) -> Error {
        Error::Unsupported { image: self.0.clone(), feature: feature.into() }
    }

    pub fn refused(&self, problem: impl Into<String>) -> Error {
        Error::Refused { image: self.0.clone(), problem: problem.into() }
    }
}
