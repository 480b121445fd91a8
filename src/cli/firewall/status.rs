//! `firewall status`: the rules as the kernel has them, and what every way around the gate leads to.

use std::path::PathBuf;

use clap::Args;

use super::configuration::Configuration;
use super::error::CommandError;
use super::output::{say, say_json};
use crate::cli::{FINDINGS, GOOD, Output};
use crate::seal::Unit;
use crate::seal::status::Report;

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
    pub(super) fn run(&self) -> Result<u8, CommandError> {
        let settings = self.configuration.load()?;
        let unit = Unit::new(&self.unit_directory);
        let report = Report::look(&settings, &unit, !self.no_namespace)?;
        match self.output {
            Output::Json => say_json(&report)?,
            Output::Table => table(&report),
        }
        Ok(if report.sealed { GOOD } else { FINDINGS })
    }
}

fn table(report: &Report) {
    say(if report.sealed { "sealed" } else { "NOT SEALED" });
    for problem in &report.problems {
        say(format_args!("  - {problem}"));
    }
    if !report.tried.is_empty() {
        say(format_args!("{:<16} {:<30} {:<24} ", "FROM", "TO", "REACHED"));
    }
    for tried in &report.tried {
        let verdict = if tried.sealed { "ok" } else { "BYPASS" };
        say(format_args!(
            "{:<16} {:<30} {:<24} {verdict}",
            tried.from,
            tried.address.to_string(),
            tried.reached
        ));
    }
    for note in &report.notes {
        say(format_args!("note: {note}"));
    }
}
