//! Hearing of every change of the node's packet filters, as the kernel announces it.

use std::io;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::UnixDatagram;

/// `NFNLGRP_NFTABLES`, as a bit of the address: every transaction of nf_tables, which iptables-nft is made of
/// too.
const NFTABLES: u32 = 1 << 6;
/// A message is about one table, chain, rule or set; longer ones are cut, which is fine for looking for a
/// name.
const MESSAGE: usize = 16 * 1024;

/// What our tables and chains are called begins like this, in nftables and in iptables.
const OURS: [&[u8]; 2] = [b"kubelet_gate", b"KG-"];

/// The announcements. iptables-legacy makes none, nor does the end of an element's timeout.
///
/// To tokio the socket is one for datagrams, which is all that counts for receiving from it.
pub(crate) struct Changes(UnixDatagram);

impl Changes {
    /// Listens from now on. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// It may not (`CAP_NET_ADMIN`), or the kernel has no nf_tables.
    pub(crate) fn listen() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            Some(NETFILTER),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, NFTABLES))?;
        UnixDatagram::from_std(socket.into()).map(Self)
    }

    /// Waits for the next change that may have touched what is ours. Cancel safe.
    ///
    /// # Errors
    /// The socket is broken.
    pub(crate) async fn next(&self) -> io::Result<()> {
        let mut message = vec![0; MESSAGE];
        loop {
            match self.0.recv(&mut message).await {
                Ok(length) if ours(&message[..length]) => return Ok(()),
                Ok(_) => {}
                // Some were lost: one of them may have been ours.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

fn ours(message: &[u8]) -> bool {
    OURS.iter()
        .any(|name| message.windows(name.len()).any(|window| window == *name))
}
