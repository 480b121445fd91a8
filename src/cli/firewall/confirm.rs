//! `firewall confirm`: the trial becomes the seal.

use std::path::{Path, PathBuf};

use clap::Args;

use super::configuration::{Configuration, state};
use super::error::CommandError;
use super::output::{complain_of, say};
use super::plan::say_ports;
use crate::cli::{GOOD, complain};
use crate::seal::trial::{self, TrialError};
use crate::seal::{Case, Plan, Standing, Unit};
use crate::settings::Settings;

/// The arguments of `firewall confirm`.
#[derive(Args, Debug)]
pub(super) struct Confirm {
    #[command(flatten)]
    configuration: Configuration,
    /// Where the unit goes that loads the seal at boot
    #[arg(long, value_name = "DIRECTORY", default_value = Unit::DIRECTORY)]
    unit_directory: PathBuf,
}

impl Confirm {
    pub(super) fn run(&self) -> Result<u8, CommandError> {
        confirm(&self.configuration.load()?, &self.unit_directory, None)
    }
}

/// Confirms the trial that runs, keeps it, and has it loaded at every boot from now on. With `expected`, only
/// if that is the plan on trial.
pub(super) fn confirm(
    settings: &Settings,
    units: &Path,
    expected: Option<&Plan>,
) -> Result<u8, CommandError> {
    let (unit, run_directory) = (Unit::new(units), &settings.firewall.run_directory);
    let mut confirm = trial::confirm(state(settings), run_directory, unit.clone(), expected)?;
    let confirmed = confirm.change.finish();
    let setbacks = confirm.change.setbacks();
    setbacks.iter().for_each(|setback| complain(setback));
    if let Err(error) = confirmed {
        drop(confirm);
        say_where_it_stopped(settings);
        return Err(error.into());
    }
    if confirm.already {
        say("already confirmed, and in force until firewall remove:");
    } else {
        say("confirmed, and in force until firewall remove:");
    }
    say_ports(&confirm.plan);
    if !setbacks.is_empty() {
        return Err(CommandError::Incomplete(
            "but it would not be loaded at the next boot: confirm again once this is repaired",
        ));
    }
    if unit.is_read_by_systemd() {
        say(format_args!(
            "loaded at every boot, before the kubelet: {}",
            unit.path().display()
        ));
    } else {
        say(format_args!(
            "to be loaded at every boot, before the kubelet, enable {}",
            unit.path().display()
        ));
    }
    Ok(GOOD)
}

/// After a step that failed: what is in force now.
fn say_where_it_stopped(settings: &Settings) {
    let standing = Standing::judge(&state(settings), &settings.firewall.run_directory);
    match standing {
        Ok(Some(standing)) if standing.case == Case::Unfinished => complain_of(
            "the seal is in force, but would not be loaded at the next boot: repair this, and confirm again",
        ),
        Ok(Some(standing)) => {
            if let Some(problem) = standing.case.problem() {
                complain_of(problem);
            }
        }
        Ok(None) => {}
        Err(error) => complain(&TrialError::from(error)),
    }
}
