//! A network namespace with a wire to this node, to dial the node as a neighbour or a pod does.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::addresses::WIRE;
use super::namespace::{Namespace, ip};
use crate::files::{self, BUNDLE};

/// As for a first packet that is lost, twice.
const CONTROL: Duration = Duration::from_millis(3500);

/// An address of the node that is not reached over a wire.
#[derive(Debug, thiserror::Error)]
#[error("not reached from a network namespace ({0}): the node's firewall or routing is in the way")]
pub struct Unreached(#[source] io::Error);

/// A network namespace with a wire to this one, and everything reached over it. Both go when it is dropped.
#[derive(Debug)]
pub struct Wire {
    namespace: Namespace,
    sources: [IpAddr; 2],
}

impl Wire {
    /// Makes one for these addresses of the node. One at a time in a process.
    ///
    /// # Errors
    /// This is not root, `ip` is missing, or no address is free.
    pub fn new(own: &[IpAddr]) -> io::Result<Self> {
        let namespace = Namespace::new(&namespaces())?;
        let pid = std::process::id();
        let here = format!("{WIRE}{pid}");
        ip(&[
            "link",
            "add",
            &here,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            namespace.name(),
        ])?;
        let routes = files::read_text("/proc/thread-self/net/route", BUNDLE).unwrap_or_default();
        let network = free_network(own, &routes, pid)
            .ok_or_else(|| io::Error::other("198.18.0.0/15, which is for tests, is in use here"))?;
        let [a, b, c, d] = network.octets();
        let at = |last: u8| format!("{a}.{b}.{c}.{}", d + last);
        ip(&["addr", "add", &format!("{}/30", at(1)), "dev", &here])?;
        ip(&["link", "set", &here, "up"])?;
        namespace.ip(&["addr", "add", &format!("{}/30", at(2)), "dev", "eth0"])?;
        namespace.ip(&["link", "set", "eth0", "up"])?;
        namespace.ip(&["route", "add", "default", "via", &at(1)])?;
        // A network that is unique by chance. Where there can be none, its addresses are not reached, which
        // is reported then.
        let prefix = format!("fd6b:{:x}:{:x}", pid >> 16, pid & 0xffff);
        if own.iter().any(IpAddr::is_ipv6) {
            let wired = ip(&["addr", "add", &format!("{prefix}::1/64"), "dev", &here, "nodad"])
                .and_then(|()| {
                    namespace.ip(&["addr", "add", &format!("{prefix}::2/64"), "dev", "eth0", "nodad"])
                })
                .and_then(|()| {
                    namespace.ip(&["-6", "route", "add", "default", "via", &format!("{prefix}::1")])
                });
            let ends = [format!("{prefix}::1"), format!("{prefix}::2")].map(|end| end.parse());
            if let (Ok(()), [Ok(here), Ok(there)]) = (wired, ends) {
                // Until then packets are dropped, which would look like a rule that drops them.
                let until = Instant::now() + CONTROL;
                while !(accepts(here) && namespace.run(|| accepts(there))?) {
                    if Instant::now() > until {
                        let why = "the kernel accepts no packets for the IPv6 addresses of a new interface";
                        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                    }
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "commands alone make wires, on threads of their own"
                    )]
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
        let ipv6 = format!("{prefix}::2").parse().unwrap_or(Ipv6Addr::UNSPECIFIED);
        Ok(Self {
            namespace,
            sources: [Ipv4Addr::new(a, b, c, d + 2).into(), ipv6.into()],
        })
    }

    /// The addresses that packets from there come from.
    pub(crate) fn sources(&self) -> [IpAddr; 2] {
        self.sources
    }

    /// Whether packets from there reach this address of the node at all, and its answers come back: without
    /// that, silence shows nothing.
    ///
    /// # Errors
    /// A port that was opened for this is not reached.
    pub fn reaches(&self, address: IpAddr) -> Result<(), Unreached> {
        let dialled = TcpListener::bind((address, 0)).and_then(|listener| {
            let to = listener.local_addr()?;
            self.run(|| TcpStream::connect_timeout(&to, CONTROL))?
        });
        match dialled {
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => Err(Unreached(error)),
            _ => Ok(()),
        }
    }

    /// Runs `work` there.
    ///
    /// # Errors
    /// As [`Namespace::run`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.namespace.run(work)
    }

    /// Removes the namespaces that killed processes left behind.
    pub fn sweep() {
        let ours = namespaces();
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name
                .strip_prefix(ours.as_str())
                .and_then(|name| name.strip_prefix('-'));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // The next run tries again.
                let _ = ip(&["netns", "del", &name]);
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The kernel takes its time to remove the interfaces of a namespace. This one is to be gone at once:
        // the node is as it was when the command has ended.
        let _ = ip(&["link", "del", &format!("{WIRE}{}", std::process::id())]);
    }
}

/// Whether this network namespace accepts packets for an IPv6 address of its own. The kernel lists a new
/// address at once, and adds its local route a moment later: on a busy node up to a second.
fn accepts(address: Ipv6Addr) -> bool {
    const LOCAL: u32 = 0x8000_0000;
    let routes = files::read_text("/proc/thread-self/net/ipv6_route", BUNDLE).unwrap_or_default();
    let to = format!("{:032x} 80 ", u128::from(address));
    routes
        .lines()
        .filter(|route| route.starts_with(&to))
        .any(|route| {
            let flags = route.split_whitespace().nth(8);
            flags.is_some_and(|flags| u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & LOCAL != 0))
        })
}

