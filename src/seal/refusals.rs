//! Everything that speaks against sealing this node now. All of it is found before any is told, and each
//! names its way out.

use std::net::{IpAddr, SocketAddr};

use procfs::process::{Process, all_processes};

use super::exemption::Exemption;
use super::foreign;
use super::observe::Observed;
use super::plan::{Plan, PortKind, SealedPort};
use super::refusal::{Refusal, SHARED};
use super::running_gate::RunningGate;
use crate::error::chain;
use crate::host::sockets;
use crate::settings::Settings;

/// What the operator knows already and wants all the same.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// Rules of other programs that take connections to the sealed ports away, or use the mark's bits.
    pub foreign_rules: bool,
    /// The gate has not served the API server yet.
    pub unseen_api_server: bool,
    /// Health checks on this node that call the read-only port will fail.
    pub closed_health_checks: bool,
    /// The trial is confirmed only once the API server has come through it.
    pub verified_later: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Refusals(Vec<String>);

impl Refusals {
    /// What speaks against sealing by `plan`, and the gate that it would be sealed around, if one runs.
    /// `served` asks a gate, whose admin port may be at an address, where the API server was served lately,
    /// if it was. `None`: the gate cannot be asked. What `confirmed`, the plan that was confirmed last, does
    /// needs no second proof: a gate that has restarted has forgotten which clients it served.
    pub fn of<E: std::error::Error + 'static>(
        settings: &Settings,
        plan: &Plan,
        accepted: Accepted,
        confirmed: Option<&Plan>,
        served: impl FnOnce(Option<SocketAddr>) -> Option<Result<Option<Vec<IpAddr>>, E>>,
    ) -> (Self, Option<RunningGate>) {
        let mut refusals = Self::default();
        let gate = refusals.gate(settings);
        if let Some(gate) = &gate {
            let served = served(gate.admin);
            if let Some(Ok(Some(addresses))) = &served
                && !settings.sources.exclude_api_server
            {
                for left_out in settings.sources.without_api_server(addresses) {
                    refusals.refuse(Refusal::ApiServerLeftOut(left_out.to_string()));
                }
            }
            let known = confirmed.is_some_and(|confirmed| plan.serves_as(confirmed));
            if !accepted.unseen_api_server && !known {
                refusals.api_server(served, accepted.verified_later);
            }
        }
        let exemption = gate.as_ref().and_then(|gate| gate.exemption.as_ref());
        if !accepted.foreign_rules {
            refusals.foreign_rules(plan, exemption);
        }
        if !accepted.closed_health_checks && !settings.read_only_port.healthz {
            refusals.health_checkers(settings, plan, confirmed, gate.as_ref());
        }
        (refusals, gate)
    }

    /// One line each; empty if there are none.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// Adds a reason.
    pub fn add(&mut self, why: String) {
        self.0.push(why);
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.add(refusal.to_string());
    }

    fn gate(&mut self, settings: &Settings) -> Option<RunningGate> {
        let directory = settings.firewall.run_directory.clone();
        let gate = match RunningGate::read(&directory) {
            Ok(Some(gate)) if gate.lives() => gate,
            Ok(Some(gate)) => {
                let pid = gate.pid;
                self.refuse(Refusal::GateIsGone { directory, pid });
                return None;
            }
            Ok(None) => {
                self.refuse(Refusal::NoGate(directory));
                return None;
            }
            Err(error) => {
                self.refuse(Refusal::GateUnknown(error.to_string()));
                return None;
            }
        };
        match (gate.uid, &gate.exemption) {
            (0, _) => self.refuse(Refusal::GateIsRoot),
            (SHARED, _) => self.refuse(Refusal::UserIsCommon),
            (_, None) => self.refuse(Refusal::MayNotMark),
            (uid, Some(exemption)) => {
                if let Some(other) = other_of(uid, &gate, exemption) {
                    self.refuse(Refusal::UserIsShared { uid, other });
                }
            }
        }
        Some(gate)
    }

    fn api_server<E: std::error::Error + 'static>(
        &mut self,
        served: Option<Result<Option<Vec<IpAddr>>, E>>,
        verified_later: bool,
    ) {
        match served {
            None => self.refuse(Refusal::ApiServerUnasked),
            Some(Ok(Some(_))) => {}
            Some(Ok(None)) if verified_later => {}
            Some(Ok(None)) => self.refuse(Refusal::ApiServerUnseen),
            Some(Err(error)) => self.refuse(Refusal::ApiServerUnknown(chain(&error))),
        }
    }

    fn foreign_rules(&mut self, plan: &Plan, exemption: Option<&Exemption>) {
        let sealed = plan.ports.iter().filter(|port| port.kind != PortKind::Gate);
        let ports: Vec<u16> = sealed.map(|port| port.port).collect();
        let listings = match foreign::listings() {
            Ok(listings) => listings,
            Err(error) => return self.refuse(Refusal::ForeignRulesUnknown(error.to_string())),
        };
        for (tool, text) in listings {
            let named = foreign::naming(&tool, &text, &ports).into_iter();
            for rule in named.filter(|rule| rule.takes_away) {
                let (place, rule) = (rule.place, rule.rule);
                self.refuse(Refusal::ForeignRule { place, rule });
            }
        }
        let Some(exemption) = exemption else { return };
        let mask = exemption.mark.mask;
        match foreign::marks_in_use().map(|used| used & mask) {
            Ok(0) => {}
            Ok(used) => self.refuse(Refusal::MarksUsed { used, mask }),
            Err(error) => self.refuse(Refusal::MarksUnknown(error.to_string())),
        }
    }

    fn health_checkers(
        &mut self,
        settings: &Settings,
        plan: &Plan,
        confirmed: Option<&Plan>,
        gate: Option<&RunningGate>,
    ) {
        let closed_already =
            |port: &SealedPort| confirmed.is_some_and(|confirmed| confirmed.ports.contains(port));
        let ports: Vec<u16> = plan
            .ports
            .iter()
            .filter(|port| port.kind == PortKind::ReadOnly && !closed_already(port))
            .map(|port| port.port)
            .collect();
        // The end that closes a connection keeps its row for a minute: a check that comes more often is
        // always there.
        match sockets::tcp() {
            Ok(sockets) => {
                let calls = |port: &u16| {
                    let local = |socket: &&sockets::TcpSocket| {
                        let (here, there) = (socket.local, socket.remote);
                        !socket.listens
                            && (there.port() == *port || here.port() == *port)
                            && (here.ip().is_loopback() || here.ip() == there.ip())
                    };
                    sockets.iter().any(|socket| local(&socket))
                };
                for port in ports.iter().filter(|port| calls(port)) {
                    self.refuse(Refusal::Called(*port));
                }
            }
            Err(error) => self.refuse(Refusal::CallersUnknown(error.to_string())),
        }
        let observed = match Observed::load(&settings.firewall.state_directory) {
            Ok(observed) => observed.unwrap_or_default(),
            Err(error) => return self.refuse(Refusal::ObservedUnknown(error.to_string())),
        };
        for caller in observed
            .callers
            .iter()
            .filter(|caller| ports.contains(&caller.port))
        {
            let Some(process) = &caller.process else { continue };
            if gate.is_some_and(|gate| gate.uid == process.uid) {
                continue;
            }
            self.refuse(Refusal::Observed {
                command: process.command.as_deref().unwrap_or("a process").to_owned(),
                uid: process.uid,
                port: caller.port,
                count: caller.count,
                last: caller.last.clone(),
            });
        }
    }
}

/// A process that runs as the gate's user and is none of the gate's own.
fn other_of(uid: u32, gate: &RunningGate, exemption: &Exemption) -> Option<String> {
    let ours = |process: &Process| {
        process.pid.cast_unsigned() == gate.pid
            || process
                .stat()
                .is_ok_and(|stat| stat.ppid.cast_unsigned() == gate.pid)
            || exemption.cgroup.as_ref().is_some_and(|ours| {
                let groups = process.cgroups().map(|groups| groups.0).unwrap_or_default();
                let unified = groups.iter().find(|group| group.hierarchy == 0);
                unified.is_some_and(|group| group.pathname.trim_start_matches('/') == ours)
            })
    };
    let other = all_processes().ok()?.flatten().find(|process| {
        let status = process.status();
        // A zombie makes no connections.
        let alive = |status: &procfs::process::Status| !status.state.starts_with('Z');
        status.is_ok_and(|status| alive(&status) && [status.ruid, status.euid].contains(&uid))
            && !ours(process)
            // A program that the gate ran, and that has ended meanwhile, has lost its parent's id.
            && process.is_alive()
    })?;
    let command = other.stat().map(|stat| stat.comm).unwrap_or_default();
    Some(format!("process {} ({})", other.pid, command.escape_default()))
}
