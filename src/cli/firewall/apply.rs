//! `firewall apply`: the seal, for a while.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::configuration::{Configuration, state};
use super::confirm::confirm;
use super::error::{CommandError, Unverified};
use super::plan::{BackendName, planned, ports};
use crate::cli::exit::{Exit, runtime};
use crate::cli::terminal::{Stream, Terminal};
use crate::duration;
use crate::host;
use crate::seal::trial::{self, TrialError};
use crate::seal::{Accepted, Plan, Refusals, RunningGate, Unit, attempt_all, connections};
use crate::serve::admin::client::{AdminError, get};
use crate::settings::Settings;

/// A shorter trial leaves no time to look at it, let alone to confirm it.
const SHORTEST: Duration = Duration::from_secs(2);
/// A longer one is no trial.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The gate answers at once.
const ADMIN: Duration = Duration::from_secs(5);
/// Between two looks whether the seal is verified.
const PAUSE: Duration = Duration::from_millis(500);

/// The arguments of `firewall apply`.
#[derive(Args, Debug)]
pub(super) struct Apply {
    #[command(flatten)]
    configuration: Configuration,
    /// The packet filter that carries the seal, over firewall.backend
    #[arg(long, value_enum, value_name = "NAME")]
    backend: Option<BackendName>,
    /// How long the trial lasts; then the kernel goes back to the last confirmed plan, unless confirmed
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    confirm_within: Duration,
    /// Confirm by itself once no connection bypasses the gate and the API server has been served through the
    /// seal
    #[arg(long)]
    confirm_when_verified: bool,
    /// Reset the connections to the kubelet that are open past the gate, and no others
    #[arg(long)]
    cut: bool,
    /// Seal although rules of other programs name the sealed ports, or use the bits of the gate's mark
    #[arg(long)]
    accept_foreign_rules: bool,
    /// Seal although the gate has not served the API server yet
    #[arg(long)]
    accept_unseen_api_server: bool,
    /// Seal although health checks on this node call the read-only port, and will fail
    #[arg(long)]
    close_health_checkers: bool,
    /// With --confirm-when-verified: the directory for the unit that loads the seal at boot
    #[arg(long, value_name = "DIRECTORY", default_value = Unit::DIRECTORY)]
    unit_directory: PathBuf,
}

impl Apply {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CommandError> {
        let settings = self.configuration.load()?;
        let window = self.confirm_within;
        if !(SHORTEST..=LONGEST).contains(&window) {
            return Err(CommandError::Usage("--confirm-within: from 2s to 24h"));
        }
        let (_, plan) = planned(&settings, self.backend).map_err(|error| match error {
            CommandError::NoFirewall(errors) => {
                CommandError::Refused(errors.iter().map(ToString::to_string).collect())
            }
            CommandError::Plan(error) => CommandError::Refused(vec![error.to_string()]),
            error => error,
        })?;
        let accepted = Accepted {
            foreign_rules: self.accept_foreign_rules,
            unseen_api_server: self.accept_unseen_api_server,
            closed_health_checks: self.close_health_checkers,
        };
        let runtime = runtime()?;
        let served = |admin| {
            runtime
                .block_on(api_server_seen(admin))
                .map(|last| last.is_some())
        };
        let (refusals, gate) = Refusals::of(&settings, &plan, accepted, served);
        let (Some(gate), []) = (gate, refusals.lines()) else {
            return Err(CommandError::Refused(refusals.lines().to_vec()));
        };

        let run_directory = &settings.firewall.run_directory;
        let exemption = gate.exemption.clone();
        let mut apply = trial::apply(state(&settings), run_directory, &plan, window, exemption)
            .inspect_err(|error| self.print_ways_out(error, &mut terminal.err))?;
        let began = Instant::now();
        let applied = apply.change.finish();
        for setback in apply.change.setbacks() {
            terminal.err.error(setback);
        }
        applied?;
        let tried_since = SystemTime::now();
        let falls_back = apply.falls_back;
        // Confirming takes the lock again.
        drop(apply);
        let out = &mut terminal.out;
        out.text(&format!(
            "on trial for {}, by {}:",
            duration::format(window),
            plan.backend.name()
        ));
        out.table(&ports(&plan));
        let back = if falls_back {
            "the seal confirmed before"
        } else {
            "no seal"
        };
        out.text(&format!("then, unless confirmed, the kernel goes back to {back}"));
        out.text("to confirm:");
        out.command(&self.configuration.command("confirm"));
        out.text("to remove the seal:");
        out.command(&self.configuration.command("remove"));

