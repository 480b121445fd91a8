//! Callers that the node's own firewall keeps from the gate: a seal that keeps every caller out is no good
//! seal.
//!
//! The redirect changes a connection's port before the packet comes to the input chain of the host's
//! firewall. A firewall that opens the kubelet's port alone then refuses the gate's.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::file::FileError;
use super::foreign::{self, ForeignRule};
use super::over_wire::{OverWire, WireMemory};
use super::plan::{Plan, PortKind};
use super::standing::{Case, Standing};
use super::state::State;
use crate::host::sockets;

/// What is known of the wire before a seal is tried.
#[derive(Debug, Default)]
pub struct Before {
    /// What to remember once it is tried.
    pub memory: WireMemory,
    /// What speaks against trying it.
    pub refusals: Vec<String>,
    /// What only a trial can show.
    pub warnings: Vec<String>,
}

/// Looks at what another network reaches, before `plan` is tried. With `accepted`, ports that would be dead
/// are neither refused nor remembered. Listings count only with `listings_prove`.
///
/// # Errors
/// The state cannot be read.
pub fn before(
    state: &State,
    standing: Option<&Standing>,
    plan: &Plan,
    here: &[IpAddr],
    tried: &OverWire,
    accepted: bool,
    listings_prove: bool,
) -> Result<Before, FileError> {
    let in_force = standing.filter(|standing| {
        !matches!(standing.case, Case::Ended | Case::Gone) && standing.rules.fingerprint().is_some()
    });
    let mut reached = tried.kubelet_ports(plan);
    if in_force.is_some() {
        // Under a seal, what was reached before it is known from then.
        reached.extend(WireMemory::load(state)?.reached);
    }
    let sealed_by = in_force.and_then(Standing::plan);
    let shows = |ipv4: bool| sealed_by.is_none_or(|plan| !tried.is_left_out(plan, ipv4));
    let gate_at = |address: &SocketAddr| {
        let port = plan.ports.iter().find(|port| port.port == address.port())?;
        Some(SocketAddr::new(address.ip(), port.taken_at(address.ip())?))
    };
    let here = |address: &SocketAddr| here.contains(&address.ip());
    let dead: BTreeSet<SocketAddr> = reached
        .iter()
        .copied()
        .filter(|address| here(address) && shows(address.is_ipv4()))
        // Reached under a seal, it shows that redirected connections pass.
        .filter(|address| in_force.is_none() || !tried.reached(*address))
        .filter(|address| gate_at(address).is_some_and(|gate| !tried.reached(gate)))
        .collect();
    let mut before = Before::default();
    if accepted {
        reached.retain(|address| !dead.contains(address));
    } else {
        let why = match dead.is_empty() {
            false => Some(format!(
                "callers reach {} over the wire, but not {}: {}",
                shown(&dead),
                gate_ports(plan, &dead, tried),
                remedy(plan, &dead, tried)
            )),
            true if in_force.is_none() && listings_prove => unshown(plan, &reached, tried),
            true => None,
        };
        let exception = why.as_ref().and_then(|_| accepting_redirected());
        match (why, exception) {
            (None, _) => {}
            (Some(why), None) => before.refusals.push(why + ", or give --accept-dead-ports"),
            (Some(why), Some(rule)) => before.warnings.push(format!(
                "{why}. A rule accepts redirected connections, so that this may not be needed ({}: {}): \
                 confirm dials again, under the trial",
                rule.place, rule.rule
            )),
        }
    }
    before.memory.reached = reached;
    Ok(before)
}

