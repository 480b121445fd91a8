//! `firewall confirm`: the trial becomes the seal.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Configuration, UNITS, exemption, failed, state, told, told_ports};
use crate::cli::{FAILED, GOOD};
use crate::seal::{Boot, Confirmed, Firewall, FirewallError, Kind, Plan, State, run_tool};
use crate::settings::Settings;

/// The arguments of `firewall confirm`.
#[derive(Args, Debug)]
pub(super) struct Confirm {
    #[command(flatten)]
    configuration: Configuration,
    /// Where the unit goes that loads the seal at boot
    #[arg(long, value_name = "DIRECTORY", default_value = UNITS)]
    unit_directory: PathBuf,
}

impl Confirm {
    pub(super) fn run(&self) -> Result<u8, u8> {
        confirm(&self.configuration.load()?, &self.unit_directory)
    }
}

/// Confirms the trial that runs, keeps it, and has it loaded at every boot from now on.
pub(super) fn confirm(settings: &Settings, units: &Path) -> Result<u8, u8> {
    let state = state(settings);
    let _lock = state.lock().map_err(|error| told(FAILED, &error))?;
    let Some(plan) = state.trial().map_err(|error| told(FAILED, &error))? else {
        eprintln!("error: nothing is being tried: begin with firewall apply");
        return Err(FAILED);
    };
    // It stood here before it was loaded, and does so after a power cut: if this ends after the next step, the watch and
    // whoever confirms again find the plan that the kernel says is confirmed. A disk that is full is better met before it.
    state
        .keep_trial(Some(&plan))
        .map_err(|error| told(FAILED, &error))?;
    let firewall = Firewall::of(plan.backend);
    let exemption = exemption(settings)?;
    match firewall.confirm(&plan, exemption.as_ref()) {
        // An earlier confirmation came so far, and no further.
        Err(FirewallError::TooLate) if firewall.carries(&plan, Kind::Confirmed).map_err(failed)? => {
            firewall.load(Some(&plan), None, exemption.as_ref())
        }
        outcome => outcome,
    }
    .map_err(failed)?;
    let boot = keep(&state, &firewall, plan.clone()).inspect_err(|_| {
        eprintln!(
            "the seal may be in force, but would not be after a reboot: repair this, and confirm again"
        );
    })?;
    let installed = state
        .install_unit(&boot, units)
        .map_err(|error| told(FAILED, &error));
    let systemd = units == Path::new(UNITS) && Path::new("/run/systemd/system").is_dir();
    let enabled = match &installed {
        Ok(_) if systemd => enable().map_err(failed),
        _ => Ok(()),
    };
    println!("confirmed, and in force until firewall remove:");
    told_ports(&plan);
    let (Ok(unit), Ok(())) = (installed, enabled) else {
        eprintln!("error: but it would not be after a reboot: apply and confirm again once this is repaired");
        return Err(FAILED);
    };
    if systemd {
        println!("loaded at every boot, before the kubelet: {}", unit.display());
    } else {
        println!(
            "to be loaded at every boot, before the kubelet, enable {}",
            unit.display()
        );
    }
    Ok(GOOD)
}

/// Keeps what the kernel lists now as what was confirmed; yields what loads it at boot.
fn keep(state: &State, firewall: &Firewall, plan: Plan) -> Result<Boot, u8> {
    let Some(fingerprint) = firewall.fingerprint().map_err(failed)? else {
        eprintln!("error: the rules were loaded and are gone again: somebody else manages this node's rules");
        return Err(FAILED);
    };
    let boot = firewall.boot(&plan, state.directory());
    let confirmed = Confirmed {
        fingerprint,
        tool: firewall.version().map_err(failed)?,
        plan,
    };
    state
        .keep_confirmed(&confirmed, &boot)
        .map_err(|error| told(FAILED, &error))?;
    Ok(boot)
}

fn enable() -> Result<(), FirewallError> {
    run_tool("systemctl", &["daemon-reload"], "", "reading the units")?;
    let enable = ["enable", "kubelet-gate-firewall.service"];
    run_tool("systemctl", &enable, "", "enabling the unit").map(drop)
}
