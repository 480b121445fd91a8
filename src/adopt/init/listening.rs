//! Where the gate listens: nowhere that the kubelet does, and where its callers are.

use std::net::{IpAddr, SocketAddr};

use super::Here;
use crate::adopt::inspect::Inspection;

/// The gate's own port on a node whose 10250 is the kubelet's.
const PORT: u16 = 19443;
/// The tombstone's, where 10255 is the kubelet's.
const TOMBSTONE: u16 = 19255;

/// An answer, and why it is that.
#[derive(Debug)]
pub(super) struct Listening {
    /// What is listened on, or why that cannot be said.
    pub(super) addresses: Result<Vec<SocketAddr>, String>,
    pub(super) port: u16,
    pub(super) why: String,
}

impl Listening {
    /// By what the kubelet binds, and what is known of the node's addresses.
    pub(super) fn of(inspection: &Inspection, bound: &[SocketAddr], here: &Here<'_>) -> Self {
        let kubelet = bound.first().map_or(10250, SocketAddr::port);
        let on_loopback = !bound.is_empty() && bound.iter().all(|bound| bound.ip().is_loopback());
        let announced: Vec<IpAddr> = inspection
            .options
            .text("--node-ip")
            .split(',')
            .filter_map(|address| address.trim().parse().ok())
            .filter(|address: &IpAddr| !address.is_unspecified())
            .collect();
        let outside: Vec<IpAddr> = here
            .addresses
            .iter()
            .copied()
            .filter(|address| !address.is_loopback())
            .collect();
        if !on_loopback || (announced.is_empty() && outside.is_empty()) {
            let bound: Vec<String> = bound.iter().map(ToString::to_string).collect();
            let taken = match bound.join(" and ") {
                taken if taken.is_empty() => String::new(),
                taken => format!(": the kubelet has {taken}"),
            };
            return Self {
                addresses: Ok(vec![everywhere(PORT, here)]),
                port: PORT,
                why: format!(
                    "A port of its own{taken}. `kubelet-gate firewall` brings the kubelet's callers here.{}",
                    ipv6(here)
                ),
            };
        }
        let free = "The kubelet listens on loopback only, so that its port is free on the node's";
        let one_each = |addresses: &[IpAddr]| {
            let fours = addresses.iter().filter(|address| address.is_ipv4()).count();
            fours <= 1 && addresses.len() - fours <= 1
        };
        let (addresses, why) = if !announced.is_empty() {
            (Ok(announced), format!("{free} addresses, by its --node-ip."))
        } else if one_each(&outside) {
            (Ok(outside), format!("{free} only address of each family."))
        } else {
            let all: Vec<String> = outside.iter().map(ToString::to_string).collect();
            let missing = format!(
                "the kubelet listens on loopback only, and which of this node's addresses its callers dial is not said (--node-ip; \
                 kubectl get node -o wide): {}. Not one of a bridge, which may be gone when the gate starts",
                all.join(", ")
            );
            (Err(missing), String::new())
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
pub(super) fn tombstone(here: &Here<'_>) -> SocketAddr {
    everywhere(TOMBSTONE, here)
}

/// Every address of both families, where there are both.
fn everywhere(port: u16, here: &Here<'_>) -> SocketAddr {
    match here.ipv6 {
        Some(false) => SocketAddr::from(([0; 4], port)),
        _ => SocketAddr::from(([0; 16], port)),
    }
}

/// What is not known of a node that is not this one.
fn ipv6(here: &Here<'_>) -> &'static str {
    match here.ipv6 {
        Some(_) => "",
        None => " On a node without IPv6 write 0.0.0.0 for [::].",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use time::OffsetDateTime;

    use super::super::Naming;
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
        let here = Here {
            naming: Naming::Here,
            out: Path::new("/out"),
            program: Path::new("/kubelet-gate"),
            addresses: &addresses,
            ipv6,
        };
        Listening::of(&inspection, &binds(&inspection.options).unwrap(), &here)
    }

    fn on(listening: &Listening) -> Vec<String> {
        let addresses = listening.addresses.as_ref().unwrap().iter();
        addresses.map(ToString::to_string).collect()
    }

    /// A bridge that is gone would keep the gate from starting. Seen red: with every address of an interface taken.
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
                .unwrap_err();
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
        let here = |ipv6| Here {
            naming: Naming::Here,
            out: Path::new("/out"),
            program: Path::new("/kubelet-gate"),
            addresses: &[],
            ipv6,
        };
        assert_eq!(tombstone(&here(Some(false))).to_string(), "0.0.0.0:19255");
        assert_eq!(tombstone(&here(Some(true))).to_string(), "[::]:19255");
    }

    #[test]
    fn what_the_kubelet_has_is_said_if_it_has_anything() {
        let nothing = listening(&["--enable-server=false", "--read-only-port=0"], &[], None);
        assert!(nothing.why.starts_with("A port of its own. "), "{}", nothing.why);
    }
}
