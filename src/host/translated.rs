//! Connections that the kernel brings to another port than the one that the client asked for.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::netfilter::{Attributes, CONNTRACK, Kind, Netfilter, attribute};
use super::sockets;

/// `IPCTNL_MSG_CT_GET`.
const GET: Kind = Kind(CONNTRACK, 1);
/// `CTA_TUPLE_REPLY`, `CTA_STATUS`, `CTA_STATUS_MASK`.
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const STATUS_MASK: u16 = 26;
/// `IPS_DST_NAT`.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
const TCP: u8 = 6;

/// A connection that is translated, by its ends as the server on this node sees them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Translated {
    /// The server's end: here the kernel brought the connection.
    pub local: SocketAddr,
    /// The client's.
    pub remote: SocketAddr,
}

/// Every TCP connection that the kernel has brought to one of these ports of this node (none: to any), and on
/// which bytes can still flow. A kernel that does not tell what it translates (`CONFIG_NF_CT_NETLINK`) makes
/// every open connection to these ports count.
///
/// # Errors
/// The node's sockets cannot be read.
pub fn translated_to(ports: &[u16]) -> io::Result<Vec<Translated>> {
    let open = sockets::tcp()?.into_iter();
    // An entry of conntrack outlives its connection, by days if the client has vanished.
    let open = open.filter(|socket| socket.flows && is_one_of(ports, socket.local));
    let mut open: Vec<Translated> = open
        .map(|socket| Translated {
            local: socket.local,
            remote: socket.remote,
        })
        .collect();
    if let Ok(translated) = tracked(ports) {
        open.retain(|connection| translated.contains(connection));
    }
    Ok(open)
}

fn is_one_of(ports: &[u16], local: SocketAddr) -> bool {
    ports.is_empty() || ports.contains(&local.port())
}

fn tracked(ports: &[u16]) -> io::Result<HashSet<Translated>> {
    let translated = DESTINATION_TRANSLATED.to_be_bytes();
    // Kernels before 5.15 list every connection all the same.
    let only = [
        attribute(STATUS, &translated),
        attribute(STATUS_MASK, &translated),
    ]
    .concat();
    let mut found = HashSet::new();
    Netfilter::open()?.list(GET, 0, &only, |_, connection| {
        let status = connection.number(STATUS).unwrap_or(0);
        if status & DESTINATION_TRANSLATED != 0
            && let Some(translated) = connection.within(REPLY).and_then(ends)
            && is_one_of(ports, translated.local)
        {
            found.insert(translated);
        }
    })?;
    Ok(found)
}

/// The ends in a tuple of conntrack, which for replies come from this node.
fn ends(tuple: Attributes<'_>) -> Option<Translated> {
    let (addresses, protocol) = (tuple.within(1)?, tuple.within(2)?);
    if protocol.get(1)? != [TCP] {
        return None;
    }
    let end = |ipv4: u16, ipv6: u16, port: u16| {
        let ip = match addresses.get(ipv4) {
            Some(octets) => IpAddr::from(*octets.first_chunk::<4>()?),
            None => IpAddr::from(*addresses.get(ipv6)?.first_chunk::<16>()?),
        };
        let port = u16::from_be_bytes(*protocol.get(port)?.first_chunk()?);
        Some(SocketAddr::new(ip.to_canonical(), port))
    };
    Some(Translated {
        local: end(1, 3, 2)?,
        remote: end(2, 4, 3)?,
    })
}
