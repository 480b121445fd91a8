//! `firewall remove`: as if there had never been a seal.

use std::path::PathBuf;

use clap::Args;

use super::configuration::{Configuration, state};
use super::error::CommandError;
use super::output::say;
use crate::cli::{FAILED, GOOD, complain};
use crate::seal::Unit;
use crate::seal::trial::{self, TrialError};

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
    pub(super) fn run(&self) -> Result<u8, CommandError> {
        let state = state(&self.configuration.load()?);
        let mut change = trial::remove(state, Unit::new(&self.unit_directory))?;
        let removed = change.finish();
        change.setbacks().iter().for_each(|setback| complain(setback));
        removed?;
        // A unit that could not be disabled is gone all the same.
        let of_rules = |setback: &TrialError| matches!(setback, TrialError::Firewall(_));
        if change.setbacks().iter().any(of_rules) {
            return Ok(FAILED);
        }
        say("removed: the kubelet's ports are as open as the kubelet leaves them");
        Ok(GOOD)
    }
}
