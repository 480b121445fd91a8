//! What is to be sealed: facts about ports, nothing about any firewall's language.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::digest::sha256;
use crate::network::Network;
use crate::settings::{Backend, Settings, UpstreamUrl};

/// What the kubelet's ports are by default, and by custom.
const READ_ONLY: u16 = 10255;
const HEALTHZ: u16 = 10248;

/// A seal, as it is printed, tried, confirmed and kept. It names nothing that lives shorter than the node's
/// set-up: the gate's exemption is not in it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    /// The packet filter that carries it.
    pub backend: Backend,
    /// Every port, each once, in ascending order.
    pub ports: Vec<SealedPort>,
    /// `sources.port`: a connection to the gate from elsewhere is refused before it reaches the gate. Empty:
    /// every address may connect, and the plan reads as those of versions without this key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Network>,
}

/// A port of the kubelet, closed to all but the gate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SealedPort {
    /// The port.
    pub port: u16,
    /// What it is to the kubelet.
    pub kind: PortKind,
    /// The gate's own port that IPv4 connections are brought to; `None`: they are only refused.
    pub redirect_ipv4: Option<u16>,
    /// The same for IPv6.
    pub redirect_ipv6: Option<u16>,
    /// Addresses on which the gate itself holds this very port; they are left alone.
    pub gate_addresses: Vec<IpAddr>,
}

/// What a port is to the kubelet.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PortKind {
    /// 10250: TLS, everything.
    Secure,
    /// 10255: pods, metrics and specs, without authentication.
    ReadOnly,
    /// 10248: `/healthz`. Closed from outside only: local health checks are what it is for.
    Healthz,
    /// The gate's own TLS port, where that is not the kubelet's. Closed to what is not in `sources.port`.
    Gate,
}

/// There is nothing to plan a seal by.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The kubelet has no port.
    #[error(
        "upstream.url: {0} is a socket in the file system: its permissions decide which processes reach it, \
         not a firewall"
    )]
    NoPort(String),
    /// Once the node is sealed, no client would reach the gate.
    #[error(
        "listen: {listen} is neither a port of the gate's own on every address, to which the kubelet's port \
         {port} could be redirected, nor that very port on an address of this node: write listen: \
         [\"0.0.0.0:19443\"], or \"[::]:19443\" for IPv6 as well"
    )]
    Unreachable {
        /// As configured.
        listen: String,
        /// The kubelet's port.
        port: u16,
    },
}

// === impl Plan ===

impl Plan {
    /// What these settings need: the port behind the gate, every other port that a kubelet listens on
    /// (`listening`), 10255 whether or not it is open today, and 10248.
    ///
    /// # Errors
    /// The kubelet has no port, or no client would reach the gate.
    pub fn of(settings: &Settings, listening: &[u16], backend: Backend) -> Result<Self, PlanError> {
        let secure = match &settings.upstream.url {
            UpstreamUrl::Http(address) | UpstreamUrl::Https(address) => address.port(),
            UpstreamUrl::Unix(path) => return Err(PlanError::NoPort(path.display().to_string())),
        };
        let read_only: BTreeSet<u16> = listening
            .iter()
            .copied()
            .chain([READ_ONLY])
            .filter(|port| *port != secure && *port != HEALTHZ)
            .collect();
        let tombstone = &settings.read_only_port.listen;
        let sealed = SealedPort::of(secure, PortKind::Secure, &settings.listen);
        if sealed.redirect_ipv4.or(sealed.redirect_ipv6).is_none() && sealed.gate_addresses.is_empty() {
            let listen: Vec<String> = settings.listen.iter().map(ToString::to_string).collect();
            return Err(PlanError::Unreachable {
                listen: listen.join(", "),
                port: secure,
            });
        }
        let mut ports = vec![sealed];
        ports.extend(
            read_only
                .into_iter()
                .map(|port| SealedPort::of(port, PortKind::ReadOnly, tombstone)),
        );
        if secure != HEALTHZ {
            ports.push(SealedPort::of(HEALTHZ, PortKind::Healthz, &[]));
        }
        let sources = settings.sources.port.distinct();
        if !sources.is_empty() {
            let gate: BTreeSet<u16> = settings.listen.iter().map(SocketAddr::port).collect();
            let own = gate
                .into_iter()
                .filter(|own| ports.iter().all(|port| port.port != *own));
            let own: Vec<SealedPort> = own
                .map(|port| SealedPort::of(port, PortKind::Gate, &[]))
                .collect();
            ports.extend(own);
        }
        ports.sort_by_key(|port| port.port);
        Ok(Self {
            backend,
            ports,
            sources,
        })
    }

