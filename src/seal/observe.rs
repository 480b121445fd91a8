//! The callers of the kubelet's ports, seen without changing anything: no rule is loaded, no connection
//! tracked.
//!
//! A packet socket gets a copy of every packet; a filter in the kernel lets through the first packet of each
//! connection to the ports in question, and nothing else. A caller on this node is named at once, by the
//! socket that is still waiting for its answer.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::file::{self, FileError};
use super::plan::PortKind;
use crate::files::{self, DOCUMENT};
use crate::host::sockets;

/// Callers that are told apart; more are only counted.
const CALLERS: usize = 4096;
/// How often it is looked whether the time is up.
const TICK: Duration = Duration::from_millis(200);
/// Connections from this node that are named in one second: it takes reading every process' descriptors.
const NAMED: u32 = 50;
/// In `firewall.stateDirectory`.
const FILE: &str = "observed.json";
/// Of a packet: the heads of IP and TCP.
const HEADS: u32 = 128;

/// What was seen.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// From when, RFC 3339.
    pub since: String,
    /// Until when.
    pub until: String,
    /// Most often first.
    pub callers: Vec<Caller>,
    /// Connections of callers beyond the 4,096 that are told apart.
    pub others: u64,
}

/// A caller of a port of the kubelet.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// The port that was called.
    pub port: u16,
    /// What it is to the kubelet.
    pub kind: PortKind,
    /// From where.
    pub address: IpAddr,
    /// The process, if it is one of this node's own network; pods' are not.
    pub process: Option<Process>,
    /// How often.
    pub count: u64,
    /// When first, RFC 3339.
    pub first: String,
    /// When last.
    pub last: String,
}

/// A process of this node, in its own network.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its user.
    pub uid: u32,
    /// What it calls itself, if it could be found before it was gone.
    pub command: Option<String>,
    /// Its control group, which names its unit or its pod.
    pub cgroup: Option<String>,
}

/// How long packets that came before the end are read after it.
const BACKLOG: Duration = Duration::from_secs(10);

/// One connection's first packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Syn {
    from: SocketAddr,
    port: u16,
}

struct Counted {
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

/// Looks on for `period`, or until `stop` is set.
///
/// # Errors
/// Reading packets is not allowed (`CAP_NET_RAW`).
pub fn observe(ports: &[(u16, PortKind)], period: Duration, stop: &AtomicBool) -> io::Result<Observed> {
    let mut socket = listen(ports)?;
    let (since, began) = (SystemTime::now(), Instant::now());
    let mut callers: HashMap<(u16, IpAddr, Option<Process>), Counted> = HashMap::new();
    let mut others = 0;
    let (mut second, mut named) = (0, 0);
    let mut packet = [0; HEADS as usize];
    let mut ended = None;
    loop {
        if ended.is_none() && (began.elapsed() >= period || stop.load(Relaxed)) {
            ended = Some(Instant::now());
        }
        // Packets that came before the end may wait unread: finding a caller's process takes a while.
        if ended.is_some_and(|ended| ended.elapsed() > BACKLOG) {
            break;
        }
        let length = match socket.read(&mut packet) {
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                if ended.is_some() {
                    break;
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(syn) = read(&packet[..length]) else {
            continue;
        };
        if began.elapsed().as_secs() != second {
            (second, named) = (began.elapsed().as_secs(), 0);
        }
        named += 1;
        let key = (syn.port, syn.from.ip(), process(syn.from, named <= NAMED));
        let now = SystemTime::now();
        if !callers.contains_key(&key) && callers.len() == CALLERS {
            others += 1;
            continue;
        }
        let counted = callers.entry(key).or_insert(Counted {
            count: 0,
            first: now,
            last: now,
        });
        counted.count += 1;
        counted.last = now;
    }
    let caller = |((port, address, process), counted): (_, Counted)| Caller {
        port,
        kind: ports
            .iter()
            .find(|(known, _)| *known == port)
            .map_or(PortKind::Secure, |(_, kind)| *kind),
        address,
        process,
        count: counted.count,
        first: text(counted.first),
        last: text(counted.last),
    };
    let mut callers: Vec<Caller> = callers.into_iter().map(caller).collect();
    callers.sort_by(|a, b| {
        b.count
            .cmp(&a.count)
            .then_with(|| (a.port, a.address).cmp(&(b.port, b.address)))
    });
    Ok(Observed {
        since: text(since),
        until: text(SystemTime::now()),
        callers,
        others,
    })
}

fn text(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0)
        .unwrap_or(time)
        .format(&Rfc3339)
        .unwrap_or_default()
}

/// The process that makes this connection, if it is made in this network namespace.
fn process(from: SocketAddr, name: bool) -> Option<Process> {
    let socket = sockets::tcp()
        .ok()?
        .into_iter()
        .find(|socket| socket.local == from)?;
    let owner = if name { sockets::owner(socket.inode) } else { None };
    let cgroup = owner.as_ref().and_then(|owner| {
        let groups = files::read_text(format!("/proc/{}/cgroup", owner.pid), DOCUMENT).ok()?;
        // Version 2 if there is one, else the last: name=systemd.
        let line = groups
            .lines()
            .find(|line| line.starts_with("0::"))
            .or_else(|| groups.lines().last())?;
        line.splitn(3, ':').nth(2).map(printable)
    });
    Some(Process {
        uid: socket.uid,
        command: owner.map(|owner| owner.command),
        cgroup,
    })
}

fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

// === impl Observed ===

impl Observed {
    /// What was seen last on this node; `None`: nothing was ever observed.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn load(directory: &Path) -> Result<Option<Self>, FileError> {
        file::read(&directory.join(FILE))
    }

    /// Keeps it for `firewall apply`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), FileError> {
        fs::create_dir_all(directory).map_err(|error| FileError::new(directory, error))?;
        file::replace(&directory.join(FILE), &file::json(self), file::READABLE)
    }
}

