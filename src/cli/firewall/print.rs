//! `firewall print`: the rules, to be read before anything is loaded.

use clap::Args;

use super::{BackendName, Configuration, planned};
use crate::cli::{FAILED, GOOD};

/// The arguments of `firewall print`.
#[derive(Args, Debug)]
pub(super) struct Print {
    #[command(flatten)]
    configuration: Configuration,
    /// Who carries the seal, over firewall.backend
    #[arg(long, value_enum, value_name = "NAME")]
    backend: Option<BackendName>,
}

impl Print {
    pub(super) fn run(&self) -> Result<u8, u8> {
        let settings = self.configuration.load()?;
        let (firewall, plan) = planned(&settings, self.backend).map_err(|errors| {
            for error in errors {
                eprintln!("error: {error}");
            }
            FAILED
        })?;
        print!("{}", firewall.print(&plan));
        Ok(GOOD)
    }
}
