//! Why a subcommand of `firewall` ends early, and the exit code of that.

use std::io;
use std::net::SocketAddr;

use crate::cli::exit::{CliError, Exit};
use crate::seal::status::StatusError;
use crate::seal::trial::TrialError;
use crate::seal::{FileError, FirewallError, PlanError, StandingError};
use crate::serve::admin::client::AdminError;
use crate::settings::SettingsError;

/// Why a subcommand ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// The configuration.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An option.
    #[error("{0}")]
    Usage(&'static str),
    /// What speaks against a seal; one reason each.
    #[error("refused, nothing was changed:\n- {}", .0.join("\n- "))]
    Refused(Vec<String>),
    /// No packet filter can carry a seal.
    #[error("no packet filter can carry the seal")]
    NoFirewall(Vec<FirewallError>),
    /// There is nothing to plan a seal by.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A change was refused, or a step of it failed.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// A change was made, and something about it failed.
    #[error("{0}")]
    Incomplete(&'static str),
    /// The seal was seen not to hold, or could not be verified.
    #[error("not confirmed, and undone by the kernel: {0}")]
    Unverified(Unverified),
    /// The rules or the state cannot be read.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// The same, for `status`.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The packet filter.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// A file of the seal.
    #[error(transparent)]
    File(#[from] FileError),
    /// No gate came up to be admitted.
    #[error("no gate has started within 10 s")]
    NoGate,
    /// The gate cannot be admitted.
    #[error("the gate runs as root, or may not mark its connections: see firewall status")]
    NoExemption,
    /// Packets cannot be read.
    #[error("packets cannot be read: {0}; run it as root, or with CAP_NET_RAW")]
    Packets(#[source] io::Error),
    /// Connections, addresses or a runtime.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a trial was not confirmed by itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unverified {
    /// The kernel's end of the trial came before the first look.
    #[error("there was no time to look")]
    NoTime,
    /// A connection bypassed the gate.
    #[error("{0} was reached around the gate")]
    Bypassed(SocketAddr),
    /// The gate cannot be asked.
    #[error("whether the API server has come through the seal cannot be seen: {0}")]
    Unasked(#[source] AdminError),
    /// The gate has not served it since.
    #[error("the API server has not come through the seal")]
    Unseen,
}

impl From<CommandError> for CliError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::NoFirewall(errors) => Self::several(Exit::Failed, errors),
            CommandError::Settings(_) | CommandError::Usage(_) => Self::usage(error),
            CommandError::Refused(_)
            | CommandError::Trial(TrialError::OtherBackend(_) | TrialError::Unfinished) => {
                Self::several(Exit::Findings, [error])
            }
            error => Self::failed(error),
        }
    }
}
