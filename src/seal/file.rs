//! The files of the seal: each is replaced in one step.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files::{self, BUNDLE};

/// For files that the gate, another user than root, must be able to read.
pub(super) const READABLE: u32 = 0o644;
/// For files that hold a secret of the gate.
pub(crate) const PRIVATE: u32 = 0o600;

/// A file of the seal cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    pub(super) fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            source,
        }
    }
}

/// The value in a file; `None` if the file does not exist.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    match files::read(path, BUNDLE) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| FileError::new(path, error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new(path, error)),
    }
}

/// Writes the file in one step: a crash or a power cut leaves the old text or the new one.
#[expect(
    clippy::disallowed_methods,
    reason = "a folder is opened, to sync it, and nothing is read"
)]
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    let write = || {
        let new = path.with_extension("new");
        // A process that was killed may have left it, with other permissions.
        remove_if_there(&new)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The name, too, must be there after a power cut.
        path.parent()
            .map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
    };
    write().map_err(|error| FileError::new(path, error))
}

/// Deletes the file, and what a killed process left of a new one. That neither is there is fine.
pub(super) fn delete(path: &Path) -> Result<(), FileError> {
    remove_if_there(path)
        .and_then(|()| remove_if_there(&path.with_extension("new")))
        .map_err(|error| FileError::new(path, error))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// As it is written to a file.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
