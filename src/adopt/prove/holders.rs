//! Which user listens on a port of this node, asked before a token is sent there.

use std::net::SocketAddr;

use crate::files::{self, DOCUMENT};
use crate::host::sockets;

/// The gate's own user, as its unit has it.
const GATE: &str = "kubelet-gate";

/// Whether every listener on this address belongs to root, the gate, or the user of this program. A local
/// user who took the kubelet's port while the kubelet was away would be sent the token. What `/proc` does not
/// show, such as a redirect by the firewall, only root can set up.
pub(super) fn are_trusted(address: SocketAddr) -> bool {
    let Ok(sockets) = sockets::tcp() else {
        return false;
    };
    let ours = rustix::process::getuid().as_raw();
    let gate = user(&files::read_text("/etc/passwd", DOCUMENT).unwrap_or_default());
    sockets
        .iter()
        .filter(|socket| socket.listens && socket.local.port() == address.port())
        .filter(|socket| socket.local.ip().is_unspecified() || socket.local.ip() == address.ip())
        .all(|socket| socket.uid == 0 || socket.uid == ours || Some(socket.uid) == gate)
}

/// The gate's user id, by the node's list of users.
fn user(passwd: &str) -> Option<u32> {
    let mut lines = passwd.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next()? == GATE).then(|| fields.nth(1)?.parse().ok())?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::host::as_user;

    /// Seen red: with every user trusted.
    #[test]
    fn the_port_of_a_local_user_is_not_trusted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(are_trusted(listener.local_addr().unwrap()));
        if rustix::process::geteuid().is_root() {
            let taken = as_user(65530, || TcpListener::bind("127.0.0.1:0"))
                .unwrap()
                .unwrap();
            assert!(!are_trusted(taken.local_addr().unwrap()));
        }
        assert_eq!(
            user("root:x:0:0::/:/bin/sh\nkubelet-gate:x:998:998::/:/bin/false\n"),
            Some(998)
        );
        assert_eq!(user("kubelet-gate-2:x:1:1::/:\nbroken"), None);
    }
}
