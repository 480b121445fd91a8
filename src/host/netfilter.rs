//! Questions and orders to the kernel's netfilter, in its own binary messages: for what its programs cannot
//! say, or not in one step, or where they are not installed.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// What a message is about: the subsystem, and the number of the question or order in it.
#[derive(Clone, Copy)]
pub(crate) struct Kind(pub(crate) u8, pub(crate) u8);

/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const NFTABLES: u8 = 10;
/// `NFNL_SUBSYS_CTNETLINK`.
pub(crate) const CONNTRACK: u8 = 1;
/// `NLM_F_NONREC`: an object goes only if nothing is in it.
pub(crate) const ONLY_IF_EMPTY: u16 = 0x100;

/// `NFNL_MSG_BATCH_BEGIN` and `_END`: changes of nf_tables stand between two of these.
const BATCH: [Kind; 2] = [Kind(0, 16), Kind(0, 17)];
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `nlmsghdr`, and with `nfgenmsg` behind it.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;
/// The kernel fills at most so much at once.
const ANSWER: usize = 64 * 1024;

/// A socket to netfilter, of the network namespace of the thread that opened it.
pub(crate) struct Netfilter(OwnedFd);

/// The attributes of a message.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

// === impl Netfilter ===

impl Netfilter {
    /// Opens it.
    ///
    /// # Errors
    /// This process may not, or the kernel has no netfilter.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?;
        Ok(Self(socket))
    }

    /// Has the kernel list objects of a family (0: of each), and calls `take` with the family and the
    /// attributes of each.
    ///
    /// # Errors
    /// This process may not (`CAP_NET_ADMIN`), or the kernel does not know the question.
    pub(crate) fn list(
        &self,
        kind: Kind,
        family: u8,
        attributes: &[u8],
        mut take: impl FnMut(u8, Attributes<'_>),
    ) -> io::Result<()> {
        self.send(&message(kind, REQUEST | DUMP, family, 0, attributes))?;
        self.answers(|answer| {
            if let (Some(family), Some(attributes)) = (answer.get(HEADER), answer.get(HEADERS..)) {
                take(*family, Attributes(attributes));
            }
        })
    }

    /// Has the kernel do this to nf_tables, in a transaction of its own.
    ///
    /// # Errors
    /// The kernel refuses it, and has changed nothing.
    pub(crate) fn change(&self, order: u8, flags: u16, family: u8, attributes: &[u8]) -> io::Result<()> {
        let [begin, end] = BATCH.map(|kind| message(kind, REQUEST, 0, u16::from(NFTABLES), &[]));
        let kind = Kind(NFTABLES, order);
        let order = message(kind, REQUEST | ACKNOWLEDGE | flags, family, 0, attributes);
        self.send(&[begin, order, end].concat())?;
        self.answers(|_| ())
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        sendto(
            &self.0,
            message,
            SendFlags::empty(),
            &SocketAddrNetlink::new(0, 0),
        )?;
        Ok(())
    }

    /// The kernel has answered before `send` returns, and fills in more of a list at each `recv`.
    fn answers(&self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER];
        loop {
            let (length, _) = recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT)?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some(length) = number_at(rest, 0) {
                let length = length as usize;
                let answer = rest.get(..length).filter(|answer| answer.len() >= HEADER);
                let answer = answer.ok_or(io::ErrorKind::InvalidData)?;
                match answer
                    .get(4..6)
                    .map(|kind| u16::from_ne_bytes([kind[0], kind[1]]))
                {
                    Some(DONE) => return Ok(()),
                    Some(ERROR) => {
                        return match number_at(answer, HEADER).map(u32::cast_signed) {
                            Some(0) => Ok(()),
                            Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    _ => take(answer),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

// === impl Attributes ===

impl<'a> Attributes<'a> {
    /// The bytes of the first attribute of this number.
    pub(crate) fn get(self, wanted: u16) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while let (Some(length), Some(number)) = (short_at(rest, 0), short_at(rest, 2)) {
            let length = usize::from(length);
            let value = rest.get(4..length)?;
            // The upper bits say how it is written.
            if number & 0x3fff == wanted {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        None
    }

    /// The attributes in the first attribute of this number.
    pub(crate) fn within(self, wanted: u16) -> Option<Self> {
        self.get(wanted).map(Self)
    }

    /// The text in it, without the zero at its end.
    pub(crate) fn text(self, wanted: u16) -> Option<String> {
        let bytes = self.get(wanted)?;
        let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// The number in it.
    pub(crate) fn number(self, wanted: u16) -> Option<u32> {
        Some(u32::from_be_bytes(*self.get(wanted)?.first_chunk()?))
    }
}

/// An attribute as it stands in a message.
pub(crate) fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length + 3);
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn message(
    Kind(subsystem, number): Kind,
    flags: u16,
    family: u8,
    resource: u16,
    attributes: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADERS + attributes.len());
    bytes.extend(((HEADERS + attributes.len()) as u32).to_ne_bytes());
    bytes.extend(u16::from_be_bytes([subsystem, number]).to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Neither a number of the question nor of the process: the socket is used for one at a time.
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn short_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written_and_cut_ones_are_none() {
        let inner = [attribute(1, b"nat\0"), attribute(2, &7_u32.to_be_bytes())].concat();
        let bytes = [attribute(3, &[9]), attribute(4 | 0x8000, &inner)].concat();
        let all = Attributes(&bytes);
        assert_eq!(all.get(3), Some(&[9][..]));
        let within = all.within(4).unwrap();
        assert_eq!(
            (within.text(1).as_deref(), within.number(2)),
            (Some("nat"), Some(7))
        );
        assert_eq!(all.get(5), None);
        for length in 0..bytes.len() {
            let cut = Attributes(&bytes[..length]);
            assert!(length >= 5 || cut.get(3).is_none(), "{length}");
            assert!(cut.get(4).is_none(), "{length}");
        }
        // A length of nothing ends the reading.
        assert_eq!(Attributes(&[0; 16]).get(1), None);
    }
}
