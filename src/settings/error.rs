//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file could not be read at all.
    #[error(
        "{}: the configuration cannot be read: {}",
        path.display(),
        unreadable(error)
    )]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// Everything that is wrong with it, in the order in which it was found, at least one.
    #[error("{}", Listed(.0))]
    Invalid(Vec<Problem>),
}

/// One thing that is wrong: where, what, and the way out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{place}: {text}")]
pub struct Problem {
    /// `FILE:LINE: key.path`, `FILE: key.path` for a key that is not in the file, or the flag.
    place: String,
    text: String,
}

struct Listed<'a>(&'a [Problem]);

/// Why a file cannot be read, without the system's numbers where there are plain words, and the way out.
fn unreadable(error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        // It says the way out itself.
        _ if error.get_ref().is_some() => return error.to_string(),
        _ => error.to_string(),
    };
    format!("{why}; name a readable file with --config")
}

// === impl Problem ===

impl Problem {
    pub(super) fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            text: text.into(),
        }
    }
}

// === impl Listed ===

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
