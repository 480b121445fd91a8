//! `firewall print`: the rules, to be read before anything is loaded.

use clap::Args;

use super::configuration::Configuration;
use super::error::CommandError;
use super::output;
use super::plan::{BackendName, planned};
use crate::cli::GOOD;

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
    pub(super) fn run(&self) -> Result<u8, CommandError> {
        let settings = self.configuration.load()?;
        let (firewall, plan) = planned(&settings, self.backend)?;
        output::print(&firewall.print(&plan));
        Ok(GOOD)
    }
}
