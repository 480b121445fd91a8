//! The plan that the configuration and this node's kubelet ask for.

use std::path::Path;

use clap::ValueEnum;

use crate::adopt::kubelet;
use crate::cli::exit::{CliError, Exit};
use crate::cli::terminal::Stream;
use crate::seal::{self, Plan, PortKind};
use crate::settings::{Backend, Settings};

/// `--backend`, over `firewall.backend`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum BackendName {
    /// nft
    Nftables,
    /// The one of the two iptables that this node uses
    Iptables,
    /// iptables-nft
    IptablesNft,
    /// iptables-legacy
    IptablesLegacy,
}

/// The packet filter to use, and the plan for it.
pub(super) fn planned(
    settings: &Settings,
    name: Option<BackendName>,
) -> Result<(seal::Firewall, Plan), CliError> {
    let wanted = match name {
        None => settings.firewall.backend,
        Some(name) => Some(name.backend()),
    };
    let (backend, firewall) =
        seal::Firewall::find(wanted).map_err(|errors| CliError::several(Exit::Failed, errors))?;
    let listening = kubelet::listening_ports(&kubelet::running_kubelets(Path::new("/proc")));
    let plan = Plan::of(settings, &listening, backend).map_err(CliError::failed)?;
    Ok((firewall, plan))
}

/// Says what happens to each port.
pub(super) fn print_ports(plan: &Plan, out: &mut Stream) {
    for port in &plan.ports {
        let to =
            |family: &str, to: Option<u16>| to.map(|to| format!("{family} brought to the gate's port {to}"));
        let mut becomes: Vec<String> = [to("IPv4", port.redirect_ipv4), to("IPv6", port.redirect_ipv6)]
            .into_iter()
            .flatten()
            .collect();
        if !port.gate_addresses.is_empty() {
            let held: Vec<String> = port.gate_addresses.iter().map(ToString::to_string).collect();
            becomes.push(format!("the gate's own on {}", held.join(", ")));
        }
        becomes.push(match port.kind {
            PortKind::Healthz => "closed from outside, open on this node".into(),
            PortKind::Gate => "the gate's own".into(),
            _ => "everything else refused, on this node too".into(),
        });
        if port.kind == PortKind::Gate || port.kind == PortKind::Secure && !plan.sources.is_empty() {
            let sources: Vec<String> = plan.sources.iter().map(ToString::to_string).collect();
            becomes.push(format!(
                "the gate is open to sources.port alone: {}",
                sources.join(", ")
            ));
        }
        let before = format!("  {:>5} {:15} ", port.port, port.kind.name());
        out.hanging(&before, &becomes.join("; "));
    }
}

// === impl BackendName ===

impl BackendName {
    fn backend(self) -> Backend {
        match self {
            Self::Nftables => Backend::Nftables,
            Self::Iptables => seal::iptables_in_use(),
            Self::IptablesNft => Backend::IptablesNft,
            Self::IptablesLegacy => Backend::IptablesLegacy,
        }
    }
}
