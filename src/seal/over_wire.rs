//! What another network reaches of this node, tried with packets, and what of that is remembered.
//!
//! Only packets show what a firewall lets through. They come over a wire from a network namespace, as those
//! of a neighbour or a pod do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::file::{self, FileError};
use super::plan::Plan;
use super::state::State;
use crate::host::Wire;

/// In `firewall.stateDirectory`.
const FILE: &str = "wire.json";
/// As for a first packet that is lost, twice.
const PATIENCE: Duration = Duration::from_millis(3500);

/// What answered another network, and why the rest did not.
#[derive(Debug)]
pub struct OverWire {
    answers: BTreeMap<SocketAddr, Option<String>>,
    /// Where the packets came from.
    sources: [IpAddr; 2],
}

/// Which ports of the kubelet another network reached before the seal, and what was found of that last.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WireMemory {
    /// Reached before the seal; the plan brings their callers to the gate.
    pub reached: BTreeSet<SocketAddr>,
    /// What keeps callers out of these ports, by the last look of a command.
    #[serde(default)]
    pub kept_out: Option<String>,
}

// === impl OverWire ===

impl OverWire {
    /// Makes a wire, and dials from there each port that `plan` brings to the gate, and the gate's own.
    ///
    /// # Errors
    /// This is not root, or no wire can be made.
    pub fn dial(plan: &Plan, addresses: &[IpAddr]) -> io::Result<Self> {
        Wire::sweep();
        Self::dial_over(&Wire::new(addresses)?, plan, addresses)
    }

    /// The same over a wire that is there.
    pub(super) fn dial_over(wire: &Wire, plan: &Plan, addresses: &[IpAddr]) -> io::Result<Self> {
        let mut to = BTreeSet::new();
        // A loopback address would be the other network's own.
        for address in addresses.iter().filter(|address| !address.is_loopback()) {
            for port in plan.ports.iter().filter(|port| port.kind.leads_around()) {
                let gate = port.taken_at(*address);
                to.extend(gate.map(|gate| SocketAddr::new(*address, gate)));
                to.extend(gate.map(|_| SocketAddr::new(*address, port.port)));
            }
        }
        let answers = wire.run(|| dial_at_once(&to))??;
        Ok(Self {
            answers,
            sources: wire.sources(),
        })
    }

    /// Whether it was dialled and answered.
    pub(super) fn reached(&self, address: SocketAddr) -> bool {
        matches!(self.answers.get(&address), Some(None))
    }

    /// Whether this port answered on any address.
    pub(super) fn reached_anywhere(&self, port: u16) -> bool {
        self.answers
            .iter()
            .any(|(address, why)| address.port() == port && why.is_none())
    }

    /// Why it did not answer.
    pub(super) fn why(&self, address: SocketAddr) -> Option<&str> {
        self.answers.get(&address)?.as_deref()
    }

    /// Whether `plan` itself refuses packets of this family from there: `sources.port` leaves them out, and
    /// then the wire shows nothing.
    pub(super) fn is_left_out(&self, plan: &Plan, ipv4: bool) -> bool {
        let source = self.sources.iter().find(|source| source.is_ipv4() == ipv4);
        let allowed = plan.sources(ipv4);
        allowed.is_some_and(|allowed| {
            !source.is_some_and(|source| allowed.iter().any(|network| network.contains(*source)))
        })
    }

    /// The ports of the kubelet that were reached.
    pub(super) fn kubelet_ports(&self, plan: &Plan) -> BTreeSet<SocketAddr> {
        let of_kubelet = |address: &&SocketAddr| {
            plan.ports
                .iter()
                .any(|port| port.kind.leads_around() && port.port == address.port())
        };
        let reached = self.answers.keys().filter(|address| self.reached(**address));
        reached.filter(of_kubelet).copied().collect()
    }
}

/// Dials all of them, from this thread's network namespace.
fn dial_at_once(to: &BTreeSet<SocketAddr>) -> io::Result<BTreeMap<SocketAddr, Option<String>>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut dialling = JoinSet::new();
        for address in to.iter().copied() {
            dialling.spawn(async move {
                let dialled = timeout(PATIENCE, TcpStream::connect(address))
                    .await
                    .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")));
                if let Ok(stream) = &dialled {
                    // Ended by a reset, it is in no table of connections afterwards.
                    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                }
                // Refused by a firewall, a connection is not reset: the gate took it, and closed it by
                // sources.port.
                let failed = dialled
                    .err()
                    .filter(|error| error.kind() != io::ErrorKind::ConnectionReset);
                (address, failed.map(|error| error.to_string()))
            });
        }
        let mut answers = BTreeMap::new();
        while let Some(dialled) = dialling.join_next().await {
            let (address, why) = dialled.map_err(io::Error::other)?;
            answers.insert(address, why);
        }
        Ok(answers)
    })
}

