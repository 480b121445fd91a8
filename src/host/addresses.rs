//! The addresses of this node, in this thread's network namespace.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// Interfaces on which kube-proxy in IPVS mode and kube-router keep the addresses of Services: thousands,
/// none of them the node's.
const SERVICES: [&str; 2] = ["kube-ipvs0", "kube-dummy-if"];
/// How the names of the wires begin that probing makes.
pub(super) const WIRE: &str = "kgp";

/// Every address of an interface, loopback included. Left out are link-local addresses of IPv6, which need an
/// interface's name to be dialled, those of Services, and those of the wires that probing makes.
///
/// # Errors
/// The kernel gives no list.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let all: BTreeSet<IpAddr> = getifaddrs()?
        .filter_map(|interface| own(&interface.interface_name, ip(interface.address.as_ref()?)?))
        .collect();
    Ok(all.into_iter().collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let four = address.as_sockaddr_in().map(|address| address.ip().into());
    four.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

fn own(interface: &str, address: IpAddr) -> Option<IpAddr> {
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    (!SERVICES.contains(&interface) && !interface.starts_with(WIRE) && !link_local).then_some(address)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_nodes_addresses_are_those_of_its_interfaces_but_not_those_of_services() {
        assert!(addresses().unwrap().contains(&IpAddr::from(Ipv4Addr::LOCALHOST)));
        let kept = |interface: &str, address: &str| own(interface, address.parse().unwrap()).is_some();
        assert!(kept("eth0", "192.0.2.10") && kept("lo", "::1") && kept("eth0", "2001:db8::10"));
        assert!(!kept("eth0", "fe80::1") && !kept("kube-ipvs0", "10.96.0.1") && !kept("kgp12", "198.18.0.1"));
    }
}
