//! `firewall remove`: as if there had never been a seal.

use std::path::PathBuf;

use clap::Args;

use super::configuration::{Configuration, state};
use crate::cli::exit::{CliError, Exit};
use crate::cli::terminal::Terminal;
use crate::seal::trial::{self, TrialError};
use crate::seal::{Unit, WireMemory};

/// The arguments of `firewall remove`.
#[derive(Args, Debug)]
pub(super) struct Remove {
    #[command(flatten)]
    configuration: Configuration,
    /// Where the unit is that loads the seal at boot
    #[arg(long, value_name = "DIRECTORY", default_value = Unit::DIRECTORY)]
    unit_directory: PathBuf,
}

impl Remove {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let state = state(&self.configuration.load()?);
        let unit = Unit::new(&self.unit_directory);
        let mut change = trial::remove(state.clone(), unit).map_err(CliError::failed)?;
        let removed = change.finish();
        for setback in change.setbacks() {
            terminal.err.error(setback);
        }
        removed.map_err(CliError::failed)?;
        WireMemory::forget(&state).map_err(CliError::failed)?;
        // A unit that could not be disabled is gone all the same.
        let of_rules = |setback: &TrialError| matches!(setback, TrialError::Firewall(_));
        if change.setbacks().iter().any(of_rules) {
            return Ok(Exit::Failed);
        }
        terminal
            .out
            .text("removed: the kubelet's ports are as open as the kubelet leaves them");
        Ok(Exit::Good)
    }
}
