//! Whether this node is sealed: the rules as the kernel has them, and what every way around the gate leads
//! to.

use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use tokio::net::TcpStream;

use super::connections;
use super::exemption::Exemption;
use super::file::FileError;
use super::firewall::Firewall;
use super::kept_out;
use super::over_wire::{OverWire, WireMemory};
use super::plan::Plan;
use super::running_gate::RunningGate;
use super::self_check::{dial_all, reached};
use super::standing::{Case, Standing, StandingError};
use super::state::State;
use super::unit::Unit;
use super::unlisted;
use crate::host::{self, Wire};
use crate::network::Networks;
use crate::settings::Settings;

/// A user that no process of the gate runs as.
const OTHER_USER: u32 = 65534;

/// What was found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Nothing speaks against it.
    pub sealed: bool,
    /// The packet filter that carries it.
    pub backend: Option<&'static str>,
    /// Seconds until the trial ends.
    pub trial_seconds: Option<u64>,
    /// What speaks against it.
    pub problems: Vec<String>,
    /// What should be known and is no way in by itself.
    pub notes: Vec<String>,
    /// Every way that was tried.
    pub tried: Vec<Tried>,
}

/// A way around the gate, tried.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    /// From which side.
    pub from: &'static str,
    /// What was dialled.
    pub address: SocketAddr,
    /// What took the connection.
    pub reached: String,
    /// It did not bypass the gate.
    pub sealed: bool,
}

