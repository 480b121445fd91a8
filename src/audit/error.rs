//! Why events cannot be written.

use std::io;
use std::path::PathBuf;

/// Why events cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file's directory is missing.
    #[error(
        "audit.path {}: the directory {} does not exist; create it (mode 0700) or name another path",
        path.display(),
        path.parent().unwrap_or(path).display()
    )]
    NoDirectory {
        /// The file.
        path: PathBuf,
    },
    /// The file does not open.
    #[error(
        "audit.path {}: cannot be opened for appending; check its owner and mode, and those of its directory",
        path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output is closed.
    #[error("audit.path \"-\": standard output cannot be used; keep it open or name a file")]
    Stdout(#[source] io::Error),
    /// No randomness for the key that hashes commands.
    #[error("audit.commands: no random key could be made for the hashes of commands")]
    Key,
    /// No thread for the writer.
    #[error("audit: the writer's thread cannot be started")]
    Thread(#[source] io::Error),
    /// The writer was shut down.
    #[error("audit: the writer has been shut down, the event is lost")]
    Closed,
    /// The shutdown's deadline passed.
    #[error("audit: {events} events could not be written before the shutdown's deadline")]
    Unwritten {
        /// How many events are lost.
        events: u64,
    },
}
