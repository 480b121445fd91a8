//! `firewall apply`: the seal, for a while.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::configuration::{Configuration, state};
use super::confirm::{confirm, refuse};
use super::plan::{BackendName, planned, print_ports};
use crate::cli::exit::{CliError, Exit, runtime};
use crate::cli::terminal::{Stream, Terminal};
use crate::duration;
use crate::host;
use crate::seal::kept_out::{self, Before};
use crate::seal::trial::{self, TrialError};
use crate::seal::{
    Accepted, OverWire, Plan, Refusals, RunningGate, Standing, Unit, WireMemory, attempt_all, connections,
    unlisted,
};
use crate::serve::admin::client::{AdminError, AdminPlace, api_server};
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
    /// The kernel goes back to the last confirmed plan after this time, unless confirmed
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    confirm_within: Duration,
    /// Confirm by itself once no connection bypasses the gate and the API server has been served through the
    /// seal
    #[arg(long)]
    confirm_when_verified: bool,
    /// Reset the connections to the kubelet that are open past the gate, and no others
    #[arg(long)]
    cut: bool,
    /// Rules of other programs that refuse or redirect connections to the sealed ports, or use the mark's
    /// bits, are known to do no harm
    #[arg(long)]
    accept_foreign_rules: bool,
    /// Callers that reach the kubelet's ports over the wire today, and would not reach the gate's, are known
    #[arg(long)]
    accept_dead_ports: bool,
    /// The API server has not been seen at the gate yet, and will come all the same
    #[arg(long)]
    accept_unseen_api_server: bool,
    /// Health checks on this node that call the read-only port may fail from now on
    #[arg(long)]
    close_health_checkers: bool,
    /// Where the unit goes that loads the seal at boot, with --confirm-when-verified
    #[arg(long, value_name = "DIRECTORY", default_value = Unit::DIRECTORY)]
    unit_directory: PathBuf,
}

/// Why a trial was not confirmed by itself.
#[derive(Debug, thiserror::Error)]
enum Unverified {
    #[error("there was no time to look; give it more with --confirm-within")]
    NoTime,
    #[error("{0} was reached around the gate; during a trial, kubelet-gate firewall status shows each way")]
    Bypassed(SocketAddr),
    #[error(
        "whether the API server has come through the seal cannot be seen: {0}; kubelet-gate status shows \
         what the gate answers"
    )]
    Unasked(AdminError),
    #[error(
        "the API server has not come through the seal; during the trial, have it come (kubectl logs of any \
         pod of this node), and give it more time with --confirm-within"
    )]
    Unseen,
}

impl Apply {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let settings = self.configuration.load()?;
        let window = self.confirm_within;
        if !(SHORTEST..=LONGEST).contains(&window) {
            return Err(CliError::usage("--confirm-within: from 2s to 24h"));
        }
        let plan = match planned(&settings, self.backend) {
            Ok((_, plan)) => plan,
            Err(error) => return Ok(refuse(&error.errors, &mut terminal.err)),
        };
        let accepted = Accepted {
            foreign_rules: self.accept_foreign_rules,
            unseen_api_server: self.accept_unseen_api_server,
            closed_health_checks: self.close_health_checkers,
            verified_later: self.confirm_when_verified,
        };
        let runtime = runtime().map_err(CliError::failed)?;
        let served = |port| {
            let admin = AdminPlace::of(&settings, port)?;
            let served = runtime.block_on(api_server(&admin, ADMIN));
            Some(served.map(|served| served.map(|served| served.addresses)))
        };
        let confirmed = state(&settings).confirmed().map_err(CliError::failed)?;
        let confirmed = confirmed.map(|confirmed| confirmed.plan);
        let (mut refusals, gate) = Refusals::of(&settings, &plan, accepted, confirmed.as_ref(), served);
        let before = match &gate {
            Some(_) => self.before(&settings, &plan, terminal)?,
            None => Before::default(),
        };
        before.refusals.iter().for_each(|why| refusals.add(why.clone()));
        let (Some(gate), []) = (gate, refusals.lines()) else {
            return Ok(refuse(refusals.lines(), &mut terminal.err));
        };
        for warning in &before.warnings {
            terminal.err.warning(warning);
        }

        let run_directory = &settings.firewall.run_directory;
        let exemption = gate.exemption.clone();
        let apply = trial::apply(state(&settings), run_directory, &plan, window, exemption);
        let mut apply = match apply {
            Ok(apply) => apply,
            Err(error) => return Ok(self.refused(&error, &mut terminal.err)),
        };
        // Remembered first: a trial in force would change what another network reaches.
        before.memory.save(&state(&settings)).map_err(CliError::failed)?;
        let began = Instant::now();
        let applied = apply.change.finish();
        for setback in apply.change.setbacks() {
            terminal.err.error(setback);
        }
        applied.map_err(CliError::failed)?;
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
        print_ports(&plan, out);
        let back = if falls_back {
            "the seal confirmed before"
        } else {
            "no seal"
        };
        out.text(&format!("then, unless confirmed, the kernel goes back to {back}"));
        self.print_command("to confirm:", "confirm", out);
        self.print_command("to take it away:", "remove", out);

