//! The addresses of a scene: a network namespace of its own where that can be made, else 127.0.0.0/8. Only a
//! namespace has addresses that are not loopback, and IPv6 addresses by the thousand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::node::namespace_for_a_flood;
use crate::skipped::skip;

/// Where a scene plays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ground {
    /// 127.0.0.0/8 of this machine.
    Loopback,
    /// 10.0.0.0/8 and 2001:db8::/32, all local, in a network namespace of its own.
    Network,
}

impl Ground {
    /// Runs `work` on a thread in a network namespace, or where there is none on this machine's loopback.
    pub(super) fn with<T: Send>(work: impl FnOnce(Self) -> T + Send) -> T {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = match namespace_for_a_flood(COUNT.fetch_add(1, Relaxed)) {
            Ok(namespace) => namespace,
            Err(error) => {
                let required = std::env::var_os("KUBELET_GATE_NAMESPACES").is_some();
                assert!(!required, "no network namespace: {error}");
                return work(Self::Loopback);
            }
        };
        // On `lo` every address of the network is local.
        namespace.ip(&["addr", "add", "10.0.0.1/8", "dev", "lo"]).unwrap();
        for arguments in [
            &["addr", "add", "2001:db8::1/128", "dev", "lo", "nodad"][..],
            &["-6", "route", "add", "local", "2001:db8::/32", "dev", "lo"],
        ] {
            namespace.ip(arguments).unwrap();
        }
        let prepared = || {
            // A socket may then have a source address that no interface lists.
            std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
            work(Self::Network)
        };
        namespace.run(prepared).unwrap()
    }

    /// Whether there are addresses that are not loopback. If not, the test counts as skipped.
    pub(super) fn is_network(self) -> bool {
        if self == Self::Loopback {
            skip("it needs root and `ip`, for a network namespace");
        }
        self == Self::Network
    }

    /// The gate's address.
    pub(super) fn gate(self) -> IpAddr {
        self.address(1)
    }

    /// The gate's IPv6 address.
    pub(super) fn gate_v6() -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()
    }

    /// The legitimate client's address, from which requests were allowed before.
    pub(super) fn known(self) -> IpAddr {
        self.address(0x01_0001)
    }

    /// An address from which no request was allowed.
    pub(super) fn unseen(self, number: u32) -> IpAddr {
        self.address(0x02_0001 + number)
    }

    /// One of the attacker's addresses.
    pub(super) fn attacker(self, number: u32) -> IpAddr {
        self.address(0x03_0001 + number)
    }

    /// One of the attacker's addresses, all in one /64.
    pub(super) fn neighbour_v6(number: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 1, number).into()
    }

    fn address(self, number: u32) -> IpAddr {
        let network = match self {
            Self::Loopback => Ipv4Addr::new(127, 0, 0, 0),
            Self::Network => Ipv4Addr::new(10, 0, 0, 0),
        };
        Ipv4Addr::from_bits(network.to_bits() + number).into()
    }
}