/// Why the status cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The kernel's rules or the state cannot be read.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// What the gate says of itself cannot be read.
    #[error(transparent)]
    Gate(#[from] FileError),
    /// The node's addresses or connections cannot be read.
    #[error("the addresses and connections of this node cannot be read: {0}")]
    Node(#[from] io::Error),
}

/// An address, and a connection to it or why there is none.
type Dialled = (SocketAddr, io::Result<TcpStream>);

impl Report {
    /// Looks at the rules, and dials every port from every side there is; without `wire`, not from another
    /// network.
    ///
    /// # Errors
    /// The kernel, the state or the node's addresses cannot be read.
    pub fn look(settings: &Settings, unit: &Unit, wire: bool) -> Result<Self, StatusError> {
        let mut report = Self::default();
        let state = State::new(&settings.firewall.state_directory);
        match Standing::judge(&state, &settings.firewall.run_directory)? {
            None => {
                let nothing = "nothing was ever applied on this node: begin with firewall apply";
                report.problems.push(nothing.into());
            }
            Some(standing) => {
                report.rules(&standing, &state, unit);
                let gate = report.gate(settings, &standing)?;
                if let Some(plan) = standing.plan() {
                    report.sources(plan, settings);
                    let tried = report.dial(plan, (&gate, &settings.sources.port), wire)?;
                    if matches!(
                        standing.case,
                        Case::InForce | Case::Trial { .. } | Case::Unfinished
                    ) {
                        report.kept_out(&state, plan, tried.filter(|_| gate.lives()))?;
                    }
                }
            }
        }
        report.sealed = report.problems.is_empty() && report.tried.iter().all(|tried| tried.sealed);
        Ok(report)
    }

    fn rules(&mut self, standing: &Standing, state: &State, unit: &Unit) {
        self.backend = standing.plan().map(|plan| plan.backend.name());
        if let Case::Trial { remaining } | Case::UnknownTrial { remaining } = standing.case {
            self.trial_seconds = Some(remaining.as_secs());
        }
        self.problems.extend(standing.case.problem());
        if let Some(confirmed) = &standing.confirmed
            && !unit.loads(&standing.firewall.boot(&confirmed.plan, state.directory()))
        {
            self.notes.push(format!(
                "{} does not load the confirmed plan at boot: kubelet-gate firewall confirm mends it",
                unit.path().display()
            ));
        }
    }

    /// The running gate, or what stands for none.
    fn gate(&mut self, settings: &Settings, standing: &Standing) -> Result<RunningGate, StatusError> {
        match RunningGate::read(&settings.firewall.run_directory)? {
            Some(gate) if gate.lives() => {
                match &gate.exemption {
                    Some(exemption) => self.exemption(exemption, standing)?,
                    None => self.problems.push(
                        "the gate runs as root or may not mark its connections: it cannot be let through"
                            .into(),
                    ),
                }
                Ok(gate)
            }
            _ => {
                self.problems.push(
                    "no gate runs: the seal keeps every caller out, since none reaches the kubelet through \
                     the gate; start it"
                        .into(),
                );
                Ok(RunningGate::absent(
                    &settings.listen,
                    &settings.read_only_port.listen,
                ))
            }
        }
    }

    fn exemption(&mut self, exemption: &Exemption, standing: &Standing) -> Result<(), StatusError> {
        let without = match standing.firewall {
            Firewall::Iptables(_) => Some("iptables cannot go by a cgroup that comes and goes"),
            Firewall::Nft(_) => exemption.cgroup.is_none().then_some("no cgroup v2"),
        };
        if let Some(without) = without {
            self.notes.push(format!(
                "{without}: the gate is known by its uid and mark alone, which a process with CAP_SETUID and \
                 CAP_NET_RAW on this node can find out by trying"
            ));
        }
        if !standing
            .rules
            .admits(exemption)
            .map_err(StandingError::Firewall)?
        {
            self.notes.push(
                "the running gate is not let through to the kubelet: kubelet-gate firewall admit".into(),
            );
        }
        Ok(())
    }

    /// The rules go by the list that was confirmed, the gate by the one of its configuration.
    fn sources(&mut self, plan: &Plan, settings: &Settings) {
        if plan.sources != settings.sources.port.distinct() {
            self.notes.push(
                "the seal goes by another sources.port than the configuration: a source has to be in both; \
                 kubelet-gate firewall apply takes up the new one"
                    .into(),
            );
        }
    }

    /// Callers that reached the kubelet over the wire before the seal, and reach nothing now. Without a wire,
    /// what the last command found counts, as it does for the gate.
    fn kept_out(&mut self, state: &State, plan: &Plan, tried: Option<OverWire>) -> Result<(), StatusError> {
        self.problems.extend(match tried {
            Some(tried) => kept_out::look(state, plan, &host::addresses()?, &tried)?,
            None => WireMemory::load(state)?.kept_out,
        });
        Ok(())
    }

    /// Dials every port from every side that there is; yields what was dialled over a wire, if there was one.
    fn dial(
        &mut self,
        plan: &Plan,
        (gate, sources): (&RunningGate, &Networks),
        wire: bool,
    ) -> Result<Option<OverWire>, StatusError> {
        let mut over_wire = None;
        let addresses = host::addresses()?;
        let to = plan.dialled(&addresses);
        let root = rustix::process::geteuid().is_root();
        self.tried("this user", dial(&to), gate, sources);
        if root {
            let dialled = host::as_user(OTHER_USER, || dial(&to)).and_then(|dialled| dialled);
            self.tried("another user", dialled, gate, sources);
        } else {
            self.notes
                .push("not tried as another user, nor from another network: run it as root".into());
        }
        let signs = unlisted::signs();
        if !signs.is_empty() {
            self.notes.push(format!(
                "not tried from another machine: a firewall that neither nft nor iptables lists may be in \
                 force ({}), and only packets from there show what it lets through",
                signs.join("; ")
            ));
        }
        if root && wire {
            Wire::sweep();
            match Wire::new(&addresses) {
                Ok(wire) => {
                    // Loopback addresses would be the other network's own.
                    let there: Vec<IpAddr> = addresses
                        .iter()
                        .copied()
                        .filter(|address| !address.is_loopback())
                        .collect();
                    let to = plan.dialled(&there);
                    let dialled = wire.run(|| dial(&to)).and_then(|dialled| dialled);
                    let dialled = dialled.map(|dialled| self.shown(&wire, &there, dialled));
                    self.tried("another network", dialled, gate, sources);
                    over_wire = Some(OverWire::dial_over(&wire, plan, &addresses)?);
                }
                Err(error) => self
                    .notes
                    .push(format!("not tried from another network: {error}")),
            }
        }
        for connection in connections::ungated(plan, gate.uid)? {
            self.notes.push(format!(
                "open past the gate since before the seal: {} to {}; firewall apply --cut resets it",
                connection.peer, connection.kubelet
            ));
        }
        Ok(over_wire)
    }

    /// Leaves out the addresses of which a wire shows nothing: where no answer of any kind came, and none
    /// does on a port that is open.
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

    /// What took each of these, seen from the node, while they are open.
    fn tried(
        &mut self,
        from: &'static str,
        dialled: io::Result<Vec<Dialled>>,
        gate: &RunningGate,
        sources: &Networks,
    ) {
        match dialled {
            Ok(dialled) => {
                let tried = dialled.iter().map(|(address, outcome)| {
                    let reached = reached(outcome, gate, sources);
                    Tried {
                        from,
                        address: *address,
                        sealed: reached.is_sealed(),
                        reached: reached.to_string(),
                    }
                });
                self.tried.extend(tried);
            }
            Err(error) => self.problems.push(format!("not tried from {from}: {error}")),
        }
    }
}

/// Dials in the network namespace, and as the user, of this thread.
fn dial(addresses: &[SocketAddr]) -> io::Result<Vec<Dialled>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(dial_all(addresses)))
}
