//! Listeners that this process got instead of binding them: from systemd, by a socket unit, or from the gate
//! that it replaces. They are the very sockets that clients already wait on, so no connection is refused
//! while one process follows another.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::adopt::socket_unit::{self, TAKES_EFFECT};

/// Where a list of names of systemd's descriptors ends.
const SEPARATOR: char = ':';
/// More than any configuration names. A larger number was not written by systemd.
const MOST: usize = 1024;

/// Listeners that this process got instead of binding them. One that is not taken is closed.
#[derive(Debug, Default)]
pub struct Inherited {
    listeners: Vec<Listener>,
}

/// One of them.
#[derive(Debug)]
struct Listener {
    socket: Socket,
    address: SockAddr,
    giver: Giver,
}

/// Where a listener comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Giver {
    /// systemd, by the socket unit of this name.
    Systemd(String),
    /// The gate that this one replaces.
    OldProcess,
}

/// What systemd passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// The variables of the environment are not what systemd writes.
    #[error(
        "LISTEN_FDS={0:?}: expected a number up to {MOST}, as systemd writes it for a socket unit; start the \
         gate by its unit, or without this variable"
    )]
    Malformed(String),
    /// A descriptor is no listener for streams.
    #[error(
        "{unit}: descriptor {number} is no TCP or unix stream socket: {why}; a socket unit of the gate has \
         ListenStream= alone"
    )]
    NoStream {
        /// The socket unit, or what `FileDescriptorName=` says.
        unit: String,
        /// The descriptor.
        number: usize,
        /// What is wrong with it.
        why: io::Error,
    },
    /// The configuration does not name these addresses.
    #[error(
        "{place}: ListenStream={address}: the configuration names this address neither in listen nor in \
         readOnlyPort.listen, admin.listen or admin.socket, so nothing would serve it; remove it from the \
         unit, or name it in the configuration, then: {TAKES_EFFECT}"
    )]
    NotConfigured {
        /// The line of the socket unit, or the unit's name.
        place: String,
        /// What it listens on.
        address: String,
    },
}

// === impl Inherited ===

impl Inherited {
    /// What systemd passes by `LISTEN_FDS`. Removes `LISTEN_PID` and `LISTEN_FDS` from the environment, which
    /// must not change once there is another thread: call it first.
    ///
    /// # Errors
    /// The variables are malformed, or a descriptor is no stream socket.
    pub fn from_systemd() -> Result<Self, InheritedError> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let (pid, count, names) = (
            variable("LISTEN_PID"),
            variable("LISTEN_FDS"),
            variable("LISTEN_FDNAMES"),
        );
        // The library takes an absent process id for this process'. systemd always names it.
        let ours = pid.parse() == Ok(std::process::id());
        if ours && count.parse::<usize>().is_ok_and(|count| count > MOST) {
            return Err(InheritedError::Malformed(count));
        }
        let mut passed = ListenFd::from_env();
        if !ours || count.is_empty() {
            return Ok(Self::default());
        }
        if count.parse() != Ok(passed.len()) {
            return Err(InheritedError::Malformed(count));
        }
        let mut names = names.split(SEPARATOR).filter(|name| !name.is_empty());
        let listeners = (0..passed.len()).map(|index| {
            let unit = names.next().unwrap_or(socket_unit::NAME).to_owned();
            let listener = stream(&mut passed, index).and_then(|socket| {
                let giver = Giver::Systemd(unit.clone());
                Listener::new(socket, giver)
            });
            listener.map_err(|why| InheritedError::NoStream {
                unit,
                number: FIRST + index,
                why,
            })
        });
        Ok(Self {
            listeners: listeners.collect::<Result<_, _>>()?,
        })
    }

    /// What the gate that this one replaces has handed over.
    ///
    /// # Errors
    /// One of them has no address: it is no socket.
    pub fn handed_over(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let listener = |descriptor: OwnedFd| {
            rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
            Listener::new(descriptor.into(), Giver::OldProcess)
        };
        Ok(Self {
            listeners: descriptors.into_iter().map(listener).collect::<Result<_, _>>()?,
        })
    }

    /// The listener of exactly this address, if there is one. Port 0 takes any port.
    ///
    /// # Errors
    /// It is not as the gate's own would be.
    pub(super) fn take(&mut self, address: SocketAddr) -> io::Result<Option<Socket>> {
        self.take_if(|listener| {
            let bound = listener.address.as_socket();
            bound.is_some_and(|bound| {
                let any_port = SocketAddr::new(bound.ip(), 0);
                bound == address || any_port == address
            })
        })
    }

    /// The listener on the unix socket of exactly this path, if there is one.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) fn take_unix(&mut self, path: &Path) -> io::Result<Option<Socket>> {
        self.take_if(|listener| listener.address.as_pathname() == Some(path))
    }

    fn take_if(&mut self, wanted: impl Fn(&Listener) -> bool) -> io::Result<Option<Socket>> {
        let Some(index) = self.listeners.iter().position(wanted) else {
            return Ok(None);
        };
        let listener = self.listeners.remove(index);
        listener.judge()?;
        Ok(Some(listener.socket))
    }

    /// Closes what no key of the configuration has taken.
    ///
    /// # Errors
    /// systemd passed it: each start would, and clients would wait on it for ever.
    pub(super) fn finish(&mut self) -> Result<(), InheritedError> {
        for listener in std::mem::take(&mut self.listeners) {
            let address = shown(&listener.address);
            match listener.giver {
                Giver::Systemd(unit) => {
                    let bound = listener.address.as_socket();
                    let place = bound.and_then(|bound| socket_unit::place_of(&unit, bound));
                    return Err(InheritedError::NotConfigured {
                        place: place.unwrap_or(unit),
                        address,
                    });
                }
                Giver::OldProcess => tracing::info!(
                    address,
                    "the gate that this one replaces listened here, and the configuration no longer names \
                     it: closed"
                ),
            }
        }
        Ok(())
    }
}

