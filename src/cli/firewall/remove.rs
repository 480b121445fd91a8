//! `firewall remove`: as if there had never been a seal.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::configuration::{Configuration, state};
use crate::cli::exit::{CliError, Exit, runtime};
use crate::cli::terminal::Terminal;
use crate::seal::draining::{self, StillOpen};
use crate::seal::trial::{self, TrialError};
use crate::seal::{State, Unit, WireMemory};
use crate::timestamp::timestamp;

/// Between two looks whether the last connection has ended.
const PAUSE: Duration = Duration::from_secs(1);

/// The arguments of `firewall remove`.
#[derive(Args, Debug)]
pub(super) struct Remove {
    #[command(flatten)]
    configuration: Configuration,
    /// Where the unit is that loads the seal at boot
    #[arg(long, value_name = "DIRECTORY", default_value = Unit::DIRECTORY)]
    unit_directory: PathBuf,
    /// Reset the connections that the seal had brought to the gate, instead of letting them end by themselves
    #[arg(long)]
    cut: bool,
    /// Wait until the last of these connections has ended, for an hour at most
    #[arg(long, conflicts_with = "cut")]
    wait: bool,
}

impl Remove {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let state = state(&self.configuration.load()?);
        let unit = Unit::new(&self.unit_directory);
        let mut change = trial::remove(state.clone(), unit).map_err(CliError::failed)?;
        let removed = change.finish();
        for setback in change.setbacks() {
            terminal.err.error(setback);
        }
        removed.map_err(CliError::failed)?;
        WireMemory::forget(&state).map_err(CliError::failed)?;
        // A unit that could not be disabled is gone all the same.
        let of_rules = |setback: &TrialError| matches!(setback, TrialError::Firewall(_));
        if change.setbacks().iter().any(of_rules) {
            return Ok(Exit::Failed);
        }
        terminal
            .out
            .text("removed: the kubelet's ports are as open as the kubelet leaves them");
        if self.cut {
            return cut(&state, terminal);
        }
        let left = draining::settle(&state).map_err(CliError::failed)?;
        // Other commands may go on while this one waits.
        drop(change);
        let Some(open) = left else { return Ok(Exit::Good) };
        terminal.out.text(&still_translated(open));
        if self.wait {
            return wait(&state, terminal);
        }
        terminal.out.text(
            "what keeps them translated is taken away by the running gate after the last one, or by the next \
             firewall status or firewall remove; --wait waits for that, --cut resets them",
        );
        Ok(Exit::Good)
    }
}

/// What is left of a seal that has ended.
pub(super) fn still_translated(open: StillOpen) -> String {
    let connections = match open.connections {
        1 => "1 connection that the seal had brought to the gate goes on".to_owned(),
        count => format!("{count} connections that the seal had brought to the gate go on"),
    };
    let until = timestamp(open.until);
    format!("{connections}, until {until} at the longest")
}

fn cut(state: &State, terminal: &mut Terminal) -> Result<Exit, CliError> {
    let left = draining::cut(state).map_err(CliError::failed)?;
    for connection in left {
        terminal.err.warning(&format!(
            "could not be reset: {} to {}: the kernel lacks CONFIG_INET_DIAG_DESTROY; it \
             ends at its next packet, unless another program translates addresses here",
            connection.remote, connection.local
        ));
    }
    Ok(Exit::Good)
}

fn wait(state: &State, terminal: &mut Terminal) -> Result<Exit, CliError> {
    let runtime = runtime().map_err(CliError::failed)?;
    loop {
        runtime.block_on(async { tokio::time::sleep(PAUSE).await });
        let _lock = state.lock().map_err(CliError::failed)?;
        // A seal that was applied meanwhile keeps them translated.
        if state.holds_a_plan().map_err(CliError::failed)? {
            terminal
                .out
                .text("a new seal keeps these connections open: nothing to wait for");
            return Ok(Exit::Good);
        }
        if draining::settle(state).map_err(CliError::failed)?.is_none() {
            terminal.out.text("nothing of the seal is left");
            return Ok(Exit::Good);
        }
    }
}
