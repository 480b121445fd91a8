//! Free ports for a second gate, which is started from the lab's configuration.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// Ports of loopback that the kernel gives to no other process, as long as this value lives. A gate can
/// listen on them.
#[derive(Debug)]
pub(super) struct ReservedPorts {
    pub(super) tls: SocketAddr,
    pub(super) read_only: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Bound with SO_REUSEADDR, and not listening: a gate, which sets SO_REUSEADDR too, can bind the same
    /// ports.
    _sockets: [Socket; 3],
}

impl ReservedPorts {
    pub(super) fn new() -> io::Result<Self> {
        let (tls, tls_socket) = reserve()?;
        let (read_only, read_only_socket) = reserve()?;
        let (admin, admin_socket) = reserve()?;
        Ok(Self {
            tls,
            read_only,
            admin,
            _sockets: [tls_socket, read_only_socket, admin_socket],
        })
    }
}

fn reserve() -> io::Result<(SocketAddr, Socket)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?.as_socket();
    Ok((address.ok_or(io::ErrorKind::Unsupported)?, socket))
}
