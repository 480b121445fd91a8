//! The configuration that every subcommand is about.

use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::CliError;
use crate::seal::State;
use crate::settings::{KubeletFlags, Settings};

/// The file that every subcommand is about.
#[derive(Args, Debug)]
pub(super) struct Configuration {
    /// The configuration file of the gate
    #[arg(long = "config", value_name = "FILE")]
    file: PathBuf,
}

impl Configuration {
    pub(super) fn load(&self) -> Result<Settings, CliError> {
        Settings::load(&self.file, &KubeletFlags::default()).map_err(CliError::usage)
    }

    /// A command line about this configuration, to be pasted.
    pub(super) fn command(&self, rest: &str) -> String {
        let file = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone());
        format!("kubelet-gate firewall {rest} --config {}", file.display())
    }
}

/// What of the seal outlives a process.
pub(super) fn state(settings: &Settings) -> State {
    State::new(&settings.firewall.state_directory)
}