// === impl Listener ===

impl Listener {
    fn new(socket: Socket, giver: Giver) -> io::Result<Self> {
        Ok(Self {
            address: socket.local_addr()?,
            socket,
            giver,
        })
    }

    /// Whether it is as the gate's own would be, in what cannot be set on a socket that is bound.
    fn judge(&self) -> io::Result<()> {
        let refused = |why: &str, way_out: &str| {
            let (giver, way_out) = match &self.giver {
                Giver::Systemd(unit) => (&**unit, way_out),
                Giver::OldProcess => ("the gate that this one replaces", "restart the gate instead"),
            };
            let address = shown(&self.address);
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the socket on {address} from {giver} {why}: {way_out}"),
            ))
        };
        let socket = &self.socket;
        let tcp = self.address.as_socket().is_some();
        let protocol_is_right = !tcp || socket.protocol()? == Some(Protocol::TCP);
        if socket.r#type()? != Type::STREAM || !protocol_is_right {
            return refused(
                "is no TCP stream socket",
                "write ListenStream=, without SocketProtocol=",
            );
        }
        if !socket.is_listener()? {
            return refused(
                "does not listen",
                "write ListenStream=, without Accept=yes; if \
                 the gate has let go of it, systemctl restart kubelet-gate.socket",
            );
        }
        // By it a second process of the same user can bind the address too, and gets half of the connections.
        if tcp && socket.reuse_port()? {
            return refused("lets other processes bind its address too", "remove ReusePort=");
        }
        let wildcard = self
            .address
            .as_socket_ipv6()
            .is_some_and(|bound| bound.ip().is_unspecified());
        if wildcard && socket.only_v6()? != Socket::new(Domain::IPV6, Type::STREAM, None)?.only_v6()? {
            return refused(
                "differs from the gate's own in whether it takes IPv4 as well",
                "remove BindIPv6Only=",
            );
        }
        Ok(())
    }
}

/// systemd's first descriptor.
const FIRST: usize = 3;

/// The stream socket at this place.
fn stream(passed: &mut ListenFd, index: usize) -> io::Result<Socket> {
    // The library takes an IPv6 socket for an IPv4 one as well.
    let mut take = |domain: Domain| {
        passed.take_custom::<OwnedFd>(index, domain.into(), Type::STREAM.into(), "stream socket")
    };
    let taken = take(Domain::IPV4).or_else(|_| take(Domain::UNIX))?;
    taken
        .map(Socket::from)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// An address as a socket unit writes it.
fn shown(address: &SockAddr) -> String {
    if let Some(address) = address.as_socket() {
        return address.to_string();
    }
    match address.as_pathname() {
        Some(path) => path.display().to_string(),
        None => "(no address)".to_owned(),
    }
}
