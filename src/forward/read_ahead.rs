//! A read buffer that exists only while there is much to read.
//!
//! rustls reads 4 KiB at a time: on a large answer, one system call for every 4 KiB. A permanent buffer would
//! cost memory on every idle connection. So after a read that was filled, the next one reads ahead into a
//! larger buffer, which is freed when it is drained.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Four TLS records.
const AHEAD: usize = 64 * 1024;
/// After a read that fills this much, more is expected.
const FULL: usize = 4096;

/// Reads ahead from `stream`, below rustls.
pub(super) struct ReadAhead<S> {
    stream: S,
    /// The last read was filled.
    more: bool,
    /// [`AHEAD`] bytes, or empty.
    buffer: Vec<u8>,
    /// The part of `buffer` that was read and not yet passed on.
    ahead: Range<usize>,
}

impl<S> ReadAhead<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            more: false,
            buffer: Vec::new(),
            ahead: 0..0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            if !this.more {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                this.more = buf.remaining() == 0 && buf.filled().len() - before >= FULL;
                return Poll::Ready(Ok(()));
            }
            this.buffer.resize(AHEAD, 0);
            let mut ahead = ReadBuf::new(&mut this.buffer);
            let read = Pin::new(&mut this.stream).poll_read(cx, &mut ahead);
            this.ahead = 0..ahead.filled().len();
            this.more = this.ahead.len() == AHEAD;
            if this.ahead.is_empty() {
                // There is nothing to read: the buffer is freed while waiting.
                this.buffer = Vec::new();
                return read;
            }
        }
        let count = buf.remaining().min(this.ahead.len());
        buf.put_slice(&this.buffer[this.ahead.start..this.ahead.start + count]);
        this.ahead.start += count;
        if this.ahead.is_empty() && !this.more {
            this.buffer = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Bytes pass unchanged with writes and reads of every size, and an idle reader holds no buffer.
        #[test]
        fn bytes_come_through_in_order_and_the_buffer_goes(
            writes in proptest::collection::vec(1usize..200_000, 1..6),
            ask in 1usize..9000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut sender, receiver) = tokio::io::duplex(128 * 1024);
                let length = writes.iter().sum::<usize>();
                let sent: Vec<u8> = (0..length).map(|index| (index >> 3) as u8).collect();
                let expected = sent.clone();
                let writer = async move {
                    let mut rest = &sent[..];
                    for write in writes {
                        let (now, later) = rest.split_at(write);
                        sender.write_all(now).await.unwrap();
                        rest = later;
                    }
                };
                let reader = async {
                    let mut reader = ReadAhead::new(receiver);
                    let (mut got, mut buffer) = (Vec::new(), vec![0; ask]);
                    loop {
                        let read = reader.read(&mut buffer).await.unwrap();
                        if read == 0 {
                            break;
                        }
                        got.extend_from_slice(&buffer[..read]);
                    }
                    assert_eq!(reader.buffer.capacity(), 0);
                    got
                };
                let (got, ()) = tokio::join!(reader, writer);
                assert!(got == expected);
            });
        }
    }
}
