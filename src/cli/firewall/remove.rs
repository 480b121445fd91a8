//! `firewall remove`: as if there had never been a seal.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Configuration, UNITS, state, told};
use crate::cli::{FAILED, GOOD, complain};
use crate::seal::{Firewall, FirewallError, State, run_tool};
use crate::settings::Backend;

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
        let (confirmed, trial) = (state.confirmed(), state.trial());
        let unreadable = confirmed.is_err() || trial.is_err();
        let kept = confirmed.unwrap_or(None).map(|confirmed| confirmed.plan.backend);
        let tried = trial.unwrap_or(None).map(|plan| plan.backend);
        let used = |backend: Backend| kept == Some(backend) || tried == Some(backend);
        let mut backends = [Backend::Nftables, Backend::IptablesNft, Backend::IptablesLegacy];
        // Whose rules there are comes first: both kinds of iptables have the trial's set, and it goes once no rule names it.
        backends.sort_by_key(|backend| !used(*backend));
        let (mut failed, mut left) = (false, false);
        for backend in backends {
            match Firewall::of(backend).remove() {
                Ok(()) => {}
                // What was never used need not be there.
                Err(FirewallError::Missing { .. }) if !used(backend) => {}
                Err(error) => {
                    complain(&error);
                    failed = true;
                    // Of a state that cannot be read any of them may be the one.
                    left |= used(backend) || unreadable;
                }
            }
        }
        if left {
            // Forgotten, it would be in force with nobody to let a gate through that starts again.
            eprintln!(
                "error: not removed, so that what loads it at boot is kept, too: repair this, and remove again"
            );
            return Ok(FAILED);
        }
        let systemd = units == Path::new(UNITS) && Path::new("/run/systemd/system").is_dir();
        if systemd && State::unit_installed(units) {
            let disable = ["disable", "kubelet-gate-firewall.service"];
            if let Err(error) = run_tool("systemctl", &disable, "", "disabling the unit") {
                complain(&error);
            }
        }
        state.forget(units).map_err(|error| told(FAILED, &error))?;
        if failed {
            return Ok(FAILED);
        }
        println!("removed: the kubelet's ports are as open as the kubelet leaves them");
        Ok(GOOD)
    }
}
