//! `firewall confirm`: the trial becomes the seal.

use std::path::{Path, PathBuf};

use clap::Args;

use super::configuration::{Configuration, state};
use super::plan::print_ports;
use crate::cli::exit::{CliError, Exit};
use crate::cli::terminal::{Stream, Terminal};
use crate::host;
use crate::seal::trial;
use crate::seal::{Case, OverWire, Plan, RunningGate, Standing, Unit, WireMemory, kept_out};
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
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let settings = self.configuration.load()?;
        confirm(&settings, &self.unit_directory, None, terminal)
    }
}

/// Confirms the trial that runs, keeps it, and has it loaded at every boot from now on. With `expected`, only
/// if that is the plan on trial.
pub(super) fn confirm(
    settings: &Settings,
    units: &Path,
    expected: Option<&Plan>,
    terminal: &mut Terminal,
) -> Result<Exit, CliError> {
    let (unit, run_directory) = (Unit::new(units), &settings.firewall.run_directory);
    let mut confirm =
        trial::confirm(state(settings), run_directory, unit.clone(), expected).map_err(CliError::failed)?;
    if let Some(why) = kept_out(settings, &confirm.plan)? {
        return Ok(refuse(&[why], &mut terminal.err));
    }
    let confirmed = confirm.change.finish();
    let setbacks = confirm.change.setbacks();
    for setback in setbacks {
        terminal.err.error(setback);
    }
    if let Err(error) = confirmed {
        // The lock is let go of, so that the state is seen as the next command will see it.
        drop(confirm);
        terminal.err.error(&error);
        print_where_it_stopped(settings, terminal);
        return Ok(Exit::Failed);
    }
    let already = if confirm.already { "already " } else { "" };
    let out = &mut terminal.out;
    out.text(&format!(
        "{already}confirmed, and in force until firewall remove:"
    ));
    print_ports(&confirm.plan, out);
    if !setbacks.is_empty() {
        return Err(CliError::failed(
            "but it would not be loaded at the next boot: confirm again once this is repaired",
        ));
    }
    let path = unit.path();
    if unit.is_read_by_systemd() {
        out.text(&format!(
            "loaded at every boot, before the kubelet: {}",
            path.display()
        ));
    } else {
        out.text(&format!(
            "to be loaded at every boot, before the kubelet, enable {}",
            path.display()
        ));
    }
    Ok(Exit::Good)
}

/// Says everything that speaks against a change.
pub(super) fn refuse(reasons: &[impl ToString], err: &mut Stream) -> Exit {
    err.text("refused, nothing was changed:");
    for reason in reasons {
        err.hanging("  - ", &reason.to_string());
    }
    Exit::Findings
}

/// Why callers that reached the kubelet before reach nothing under this plan; `None`: nothing keeps them out.
fn kept_out(settings: &Settings, plan: &Plan) -> Result<Option<String>, CliError> {
    let state = state(settings);
    if WireMemory::load(&state)
        .map_err(CliError::failed)?
        .reached
        .is_empty()
    {
        return Ok(None);
    }
    let gate = RunningGate::read(&settings.firewall.run_directory).map_err(CliError::failed)?;
    if !gate.is_some_and(|gate| gate.lives()) {
        let why = "no gate runs, so that callers who reached the kubelet before reach nothing: start it";
        return Ok(Some(why.to_owned()));
    }
    let addresses = host::addresses().map_err(CliError::failed)?;
    match OverWire::dial(plan, &addresses) {
        Ok(tried) => kept_out::look(&state, plan, &addresses, &tried).map_err(CliError::failed),
        Err(error) => Ok(Some(format!(
            "another network reached ports of the kubelet before the seal, and whether it reaches the gate \
             now cannot be tried: {error}; repair this, or apply again with --accept-dead-ports"
        ))),
    }
}

/// After a step that failed: what is in force now.
fn print_where_it_stopped(settings: &Settings, terminal: &mut Terminal) {
    match Standing::judge(&state(settings), &settings.firewall.run_directory) {
        Ok(Some(standing)) if standing.case == Case::Unfinished => terminal.err.text(
            "the seal is in force, but would not be loaded at the next boot: repair this, and confirm again",
        ),
        Ok(standing) => {
            if let Some(problem) = standing.and_then(|standing| standing.case.problem()) {
                terminal.err.text(&problem);
            }
        }
        Err(error) => terminal.err.error(&error),
    }
}
