//! Connections to the kubelet that are older than the seal: they bypass the gate until they are cut.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::error::FirewallError;
use super::plan::{Plan, PortKind};
use super::tool;
use crate::host::sockets::{self, Owner, TcpSocket};
use crate::host::{ConnectionOwners, Translated};

/// A connection to one of the kubelet's ports that did not come through the gate.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Ungated {
    /// The kubelet's end.
    pub kubelet: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
}

/// Every connection that is open to a port of `plan` and is neither the gate's own nor at the gate.
///
/// # Errors
/// `/proc` cannot be read.
pub fn ungated(plan: &Plan, gate_uid: u32) -> io::Result<Vec<Ungated>> {
    Ok(among(&sockets::tcp()?, plan, gate_uid))
}

pub(super) fn among(sockets: &[TcpSocket], plan: &Plan, gate_uid: u32) -> Vec<Ungated> {
    let other_end = |socket: &TcpSocket| {
        sockets
            .iter()
            .find(|other| other.local == socket.remote && other.remote == socket.local)
    };
    let past_the_gate = |socket: &&TcpSocket| {
        let Some(port) = plan
            .ports
            .iter()
            .find(|port| port.port == socket.local.port() && port.kind != PortKind::Gate)
        else {
            return false;
        };
        let at_the_gate =
            || port.gate_addresses.contains(&socket.local.ip()) && socket.holder(sockets) == Some(gate_uid);
        if !socket.flows || at_the_gate() {
            return false;
        }
        match other_end(socket) {
            // From another node, or a pod.
            None => true,
            // Health checks of this node are what 10248 is for.
            Some(_) if port.kind == PortKind::Healthz => false,
            // An end that no process holds any more is no way in.
            Some(other) => other.uid != gate_uid && other.inode != 0,
        }
    };
    // The kernel's table is read in parts: if sockets come and go meanwhile, one may be there twice.
    let mut seen = HashSet::new();
    sockets
        .iter()
        .filter(past_the_gate)
        .filter(|socket| seen.insert((socket.local, socket.remote)))
        .map(|socket| Ungated {
            kubelet: socket.local,
            peer: socket.remote,
        })
        .collect()
}

/// The process that holds the other end, if that is on this node and can be seen.
pub fn holder(connection: &Ungated) -> Option<Owner> {
    let sockets = sockets::tcp().ok()?;
    let end = sockets
        .iter()
        .find(|socket| socket.local == connection.peer && socket.remote == connection.kubelet)?;
    sockets::owner(end.inode)
}

/// Resets exactly this connection, at the kubelet's end, which tells the other. Whether it is gone,
/// [`ungated`] tells.
///
/// # Errors
/// `ss` is missing, may not (`CAP_NET_ADMIN`), or the kernel cannot (`CONFIG_INET_DIAG_DESTROY`).
pub fn cut(connection: &Ungated) -> Result<(), FirewallError> {
    let Ungated { kubelet, peer } = connection;
    let filter = [
        ("src", literal(kubelet.ip())),
        ("sport", format!(":{}", kubelet.port())),
        ("dst", literal(peer.ip())),
        ("dport", format!(":{}", peer.port())),
    ];
    let mut arguments: Vec<String> = ["-K", "-H", "-n", "-t"].map(str::to_owned).to_vec();
    for state in ["established", "fin-wait-1", "fin-wait-2", "close-wait"] {
        arguments.extend(["state", state].map(str::to_owned));
    }
    for (position, (key, value)) in filter.into_iter().enumerate() {
        if position > 0 {
            arguments.push("and".into());
        }
        arguments.push(key.into());
        if key.ends_with("port") {
            arguments.push("=".into());
        }
        arguments.push(value);
    }
    tool::run("ss", &arguments, "", "resetting a connection").map(drop)
}

/// Resets connections that a seal had brought to the gate, at the gate's end; yields those that could not be
/// reset.
pub(super) fn reset(translated: &[Translated]) -> Vec<Translated> {
    let Ok(kernel) = ConnectionOwners::open() else {
        return translated.to_vec();
    };
    let failed = |connection: &&Translated| kernel.reset(connection.local, connection.remote).is_err();
    translated.iter().filter(failed).copied().collect()
}