    /// Whether callers of the kubelet's own port are brought to the same gate, from the same addresses, as by
    /// the other plan.
    pub(super) fn serves_as(&self, other: &Self) -> bool {
        let secure = |plan: &Self| {
            plan.ports
                .iter()
                .find(|port| port.kind == PortKind::Secure)
                .cloned()
        };
        secure(self) == secure(other) && self.sources == other.sources
    }

    /// The networks of one family that may reach the gate; `None`: all of it may.
    pub(super) fn sources(&self, ipv4: bool) -> Option<Vec<Network>> {
        let of_family = self.sources.iter().filter(|network| network.is_ipv4() == ipv4);
        let networks: Vec<Network> = of_family.copied().collect();
        let open = self.sources.is_empty() || networks.iter().any(Network::is_everything);
        (!open).then_some(networks)
    }

    /// What to dial to see whether a connection bypasses the gate: each port on each address. That includes
    /// those where the gate itself holds the port: no rule protects them from a process that takes the gate's
    /// place.
    #[must_use]
    pub fn dialled(&self, addresses: &[IpAddr]) -> Vec<SocketAddr> {
        let ports = self.ports.iter().filter(|port| port.kind.leads_around());
        ports
            .flat_map(|port| {
                addresses
                    .iter()
                    .map(|address| SocketAddr::new(*address, port.port))
            })
            .collect()
    }

    /// What tells a plan from every other one, short enough for the name of a chain.
    #[must_use]
    pub fn id(&self) -> String {
        // A plan can always be written: it is numbers, names and addresses.
        let text = serde_json::to_vec(self).unwrap_or_default();
        sha256(&text)[..16].to_owned()
    }

    /// One of everything, to try a packet filter with.
    pub(super) fn sample(backend: Backend) -> Self {
        let listen = [
            SocketAddr::from(([0_u16; 8], 19443)),
            SocketAddr::from(([127, 0, 0, 2], 10250)),
        ];
        let ports = vec![
            SealedPort::of(HEALTHZ, PortKind::Healthz, &[]),
            SealedPort::of(10250, PortKind::Secure, &listen),
            SealedPort::of(READ_ONLY, PortKind::ReadOnly, &listen),
            SealedPort::of(19443, PortKind::Gate, &[]),
        ];
        Self {
            backend,
            ports,
            sources: ["10.0.0.0/8", "192.0.2.10", "2001:db8::/32"]
                .iter()
                .filter_map(|text| Network::parse(text).ok())
                .collect(),
        }
    }
}

// === impl SealedPort ===

impl SealedPort {
    /// `listen` is where the gate, or the tombstone, takes what is meant for this port.
    fn of(port: u16, kind: PortKind, listen: &[SocketAddr]) -> Self {
        let everywhere = |ipv6: bool| {
            let takes = |address: &&SocketAddr| {
                let wildcard = address.ip().is_unspecified() && address.port() != port;
                // A socket on [::] takes IPv4 as well.
                wildcard && (address.is_ipv6() || !ipv6)
            };
            listen.iter().find(takes).map(SocketAddr::port)
        };
        let held = listen
            .iter()
            .filter(|address| address.port() == port && !address.ip().is_unspecified());
        Self {
            port,
            kind,
            redirect_ipv4: everywhere(false),
            redirect_ipv6: everywhere(true),
            gate_addresses: held.map(|address| address.ip().to_canonical()).collect(),
        }
    }

    /// The port at which the gate takes what is meant for this one on `address`; `None`: that is refused.
    pub(super) fn taken_at(&self, address: IpAddr) -> Option<u16> {
        if self.gate_addresses.contains(&address) {
            return Some(self.port);
        }
        match address.is_ipv4() {
            true => self.redirect_ipv4,
            false => self.redirect_ipv6,
        }
    }
}

// === impl PortKind ===

impl PortKind {
    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Secure => "kubelet",
            Self::ReadOnly => "read-only port",
            Self::Healthz => "healthz",
            Self::Gate => "gate",
        }
    }

    /// Whether a connection to it from this node could reach the kubelet around the gate.
    #[must_use]
    pub fn leads_around(self) -> bool {
        matches!(self, Self::Secure | Self::ReadOnly)
    }
}
