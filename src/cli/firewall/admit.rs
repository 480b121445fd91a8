//! `firewall admit`: the running gate's own connections through a seal that is in force.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::configuration::{Configuration, state};
use crate::cli::exit::{CliError, Exit, runtime};
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
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let settings = self.configuration.load()?;
        let state = state(&settings);
        let _lock = match state.begun() {
            true => Some(state.lock().map_err(CliError::failed)?),
            false => None,
        };
        let standing = Standing::judge(&state, &settings.firewall.run_directory).map_err(CliError::failed)?;
        let Some(standing) = standing else {
            terminal
                .out
                .text("no seal on this node: nothing to let the gate through");
            return Ok(Exit::Good);
        };
        let gate = runtime()
            .map_err(CliError::failed)?
            .block_on(started(&settings))?;
        if standing.rules.fingerprint().is_none() {
            terminal
                .out
                .text("the seal is not in force: nothing to let the gate through");
            return Ok(Exit::Good);
        }
        let exemption = gate.exemption.ok_or_else(|| {
            CliError::failed("the gate runs as root, or may not mark its connections: see firewall status")
        })?;
        standing.firewall.admit(&exemption).map_err(CliError::failed)?;
        terminal.out.text(&format!(
            "the gate's connections are let through: process {}, uid {}",
            gate.pid, exemption.uid
        ));
        Ok(Exit::Good)
    }
}

/// The gate, once it has written its exemption.
async fn started(settings: &Settings) -> Result<RunningGate, CliError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match RunningGate::read(&settings.firewall.run_directory).map_err(CliError::failed)? {
            Some(gate) if gate.lives() => return Ok(gate),
            _ if Instant::now() > until => {
                return Err(CliError::failed(format!(
                    "no gate has started within {} s: start it (systemctl start kubelet-gate)",
                    PATIENCE.as_secs()
                )));
            }
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
}
