//! Everything that speaks against sealing this node now. All of it is found before any is told, and each
//! names its way out.

use std::net::{IpAddr, SocketAddr};

use procfs::process::{Process, all_processes};

use super::exemption::Exemption;
use super::foreign;
use super::observe::Observed;
use super::plan::{Plan, PortKind};
use super::running_gate::RunningGate;
use crate::error::chain;
use crate::host::sockets;
use crate::settings::Settings;

/// The user that programs without rights share on every distribution, and the one that a kernel shows for
/// users outside of its user namespace.
const SHARED: u32 = 65534;

/// What the operator knows already and wants all the same.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// Rules of other programs that take connections to the sealed ports away, or use the mark's bits.
    pub foreign_rules: bool,
    /// The gate has not served the API server yet.
    pub unseen_api_server: bool,
    /// Health checks on this node that call the read-only port will fail.
    pub closed_health_checks: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Refusals(Vec<String>);

impl Refusals {
    /// What speaks against sealing by `plan`, and the gate that it would be sealed around, if one runs.
    /// `served` asks a gate, whose admin port may be at an address, where the API server was served lately,
    /// if it was. `None`: the gate cannot be asked.
    pub fn of<E: std::error::Error + 'static>(
        settings: &Settings,
        plan: &Plan,
        accepted: Accepted,
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
                    let way_out = "add it, or write sources.excludeApiServer: true if that is meant";
                    refusals.add(format!("{left_out}; {way_out}"));
                }
            }
            if !accepted.unseen_api_server {
                refusals.api_server(served);
            }
        }
        let exemption = gate.as_ref().and_then(|gate| gate.exemption.as_ref());
        if !accepted.foreign_rules {
            refusals.foreign_rules(plan, exemption);
        }
        if !accepted.closed_health_checks && !settings.read_only_port.healthz {
            refusals.health_checkers(settings, plan, gate.as_ref());
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

    fn gate(&mut self, settings: &Settings) -> Option<RunningGate> {
        let directory = settings.firewall.run_directory.display();
        let gate = match RunningGate::read(&settings.firewall.run_directory) {
            Ok(Some(gate)) if gate.lives() => gate,
            Ok(Some(gate)) => {
                self.add(format!(
                    "no gate runs: the one that wrote to firewall.runDirectory {directory} was process {}, \
                     and that is gone; start it",
                    gate.pid
                ));
                return None;
            }
            Ok(None) => {
                self.add(format!(
                    "no gate runs on this node: none has written to firewall.runDirectory {directory}; start \
                     it, and make sure that the directory is there and the gate's own"
                ));
                return None;
            }
            Err(error) => {
                self.add(format!(
                    "whether a gate runs cannot be seen: firewall.runDirectory: {error}"
                ));
                return None;
            }
        };
        match (gate.uid, &gate.exemption) {
            (0, _) => self.add(
                "the gate runs as root, so that its connections cannot be told from those of the rest of the \
                 node; run it as a user of its own, as config/systemd/kubelet-gate.service does"
                    .into(),
            ),
            (SHARED, _) => self.add(format!(
                "the gate runs as uid {SHARED}, as other programs do; run it as a user of its own"
            )),
            (_, None) => self.add(
                "the gate may not mark its connections; give it CAP_NET_ADMIN, as \
                 config/systemd/kubelet-gate.service does, and restart it"
                    .into(),
            ),
            (uid, Some(exemption)) => {
                if let Some(other) = other_of(uid, &gate, exemption) {
                    self.add(format!(
                        "uid {uid}, the gate's, is not its own: {other} runs as the same user; give the gate \
                         a user of its own"
                    ));
                }
            }
        }
        Some(gate)
    }

    fn api_server<E: std::error::Error + 'static>(&mut self, served: Option<Result<Option<Vec<IpAddr>>, E>>) {
        match served {
            None => self.add(
                "whether the API server has been served cannot be asked: admin.listen and admin.socket are \
                 off; switch one on, or give --accept-unseen-api-server"
                    .into(),
            ),
            Some(Ok(Some(_))) => {}
            Some(Ok(None)) => self.add(
                "the gate has not served the API server yet: nothing shows that logs, exec and metrics of \
                 this node would still work; have it come once (kubectl logs of any pod of this node, with \
                 the gate's port as the node's kubelet port), or give --accept-unseen-api-server"
                    .into(),
            ),
            Some(Err(error)) => self.add(format!(
                "whether the API server has been served cannot be seen: {}",
                chain(&error)
            )),
        }
    }

    fn foreign_rules(&mut self, plan: &Plan, exemption: Option<&Exemption>) {
        let sealed = plan.ports.iter().filter(|port| port.kind != PortKind::Gate);
        let ports: Vec<u16> = sealed.map(|port| port.port).collect();
        let listings = match foreign::listings() {
            Ok(listings) => listings,
            Err(error) => return self.add(format!("what other rules do cannot be seen: {error}")),
        };
        for (tool, text) in listings {
            let named = foreign::naming(&tool, &text, &ports).into_iter();
            for rule in named.filter(|rule| rule.takes_away) {
                self.add(format!(
                    "another rule refuses or redirects connections to these ports ({}): {}; a redirection \
                     that comes before the seal's is not undone; remove it, or give --accept-foreign-rules",
                    rule.place, rule.rule
                ));
            }
        }
        let Some(exemption) = exemption else { return };
        let used = match foreign::marks_in_use() {
            Ok(used) => used & exemption.mark.mask,
            Err(error) => {
                return self.add(format!(
                    "which bits of the packet mark are in use cannot be seen: {error}"
                ));
            }
        };
        if used != 0 {
            self.add(format!(
                "bits {used:#010x} of the packet mark are used by other rules of this node, and by the gate \
                 (mask {:#010x}): set firewall.mark to bits that are free, restart the gate; or give \
                 --accept-foreign-rules",
                exemption.mark.mask
            ));
        }
    }

    fn health_checkers(&mut self, settings: &Settings, plan: &Plan, gate: Option<&RunningGate>) {
        let ports: Vec<u16> = plan
            .ports
            .iter()
            .filter(|port| port.kind == PortKind::ReadOnly)
            .map(|port| port.port)
            .collect();
        let way_out = "move it to the authenticated port or to 10248, or set readOnlyPort.healthz with the \
                       tombstone on a port of its own, or give --close-health-checkers";
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
                    self.add(format!(
                        "something on this node calls the read-only port {port} (a connection of the last \
                         minute; firewall observe names it), and would be refused: {way_out}"
                    ));
                }
            }
            Err(error) => self.add(format!(
                "the callers of the read-only port cannot be seen: {error}"
            )),
        }
        let observed = match Observed::load(&settings.firewall.state_directory) {
            Ok(observed) => observed.unwrap_or_default(),
            Err(error) => return self.add(format!("what firewall observe saw cannot be read: {error}")),
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
            self.add(format!(
                "{} (uid {}) on this node called the read-only port {} {} times until {}, and would be \
                 refused: {way_out}; then observe again",
                process.command.as_deref().unwrap_or("a process"),
                process.uid,
                caller.port,
                caller.count,
                caller.last
            ));
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
