//! `firewall observe`: the callers that would meet the seal.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use clap::Args;

use super::configuration::Configuration;
use crate::adopt::kubelet;
use crate::cli::exit::{CliError, Exit, runtime};
use crate::cli::output::Output;
use crate::cli::table::Table;
use crate::cli::terminal::{Stream, Terminal};
use crate::duration;
use crate::seal::observe::{Caller, Observed, observe};
use crate::seal::{Plan, PortKind, RunningGate};
use crate::serve::admin::client::{AdminPlace, api_server};
use crate::settings::{Backend, Settings};

/// The gate answers at once.
const ADMIN: Duration = Duration::from_secs(2);

/// The arguments of `firewall observe`.
#[derive(Args, Debug)]
pub(super) struct Observe {
    #[command(flatten)]
    configuration: Configuration,
    /// For how long; Ctrl-C ends it before
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    period: Duration,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Observe {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let settings = self.configuration.load()?;
        let listening = kubelet::listening_ports(&kubelet::running_kubelets(Path::new("/proc")));
        // The ports are the same for every packet filter.
        let plan = Plan::of(&settings, &listening, Backend::Nftables).map_err(CliError::failed)?;
        let mut ports: Vec<(u16, PortKind)> = plan.ports.iter().map(|port| (port.port, port.kind)).collect();
        for own in settings.listen.iter().map(SocketAddr::port) {
            if ports.iter().all(|(port, _)| *port != own) {
                ports.push((own, PortKind::Gate));
            }
        }
        ports.sort_unstable_by_key(|(port, _)| *port);
        let numbers: Vec<String> = ports.iter().map(|(port, _)| port.to_string()).collect();
        terminal.err.text(&format!(
            "observing the callers of {} for {}; nothing is changed",
            numbers.join(", "),
            duration::format(self.period)
        ));
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, period) = (stop.clone(), self.period);
        let runtime = runtime().map_err(CliError::failed)?;
        let observed = runtime.block_on(async {
            let mut watching = tokio::task::spawn_blocking(move || observe(&ports, period, &ended));
            tokio::select! {
                observed = &mut watching => observed,
                _ = tokio::signal::ctrl_c() => {
                    stop.store(true, Relaxed);
                    watching.await
                }
            }
        });
        let observed = observed.map_err(CliError::failed)?.map_err(|error| {
            CliError::failed(format!(
                "packets cannot be read: {error}; run it as root, or with CAP_NET_RAW"
            ))
        })?;
        if let Err(error) = observed.save(&settings.firewall.state_directory) {
            terminal
                .err
                .warning(&format!("{error}: firewall apply will not know what was seen"));
        }
        match self.output {
            Output::Json => terminal.out.json(&observed),
            Output::Table => {
                let gate = RunningGate::read(&settings.firewall.run_directory).ok().flatten();
                print(&observed, &settings, gate.as_ref(), &mut terminal.out);
                let admin = AdminPlace::of(&settings, gate.as_ref().and_then(|gate| gate.admin));
                let served = admin.map(|admin| runtime.block_on(api_server(&admin, ADMIN)));
                // A gate that does not run has served no API server.
                let served = served.and_then(Result::ok).flatten();
                let addresses = served.map(|served| served.addresses).unwrap_or_default();
                let proposal = observed.sources(&addresses, gate.map(|gate| gate.uid));
                write!(terminal.out, "\n{proposal}");
            }
        }
        Ok(Exit::Good)
    }
}

fn print(observed: &Observed, settings: &Settings, gate: Option<&RunningGate>, out: &mut Stream) {
    let gate = gate.map(|gate| gate.uid);
    if observed.callers.is_empty() {
        return out.text("no caller was seen");
    }
    let mut table = Table::new(["PORT", "COUNT", "ADDRESS", "CALLER", "UNDER A SEAL"]);
    for caller in &observed.callers {
        table.row([
            caller.port.to_string().into(),
            caller.count.to_string().into(),
            caller.address.to_string().into(),
            name(caller).into(),
            meaning(caller, settings, gate).into(),
        ]);
    }
    out.table(&table);
    if observed.others > 0 {
        out.text(&format!("and {} connections of other callers", observed.others));
    }
}

fn name(caller: &Caller) -> String {
    match &caller.process {
        None => "another node or a pod".into(),
        Some(process) => {
            let command = process.command.as_deref().unwrap_or("(gone)");
            let place = process
                .cgroup
                .as_deref()
                .and_then(|cgroup| cgroup.rsplit('/').next())
                .unwrap_or("");
            format!("{command} uid {} {place}", process.uid)
        }
    }
}

fn meaning(caller: &Caller, settings: &Settings, gate: Option<u32>) -> &'static str {
    let here = caller.process.as_ref();
    if here.is_some_and(|process| Some(process.uid) == gate) {
        return "the gate itself: let through";
    }
    match (caller.kind, here) {
        (PortKind::Secure | PortKind::Gate, _) => {
            "needs a certificate or a token, as every caller of the gate"
        }
        (PortKind::ReadOnly, Some(_)) if settings.read_only_port.healthz => "refused, but for /healthz",
        (PortKind::ReadOnly, Some(_)) => "refused: a health check must be moved, or readOnlyPort.healthz set",
        (PortKind::ReadOnly, None) => "refused: must be moved to the authenticated port",
        (PortKind::Healthz, Some(_)) => "goes on",
        (PortKind::Healthz, None) => "refused",
    }
}
