//! What can be wrong with the file of a hardware profile.

/// Why a hardware profile could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read the hardware profile {file}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The text is no TOML.
    #[error("{file}, line {line}: {problem}")]
    Syntax {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A key or its value is not as it must be.
    #[error("{file}, line {line}: {key} {problem}")]
    Key {
        /// The file.
        file: String,
        /// Line, from 1: that of the key, or of the section that lacks it.
        line: usize,
        /// Dotted key, such as `storage_node.disk.seek_average_ms`.
        key: String,
        /// What is wrong.
        problem: KeyProblem,
    },
}

/// What is wrong with a key or its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// It is needed, and not there.
    #[error("is missing; {expected} would be right")]
    Missing {
        /// What would be right.
        expected: String,
    },
    /// There is no such key.
    #[error("is unknown; here can be: {known}")]
    Unknown {
        /// The keys that there are.
        known: String,
    },
    /// There is no such key, but the same one in another unit.
    #[error("is unknown; did you mean {key} ({unit})?")]
    WrongUnit {
        /// The key that there is.
        key: String,
        /// Its unit.
        unit: &'static str,
    },
    /// The value is of another type, or outside of what can be.
    #[error("is {found}; {expected} would be right")]
    WrongValue {
        /// What is there.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// Nothing says where the value is from.
    #[error("has no source; say where the value is from, or \"assumed: ...\" with why it is that value")]
    NoSource,
}