/// Whether the ports that another network reached before the seal are dead now: what is, and what to do. The
/// finding is noted in the state, where the running gate reads it.
///
/// # Errors
/// The state cannot be read or written.
pub fn look(
    state: &State,
    plan: &Plan,
    here: &[IpAddr],
    tried: &OverWire,
) -> Result<Option<String>, FileError> {
    let mut memory = WireMemory::load(state)?;
    let dead = memory.dead(plan, here, tried);
    let why = dead.iter().next().and_then(|address| tried.why(*address));
    let finding = (!dead.is_empty()).then(|| {
        format!(
            "callers reached {} over the wire before the seal, and reach nothing there now ({}): {}",
            shown(&dead),
            why.unwrap_or("not tried"),
            remedy(plan, &dead, tried)
        )
    });
    if memory.kept_out != finding {
        memory.kept_out.clone_from(&finding);
        memory.save(state)?;
    }
    Ok(finding)
}

/// What to do where a firewall that no listing shows was noticed.
#[must_use]
pub fn unlisted(plan: &Plan, signs: &[String]) -> String {
    let sealed = plan.ports.iter().filter(|port| port.kind.leads_around());
    let of_gate: BTreeSet<u16> = sealed
        .flat_map(|port| [port.redirect_ipv4, port.redirect_ipv6])
        .flatten()
        .collect();
    let of_gate: Vec<u16> = of_gate.into_iter().collect();
    let kubelet: Vec<u16> = plan
        .ports
        .iter()
        .filter(|port| port.kind.leads_around())
        .map(|port| port.port)
        .collect();
    format!(
        "a firewall that neither nft nor iptables lists may be in force on this node ({}). A listing proves \
         nothing about it, nor does the network namespace from which this command dials: only packets that \
         come over the wire from other machines do. Wherever its host policies open TCP {}, open TCP {} as \
         well (Cilium: CiliumClusterwideNetworkPolicy with a nodeSelector; Calico: GlobalNetworkPolicy for \
         HostEndpoints), and confirm only once other machines reach the gate through the seal; \
         --confirm-when-verified waits for the API server",
        signs.join("; "),
        listed(&kubelet),
        listed(&of_gate)
    )
}

/// `port 10250 (192.0.2.10, 2001:db8::10)`.
fn shown(addresses: &BTreeSet<SocketAddr>) -> String {
    let ports: BTreeSet<u16> = addresses.iter().map(SocketAddr::port).collect();
    let of_port = |port: &u16| {
        let on = addresses.iter().filter(|address| address.port() == *port);
        let on: Vec<String> = on.map(|address| address.ip().to_string()).collect();
        format!("{port} ({})", on.join(", "))
    };
    let ports: Vec<String> = ports.iter().map(of_port).collect();
    ports.join(" and ")
}

/// `the gate's ports 19443, 19255`.
fn gate_ports(plan: &Plan, dead: &BTreeSet<SocketAddr>, tried: &OverWire) -> String {
    match shut(plan, dead, tried).as_slice() {
        [port] => format!("the gate's port {port}"),
        ports => format!("the gate's ports {}", listed(ports)),
    }
}

fn listed(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    ports.join(", ")
}

/// The gate's own ports that were not reached on the addresses of `dead`.
fn shut(plan: &Plan, dead: &BTreeSet<SocketAddr>, tried: &OverWire) -> Vec<u16> {
    let mut shut = Vec::new();
    for port in plan.ports.iter().filter(|port| port.kind.leads_around()) {
        for address in dead.iter().map(SocketAddr::ip) {
            if let Some(gate) = port.taken_at(address)
                && !tried.reached(SocketAddr::new(address, gate))
                && !shut.contains(&gate)
            {
                shut.push(gate);
            }
        }
    }
    shut
}

/// What to open, and where.
fn remedy(plan: &Plan, dead: &BTreeSet<SocketAddr>, tried: &OverWire) -> String {
    let shut = shut(plan, dead, tried);
    if shut.is_empty() {
        return "the gate's own ports are reached, so that a rule about the redirected connections is in the \
                way"
            .into();
    }
    let kubelet: BTreeSet<u16> = dead.iter().map(SocketAddr::port).collect();
    let kubelet: Vec<u16> = kubelet.into_iter().collect();
    let because = "the redirect changes the port before the host's firewall sees the packet; ";
    match foreign::listings() {
        Ok(listings) => because.to_owned() + &opening(&listings, &kubelet, &shut),
        Err(error) => format!("{because}open TCP {} in it ({error})", listed(&shut)),
    }
}

