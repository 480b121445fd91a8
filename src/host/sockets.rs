//! TCP sockets of the node and their owners, from `/proc`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use procfs::FromReadSI as _;
use procfs::net::{TcpNetEntries, TcpState};
use procfs::process::{FDTarget, Process, all_processes};
use serde::{Deserialize, Serialize};

use super::helper::Helper;

/// A socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TcpSocket {
    /// Its own end; IPv4 as IPv4, also on a socket for both families.
    pub local: SocketAddr,
    /// The other end; port 0 if it listens.
    pub remote: SocketAddr,
    /// Whether it listens.
    pub listens: bool,
    /// Whether bytes can still flow, if only in one direction: a half-closed connection carries a log to its
    /// end.
    pub flows: bool,
    /// The user who made it; 0 too for a connection that is not accepted yet, or has ended.
    pub uid: u32,
    /// Its inode, by which [`owner`] knows it; 0 as for `uid`.
    pub inode: u64,
}

/// How long the search for a socket's holder may take.
const HOLDER: Duration = Duration::from_secs(5);

/// A process that holds a socket.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Owner {
    /// Its id.
    pub pid: i32,
    /// What it calls itself, at most 15 bytes, printable.
    pub command: String,
    /// Its user.
    pub uid: u32,
}

/// The listener that took a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Taker {
    /// Its address.
    pub address: SocketAddr,
    /// Its user; `None` if that is not known.
    pub uid: Option<u32>,
}

impl TcpSocket {
    /// The user whose process accepted this connection, or before that the user of its listener among all
    /// `sockets`. `None` if that is not certain.
    pub(crate) fn holder(&self, sockets: &[Self]) -> Option<u32> {
        if self.inode != 0 {
            return Some(self.uid);
        }
        // As the kernel chooses: a listener on 0.0.0.0 may stand beside one on [::] that takes IPv6 alone.
        let choice = |listener: &&Self| {
            let (here, ip) = (listener.local.ip(), self.local.ip());
            let place = if here == ip {
                2
            } else if here.is_unspecified() && here.is_ipv4() == ip.is_ipv4() {
                1
            } else if here.is_unspecified() && here.is_ipv6() {
                0
            } else {
                return None;
            };
            (listener.listens && listener.local.port() == self.local.port()).then_some((place, listener.uid))
        };
        let choices = || sockets.iter().filter_map(|listener| choice(&listener));
        let (best, uid) = choices().max()?;
        choices()
            .all(|(place, other)| place < best || other == uid)
            .then_some(uid)
    }
}