// === the packet socket ===

/// `ETH_P_ALL`, as the kernel wants it: in network order.
const EVERY_PROTOCOL: u16 = 0x0003_u16.to_be();

fn listen(ports: &[(u16, PortKind)]) -> io::Result<Socket> {
    let mut socket = Socket::new(
        Domain::PACKET,
        Type::DGRAM,
        Some(Protocol::from(i32::from(EVERY_PROTOCOL))),
    )?;
    socket.attach_filter(&filter(ports.iter().map(|(port, _)| *port)))?;
    // What came in before there was a filter.
    socket.set_nonblocking(true)?;
    while socket.read(&mut [0]).is_ok() {}
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

/// Where a jump of the filter goes.
#[derive(Clone, Copy)]
enum To {
    Next,
    Skip(u8),
    Accept,
    Drop,
}

/// Classic BPF: what came in for this node (on lo each packet is seen leaving as well), TCP, first fragment,
/// SYN without ACK, to one of the ports.
fn filter(ports: impl Iterator<Item = u16> + Clone) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF_AT_X: u16 = 0x48;
    const LOAD_BYTE_AT_X: u16 = 0x50;
    const IP_HEAD_TO_X: u16 = 0xb1;
    const AND: u16 = 0x54;
    const IF_EQUAL: u16 = 0x15;
    const IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    /// The kernel's own word about the packet: 0 if it is for this node.
    const PACKET_TYPE: u32 = 0xffff_f004;
    const TCP: u32 = 6;
    const SYN_AND_ACK: u32 = 0x12;
    const SYN: u32 = 0x02;

    let mut code: Vec<(u16, u32, To, To)> = Vec::new();
    let plain = |code, k| (code, k, To::Next, To::Next);
    let must = |k| (IF_EQUAL, k, To::Next, To::Drop);
    let to_ports = |code: &mut Vec<(u16, u32, To, To)>| {
        code.extend(
            ports
                .clone()
                .map(|port| (IF_EQUAL, u32::from(port), To::Accept, To::Next)),
        );
        code.push((RETURN, 0, To::Next, To::Next));
    };

    code.extend([plain(LOAD_WORD, PACKET_TYPE), must(0)]);
    let mut v6 = vec![
        plain(LOAD_BYTE, 6),
        must(TCP),
        plain(LOAD_BYTE, 40 + 13),
        plain(AND, SYN_AND_ACK),
        must(SYN),
    ];
    v6.push(plain(LOAD_HALF, 40 + 2));
    to_ports(&mut v6);
    let mut v4 = vec![
        plain(LOAD_BYTE, 9),
        must(TCP),
        plain(LOAD_HALF, 6),
        (IF_ANY_BIT, 0x1fff, To::Drop, To::Next),
    ];
    v4.extend([
        plain(IP_HEAD_TO_X, 0),
        plain(LOAD_BYTE_AT_X, 13),
        plain(AND, SYN_AND_ACK),
        must(SYN),
    ]);
    v4.push(plain(LOAD_HALF_AT_X, 2));
    to_ports(&mut v4);
    code.extend([plain(LOAD_BYTE, 0), plain(AND, 0xf0)]);
    // Past the next instruction and all of IPv4.
    let past = u8::try_from(v4.len() + 1).unwrap_or(u8::MAX);
    code.push((IF_EQUAL, 0x60, To::Skip(past), To::Next));
    code.push(must(0x40));
    code.extend(v4);
    code.extend(v6);

    let (drop, accept) = (code.len(), code.len() + 1);
    code.extend([plain(RETURN, 0), plain(RETURN, HEADS)]);
    let offset = |at: usize, to: To| match to {
        To::Next => 0,
        To::Skip(over) => over,
        To::Accept => u8::try_from(accept - at - 1).unwrap_or(u8::MAX),
        To::Drop => u8::try_from(drop - at - 1).unwrap_or(u8::MAX),
    };
    code.into_iter()
        .enumerate()
        .map(|(at, (code, k, then, or_else))| SockFilter::new(code, offset(at, then), offset(at, or_else), k))
        .collect()
}

