//! A connection between two gates: whole messages, with descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The longest message, in bytes.
const LONGEST: usize = 64 * 1024;
/// The most descriptors of a message: no more than the kernel passes at once.
pub(super) const MOST_DESCRIPTORS: usize = 253;

/// A connection between two gates. Its socket keeps messages apart (`SOCK_SEQPACKET`): to tokio it is a
/// stream, which is all that counts for waiting until it is readable.
pub(super) struct Channel(UnixStream);

impl Channel {
    /// Of a connected socket. Must be called on a tokio runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        UnixStream::from_std(StdStream::from(socket)).map(Self)
    }

    /// Sends a message at once. The kernel has room for far more than one: a peer that reads nothing for so
    /// long that there is none is an error.
    pub(super) fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > LONGEST || descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!(
                    "a message of {} bytes with {} descriptors cannot be sent: the most are {LONGEST} and \
                     {MOST_DESCRIPTORS}",
                    bytes.len(),
                    descriptors.len()
                ),
            ));
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let parts = [IoSlice::new(&bytes)];
        sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// The other end is closed, or sends what is no message.
    pub(super) async fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let received = self.0.async_io(Interest::READABLE, || receive(self.0.as_fd()));
        parse(received.await?)
    }

    /// The message that has come already, if one has. The other end can send no further one: from here on
    /// each attempt fails there.
    pub(super) fn last<T: DeserializeOwned>(&self) -> io::Result<T> {
        shutdown(&self.0, Shutdown::Read)?;
        parse(receive(self.0.as_fd())?).map(|(message, _)| message)
    }
}

impl From<UnixStream> for Channel {
    fn from(accepted: UnixStream) -> Self {
        Self(accepted)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One message; none of its bytes if the other end is closed.
fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "the other process sent a longer message than any of a gate",
        ));
    }
    bytes.truncate(received.bytes);
    Ok((bytes, descriptors))
}

fn parse<T: DeserializeOwned>(received: (Vec<u8>, Vec<OwnedFd>)) -> io::Result<(T, Vec<OwnedFd>)> {
    let (bytes, descriptors) = received;
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // The parser's message would quote what was sent.
    let message = serde_json::from_slice(&bytes).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the other process sent what is no message of a gate: is it of another version?",
        )
    })?;
    Ok((message, descriptors))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::time::Duration;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, send, socketpair};
    use tokio::time::timeout;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    #[tokio::test]
    async fn a_listener_arrives_with_its_message_and_is_not_inherited_by_children() {
        let (one, other) = pair();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        one.send(&"first", &[listener.as_fd(), listener.as_fd()]).unwrap();
        one.send(&"second", &[]).unwrap();
        drop(listener);
        let (message, mut descriptors) = other.receive::<String>().await.unwrap();
        assert_eq!((&*message, descriptors.len()), ("first", 2));
        let flags = rustix::io::fcntl_getfd(&descriptors[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let listener = TcpListener::from(descriptors.remove(0));
        assert_eq!(listener.local_addr().unwrap(), address);
        assert!(std::net::TcpStream::connect(address).is_ok());
        assert_eq!(other.receive::<String>().await.unwrap().0, "second");
        drop(one);
        let ended = other.receive::<String>().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    /// (Not seen red.)
    #[tokio::test]
    async fn what_is_longer_than_a_message_or_none_is_an_error_that_quotes_nothing() {
        let (one, other) = pair();
        let error = one.send(&"x".repeat(LONGEST), &[]).unwrap_err().to_string();
        assert!(error.contains("cannot be sent"), "{error}");
        for (bytes, said) in [
            (vec![b'1'; LONGEST + 1], "a longer message"),
            (b"{secret".to_vec(), "no message of a gate"),
        ] {
            send(&one, &bytes, SendFlags::empty()).unwrap();
            let error = other.receive::<String>().await.unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("secret"), "{error}");
        }
    }

    /// Two processes must not both be the gate. (Not seen red.)
    #[tokio::test]
    async fn after_the_last_word_no_other_can_be_sent() {
        let (one, other) = pair();
        one.send(&1, &[]).unwrap();
        assert_eq!(other.last::<u8>().unwrap(), 1);
        assert!(one.send(&2, &[]).is_err());

        let (one, other) = pair();
        assert!(other.last::<u8>().is_err());
        assert!(one.send(&2, &[]).is_err());
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_an_error_and_not_waited_for() {
        let (one, other) = pair();
        let text = "x".repeat(LONGEST / 2);
        let error = (0..1000).find_map(|_| one.send(&text, &[]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let mut received = 0;
        while timeout(Duration::from_millis(200), other.receive::<String>())
            .await
            .is_ok_and(|message| message.is_ok())
        {
            received += 1;
        }
        assert!(received > 0);
        let _ = io::sink().write(&[received]);
    }
}
