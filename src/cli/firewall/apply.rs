//! `firewall apply`: the seal, for a while.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::confirm::confirm;
use super::refusals::{Accepted, Refusals, api_server_seen};
use super::{BackendName, Configuration, UNITS, failed, planned, runtime, state, told, told_ports};
use crate::cli::{FAILED, FINDINGS, GOOD, USAGE, complain};
use crate::seal::{self, Kind, Plan, RunningGate, attempt_all, connections};

use crate::duration;
use crate::host;
use crate::settings::Settings;

/// Shorter than this nobody can look at it, let alone confirm it.
const SHORTEST: Duration = Duration::from_secs(2);
/// Longer than this it is no trial.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Between two looks whether the seal is verified.
const PAUSE: Duration = Duration::from_millis(500);

/// The arguments of `firewall apply`.
#[derive(Args, Debug)]
pub(super) struct Apply {
    #[command(flatten)]
    configuration: Configuration,
    /// Who carries the seal, over firewall.backend
    #[arg(long, value_enum, value_name = "NAME")]
    backend: Option<BackendName>,
    /// The kernel goes back to the last confirmed plan after this time, unless confirmed
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    confirm_within: Duration,
    /// Confirm by itself once nobody gets around the gate and the API server has been served through the seal
    #[arg(long)]
    confirm_when_verified: bool,
    /// Reset the connections to the kubelet that are open past the gate, and no others
    #[arg(long)]
    cut: bool,
    #[command(flatten)]
    accepted: Accepted,
    /// Where the unit goes that loads the seal at boot, with --confirm-when-verified
    #[arg(long, value_name = "DIRECTORY", default_value = UNITS)]
    unit_directory: PathBuf,
}

impl Apply {
    pub(super) fn run(&self) -> Result<u8, u8> {
        let settings = self.configuration.load()?;
        let window = self.confirm_within;
        if !(SHORTEST..=LONGEST).contains(&window) {
            eprintln!("error: --confirm-within: from 2s to 24h");
            return Err(USAGE);
        }
        let (firewall, plan) = planned(&settings, self.backend).map_err(|errors| refused(&errors))?;
        let (refusals, gate) = Refusals::of(&settings, &plan, self.accepted);
        let (Some(gate), []) = (gate, refusals.lines()) else {
            return Err(refused(refusals.lines()));
        };

        let state = state(&settings);
        let lock = state.lock().map_err(|error| told(FAILED, &error))?;
        let confirmed = state
            .confirmed()
            .map_err(|error| told(FAILED, &error))?
            .map(|confirmed| confirmed.plan);
        if let Some(confirmed) = confirmed
            .as_ref()
            .filter(|confirmed| confirmed.backend != plan.backend)
        {
            eprintln!(
                "error: the confirmed seal is carried by {}: two packet filters cannot fall back to each other; go on with it \
                 (--backend), or take it away first: {}",
                confirmed.backend.name(),
                self.configuration.command("remove")
            );
            return Err(FINDINGS);
        }
        // One that cannot be read is as good as none: this one takes its place.
        let before = state.trial().unwrap_or(None);
        if let Some(before) = before
            .as_ref()
            .filter(|before| confirmed.as_ref() != Some(*before))
            && seal::Firewall::of(before.backend)
                .carries(before, Kind::Confirmed)
                .map_err(failed)?
        {
            eprintln!(
                "error: the confirmation of the seal that is in force did not finish; finish it: {}; or take it away: {}",
                self.configuration.command("confirm"),
                self.configuration.command("remove")
            );
            return Err(FINDINGS);
        }
        state
            .keep_trial(Some(&plan))
            .map_err(|error| told(FAILED, &error))?;
        let began = Instant::now();
        firewall
            .load(confirmed.as_ref(), Some((&plan, window)), gate.exemption.as_ref())
            .map_err(|error| {
                // What may still be running is the trial before, and confirm is about what was tried.
                if let Err(error) = state.keep_trial(before.as_ref()) {
                    complain(&error);
                }
                failed(error)
            })?;
        let tried_since = SystemTime::now();
        drop(lock);
        println!(
            "on trial for {}, by {}:",
            duration::format(window),
            plan.backend.name()
        );
        told_ports(&plan);
        let back = if confirmed.is_some() {
            "the seal confirmed before"
        } else {
            "no seal"
        };
        println!("then, unless confirmed, the kernel goes back to {back}");
        println!("  to confirm:        {}", self.configuration.command("confirm"));
        println!("  to take it away:   {}", self.configuration.command("remove"));

        self.past_the_gate(&plan, &gate)?;
        if self.confirm_when_verified {
            return self.confirmed(&settings, &plan, &gate, (began, tried_since));
        }
        Ok(GOOD)
    }