/// As `ss` reads it.
fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::seal::plan::SealedPort;
    use crate::settings::Backend;

    fn plan(port: u16) -> Plan {
        Plan {
            backend: Backend::Nftables,
            ports: vec![SealedPort {
                port,
                kind: PortKind::Secure,
                redirect_ipv4: None,
                redirect_ipv6: None,
                gate_addresses: vec!["192.0.2.10".parse().unwrap()],
            }],
            sources: Vec::new(),
        }
    }

    fn socket(local: &str, remote: &str, uid: u32) -> TcpSocket {
        TcpSocket {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            listens: false,
            flows: true,
            uid,
            inode: 1,
        }
    }

    #[test]
    fn the_gates_own_connections_and_those_to_the_gate_are_not_ungated() {
        let sockets = [
            // The gate's own, both ends.
            socket("127.0.0.1:10250", "127.0.0.1:40000", 0),
            socket("127.0.0.1:40000", "127.0.0.1:10250", 990),
            // A local user's.
            socket("127.0.0.1:10250", "127.0.0.1:40001", 0),
            socket("127.0.0.1:40001", "127.0.0.1:10250", 1000),
            // A neighbour's, and one to the gate's own address.
            socket("192.0.2.11:10250", "192.0.2.20:40000", 0),
            socket("192.0.2.10:10250", "192.0.2.20:40001", 990),
            // There as well, to a kubelet that has taken it.
            socket("192.0.2.10:10250", "192.0.2.20:40002", 0),
            // To another node's kubelet.
            socket("192.0.2.11:40002", "192.0.2.30:10250", 0),
        ];
        let found = among(&sockets, &plan(10250), 990);
        // Seen red: without `seen`.
        let twice: Vec<_> = sockets.iter().chain(&sockets).cloned().collect();
        assert_eq!(among(&twice, &plan(10250), 990), found);
        let peers: Vec<String> = found.iter().map(|found| found.peer.to_string()).collect();
        assert_eq!(peers, ["127.0.0.1:40001", "192.0.2.20:40000", "192.0.2.20:40002"]);
    }

    #[test]
    fn a_health_check_of_this_node_is_not_ungated_and_one_from_outside_is() {
        let mut healthz = plan(10248);
        healthz.ports[0].kind = PortKind::Healthz;
        let sockets = [
            socket("127.0.0.1:10248", "127.0.0.1:40000", 0),
            socket("127.0.0.1:40000", "127.0.0.1:10248", 1000),
            socket("192.0.2.11:10248", "192.0.2.20:40000", 0),
        ];
        let found = among(&sockets, &healthz, 990);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].peer, "192.0.2.20:40000".parse().unwrap());
    }

    /// Seen red: with established connections alone looked at, it was neither listed nor reset.
    #[test]
    fn a_connection_whose_client_has_said_everything_is_still_a_way_to_hear() {
        if !rustix::process::getuid().is_root() {
            println!("SKIPPED: only root may reset connections");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut ours = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let theirs = listener.accept().unwrap().0;
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let open = ungated(&plan(port), u32::MAX).unwrap();
        assert_eq!(open.len(), 1, "{open:?}");
        cut(&open[0]).unwrap();
        assert!(ours.read(&mut [0]).is_err());
        drop(theirs);
        assert_eq!(ungated(&plan(port), u32::MAX).unwrap(), []);
    }

    #[test]
    fn exactly_one_connection_is_cut() {
        if !rustix::process::getuid().is_root() {
            println!("SKIPPED: only root may reset connections");
            return;
        }
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = || {
            let ours = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let theirs = listener.accept().unwrap().0;
            theirs.set_nonblocking(true).unwrap();
            (ours, theirs)
        };
        let (mut kept, mut reset) = (connect(), connect());
        let all = ungated(&plan(port), u32::MAX).unwrap();
        assert_eq!(all.len(), 2, "{all:?}");
        let of_reset = |ungated: &&Ungated| ungated.peer == reset.0.local_addr().unwrap();
        let connection = all.iter().find(of_reset).unwrap();
        // A program that another test is just starting has this process' descriptors for a moment.
        let ours = i32::try_from(std::process::id()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while holder(connection).unwrap().pid != ours {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        cut(connection).unwrap();
        let mut byte = [0];
        assert_eq!(
            reset.0.read(&mut byte).unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
        assert!(
            reset
                .1
                .read(&mut byte)
                .is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
        );
        kept.0.set_nonblocking(true).unwrap();
        for end in [&mut kept.0, &mut kept.1] {
            assert_eq!(end.read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!(ungated(&plan(port), u32::MAX).unwrap().len(), 1);
    }
}
