//! `firewall print`: the rules, to be read before anything is loaded.

use clap::Args;

use super::configuration::Configuration;
use super::plan::{BackendName, planned};
use crate::cli::exit::{CliError, Exit};
use crate::cli::terminal::Terminal;

/// The arguments of `firewall print`.
#[derive(Args, Debug)]
pub(super) struct Print {
    #[command(flatten)]
    configuration: Configuration,
    /// The packet filter that carries the seal, over firewall.backend
    #[arg(long, value_enum, value_name = "NAME")]
    backend: Option<BackendName>,
}

impl Print {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let settings = self.configuration.load()?;
        let (firewall, plan) = planned(&settings, self.backend)?;
        write!(terminal.out, "{}", firewall.print(&plan));
        Ok(Exit::Good)
    }
}
