//! The sockets of a gate, bound before anything else is started.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;

use super::inherited::Inherited;
use crate::host::sockets;
use crate::settings::Settings;

/// Waiting connections per socket; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;
/// Send buffer of a client's socket, in bytes.
const SEND_BUFFER: usize = 256 * 1024;

/// Every socket the gate listens on. Port 0 is allowed everywhere; the methods below give the ports that were
/// bound.
pub struct Sockets {
    /// `listen`.
    pub tls: Vec<TcpListener>,
    /// `readOnlyPort.listen`.
    pub tombstone: Vec<TcpListener>,
    /// `admin.listen`.
    pub admin: Option<TcpListener>,
    /// `admin.socket`.
    pub admin_socket: Option<UnixListener>,
}

/// The gate cannot listen on an address.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {address}: {source}{holders}")]
pub struct BindError {
    /// Where the configuration names it.
    pub key: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
    /// Which processes have the address, if it is taken; otherwise empty.
    holders: String,
}

impl Sockets {
    /// Takes every address of the settings from what was inherited, or binds it, but not `admin.socket`. Must
    /// be called on a tokio runtime.
    ///
    /// # Errors
    /// One of them cannot be had. None stays bound then.
    pub fn bind(settings: &Settings, inherited: &mut Inherited) -> Result<Self, BindError> {
        let mut bind = |key, address| bind(key, address, inherited);
        let mut all = |key, addresses: &[SocketAddr]| {
            addresses
                .iter()
                .map(|address| bind(key, *address))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            tls: all("listen", &settings.listen)?,
            tombstone: all("readOnlyPort.listen", &settings.read_only_port.listen)?,
            admin: settings
                .admin
                .listen
                .map(|address| bind("admin.listen", address))
                .transpose()?,
            admin_socket: None,
        })
    }

    /// Where the TLS port was bound.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        local(&self.tls)
    }

    /// Where the tombstone was bound.
    pub fn tombstone_addresses(&self) -> Vec<SocketAddr> {
        local(&self.tombstone)
    }

    /// Where the admin socket is.
    pub(super) fn admin_socket_path(&self) -> Option<String> {
        let address = self.admin_socket.as_ref()?.local_addr().ok()?;
        address.as_pathname().map(|path| path.display().to_string())
    }

    /// Where the admin port was bound.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }
}

fn local(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect()
}

/// Addresses as they stand in a log line: `192.0.2.10:10250, [::1]:10250`, or `none`.
pub(super) fn listed(addresses: &[SocketAddr]) -> String {
    if addresses.is_empty() {
        return "none".into();
    }
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn bind(key: &'static str, address: SocketAddr, inherited: &mut Inherited) -> Result<TcpListener, BindError> {
    let had = match inherited.take(address) {
        Ok(Some(socket)) => listening(socket),
        Ok(None) => listener(address),
        Err(error) => Err(error),
    };
    had.map_err(|source| BindError {
        key,
        address,
        holders: match source.kind() {
            io::ErrorKind::AddrInUse => holders(address),
            _ => String::new(),
        },
        source,
    })
}

/// A listener for clients. Must be called on a tokio runtime.
pub(super) fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    reuse(&socket)?;
    socket.bind(&address.into())?;
    listening(socket)
}

/// A restart must not wait for the last process' connections in TIME_WAIT.
fn reuse(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Listens on a socket that is bound, or does already listen, with the gate's own options.
fn listening(socket: Socket) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    reuse(&socket)?;
    // Accepted sockets inherit it. Otherwise the kernel grows the buffer to megabytes and wakes a writer only
    // when a third of it is free: a slow but steady reader would look like one that has stopped.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    // A client whose host is gone never closes. Without keep-alive a followed log would hold its
    // place, and the kubelet's.
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(15))
            .with_retries(4),
    )?;
    // Of one that listens already, this sets the backlog.
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Names the processes that keep this address from being bound.
pub(super) fn holders(address: SocketAddr) -> String {
    let listeners = sockets::in_the_way(address);
    if listeners.is_empty() {
        return "; which process has it cannot be seen".to_owned();
    }
    let listeners: Vec<String> = listeners.iter().map(ToString::to_string).collect();
    format!("; it is taken by {}", listeners.join(" and "))
}