/// Every TCP socket of this thread's network namespace, in any state.
///
/// # Errors
/// `/proc` is not there or cannot be understood.
pub fn tcp() -> io::Result<Vec<TcpSocket>> {
    // Not /proc/net: that is the namespace of the process' first thread.
    let mut sockets = read("/proc/thread-self/net/tcp")?;
    match read("/proc/thread-self/net/tcp6") {
        Ok(more) => sockets.extend(more),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

fn read(path: &str) -> io::Result<Vec<TcpSocket>> {
    let entries = TcpNetEntries::from_file(path, procfs::current_system_info()).map_err(not_found)?;
    let socket = |entry: procfs::net::TcpNetEntry| TcpSocket {
        local: canonical(entry.local_address),
        remote: canonical(entry.remote_address),
        listens: entry.state == TcpState::Listen,
        flows: matches!(
            entry.state,
            TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2 | TcpState::CloseWait
        ),
        uid: entry.uid,
        inode: entry.inode,
    };
    Ok(entries.0.into_iter().map(socket).collect())
}

fn not_found(error: procfs::ProcError) -> io::Error {
    match error {
        procfs::ProcError::NotFound(_) => io::ErrorKind::NotFound.into(),
        procfs::ProcError::Io(error, _) => error,
        error => io::Error::other(error.to_string()),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Who took the connections whose other end, on this node, is `ours`. One, as a rule, but the same end may be
/// used towards several at once. Empty if the one who took it is not in this network namespace, or has gone.
///
/// The kernel lists a connection as soon as it is made, whether or not it was accepted.
///
/// # Errors
/// As [`tcp`].
pub(crate) fn taken_by(ours: SocketAddr) -> io::Result<Vec<Taker>> {
    let (ours, sockets) = (canonical(ours), tcp()?);
    let takes = |socket: &&TcpSocket| socket.remote == ours && !socket.listens;
    let taker = |socket: &TcpSocket| Taker {
        address: socket.local,
        uid: socket.holder(&sockets),
    };
    Ok(sockets.iter().filter(takes).map(taker).collect())
}

/// The process that holds the socket of this inode, as far as this process may see it (`CAP_SYS_PTRACE` for
/// those of other users). Reads every process' descriptors: not for every request.
pub fn owner(inode: u64) -> Option<Owner> {
    // Newest first: a client that exits soon has mostly started a moment ago.
    Holder { inode, newest: true }.find()
}

/// A question: which process holds a socket?
#[derive(Clone, Copy, Deserialize, Serialize)]
pub(crate) struct Holder {
    inode: u64,
    /// Of several processes, the one that started last.
    newest: bool,
}

impl Holder {
    /// The kind of the question to the helper: inside the sandbox no process shows its descriptors.
    pub(crate) const KIND: &str = "holder";

    fn find(self) -> Option<Owner> {
        match Helper::of_this_process() {
            // Without an answer the process is not named; nothing else rests on it.
            Some(helper) => helper.ask(Self::KIND, &self, HOLDER).ok().flatten(),
            None => self.find_here(),
        }
    }

    /// Looks for it in `/proc`.
    pub(crate) fn find_here(self) -> Option<Owner> {
        match self.newest {
            true => first_holder(self.inode, |process| -process.pid),
            false => first_holder(self.inode, |process| process.pid),
        }
    }
}

/// The holder of this socket whose rank is the lowest.
fn first_holder(inode: u64, rank: impl Fn(&Process) -> i32) -> Option<Owner> {
    if inode == 0 {
        return None;
    }
    let mut processes: Vec<Process> = all_processes().ok()?.flatten().collect();
    processes.sort_unstable_by_key(rank);
    let process = processes.into_iter().find(|process| holds(process, inode))?;
    let command = process.stat().map(|stat| stat.comm).unwrap_or_default();
    Some(Owner {
        pid: process.pid,
        command: command
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect(),
        uid: process.uid().ok()?,
    })
}

fn holds(process: &Process, inode: u64) -> bool {
    process.fd().is_ok_and(|mut descriptors| {
        // One that was closed meanwhile is an error.
        descriptors.any(|fd| fd.is_ok_and(|fd| matches!(fd.target, FDTarget::Socket(of) if of == inode)))
    })
}

/// A listener that would take a connection, as far as `/proc` shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listener {
    /// A process.
    Process(Owner),
    /// A user whose process cannot be seen: this process lacks `CAP_SYS_PTRACE`, or it is in a container of
    /// its own.
    User(u32),
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(Owner { pid, command, uid }) => write!(f, "process {pid} ({command}), uid {uid}"),
            Self::User(uid) => write!(f, "a process of uid {uid}"),
        }
    }
}

/// The listeners on this address, or on every address of its port.
pub fn listeners(address: SocketAddr) -> Vec<Listener> {
    owners(listening(address))
}

/// The listeners that keep another socket from being bound to this address.
pub fn in_the_way(address: SocketAddr) -> Vec<Listener> {
    let ip = canonical(address).ip();
    owners(on_port(address.port()).filter(move |socket| overlap(socket.local.ip(), ip)))
}

/// Whether this process listens on this address, or on every address of its port. [`owner`] does not tell: a
/// child that a process has just forked holds its sockets too.
pub(crate) fn listens(pid: i32, address: SocketAddr) -> bool {
    let Ok(process) = Process::new(pid) else {
        return false;
    };
    listening(address).any(|socket| holds(&process, socket.inode))
}

fn owners(listening: impl Iterator<Item = TcpSocket>) -> Vec<Listener> {
    // Oldest first: a process that is being forked holds its parent's listener for a moment.
    let owner = |inode| Holder { inode, newest: false }.find();
    listening
        .map(|socket| owner(socket.inode).map_or(Listener::User(socket.uid), Listener::Process))
        .collect()
}

fn listening(address: SocketAddr) -> impl Iterator<Item = TcpSocket> {
    let wanted = canonical(address).ip();
    on_port(address.port()).filter(move |socket| {
        let ip = socket.local.ip();
        ip == wanted || ip.is_unspecified()
    })
}

fn on_port(port: u16) -> impl Iterator<Item = TcpSocket> {
    let sockets = tcp().unwrap_or_default().into_iter();
    sockets.filter(move |socket| socket.listens && socket.local.port() == port)
}

/// Whether one of these addresses covers the other. `[::]` takes IPv4 as well; 0.0.0.0 takes no IPv6.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one == other || covers(one, other) || covers(other, one)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_listener_that_takes_a_connection_is_found_before_it_accepts_it() {
        for listen in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let dial = if listen == "[::1]:0" {
                format!("[::1]:{port}")
            } else {
                format!("127.0.0.1:{port}")
            };
            let stream = TcpStream::connect(&dial).unwrap();
            let taken = taken_by(stream.local_addr().unwrap()).unwrap();
            // The same end may be in use towards another listener, of a test beside this one.
            let taker = Taker {
                address: dial.parse().unwrap(),
                uid: Some(rustix::process::getuid().as_raw()),
            };
            assert!(taken.contains(&taker), "{listen}: {taken:?}");
        }
    }

    #[test]
    fn until_a_connection_is_accepted_it_belongs_to_the_listener() {
        let socket = |local: &str, listens, uid, inode| TcpSocket {
            local: local.parse().unwrap(),
            remote: "192.0.2.20:40000".parse().unwrap(),
            listens,
            flows: !listens,
            uid,
            inode,
        };
        let sockets = [
            socket("0.0.0.0:1", true, 990, 1),
            socket("[::]:1", true, 1000, 2),
            socket("[::]:2", true, 990, 3),
            socket("127.0.0.1:2", true, 1000, 4),
            socket("[::1]:3", true, 990, 5),
            socket("[::]:4", true, 990, 6),
            socket("[::]:4", true, 1000, 7),
        ];
        for (taken, uid) in [
            ("192.0.2.10:1", Some(990)),
            ("[2001:db8::10]:1", Some(1000)),
            ("192.0.2.10:2", Some(990)),
            ("127.0.0.1:2", Some(1000)),
            ("[::1]:3", Some(990)),
            ("127.0.0.1:3", None),
            ("127.0.0.1:4", None),
        ] {
            assert_eq!(socket(taken, false, 0, 0).holder(&sockets), uid, "{taken}");
            assert_eq!(
                socket(taken, false, 7, 9).holder(&sockets),
                Some(7),
                "{taken}, accepted"
            );
        }
    }

    #[test]
    fn a_listener_is_listed_with_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sockets = tcp().unwrap();
        let socket = sockets
            .iter()
            .find(|socket| socket.local == address && socket.listens)
            .unwrap();
        assert_eq!(socket.uid, rustix::process::getuid().as_raw());
        // A program that another test is just starting has this process' descriptors for a moment.
        let ours = i32::try_from(std::process::id()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while owner(socket.inode).unwrap().pid != ours {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(owner(0).is_none());
    }

    #[test]
    fn an_address_is_taken_by_the_listeners_that_cover_it() {
        for (held, wanted, taken) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1", "0.0.0.0", true),
            ("127.0.0.1", "::", true),
            ("0.0.0.0", "127.0.0.1", true),
            ("::", "127.0.0.1", true),
            ("0.0.0.0", "::1", false),
            ("::1", "0.0.0.0", false),
        ] {
            let overlap = overlap(held.parse().unwrap(), wanted.parse().unwrap());
            assert_eq!(overlap, taken, "{wanted} while {held} is held");
        }
    }
}
