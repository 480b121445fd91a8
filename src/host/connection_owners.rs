//! Whose process is at the other end of a connection within this node: one question to the kernel, whatever
//! the number of sockets.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// `SOCK_DIAG_BY_FAMILY`: question and answer.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// `NLM_F_REQUEST`, and with `NLM_F_ACK`.
const REQUEST: u16 = 1;
const ORDER: u16 = 5;
/// `NLMSG_ERROR`, which also says that an order was carried out.
const OUTCOME: u16 = 2;
const TCP: u8 = 6;
/// `nlmsghdr`.
const HEADER: usize = 16;
/// `inet_diag_sockid`: both ports, both addresses, the interface and the cookie.
const ID: usize = 48;
/// Where `inet_diag_msg` has the user and the inode, after four bytes, the id and three numbers.
const UID: usize = HEADER + 4 + ID + 12;
const INODE: usize = UID + 4;
/// Answers that are read in search of the one to the question. There is one to each.
const ANSWERS: usize = 4;

/// The kernel's directory of sockets (`sock_diag`), of the network namespace in which it was opened.
pub(crate) struct ConnectionOwners {
    kernel: OwnedFd,
    questions: Cell<u32>,
}

impl ConnectionOwners {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel has none, or this process may not use netlink.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(SOCK_DIAG))?;
        Ok(Self {
            kernel,
            questions: Cell::new(0),
        })
    }

    /// The user who made the socket that has `own` as its own end and `other` as the other one. `None` if it
    /// is not in this network namespace, no process holds it any more, or the kernel does not say.
    pub(crate) fn user_of(&self, own: SocketAddr, other: SocketAddr) -> Option<u32> {
        user(&self.answer(own, other)?)
    }

    /// Whether there is such a socket in this network namespace, and be it one that no process has accepted
    /// yet. False if the kernel does not say.
    pub(crate) fn has(&self, own: SocketAddr, other: SocketAddr) -> bool {
        self.answer(own, other).is_some()
    }

    /// The kernel's answer about the socket with these ends.
    fn answer(&self, own: SocketAddr, other: SocketAddr) -> Option<Vec<u8>> {
        let number = self.questions.get().wrapping_add(1);
        self.questions.set(number);
        let question = question(BY_FAMILY, REQUEST, number, own, other);
        // The kernel answers before the call returns.
        send(&self.kernel, &question, SendFlags::empty()).ok()?;
        let mut answer = [0; 1024];
        for _ in 0..ANSWERS {
            let (length, _) = recv(&self.kernel, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
            let answer = answer.get(..length)?;
            if number_at(answer, 8)? == number {
                return is_about(answer, own, other)?.then(|| answer.to_vec());
            }
        }
        None
    }

    /// Resets the connection that has `own` as its own end and `other` as the other one, which tells both.
    ///
    /// # Errors
    /// There is none, this process may not (`CAP_NET_ADMIN`), or the kernel cannot
    /// (`CONFIG_INET_DIAG_DESTROY`).
    pub(crate) fn reset(&self, own: SocketAddr, other: SocketAddr) -> io::Result<()> {
        let number = self.questions.get().wrapping_add(1);
        self.questions.set(number);
        let order = question(DESTROY, ORDER, number, own, other);
        send(&self.kernel, &order, SendFlags::empty())?;
        let mut answer = [0; 1024];
        for _ in 0..ANSWERS {
            let (length, _) = recv(&self.kernel, &mut answer[..], RecvFlags::DONTWAIT)?;
            let answer = answer.get(..length).unwrap_or_default();
            let kind = answer
                .get(4..6)
                .map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
            if number_at(answer, 8) == Some(number) && kind == Some(OUTCOME) {
                return match number_at(answer, HEADER).map(u32::cast_signed) {
                    Some(0) => Ok(()),
                    Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
                    None => Err(io::ErrorKind::InvalidData.into()),
                };
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

fn question(kind: u16, flags: u16, number: u32, own: SocketAddr, other: SocketAddr) -> Vec<u8> {
    let (own_ip, other_ip) = (own.ip().to_canonical(), other.ip().to_canonical());
    let family = match own_ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let length = HEADER + 8 + ID;
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(number.to_ne_bytes());
    // From this process; the kernel fills it in.
    message.extend([0; 4]);
    // No extensions; any state.
    message.extend([family.as_raw() as u8, TCP, 0, 0]);
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(own.port().to_be_bytes());
    message.extend(other.port().to_be_bytes());
    message.extend(octets(own_ip));
    message.extend(octets(other_ip));
    // Any interface; no cookie.
    message.extend([0; 4]);
    message.extend([0xff; 8]);
    message
}

/// An address in the sixteen bytes of an id.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&ip.octets());
            octets
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Whether an answer is about the socket with these ends: the kernel may name a listener instead.
fn is_about(answer: &[u8], own: SocketAddr, other: SocketAddr) -> Option<bool> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let ipv6 = u16::from(*answer.get(HEADER)?) == AddressFamily::INET6.as_raw();
    let id = answer.get(HEADER + 4..)?.get(..ID)?;
    let end = |port: usize, ip: usize| {
        let port = u16::from_be_bytes(*id.get(port..)?.first_chunk()?);
        let octets: &[u8; 16] = id.get(ip..)?.first_chunk()?;
        let ip = match ipv6 {
            true => IpAddr::from(*octets).to_canonical(),
            false => IpAddr::from(*octets.first_chunk::<4>()?),
        };
        Some((ip, port))
    };
    let canonical = |end: SocketAddr| Some((end.ip().to_canonical(), end.port()));
    Some(kind == BY_FAMILY && end(0, 4) == canonical(own) && end(2, 20) == canonical(other))
}

/// The user in an answer. The kernel says 0 for a socket that no process holds: that has no inode either.
fn user(answer: &[u8]) -> Option<u32> {
    (number_at(answer, INODE)? != 0).then(|| number_at(answer, UID))?
}

fn number_at(answer: &[u8], at: usize) -> Option<u32> {
    let bytes = answer.get(at..)?.get(..4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::host::as_user;

    /// Seen red: without the look at the inode, the closed connection of any user was root's.
    #[test]
    fn the_user_at_the_other_end_is_known_as_long_as_its_process_holds_it() {
        let owners = ConnectionOwners::open().unwrap();
        let us = rustix::process::geteuid().as_raw();
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(listen).unwrap();
            let here = listener.local_addr().unwrap();
            let ours = TcpStream::connect(here).unwrap();
            let (accepted, peer) = listener.accept().unwrap();
            assert_eq!(owners.user_of(peer, here), Some(us), "{listen}");
            assert_eq!(owners.user_of(here, here), None, "a listener is not asked for");
            assert!(!owners.has(here, here));
            let waits = TcpStream::connect(here).unwrap();
            assert!(
                owners.has(here, waits.local_addr().unwrap()),
                "before it is accepted"
            );
            let _ = listener.accept().unwrap();
            assert!(owners.has(peer, here) && owners.has(here, peer));
            drop(ours);
            assert_eq!(owners.user_of(peer, here), None, "{listen}, closed");
            drop(accepted);
            if us == 0 {
                let theirs = as_user(65530, || TcpStream::connect(here)).unwrap().unwrap();
                let (_accepted, peer) = listener.accept().unwrap();
                assert_eq!(owners.user_of(peer, here), Some(65530), "{listen}");
                drop(theirs);
            }
        }
    }

    #[test]
    fn a_client_with_a_socket_for_both_families_is_found_by_its_ipv4_address() {
        let owners = ConnectionOwners::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{}", here.port()).parse().unwrap();
        let _ours = TcpStream::connect(mapped).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        let us = rustix::process::geteuid().as_raw();
        assert_eq!(owners.user_of(peer, here), Some(us));
    }

    #[test]
    fn answers_that_are_cut_or_about_another_socket_name_no_user() {
        let (own, other) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let mut answer = vec![0; INODE + 4];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        answer[HEADER] = AddressFamily::INET.as_raw() as u8;
        answer[HEADER + 4..][..ID]
            .copy_from_slice(&question(BY_FAMILY, REQUEST, 1, own, other)[HEADER + 8..]);
        answer[UID] = 7;
        answer[INODE] = 1;
        assert_eq!(is_about(&answer, own, other), Some(true));
        assert_eq!(is_about(&answer, other, own), Some(false));
        assert_eq!(user(&answer), Some(7));
        for length in 0..answer.len() {
            let cut = &answer[..length];
            assert!(
                user(cut).is_none() || is_about(cut, own, other).is_none(),
                "{length}"
            );
        }
    }
}
