//! How a command ends: its exit code, and the errors it is printed with.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};

/// An error of any kind, for the user of the command line.
type AnyError = Box<dyn Error + Send + Sync>;

/// The exit codes of every command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Exit {
    /// Done.
    Good = 0,
    /// Failed at run time.
    Failed = 1,
    /// Done, and the result needs attention: something is open, missing, unsealed or refused.
    Findings = 2,
    /// The command line or the configuration is wrong.
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(super) struct CliError {
    /// The exit code.
    pub(super) exit: Exit,
    /// Every error that was found, in the order to be printed.
    pub(super) errors: Vec<AnyError>,
}

impl CliError {
    /// It failed at run time.
    pub(super) fn failed(error: impl Into<AnyError>) -> Self {
        Self::several(Exit::Failed, [error])
    }

    /// The command line or the configuration is wrong.
    pub(super) fn usage(error: impl Into<AnyError>) -> Self {
        Self::several(Exit::Usage, [error])
    }

    /// More than one error may have been found.
    pub(super) fn several(exit: Exit, errors: impl IntoIterator<Item = impl Into<AnyError>>) -> Self {
        Self {
            exit,
            errors: errors.into_iter().map(Into::into).collect(),
        }
    }
}

/// The runtime of a command: one thread, its own.
pub(super) fn runtime() -> io::Result<Runtime> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| io::Error::new(error.kind(), format!("cannot start a runtime: {error}")))
}
