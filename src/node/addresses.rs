//! The addresses of this node, in this thread's network namespace.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every local address but link-local ones, which need an interface's name to be dialled; loopback included.
///
/// # Errors
/// `/proc` is not there.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let routes = fs::read_to_string("/proc/thread-self/net/fib_trie")?;
    // A kernel without IPv6 has no such file.
    let interfaces = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    let all: BTreeSet<IpAddr> = ipv4(&routes)
        .map(IpAddr::from)
        .chain(ipv6(&interfaces).map(IpAddr::from))
        .collect();
    Ok(all.into_iter().collect())
}

/// The leaves that are `/32 host LOCAL`; the line before names the address.
fn ipv4(trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    trie.lines()
        .zip(trie.lines().skip(1))
        .filter_map(|(address, leaf)| {
            leaf.contains("/32 host LOCAL").then_some(())?;
            address.trim().strip_prefix("|-- ")?.parse().ok()
        })
}

/// 32 hexadecimal digits begin each line.
fn ipv6(interfaces: &str) -> impl Iterator<Item = Ipv6Addr> {
    interfaces.lines().filter_map(|line| {
        let bits = u128::from_str_radix(line.get(..32)?, 16).ok()?;
        let address = Ipv6Addr::from(bits);
        (!address.is_unicast_link_local()).then_some(address)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_addresses_are_read_from_both_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.0\n        /8 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n     \
            |-- 192.0.2.10\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        let found: Vec<String> = ipv4(trie).map(|address| address.to_string()).collect();
        assert_eq!(found, ["127.0.0.1", "192.0.2.10"]);
        let interfaces = "00000000000000000000000000000001 01 80 10 80       lo\n\
            fe800000000000000000000000000001 02 40 20 80     eth0\n20010db8000000000000000000000010 02 40 00 80     eth0\nshort\n";
        let found: Vec<String> = ipv6(interfaces).map(|address| address.to_string()).collect();
        assert_eq!(found, ["::1", "2001:db8::10"]);
        assert!(addresses().unwrap().contains(&IpAddr::from(Ipv4Addr::LOCALHOST)));
    }
}