    /// Names the connections that the seal leaves alone, since they were there before; resets them if asked to.
    fn past_the_gate(&self, plan: &Plan, gate: &RunningGate) -> Result<(), u8> {
        let open = connections::ungated(plan, gate.uid).map_err(|error| told(FAILED, &error))?;
        let named = |connection: &connections::Ungated| {
            let holder = connections::holder(connection).map_or_else(String::new, |owner| {
                format!(" ({}, process {})", owner.command, owner.pid)
            });
            format!("{}{holder} to {}", connection.peer, connection.kubelet)
        };
        if !self.cut {
            for connection in &open {
                println!(
                    "still open past the gate, as it was before: {}; --cut resets it",
                    named(connection)
                );
            }
            return Ok(());
        }
        let names: Vec<String> = open.iter().map(named).collect();
        for connection in &open {
            connections::cut(connection).map_err(failed)?;
        }
        let left = connections::ungated(plan, gate.uid).map_err(|error| told(FAILED, &error))?;
        for (connection, name) in open.iter().zip(names) {
            if left.contains(connection) {
                eprintln!(
                    "warning: could not be reset: {name}: the kernel lacks CONFIG_INET_DIAG_DESTROY, or ss cannot use it"
                );
            } else {
                println!("reset: {name}");
            }
        }
        Ok(())
    }

    /// Waits until the seal is seen to hold and the API server has come through it.
    fn confirmed(
        &self,
        settings: &Settings,
        plan: &Plan,
        gate: &RunningGate,
        (began, tried_since): (Instant, SystemTime),
    ) -> Result<u8, u8> {
        let Some(admin) = gate.admin else {
            eprintln!(
                "error: admin.listen is off, so that nobody can say whether the API server was served; confirm by hand"
            );
            return Err(FAILED);
        };
        let addresses = host::addresses().map_err(|error| told(FAILED, &error))?;
        let runtime = runtime()?;
        let mut why = String::new();
        while began.elapsed() + PAUSE < self.confirm_within {
            let attempts = runtime.block_on(attempt_all(plan, &addresses, gate));
            let through = attempts.iter().find(|attempt| !attempt.reached.is_sealed());
            let seen = api_server_seen(admin);
            why = match (through, seen) {
                (Some(attempt), _) => format!("{} was reached around the gate", attempt.address),
                (None, Err(why)) => {
                    format!("whether the API server has come through the seal cannot be seen: {why}")
                }
                (None, Ok(Some(last))) if after(&last, tried_since) => {
                    return confirm(settings, &self.unit_directory);
                }
                (None, Ok(_)) => "the API server has not come through the seal".into(),
            };
            runtime.block_on(async { tokio::time::sleep(PAUSE).await });
        }
        eprintln!("error: not confirmed, and undone by the kernel: {why}");
        Err(FAILED)
    }
}

/// Whether the API server was last seen in the trial. The gate tells whole seconds and leaves the rest out: whoever came in
/// the second in which it began may have come before.
fn after(last: &str, tried_since: SystemTime) -> bool {
    OffsetDateTime::parse(last, &Rfc3339).is_ok_and(|last| last > OffsetDateTime::from(tried_since))
}

fn refused(why: &[String]) -> u8 {
    eprintln!("refused, nothing was changed:");
    for line in why {
        eprintln!("  - {line}");
    }
    FINDINGS
}