/// A rule by which redirected connections pass, though the gate's ports are shut to others.
fn accepting_redirected() -> Option<ForeignRule> {
    let listings = foreign::listings().ok()?;
    listings
        .iter()
        .find_map(|(tool, text)| foreign::accepting_redirected(tool, text))
}

/// The place of each rule that lets the kubelet's ports pass, and the commands of firewalls that have one.
fn opening(listings: &[(String, String)], kubelet: &[u16], shut: &[u16]) -> String {
    let opens = passing(listings, kubelet);
    let mut places: Vec<String> = opens.into_iter().map(|rule| rule.place).collect();
    places.dedup();
    let refusing: Vec<String> = listings
        .iter()
        .flat_map(|(tool, text)| foreign::naming(tool, text, shut))
        .filter(|rule| rule.takes_away)
        .map(|rule| format!("{}: {}", rule.place, rule.rule))
        .collect();
    let ports = listed(shut);
    let mut text = match places.as_slice() {
        [] => format!("open TCP {ports} in the host's firewall"),
        places => format!("open TCP {ports} in the host's firewall ({})", places.join("; ")),
    };
    let words = || ports.replace(", ", " ");
    if places.iter().any(|place| place.contains("chain ufw")) {
        text += &format!(": for port in {}; do ufw allow $port/tcp; done", words());
    }
    if places.iter().any(|place| place.contains("firewalld")) {
        text += &format!(
            ": for port in {}; do firewall-cmd --permanent --add-port=$port/tcp; done; firewall-cmd --reload",
            words()
        );
    }
    if !refusing.is_empty() {
        text += &format!(", where a rule refuses it ({})", refusing.join("; "));
    }
    text
}

/// The rules of filters that let these ports pass.
fn passing(listings: &[(String, String)], ports: &[u16]) -> Vec<ForeignRule> {
    let by_iptables = listings.iter().any(|(tool, _)| tool == "iptables-nft-save");
    let is_twice = |rule: &ForeignRule| {
        // nft lists the tables of iptables-nft, too.
        by_iptables
            && [
                "nft: table ip \
            filter,",
                "nft: table ip6 \
            filter,",
            ]
            .iter()
            .any(|place| rule.place.starts_with(place))
    };
    listings
        .iter()
        .flat_map(|(tool, text)| foreign::naming(tool, text, ports))
        .filter(|rule| !rule.takes_away && !rule.place.contains("nat,") && !is_twice(rule))
        .collect()
}

/// Where the wire reached neither the kubelet nor the gate, it shows nothing: the host's firewall opens ports
/// to certain callers alone. Its rules are then all there is to go by.
fn unshown(plan: &Plan, reached: &BTreeSet<SocketAddr>, tried: &OverWire) -> Option<String> {
    let port = plan.ports.iter().find(|port| port.kind == PortKind::Secure)?;
    let gate = port.redirect_ipv4.or(port.redirect_ipv6)?;
    let listens = || {
        let at_port = |socket: &sockets::TcpSocket| {
            socket.listens && socket.local.port() == port.port && !socket.local.ip().is_loopback()
        };
        sockets::tcp().is_ok_and(|sockets| sockets.iter().any(at_port))
    };
    if reached.iter().any(|address| address.port() == port.port) || tried.reached_anywhere(gate) || !listens()
    {
        return None;
    }
    let listings = foreign::listings().ok()?;
    let opens = passing(&listings, &[port.port]);
    let first = opens.first()?;
    if !passing(&listings, &[gate]).is_empty() {
        return None;
    }
    Some(format!(
        "the host's firewall lets port {} pass ({}: {}), and no rule names the gate's port {gate}: another \
         network reached neither, so that packets show nothing; {}",
        port.port,
        first.place,
        first.rule,
        opening(&listings, &[port.port], &[gate])
    ))
}
