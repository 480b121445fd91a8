//! `firewall admit`: the running gate's own connections through a seal that is in force.

use std::time::Duration;

use clap::Args;

use super::{Configuration, failed, runtime, state, told};
use crate::cli::{FAILED, GOOD};
use crate::seal::{Firewall, RunningGate};
use crate::settings::Settings;

/// A gate that has just been started writes what it is known by within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The arguments of `firewall admit`.
#[derive(Args, Debug)]
pub(super) struct Admit {
    #[command(flatten)]
    configuration: Configuration,
}

impl Admit {
    pub(super) fn run(&self) -> Result<u8, u8> {
        let settings = self.configuration.load()?;
        let state = state(&settings);
        if !state.begun() {
            println!("no seal on this node: nothing to let the gate through");
            return Ok(GOOD);
        }
        let _lock = state.lock().map_err(|error| told(FAILED, &error))?;
        let confirmed = state.confirmed().map_err(|error| told(FAILED, &error))?;
        let trial = state.trial().map_err(|error| told(FAILED, &error))?;
        let Some(plan) = confirmed.map(|confirmed| confirmed.plan).or(trial) else {
            println!("no seal on this node: nothing to let the gate through");
            return Ok(GOOD);
        };
        let gate = runtime()?.block_on(started(&settings)).map_err(|why| {
            eprintln!("error: {why}");
            FAILED
        })?;
        let firewall = Firewall::of(plan.backend);
        if firewall.fingerprint().map_err(failed)?.is_none() {
            println!("the seal is not in force: nothing to let the gate through");
            return Ok(GOOD);
        }
        let Some(exemption) = gate.exemption else {
            eprintln!("error: the gate runs as root, or may not mark its connections: see firewall status");
            return Ok(FAILED);
        };
        firewall.admit(&exemption).map_err(failed)?;
        println!(
            "the gate's connections are let through: process {}, uid {}",
            gate.pid, exemption.uid
        );
        Ok(GOOD)
    }
}

/// The gate, once it has said what it is known by.
async fn started(settings: &Settings) -> Result<RunningGate, String> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match RunningGate::read(&settings.firewall.run_directory) {
            Ok(Some(gate)) if gate.lives() => return Ok(gate),
            Err(error) => return Err(error.to_string()),
            Ok(_) if tokio::time::Instant::now() > until => {
                return Err("no gate has started within 10 s".into());
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
