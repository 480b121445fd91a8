//! `firewall confirm`: the trial becomes the seal.

use std::path::{Path, PathBuf};

use clap::Args;

use super::configuration::{Configuration, state};
use super::error::CommandError;
use super::plan::ports;
use crate::cli::exit::Exit;
use crate::cli::terminal::{Stream, Terminal};
use crate::seal::trial::{self, TrialError};
use crate::seal::{Case, Plan, Standing, Unit};
use crate::settings::Settings;

/// The arguments of `firewall confirm`.
#[derive(Args, Debug)]
pub(super) struct Confirm {
    #[command(flatten)]
    configuration: Configuration,
    /// The directory for the unit that loads the seal at boot
    #[arg(long, value_name = "DIRECTORY", default_value = Unit::DIRECTORY)]
    unit_directory: PathBuf,
}

impl Confirm {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CommandError> {
        confirm(&self.configuration.load()?, &self.unit_directory, None, terminal)
    }
}

/// Confirms the trial that runs, keeps it, and has it loaded at every boot from now on. With `expected`, only
/// if that is the plan on trial.
pub(super) fn confirm(
    settings: &Settings,
    units: &Path,
    expected: Option<&Plan>,
    terminal: &mut Terminal,
) -> Result<Exit, CommandError> {
    let Terminal { out, err, .. } = terminal;
    let (unit, run_directory) = (Unit::new(units), &settings.firewall.run_directory);
    let mut confirm = trial::confirm(state(settings), run_directory, unit.clone(), expected)?;
    let confirmed = confirm.change.finish();
    let setbacks = confirm.change.setbacks();
    for setback in setbacks {
        err.error(setback);
    }
    if let Err(error) = confirmed {
        // The lock is let go of, so that the state is seen as the next command will see it.
        drop(confirm);
        err.error(&error);
        print_where_it_stopped(settings, err);
        return Ok(Exit::Failed);
    }
    if confirm.already {
        out.text("already confirmed, and in force until firewall remove:");
    } else {
        out.text("confirmed, and in force until firewall remove:");
    }
    out.table(&ports(&confirm.plan));
    if !setbacks.is_empty() {
        return Err(CommandError::Incomplete(
            "but it would not be loaded at the next boot: confirm again once this is repaired",
        ));
    }
    if unit.is_read_by_systemd() {
        out.text(&format!(
            "loaded at every boot, before the kubelet: {}",
            unit.path().display()
        ));
    } else {
        out.text(&format!(
            "to be loaded at every boot, before the kubelet, enable {}",
            unit.path().display()
        ));
    }
    Ok(Exit::Good)
}

/// After a step that failed: what is in force now.
fn print_where_it_stopped(settings: &Settings, err: &mut Stream) {
    let standing = Standing::judge(&state(settings), &settings.firewall.run_directory);
    match standing {
        Ok(Some(standing)) if standing.case == Case::Unfinished => err.text(
            "the seal is in force, but would not be loaded at the next boot: repair this, and confirm again",
        ),
        Ok(Some(standing)) => {
            if let Some(problem) = standing.case.problem() {
                err.text(&problem);
            }
        }
        Ok(None) => {}
        Err(error) => err.error(&TrialError::from(error)),
    }
}
