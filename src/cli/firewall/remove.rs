//! `firewall remove`: as if there had never been a seal.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Configuration, UNITS, state, told};
use crate::cli::{FAILED, GOOD, complain};
use crate::firewall::{Backend, Firewall, FirewallError, State, run_tool};

/// The arguments of `firewall remove`.
#[derive(Args, Debug)]
pub(super) struct Remove {
    #[command(flatten)]
    configuration: Configuration,
    /// Where the unit is that loads the seal at boot
    #[arg(long, value_name = "DIRECTORY", default_value = UNITS)]
    unit_directory: PathBuf,
}

impl Remove {
    pub(super) fn run(&self) -> Result<u8, u8> {
        let state = state(&self.configuration.load()?);
        let units = &self.unit_directory;
        let _lock = state.lock().map_err(|error| told(FAILED, &error))?;
        // What loads it at boot first: a power cut from here on leaves a node without a seal, as was asked for.
        let systemd = units == Path::new(UNITS) && Path::new("/run/systemd/system").is_dir();
        if systemd && State::unit_installed(units) {
            let disable = ["disable", "kubelet-gate-firewall.service"];
            if let Err(error) = run_tool("systemctl", &disable, "", "disabling the unit") {
                complain(&error);
            }
        }
        let kept = state
            .confirmed()
            .ok()
            .flatten()
            .map(|confirmed| confirmed.plan.backend);
        let tried = state.trial().ok().flatten().map(|plan| plan.backend);
        let mut left = false;
        for backend in [Backend::Nftables, Backend::IptablesNft, Backend::IptablesLegacy] {
            match Firewall::of(backend).remove() {
                Ok(()) => {}
                // What was never used need not be there.
                Err(FirewallError::Missing { .. }) if kept != Some(backend) && tried != Some(backend) => {}
                Err(error) => {
                    complain(&error);
                    left = true;
                }
            }
        }
        state.forget(units).map_err(|error| told(FAILED, &error))?;
        if left {
            return Ok(FAILED);
        }
        println!("removed: the kubelet's ports are as open as the kubelet leaves them");
        Ok(GOOD)
    }
}
