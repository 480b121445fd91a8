//! `firewall status`: the rules as the kernel has them, and what happens to whoever tries to get around the gate.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Configuration, UNITS, failed, state, told};
use crate::cli::{FAILED, FINDINGS, GOOD, Output};
use crate::host;
use crate::host::Wire;
use crate::seal::{Confirmed, Firewall, Plan, Reached, RunningGate, State, connections, dial_all, reached};
use crate::settings::Settings;

/// A user that nothing of the gate is.
const SOMEBODY: u32 = 65534;

/// The arguments of `firewall status`.
#[derive(Args, Debug)]
pub(super) struct Status {
    #[command(flatten)]
    configuration: Configuration,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Do not try from a network namespace of its own, which takes a pair of interfaces for a second
    #[arg(long)]
    no_namespace: bool,
    /// Where the unit is that loads the seal at boot
    #[arg(long, value_name = "DIRECTORY", default_value = UNITS)]
    unit_directory: PathBuf,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Nothing speaks against it.
    sealed: bool,
    /// Who carries it.
    backend: Option<&'static str>,
    /// Seconds until the trial ends.
    trial_seconds: Option<u64>,
    /// What speaks against it.
    problems: Vec<String>,
    /// What should be known and is no way in by itself.
    notes: Vec<String>,
    /// Every way that was tried.
    tried: Vec<Tried>,
}

/// A way around the gate, tried.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tried {
    from: &'static str,
    address: SocketAddr,
    reached: String,
    sealed: bool,
}

impl Status {
    pub(super) fn run(&self) -> Result<u8, u8> {
        let settings = self.configuration.load()?;
        let mut report = Report::default();
        if let Some((plan, gate)) = report.rules(&settings, &self.unit_directory)? {
            report.connections(&plan, &gate, self.no_namespace)?;
        }
        report.sealed = report.problems.is_empty() && report.tried.iter().all(|tried| tried.sealed);
        match self.output {
            Output::Json => println!(
                "{}",
                serde_json::to_string(&report).map_err(|error| told(FAILED, &error))?
            ),
            Output::Table => report.print(),
        }
        Ok(if report.sealed { GOOD } else { FINDINGS })
    }
}

impl Report {
    /// Compares the kernel with what was confirmed. Yields what there is to try, and around whom.
    fn rules(
        &mut self,
        settings: &Settings,
        units: &std::path::Path,
    ) -> Result<Option<(Plan, RunningGate)>, u8> {
        let state = state(settings);
        let confirmed = state.confirmed().map_err(|error| told(FAILED, &error))?;
        let trial = state.trial().map_err(|error| told(FAILED, &error))?;
        let Some(plan) = confirmed
            .as_ref()
            .map(|confirmed| &confirmed.plan)
            .or(trial.as_ref())
        else {
            self.problems
                .push("nothing was ever applied on this node: begin with firewall apply".into());
            return Ok(None);
        };
        let firewall = Firewall::of(plan.backend);
        self.backend = Some(plan.backend.name());
        let remaining = firewall.trial_remaining().map_err(failed)?;
        self.trial_seconds = remaining.map(|remaining| remaining.as_secs());
        // While a trial lasts it is the trial's plan that is in force.
        let plan = match (remaining, trial.clone()) {
            (Some(_), Some(trial)) => trial,
            _ => plan.clone(),
        };
        if let Some(remaining) = remaining {
            self.problems.push(format!(
                "on trial: the kernel undoes it in {} s unless it is confirmed",
                remaining.as_secs()
            ));
        }
        match &confirmed {
            None if remaining.is_none() => self
                .problems
                .push("the trial ended without being confirmed".into()),
            None => {}
            Some(confirmed) => {
                self.drift(confirmed, &firewall)?;
                if !State::unit_installed(units) {
                    self.notes.push(format!(
                        "{} has no kubelet-gate-firewall.service: after a reboot the ports are open until somebody applies again",
                        units.display()
                    ));
                }
            }
        }
        let gate =
            RunningGate::read(&settings.firewall.run_directory).map_err(|error| told(FAILED, &error))?;
        let gate = match gate {
            Some(gate) if gate.lives() => {
                self.exemption(&gate, &firewall)?;
                gate
            }
            _ => {
                self.notes
                    .push("no gate runs: nobody gets to the kubelet through it".into());
                let (listen, read_only_listen) =
                    (settings.listen.clone(), settings.read_only_port.listen.clone());
                // Nobody's: whoever listens there now is not the gate.
                let (pid, uid, exemption, admin) = (0, u32::MAX, None, None);
                RunningGate {
                    pid,
                    uid,
                    exemption,
                    listen,
                    read_only_listen,
                    admin,
                }
            }
        };
        Ok(Some((plan, gate)))
    }

    fn drift(&mut self, confirmed: &Confirmed, firewall: &Firewall) -> Result<(), u8> {
        match firewall.fingerprint().map_err(failed)? {
            None => self
                .problems
                .push("the rules are gone: somebody flushed them, or they were not loaded at boot".into()),
            Some(fingerprint) if fingerprint == confirmed.fingerprint => {}
            Some(_) => {
                let now = firewall.version().map_err(failed)?;
                self.problems.push(if now == confirmed.tool {
                    "the rules are not what was confirmed: somebody changed them; apply and confirm again".into()
                } else {
                    format!(
                        "the rules cannot be compared: they were confirmed with {}, this is {now}; apply and confirm again",
                        confirmed.tool
                    )
                });
            }
        }
        Ok(())
    }

