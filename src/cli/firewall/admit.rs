//! `firewall admit`: the running gate's own connections through a seal that is in force.

use std::time::Duration;

use clap::Args;

use super::configuration::{Configuration, state};
use super::error::CommandError;
use crate::cli::exit::{Exit, runtime};
use crate::cli::terminal::Terminal;
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
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CommandError> {
        let settings = self.configuration.load()?;
        let state = state(&settings);
        let out = &mut terminal.out;
        let none = "there is no seal on this node to let the gate through";
        if !state.begun() {
            out.text(none);
            return Ok(Exit::Good);
        }
        let _lock = state.lock()?;
        let Some(standing) = Standing::judge(&state, &settings.firewall.run_directory)? else {
            out.text(none);
            return Ok(Exit::Good);
        };
        let gate = runtime()?.block_on(started(&settings))?;
        if standing.rules.fingerprint().is_none() {
            out.text("the seal is not in force: there is nothing to let the gate through");
            return Ok(Exit::Good);
        }
        let exemption = gate.exemption.ok_or(CommandError::NoExemption)?;
        standing.firewall.admit(&exemption)?;
        out.text(&format!(
            "the gate's connections are let through: process {}, uid {}",
            gate.pid, exemption.uid
        ));
        Ok(Exit::Good)
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
