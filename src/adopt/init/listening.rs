//! Where the gate listens: on addresses that clients dial, and never where the kubelet listens.

use std::net::{IpAddr, SocketAddr};

use super::destination::Destination;
use crate::adopt::inspect::Inspection;

/// The gate's own port on a node whose 10250 is the kubelet's.
const PORT: u16 = 19443;
/// The tombstone's port on a node whose 10255 is the kubelet's.
const TOMBSTONE: u16 = 19255;

/// Which of the node's addresses clients dial is not known.
#[derive(Debug, thiserror::Error)]
#[error(
    "the kubelet listens on loopback only, and which of this node's addresses clients dial is not known (see \
     --node-ip, or kubectl get node -o wide): {}. Do not choose the address of a bridge, which may be \
     missing when the gate starts",
    listed(.0)
)]
pub(super) struct AmbiguousAddresses(Vec<IpAddr>);

fn listed<T: ToString>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// Where the gate listens, and why.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) addresses: Result<Vec<SocketAddr>, AmbiguousAddresses>,
    pub(super) port: u16,
    pub(super) why: String,
}

impl Listening {
    /// Decides by what the kubelet binds, and by what is known of the node's addresses.
    pub(super) fn of(inspection: &Inspection, bound: &[SocketAddr], destination: &Destination<'_>) -> Self {
        let kubelet = bound.first().map_or(10250, SocketAddr::port);
        let on_loopback = !bound.is_empty() && bound.iter().all(|bound| bound.ip().is_loopback());
        let announced = inspection.options.announced_addresses();
        let outside: Vec<IpAddr> = destination
            .addresses
            .iter()
            .copied()
            .filter(|address| !address.is_loopback())
            .collect();
        if !on_loopback || (announced.is_empty() && outside.is_empty()) {
            let taken = match bound {
                [] => String::new(),
                bound => format!(": the kubelet has {}", listed(bound)),
            };
            return Self {
                addresses: Ok(vec![everywhere(PORT, destination)]),
                port: PORT,
                why: format!(
                    "A port of the gate's own{taken}. `kubelet-gate firewall` redirects the kubelet's \
                     callers here.{}",
                    ipv6(destination)
                ),
            };
        }
        let free = "The kubelet listens on loopback only, so its port is free on the node's";
        let one_each = |addresses: &[IpAddr]| {
            let fours = addresses.iter().filter(|address| address.is_ipv4()).count();
            fours <= 1 && addresses.len() - fours <= 1
        };
        let (addresses, why) = if !announced.is_empty() {
            (Ok(announced), format!("{free} addresses, which --node-ip names."))
        } else if one_each(&outside) {
            (Ok(outside), format!("{free} only address of each family."))
        } else {
            (Err(AmbiguousAddresses(outside)), String::new())
        };
        let with_port = |addresses: Vec<IpAddr>| {
            let address = |address| SocketAddr::new(address, kubelet);
            addresses.into_iter().map(address).collect()
        };
        Self {
            addresses: addresses.map(with_port),
            port: kubelet,
            why,
        }
    }
}

/// Where the tombstone listens.
pub(super) fn tombstone(destination: &Destination<'_>) -> SocketAddr {
    everywhere(TOMBSTONE, destination)
}

/// Every address, of IPv6 too unless the node is known to have none.
fn everywhere(port: u16, destination: &Destination<'_>) -> SocketAddr {
    match destination.ipv6 {
        Some(false) => SocketAddr::from(([0; 4], port)),
        _ => SocketAddr::from(([0; 16], port)),
    }
}

/// A hint for a node that is not this machine.
fn ipv6(destination: &Destination<'_>) -> &'static str {
    match destination.ipv6 {
        Some(_) => "",
        None => " On a node without IPv6 write 0.0.0.0 for [::].",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use time::OffsetDateTime;

    use super::super::destination::Naming;
    use super::*;
    use crate::adopt::kubelet::Root;
    use crate::adopt::kubelet::binds;
    use crate::adopt::kubelet::invocation::Invocation;

    fn listening(flags: &[&str], addresses: &[&str], ipv6: Option<bool>) -> Listening {
        let empty = tempfile::tempdir().unwrap();
        let words: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let invocation = Invocation::given(&words, Root::new(empty.path()));
        let inspection = Inspection::of(invocation, OffsetDateTime::UNIX_EPOCH).unwrap();
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let destination = Destination {
            naming: Naming::Here,
            out: Path::new("/out"),
            program: Path::new("/kubelet-gate"),
            addresses: &addresses,
            ipv6,
            iptables: false,
        };
        Listening::of(&inspection, &binds(&inspection.options).unwrap(), &destination)
    }

    fn on(listening: &Listening) -> Vec<String> {
        let addresses = listening.addresses.as_ref().unwrap().iter();
        addresses.map(ToString::to_string).collect()
    }

    /// The address of a missing bridge would keep the gate from starting. Seen red: with every interface's
    /// address taken.
    #[test]
    fn beside_a_kubelet_on_loopback_an_address_is_said_or_the_only_one() {
        let loopback = "--address=127.0.0.1";
        let several = ["127.0.0.1", "192.0.2.10", "172.17.0.1", "2001:db8::10", "::1"];
        let announced = listening(
            &[loopback, "--node-ip=192.0.2.10,2001:db8::10"],
            &several,
            Some(true),
        );
        assert_eq!(on(&announced), ["192.0.2.10:10250", "[2001:db8::10]:10250"]);
        let only = listening(
            &[loopback],
            &["127.0.0.1", "192.0.2.10", "2001:db8::10"],
            Some(true),
        );
        assert_eq!(on(&only), ["192.0.2.10:10250", "[2001:db8::10]:10250"]);
        // Any of its family: the kubelet chooses one.
        for any in ["--node-ip=0.0.0.0", "--v=2"] {
            let missing = listening(&[loopback, any], &several, Some(true))
                .addresses
                .unwrap_err()
                .to_string();
            assert!(
                missing.contains("192.0.2.10") && missing.contains("172.17.0.1"),
                "{missing}"
            );
        }
        // Nothing is known of a node that is not this one.
        assert_eq!(on(&listening(&[loopback], &[], None)), ["[::]:19443"]);
    }

    #[test]
    fn a_node_without_ipv6_has_no_address_of_it() {
        let of = |ipv6| listening(&["--read-only-port=0"], &["192.0.2.10"], ipv6);
        assert_eq!(on(&of(Some(false))), ["0.0.0.0:19443"]);
        assert_eq!(on(&of(Some(true))), ["[::]:19443"]);
        assert_eq!(on(&of(None)), ["[::]:19443"]);
        assert!(of(None).why.contains("without IPv6") && !of(Some(true)).why.contains("without IPv6"));
        let destination = |ipv6| Destination {
            naming: Naming::Here,
            out: Path::new("/out"),
            program: Path::new("/kubelet-gate"),
            addresses: &[],
            ipv6,
            iptables: false,
        };
        assert_eq!(tombstone(&destination(Some(false))).to_string(), "0.0.0.0:19255");
        assert_eq!(tombstone(&destination(Some(true))).to_string(), "[::]:19255");
    }

    #[test]
    fn what_the_kubelet_has_is_said_if_it_has_anything() {
        let nothing = listening(&["--enable-server=false", "--read-only-port=0"], &[], None);
        assert!(
            nothing.why.starts_with("A port of the gate's own. "),
            "{}",
            nothing.why
        );
    }
}