        self.past_the_gate(&plan, &gate, terminal)?;
        if self.confirm_when_verified {
            self.verify(&settings, &plan, &gate, (began, tried_since))?;
            return confirm(&settings, &self.unit_directory, Some(&plan), terminal);
        }
        Ok(Exit::Good)
    }

    /// What another network reaches now, and whether it would reach the gate under this plan.
    fn before(&self, settings: &Settings, plan: &Plan, terminal: &mut Terminal) -> Result<Before, CliError> {
        let state = state(settings);
        let addresses = host::addresses().map_err(CliError::failed)?;
        let standing = Standing::judge(&state, &settings.firewall.run_directory).map_err(CliError::failed)?;
        let signs = unlisted::signs();
        if !signs.is_empty() {
            terminal.err.warning(&kept_out::unlisted(plan, &signs));
        }
        let accepted = self.accept_dead_ports;
        let standing = standing.as_ref();
        match OverWire::dial(plan, &addresses) {
            Ok(tried) => kept_out::before(
                &state,
                standing,
                plan,
                &addresses,
                &tried,
                accepted,
                signs.is_empty(),
            )
            .map_err(CliError::failed),
            Err(error) => {
                terminal.err.warning(&format!(
                    "not tried from another network: {error}; see that the host's firewall opens the gate's \
                     own ports to the callers of the kubelet's"
                ));
                let mut before = Before::default();
                if standing.is_some() {
                    before.memory = WireMemory::load(&state).map_err(CliError::failed)?;
                }
                Ok(before)
            }
        }
    }

    /// A command to be pasted: never broken.
    fn print_command(&self, what: &str, verb: &str, stream: &mut Stream) {
        writeln!(stream, "  {what:18} {}", self.configuration.command(verb));
    }

    /// Says why the change was refused, and the commands that an operator needs before another apply.
    fn refused(&self, error: &TrialError, err: &mut Stream) -> Exit {
        err.error(error);
        if matches!(error, TrialError::Unfinished) {
            self.print_command("to finish it:", "confirm", err);
        }
        if matches!(error, TrialError::Unfinished | TrialError::OtherBackend(_)) {
            self.print_command("to take it away:", "remove", err);
            return Exit::Findings;
        }
        Exit::Failed
    }

    /// Names the connections that the seal leaves alone, since they are older than it; resets them if asked
    /// to.
    fn past_the_gate(
        &self,
        plan: &Plan,
        gate: &RunningGate,
        terminal: &mut Terminal,
    ) -> Result<(), CliError> {
        let open = connections::ungated(plan, gate.uid).map_err(CliError::failed)?;
        let named = |connection: &connections::Ungated| {
            let holder = connections::holder(connection).map_or_else(String::new, |owner| {
                format!(" ({}, process {})", owner.command, owner.pid)
            });
            format!("{}{holder} to {}", connection.peer, connection.kubelet)
        };
        if !self.cut {
            for connection in &open {
                terminal.out.text(&format!(
                    "still open past the gate, as it was before: {}; --cut resets it",
                    named(connection)
                ));
            }
            return Ok(());
        }
        let names: Vec<String> = open.iter().map(named).collect();
        for connection in &open {
            connections::cut(connection).map_err(CliError::failed)?;
        }
        let left = connections::ungated(plan, gate.uid).map_err(CliError::failed)?;
        for (connection, name) in open.iter().zip(names) {
            if left.contains(connection) {
                terminal.err.warning(&format!(
                    "could not be reset: {name}: the kernel lacks CONFIG_INET_DIAG_DESTROY, or ss cannot use \
                     it"
                ));
            } else {
                terminal.out.text(&format!("reset: {name}"));
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
    ) -> Result<(), CliError> {
        let admin = AdminPlace::of(settings, gate.admin).ok_or_else(|| {
            CliError::failed(
                "admin.listen and admin.socket are off, so that the gate cannot be asked whether it served \
                 the API server; confirm by hand",
            )
        })?;
        let state = state(settings);
        let addresses = host::addresses().map_err(CliError::failed)?;
        let runtime = runtime().map_err(CliError::failed)?;
        let mut why = Unverified::NoTime;
        while began.elapsed() + PAUSE < self.confirm_within {
            // Confirmed by hand in between, it is no longer on trial, which is for confirm to find out.
            let trial = state.trial().map_err(CliError::failed)?;
            if trial.is_some_and(|trial| trial != *plan) {
                return Err(CliError::failed(TrialError::AnotherApply));
            }
            let attempts = runtime.block_on(attempt_all(plan, &addresses, gate, &settings.sources.port));
            let bypassed = attempts.iter().find(|attempt| !attempt.reached.is_sealed());
            why = match (bypassed, runtime.block_on(api_server(&admin, ADMIN))) {
                (Some(attempt), _) => Unverified::Bypassed(attempt.address),
                (None, Err(error)) => Unverified::Unasked(error),
                (None, Ok(Some(served))) if after(&served.last, tried_since) => return Ok(()),
                (None, Ok(_)) => Unverified::Unseen,
            };
            runtime.block_on(async { tokio::time::sleep(PAUSE).await });
        }
        Err(CliError::failed(format!(
            "not confirmed, and undone by the kernel: {why}"
        )))
    }
}

/// Whether the API server was last seen in the trial. The gate tells whole seconds and leaves the rest out: a
/// request in the second in which the trial began may have come before it.
fn after(last: &str, tried_since: SystemTime) -> bool {
    OffsetDateTime::parse(last, &Rfc3339).is_ok_and(|last| last > OffsetDateTime::from(tried_since))
}