// === impl WireMemory ===

impl WireMemory {
    /// What is remembered on this node; nothing if nothing was ever tried.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn load(state: &State) -> Result<Self, FileError> {
        Ok(file::read(&state.directory().join(FILE))?.unwrap_or_default())
    }

    /// Remembers it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, state: &State) -> Result<(), FileError> {
        file::replace(&state.directory().join(FILE), &file::json(self), file::READABLE)
    }

    /// Forgets it, as if there had never been a seal.
    ///
    /// # Errors
    /// The file cannot be deleted.
    pub fn forget(state: &State) -> Result<(), FileError> {
        file::delete(&state.directory().join(FILE))
    }

    /// What was reached before and is dead now. Where the node has none of the addresses of then any more, a
    /// port is dead if it is dead on each address of the same family.
    pub(super) fn dead(&self, plan: &Plan, here: &[IpAddr], now: &OverWire) -> BTreeSet<SocketAddr> {
        let families: BTreeSet<(u16, bool)> = self
            .reached
            .iter()
            .map(|address| (address.port(), address.is_ipv4()))
            .collect();
        let mut all_dead = BTreeSet::new();
        for (number, ipv4) in families {
            let Some(port) = plan.ports.iter().find(|port| port.port == number) else {
                continue;
            };
            if now.is_left_out(plan, ipv4) {
                continue;
            }
            let of_family = here
                .iter()
                .filter(|address| address.is_ipv4() == ipv4 && !address.is_loopback());
            let led: Vec<SocketAddr> = of_family
                .filter(|address| port.taken_at(**address).is_some())
                .map(|address| SocketAddr::new(*address, number))
                .collect();
            let still: Vec<SocketAddr> = led
                .iter()
                .copied()
                .filter(|address| self.reached.contains(address))
                .collect();
            let is_dead = |address: &SocketAddr| !now.reached(*address);
            match still.is_empty() {
                false => all_dead.extend(still.into_iter().filter(is_dead)),
                true if led.iter().all(is_dead) => all_dead.extend(led),
                true => {}
            }
        }
        all_dead
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::seal::plan::{PortKind, SealedPort};
    use crate::settings::Backend;

    fn plan() -> Plan {
        Plan {
            backend: Backend::Nftables,
            ports: vec![SealedPort {
                port: 10250,
                kind: PortKind::Secure,
                redirect_ipv4: Some(19443),
                redirect_ipv6: None,
                gate_addresses: vec!["2001:db8::1".parse().unwrap()],
            }],
            sources: Vec::new(),
        }
    }

    fn set(addresses: &[&str]) -> BTreeSet<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    /// (Not seen red.)
    #[test]
    fn a_port_is_dead_on_the_addresses_of_then_or_on_each_of_today() {
        let memory = WireMemory {
            reached: set(&["192.0.2.1:10250", "192.0.2.2:10250", "[2001:db8::1]:10250"]),
            kept_out: None,
        };
        let dead = |here: &[&str], answering: &[&str], plan: &Plan| {
            let here: Vec<IpAddr> = here.iter().map(|address| address.parse().unwrap()).collect();
            let now = OverWire {
                answers: set(answering)
                    .into_iter()
                    .map(|address| (address, None))
                    .collect(),
                sources: ["198.18.0.2", "fd6b::2"].map(|address| address.parse().unwrap()),
            };
            memory.dead(plan, &here, &now)
        };
        let all = &["192.0.2.1", "192.0.2.2", "2001:db8::1"];
        let none: &[&str] = &[];
        assert_eq!(dead(all, none, &plan()), memory.reached);
        let answering = &["192.0.2.1:10250", "[2001:db8::1]:10250"];
        assert_eq!(dead(all, answering, &plan()), set(&["192.0.2.2:10250"]));
        // Another address, as after a new lease.
        assert_eq!(dead(&["192.0.2.9"], none, &plan()), set(&["192.0.2.9:10250"]));
        assert_eq!(
            dead(&["192.0.2.9", "192.0.2.8"], &["192.0.2.8:10250"], &plan()),
            set(none)
        );
        // A family that the plan does not bring to the gate, and a port that it does not know.
        assert_eq!(dead(&["2001:db8::9"], none, &plan()), set(none));
        let mut other = plan();
        other.ports[0].port = 1;
        assert_eq!(dead(all, none, &other), set(none));
        // A wire that the plan itself refuses shows nothing.
        let mut listed = plan();
        listed.sources = vec![crate::network::Network::parse("192.0.2.0/24").unwrap()];
        assert_eq!(dead(all, none, &listed), set(none));
    }
}