        self.past_the_gate(&plan, &gate, terminal)?;
        if self.confirm_when_verified {
            self.verify(&settings, &plan, &gate, (began, tried_since))?;
            return confirm(&settings, &self.unit_directory, Some(&plan), terminal);
        }
        Ok(Exit::Good)
    }

    /// The commands that an operator needs before another apply.
    fn print_ways_out(&self, error: &TrialError, err: &mut Stream) {
        if matches!(error, TrialError::Unfinished) {
            err.text("to finish it:");
            err.command(&self.configuration.command("confirm"));
        }
        if matches!(error, TrialError::Unfinished | TrialError::OtherBackend(_)) {
            err.text("to remove the seal:");
            err.command(&self.configuration.command("remove"));
        }
    }

    /// Names the connections that the seal leaves alone, since they are older than it; resets them if asked
    /// to.
    fn past_the_gate(
        &self,
        plan: &Plan,
        gate: &RunningGate,
        terminal: &mut Terminal,
    ) -> Result<(), CommandError> {
        let Terminal { out, err, .. } = terminal;
        let open = connections::ungated(plan, gate.uid)?;
        let named = |connection: &connections::Ungated| {
            let holder = connections::holder(connection).map_or_else(String::new, |owner| {
                format!(" ({}, process {})", owner.command, owner.pid)
            });
            format!("{}{holder} to {}", connection.peer, connection.kubelet)
        };
        if !self.cut {
            for connection in &open {
                out.text(&format!(
                    "still open past the gate, as it was before: {}; --cut resets it",
                    named(connection)
                ));
            }
            return Ok(());
        }
        let names: Vec<String> = open.iter().map(named).collect();
        for connection in &open {
            connections::cut(connection)?;
        }
        let left = connections::ungated(plan, gate.uid)?;
        for (connection, name) in open.iter().zip(names) {
            if left.contains(connection) {
                err.warning(&format!(
                    "could not be reset: {name}: the kernel lacks CONFIG_INET_DIAG_DESTROY, or ss \
                     cannot use it"
                ));
            } else {
                out.text(&format!("reset: {name}"));
            }
        }
        Ok(())
    }

    /// Waits until the seal is seen to hold and the API server has come through it.
    fn verify(
        &self,
        settings: &Settings,
        plan: &Plan,
        gate: &RunningGate,
        (began, tried_since): (Instant, SystemTime),
    ) -> Result<(), CommandError> {
        let admin = gate.admin.ok_or(CommandError::Incomplete(
            "admin.listen is off, so that the gate cannot be asked whether it served the API server; confirm \
             by hand",
        ))?;
        let state = state(settings);
        let addresses = host::addresses()?;
        let runtime = runtime()?;
        let mut why = Unverified::NoTime;
        while began.elapsed() + PAUSE < self.confirm_within {
            // Confirmed by hand in between, it is no longer on trial, which is for confirm to find out.
            if state.trial()?.is_some_and(|trial| trial != *plan) {
                return Err(TrialError::AnotherApply.into());
            }
            let attempts = runtime.block_on(attempt_all(plan, &addresses, gate));
            let bypassed = attempts.iter().find(|attempt| !attempt.reached.is_sealed());
            why = match (bypassed, runtime.block_on(api_server_seen(admin))) {
                (Some(attempt), _) => Unverified::Bypassed(attempt.address),
                (None, Err(error)) => Unverified::Unasked(error),
                (None, Ok(Some(last))) if after(&last, tried_since) => return Ok(()),
                (None, Ok(_)) => Unverified::Unseen,
            };
            runtime.block_on(async { tokio::time::sleep(PAUSE).await });
        }
        Err(CommandError::Unverified(why))
    }
}

/// The time at which the gate served the API server last; `None`: never since it started.
async fn api_server_seen(admin: SocketAddr) -> Result<Option<String>, AdminError> {
    let seal: Value = get(admin, "/seal", ADMIN).await?;
    Ok(seal["apiServer"]["last"].as_str().map(str::to_owned))
}

/// Whether the API server was last seen in the trial. The gate tells whole seconds and leaves the rest out: a
/// request in the second in which the trial began may have come before it.
fn after(last: &str, tried_since: SystemTime) -> bool {
    OffsetDateTime::parse(last, &Rfc3339).is_ok_and(|last| last > OffsetDateTime::from(tried_since))
}