/// What namespaces made here are called, up to the process id. That is one of a process namespace, which is a
/// part of it.
fn namespaces() -> String {
    let processes = fs::metadata("/proc/self/ns/pid").map_or(0, |about| about.ino());
    format!("kgwire-{processes}")
}

/// A network of four addresses in the range for benchmarks that no address or route of this node is in. The
/// search begins at another one in each process: two that look at the same time do not see each other's.
fn free_network(own: &[IpAddr], routes: &str, pid: u32) -> Option<Ipv4Addr> {
    let number = |hex: Option<&str>| u32::from_str_radix(hex?, 16).ok().map(u32::swap_bytes);
    let taken: Vec<(u32, u32)> = routes
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let network = number(fields.nth(1))?;
            let mask = number(fields.nth(5))?;
            (mask != 0).then_some((network, mask))
        })
        .chain(own.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some((u32::from(*address), u32::MAX)),
            IpAddr::V6(_) => None,
        }))
        .collect();
    let overlaps = |network: u32, (other, mask): &(u32, u32)| {
        let both = mask & 0xffff_fffc;
        network & both == other & both
    };
    (0..0x8000_u32)
        .map(|at| 0xc612_0000 + 4 * (at.wrapping_add(pid) % 0x8000))
        .find(|network| !taken.iter().any(|taken| overlaps(*network, taken)))
        .map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_of_the_wire_is_nobody_elses() {
        let free_from = |pid: u32, own: &[&str], routes: &str| {
            let own: Vec<IpAddr> = own.iter().filter_map(|address| address.parse().ok()).collect();
            free_network(&own, routes, pid).map(|network| network.to_string())
        };
        let free = |own: &[&str], routes: &str| free_from(0, own, routes);
        assert_eq!(free_from(0x8001, &[], ""), Some("198.18.0.4".into()));
        const HEAD: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let default = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\n";
        assert_eq!(
            free(&["192.0.2.1", "::1"], &format!("{HEAD}{default}")),
            Some("198.18.0.0".into())
        );
        assert_eq!(free(&["198.18.0.3"], ""), Some("198.18.0.4".into()));
        // 198.18.0.0/24, little-endian as the kernel prints it.
        let route = "eth1\t000012C6\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        assert_eq!(
            free(&[], &format!("{HEAD}{default}{route}")),
            Some("198.18.1.0".into())
        );
        let all = "eth1\t000012C6\t00000000\t0001\t0\t0\t0\t0000FEFF\n";
        assert_eq!(free(&[], &format!("{HEAD}{all}")), None);
    }
}
