//! `firewall confirm`: the trial becomes the seal.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Configuration, UNITS, exemption, failed, state, told, told_ports};
use crate::cli::{FAILED, GOOD};
use crate::firewall::{Confirmed, Firewall, run_tool};
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
    let firewall = Firewall::of(plan.backend);
    firewall
        .confirm(&plan, exemption(settings)?.as_ref())
        .map_err(failed)?;
    println!("confirmed, and in force until firewall remove:");
    told_ports(&plan);
    let listed = firewall.fingerprint().map_err(failed)?;
    let Some(fingerprint) = listed else {
        eprintln!("error: the rules were loaded and are gone again: somebody else manages this node's rules");
        return Err(FAILED);
    };
    let boot = firewall.boot(&plan, state.directory());
    let confirmed = Confirmed {
        fingerprint,
        tool: firewall.version().map_err(failed)?,
        plan,
    };
    let installed = state
        .keep_confirmed(&confirmed, &boot)
        .and_then(|()| state.install_unit(&boot, units));
    let unit = installed.map_err(|error| {
        eprintln!("the seal is in force, but would not be after a reboot:");
        told(FAILED, &error)
    })?;
    if units == Path::new(UNITS) && Path::new("/run/systemd/system").is_dir() {
        let enable = run_tool("systemctl", &["daemon-reload"], "", "reading the units").and_then(|_| {
            run_tool(
                "systemctl",
                &["enable", "kubelet-gate-firewall.service"],
                "",
                "enabling the unit",
            )
        });
        enable.map_err(failed)?;
        println!("loaded at every boot, before the kubelet: {}", unit.display());
    } else {
        println!(
            "to be loaded at every boot, before the kubelet, enable {}",
            unit.display()
        );
    }
    Ok(GOOD)
}
