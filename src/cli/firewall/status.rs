//! `firewall status`: the rules as the kernel has them, and what every way around the gate leads to.

use std::path::{Path, PathBuf};

use clap::Args;

use super::configuration::{Configuration, state};
use super::remove::still_translated;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::Output;
use crate::cli::table::{Cell, Table};
use crate::cli::terminal::{BAD, GOOD, Stream, Terminal};
use crate::seal::status::Report;
use crate::seal::{Case, Standing, Unit, draining, tidy};
use crate::serve::node::next_start_warnings;
use crate::settings::Settings;

/// The arguments of `firewall status`.
#[derive(Args, Debug)]
pub(super) struct Status {
    #[command(flatten)]
    configuration: Configuration,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Do not try from a network namespace of its own, which takes a pair of interfaces for a second
    #[arg(long)]
    no_namespace: bool,
    /// Where the unit is that loads the seal at boot
    #[arg(long, value_name = "DIRECTORY", default_value = Unit::DIRECTORY)]
    unit_directory: PathBuf,
}

impl Status {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let settings = self.configuration.load()?;
        let unit = Unit::new(&self.unit_directory);
        let mut report = Report::look(&settings, &unit, !self.no_namespace).map_err(CliError::failed)?;
        report.notes.extend(self.drained(&settings)?);
        report
            .notes
            .extend(next_start_warnings(&settings, Path::new("/proc")));
        match self.output {
            Output::Json => terminal.out.json(&report),
            Output::Table => print(&report, &mut terminal.out),
        }
        Ok(if report.sealed { Exit::Good } else { Exit::Findings })
    }

    /// Takes away what is left of a seal that has ended, but for what keeps open connections translated: says
    /// how many these are.
    fn drained(&self, settings: &Settings) -> Result<Option<String>, CliError> {
        let state = state(settings);
        if !state.begun() || !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let _lock = state.lock().map_err(CliError::failed)?;
        match Standing::judge(&state, &settings.firewall.run_directory).map_err(CliError::failed)? {
            None => {}
            Some(standing) if standing.case == Case::Ended => {
                tidy(&standing, None).map_err(CliError::failed)?;
            }
            Some(_) => return Ok(None),
        }
        let now = self.configuration.command("remove --cut");
        Ok(match draining::settle(&state) {
            Ok(left) => left.map(|open| format!("{}; {now} ends them at once", still_translated(open))),
            Err(error) => Some(format!("what is left of an earlier seal is not known: {error}")),
        })
    }
}

fn print(report: &Report, out: &mut Stream) {
    match report.sealed {
        true => writeln!(out, "{GOOD}sealed{GOOD:#}"),
        false => writeln!(out, "{BAD}NOT SEALED{BAD:#}"),
    }
    for problem in &report.problems {
        out.hanging("  - ", problem);
    }
    if !report.tried.is_empty() {
        let mut table = Table::new(["FROM", "TO", "REACHED", ""]);
        for tried in &report.tried {
            let verdict = match tried.sealed {
                true => Cell::styled("ok", GOOD),
                false => Cell::styled("BYPASS", BAD),
            };
            table.row([
                tried.from.into(),
                tried.address.to_string().into(),
                tried.reached.as_str().into(),
                verdict,
            ]);
        }
        out.table(&table);
    }
    for note in &report.notes {
        out.note(note);
    }
}