/// The ends of a connection, from its first packet's heads.
fn read(packet: &[u8]) -> Option<Syn> {
    let (address, tcp) = match packet.first()? >> 4 {
        4 => {
            let head = usize::from(packet[0] & 0x0f) * 4;
            let address: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            (IpAddr::from(address), packet.get(head..)?)
        }
        6 => {
            let address: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            (IpAddr::from(address), packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    Some(Syn {
        from: SocketAddr::new(address.to_canonical(), port(0)?),
        port: port(2)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::channel;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_packet_breaks_the_reader(packet: Vec<u8>) {
            let _ = read(&packet);
        }
    }

    /// Seen red: with the packet type not looked at each connection on lo counts twice.
    #[test]
    fn each_connection_on_this_node_is_counted_once_and_its_process_named() {
        if !rustix::process::getuid().is_root() {
            println!("SKIPPED: only root may read packets");
            return;
        }
        let listener = TcpListener::bind("[::]:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let (seen, observed) = channel();
        let observing = stop.clone();
        let thread = thread::spawn(move || {
            let ports = [(port, PortKind::ReadOnly)];
            seen.send(observe(&ports, Duration::from_secs(120), &observing))
                .unwrap();
        });
        // Until one is seen for certain, the observer may not have begun.
        let mut open = Vec::new();
        for _ in 0..30 {
            open.push(TcpStream::connect(("127.0.0.1", port)).unwrap());
            open.push(TcpStream::connect(other.local_addr().unwrap()).unwrap());
            let (sender, receiver) = channel::<()>();
            // A pause that nothing ends: the observer starts meanwhile.
            let _ = receiver.recv_timeout(Duration::from_millis(20));
            drop(sender);
        }
        for _ in 0..3 {
            open.push(TcpStream::connect(("::1", port)).unwrap());
        }
        let (sender, receiver) = channel::<()>();
        let _ = receiver.recv_timeout(Duration::from_secs(3));
        drop(sender);
        stop.store(true, Relaxed);
        let observed = observed.recv().unwrap().unwrap();
        thread.join().unwrap();
        // A process that another test forks holds these sockets for a moment, and may be named too.
        let of = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let callers = observed
                .callers
                .iter()
                .filter(move |caller| caller.address == address);
            callers.collect::<Vec<_>>()
        };
        let count = |callers: &[&Caller]| callers.iter().map(|caller| caller.count).sum::<u64>();
        let (v4, v6) = (of("127.0.0.1"), of("::1"));
        assert_eq!(v4.len() + v6.len(), observed.callers.len(), "{observed:?}");
        assert!(count(&v4) > 3 && count(&v4) <= 30, "{observed:?}");
        assert_eq!(count(&v6), 3, "{observed:?}");
        for caller in v4.iter().chain(&v6) {
            assert_eq!((caller.port, caller.kind), (port, PortKind::ReadOnly));
        }
        let process = v4[0].process.as_ref().unwrap();
        assert_eq!(process.uid, 0);
        assert!(
            process.command.is_some() && process.cgroup.is_some(),
            "{process:?}"
        );
    }
}
