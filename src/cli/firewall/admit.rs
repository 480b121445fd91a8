//! `firewall admit`: the running gate's own connections through a seal that is in force.

use std::time::Duration;

use clap::Args;

use super::configuration::{Configuration, runtime, state};
use super::error::CommandError;
use super::output::say;
use crate::cli::GOOD;
use crate::seal::{RunningGate, Standing};
use crate::settings::Settings;

/// A gate that has just been started writes its exemption within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The arguments of `firewall admit`.
#[derive(Args, Debug)]
pub(super) struct Admit {
    #[command(flatten)]
    configuration: Configuration,
}

impl Admit {
    pub(super) fn run(&self) -> Result<u8, CommandError> {
        let settings = self.configuration.load()?;
        let state = state(&settings);
        let nothing = || {
            say("no seal on this node: nothing to let the gate through");
            Ok(GOOD)
        };
        if !state.begun() {
            return nothing();
        }
        let _lock = state.lock()?;
        let Some(standing) = Standing::judge(&state, &settings.firewall.run_directory)? else {
            return nothing();
        };
        let gate = runtime()?.block_on(started(&settings))?;
        if standing.rules.fingerprint().is_none() {
            say("the seal is not in force: nothing to let the gate through");
            return Ok(GOOD);
        }
        let exemption = gate.exemption.ok_or(CommandError::NoExemption)?;
        standing.firewall.admit(&exemption)?;
        say(format_args!(
            "the gate's connections are let through: process {}, uid {}",
            gate.pid, exemption.uid
        ));
        Ok(GOOD)
    }
}

/// The gate, once it has written its exemption.
async fn started(settings: &Settings) -> Result<RunningGate, CommandError> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match RunningGate::read(&settings.firewall.run_directory)? {
            Some(gate) if gate.lives() => return Ok(gate),
            _ if tokio::time::Instant::now() > until => return Err(CommandError::NoGate),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
