//! Why it is not known what a unit starts.

use std::io;

/// How many files one unit may have.
pub(super) const FILES: usize = 256;

/// Why it is not known what a unit starts.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// One of its files or folders cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file or folder.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It has far too many files.
    #[error("{0}: the unit has more than {FILES} files")]
    Files(String),
    /// There is no `ExecStart`.
    #[error("{0}: it starts nothing: there is no ExecStart")]
    NoCommand(String),
    /// systemd refuses it.
    #[error("{place}: {why}: systemd does not start this unit")]
    Refused {
        /// Its file, and the line that decides.
        place: String,
        /// What systemd does not take.
        why: String,
    },
    /// Variables make the command far too long.
    #[error("{0}: with its variables the command is longer than 4 MiB")]
    LongCommand(String),
}

pub(super) fn unread(path: &str) -> impl FnOnce(io::Error) -> UnitError {
    let path = path.to_owned();
    |source| UnitError::Read { path, source }
}
