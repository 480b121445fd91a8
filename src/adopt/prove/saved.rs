//! Reports kept in files, to compare with later.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::report::{API_VERSION, KIND, ProbeReport};
use crate::files;

/// Largest saved report that is read, in bytes.
const LARGEST_REPORT: u64 = 64 * 1024 * 1024;

/// Why a report cannot be saved or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SavedError {
    /// The system refused.
    #[error(transparent)]
    System(#[from] io::Error),
    /// Another file has the name.
    #[error("already there: choose another name, or remove it first")]
    Exists,
    /// It is not JSON, or lacks what a report has.
    #[error("not a report that `kubelet-gate prove --save` wrote: {0}")]
    Syntax(#[from] serde_json::Error),
    /// It is another document.
    #[error("not a {KIND} of {API_VERSION}: its kind is {kind:?} and its apiVersion {api_version:?}")]
    Kind {
        /// Its kind.
        kind: String,
        /// Its version.
        api_version: String,
    },
}

impl ProbeReport {
    /// Reads a report that was saved.
    ///
    /// # Errors
    /// The file cannot be read, or is not a report.
    pub(crate) fn read(path: &Path) -> Result<Self, SavedError> {
        let report: Self = serde_json::from_slice(&files::read(path, LARGEST_REPORT)?)?;
        if report.kind != KIND || report.api_version != API_VERSION {
            return Err(SavedError::Kind {
                kind: report.kind,
                api_version: report.api_version,
            });
        }
        Ok(report)
    }
}

/// A new file for a report. It is removed again unless the report is written completely, since half a report
/// would be taken for a whole one. Only its owner may read it: it tells where a node is open.
pub(crate) struct ReportFile<'a> {
    path: &'a Path,
    file: fs::File,
    complete: bool,
}

impl<'a> ReportFile<'a> {
    /// Makes the file.
    ///
    /// # Errors
    /// There is one already, or the system refuses.
    pub(crate) fn create(path: &'a Path) -> Result<Self, SavedError> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => SavedError::Exists,
            _ => SavedError::System(error),
        })?;
        Ok(Self {
            path,
            file,
            complete: false,
        })
    }

    /// Writes the report.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn write(&mut self, report: &ProbeReport) -> Result<(), SavedError> {
        let text = serde_json::to_vec_pretty(report)?;
        self.file.write_all(&text)?;
        self.file.sync_all()?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for ReportFile<'_> {
    fn drop(&mut self) {
        if !self.complete {
            let _ = fs::remove_file(self.path);
        }
    }
}
