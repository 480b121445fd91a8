//! What is to be sealed: facts about ports, nothing about any firewall's language.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Which of the kernel's packet filters carries the seal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// One table of its own, `inet kubelet_gate`, by `nft`.
    Nftables,
    /// Chains of its own in the tables of `iptables-nft` and `ip6tables-nft`.
    IptablesNft,
    /// Chains of its own in the tables of `iptables-legacy` and `ip6tables-legacy`.
    IptablesLegacy,
}

/// A seal, as it is printed, tried, confirmed and kept. It names nothing that lives shorter than the node's set-up: who
/// walks through ([`Exemption`]) is not in it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    /// Who carries it.
    pub backend: Backend,
    /// Every port, each once, in ascending order.
    pub ports: Vec<SealedPort>,
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
    /// 10255: pods, metrics and specs, for anybody.
    ReadOnly,
    /// 10248: `/healthz`. Closed from outside only: local health checks are what it is for.
    Healthz,
}

/// Who walks through the seal: sockets that have all of it. Never written into a plan.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exemption {
    /// The gate's user id; never 0.
    pub uid: u32,
    /// What the gate sets on its sockets (`SO_MARK`).
    pub mark: Mark,
    /// The gate's cgroup below the root of cgroup v2, without a leading slash, such as
    /// `system.slice/kubelet-gate.service`; `None` where there is no cgroup v2.
    pub cgroup: Option<String>,
}

/// A value in some of the bits of the packet mark.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mark {
    /// The bits, all within `mask`, at least one of them set.
    pub value: u32,
    /// The bits that are the gate's.
    pub mask: u32,
}

// === impl Backend ===

impl Backend {
    /// As in `firewall.backend`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        }
    }
}

// === impl Mark ===

/// The value is a secret of the gate.
impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mark(secret in {:#010x})", self.mask)
    }
}