    fn exemption(&mut self, gate: &RunningGate, firewall: &Firewall) -> Result<(), u8> {
        let Some(exemption) = &gate.exemption else {
            self.problems.push(
                "the gate runs as root or may not mark its connections: it cannot be let through".into(),
            );
            return Ok(());
        };
        let without = match firewall {
            Firewall::Iptables(_) => Some("iptables cannot go by a cgroup that comes and goes"),
            Firewall::Nft(_) => exemption.cgroup.is_none().then_some("no cgroup v2"),
        };
        if let Some(without) = without {
            self.notes.push(format!(
                "{without}: the gate is known by its uid and mark alone, which whoever has CAP_SETUID and CAP_NET_RAW on \
                 this node can find out by trying"
            ));
        }
        if !firewall.admitted(exemption).map_err(failed)? {
            self.notes.push(
                "the running gate is not let through to the kubelet: kubelet-gate firewall admit".into(),
            );
        }
        Ok(())
    }

    /// Dials every port from every side that there is.
    fn connections(&mut self, plan: &Plan, gate: &RunningGate, no_namespace: bool) -> Result<(), u8> {
        let addresses = host::addresses().map_err(|error| told(FAILED, &error))?;
        let to = plan.dialled(&addresses);
        let root = rustix::process::geteuid().is_root();
        self.tried("this user", dial(&to), gate);
        if root {
            let dialled = host::as_user(SOMEBODY, || dial(&to)).and_then(|dialled| dialled);
            self.tried("another user", dialled, gate);
        } else {
            self.notes
                .push("not tried as another user, nor from another network: run it as root".into());
        }
        if root && !no_namespace {
            Wire::sweep();
            match Wire::new(&addresses) {
                Ok(wire) => {
                    // Loopback addresses would be its own.
                    let there: Vec<IpAddr> = addresses
                        .iter()
                        .copied()
                        .filter(|address| !address.is_loopback())
                        .collect();
                    let to = plan.dialled(&there);
                    let dialled = wire.run(|| dial(&to)).and_then(|dialled| dialled);
                    let dialled = dialled.map(|dialled| self.shown(&wire, &there, dialled));
                    self.tried("another network", dialled, gate);
                }
                Err(why) => self.notes.push(format!("not tried from another network: {why}")),
            }
        }
        let open = connections::ungated(plan, gate.uid).map_err(|error| told(FAILED, &error))?;
        for connection in open {
            self.notes.push(format!(
                "open past the gate since before the seal: {} to {}; firewall apply --cut resets it",
                connection.peer, connection.kubelet
            ));
        }
        Ok(())
    }

    /// Leaves out the addresses of which a wire shows nothing: where no answer of any kind came, and none does on a port that is
    /// open.
    fn shown(&mut self, wire: &Wire, addresses: &[IpAddr], mut dialled: Vec<Dialled>) -> Vec<Dialled> {
        for address in addresses {
            let answered = |(to, outcome): &Dialled| {
                let refused = [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset];
                to.ip() == *address
                    && outcome
                        .as_ref()
                        .map_or_else(|error| refused.contains(&error.kind()), |_| true)
            };
            if dialled.iter().any(answered) {
                continue;
            }
            if let Err(why) = wire.reaches(*address) {
                self.notes
                    .push(format!("not tried from another network to {address}: {why}"));
                dialled.retain(|(to, _)| to.ip() != *address);
            }
        }
        dialled
    }

    /// Who took each of these, seen from the node, while they are open.
    fn tried(&mut self, from: &'static str, dialled: io::Result<Vec<Dialled>>, gate: &RunningGate) {
        match dialled {
            Ok(dialled) => {
                let tried = dialled.iter().map(|(address, outcome)| {
                    let reached = reached(outcome, gate);
                    Tried {
                        from,
                        address: *address,
                        sealed: reached.is_sealed(),
                        reached: match reached {
                            Reached::Nobody => "nobody".into(),
                            Reached::Gate => "the gate".into(),
                            Reached::Squatter => "somebody in the gate's place".into(),
                            Reached::Kubelet => "the kubelet".into(),
                            Reached::Unknown(why) => why,
                        },
                    }
                });
                self.tried.extend(tried);
            }
            Err(error) => self.problems.push(format!("not tried from {from}: {error}")),
        }
    }

    fn print(&self) {
        println!("{}", if self.sealed { "sealed" } else { "NOT SEALED" });
        for problem in &self.problems {
            println!("  - {problem}");
        }
        if !self.tried.is_empty() {
            println!("{:<16} {:<30} {:<24} ", "FROM", "TO", "REACHED");
        }
        for tried in &self.tried {
            let verdict = if tried.sealed { "ok" } else { "BYPASS" };
            println!(
                "{:<16} {:<30} {:<24} {verdict}",
                tried.from,
                tried.address.to_string(),
                tried.reached
            );
        }
        for note in &self.notes {
            println!("note: {note}");
        }
    }
}

/// An address, and a connection to it or why there is none.
type Dialled = (SocketAddr, io::Result<tokio::net::TcpStream>);

/// Dials from wherever this thread is.
fn dial(addresses: &[SocketAddr]) -> io::Result<Vec<Dialled>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(dial_all(addresses)))
}
