//! One wrapper around a client's stream that owns every deadline of the connection.
//!
//! hyper has one timer for both the wait between requests and the head of a request. The gate needs
//! two, and a third for a client that stops reading. The wrapper looks at the clock when a read or
//! write has to wait, and keeps one timer that is moved only when it must fire earlier: a request that
//! arrives whole costs no timer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use crate::gate::{Activity, Waiting};
use crate::metrics::Metrics;
use crate::settings::Limits;

/// A stream whose reads and writes end when a deadline passes.
pub(super) struct Watched {
    stream: TlsStream<TcpStream>,
    activity: Arc<Activity>,
    timeouts: Timeouts,
    metrics: Arc<Metrics>,
    timer: Pin<Box<Sleep>>,
    /// The client reads no byte.
    stalled: Option<Stall>,
    /// How the kernel decides that the client is gone.
    presence: Presence,
    /// The gate has ended its direction, and discards what the client still sends.
    lingering: bool,
}

/// After the gate has ended its direction it reads for this long what the client still sends, as Go's
/// server does: closing a socket with unread bytes resets the connection, and a reset discards an answer
/// that the client has not read.
const LINGER: Duration = Duration::from_millis(500);

/// A client that reads no byte. What it is allowed was decided when it began: a followed log may end while
/// its reader pauses, and the rest is still to be read.
#[derive(Clone, Copy)]
struct Stall {
    since: Instant,
    limit: Duration,
    /// The name of this deadline.
    kind: &'static str,
}

/// How the kernel decides that a client is gone, beside keep-alive, which it does not use while bytes
/// wait for an acknowledgement.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Presence {
    /// As it does by default: by its retries, which take about a quarter of an hour.
    Default,
    /// By `TCP_USER_TIMEOUT`.
    UserTimeout,
    /// As by default, and for good: the connection has had a stream. Linux applies
    /// `TCP_USER_TIMEOUT` also to a client that acknowledges every byte and every probe, but has no
    /// room for more: to a reader that pauses.
    Stream,
}

/// The least `TCP_USER_TIMEOUT`. Linux uses it in place of the number of keep-alive probes as well.
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// The deadlines of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// For a head, from its first byte; `None` on HTTP/2, where bytes may come that belong to no request.
    head: Option<Duration>,
    /// Between requests.
    idle: Duration,
    /// For a write without progress.
    stall: Duration,
    /// The same while a log is followed.
    follow_stall: Duration,
}

// === impl Timeouts ===

impl Timeouts {
    /// The deadlines of an HTTP/1 connection.
    pub(super) fn http1(limits: &Limits) -> Self {
        let head = Some(limits.request_head_timeout);
        Self {
            head,
            idle: limits.idle_timeout,
            stall: limits.write_stall_timeout,
            follow_stall: limits.follow_stall_timeout,
        }
    }

    /// The deadlines of an HTTP/2 connection. An idle one gets GOAWAY first; the deadline here comes later,
    /// for a client that does not close.
    pub(super) fn http2(limits: &Limits) -> Self {
        let idle = limits.idle_timeout + limits.request_head_timeout;
        Self {
            head: None,
            idle,
            stall: limits.write_stall_timeout,
            follow_stall: limits.follow_stall_timeout,
        }
    }
}

// === impl Watched ===

impl Watched {
    /// Watches `stream`, whose requests report to `activity`.
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        activity: Arc<Activity>,
        timeouts: Timeouts,
        metrics: Arc<Metrics>,
    ) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + timeouts.idle));
        Self {
            stream,
            activity,
            timeouts,
            metrics,
            timer,
            stalled: None,
            presence: Presence::Default,
            lingering: false,
        }
    }

    /// When the connection must end if nothing happens, and the name of that deadline.
    fn deadline(&self) -> Option<(Instant, &'static str)> {
        if self.activity.is_tunnel() {
            return None;
        }
        if let Some(stalled) = self.stalled {
            return Some((stalled.since + stalled.limit, stalled.kind));
        }
        match (self.activity.waiting(), self.timeouts.head) {
            (Waiting::No, _) => None,
            (Waiting::ForHead(since), Some(head)) => Some((since + head, "head_timeout")),
            (Waiting::ForHead(since) | Waiting::ForRequest(since), _) => {
                Some((since + self.timeouts.idle, "idle"))
            }
        }
    }

    /// Sets the timer while a read or write has to wait; an error if the deadline has passed.
    fn wait(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Some((deadline, kind)) = self.deadline() {
            if Instant::now() >= deadline {
                if self.stalled.is_some() {
                    self.activity.note_stalled();
                }
                if kind != "idle" {
                    self.metrics.rejected(kind);
                }
                return Err(io::Error::new(io::ErrorKind::TimedOut, kind));
            }
            // Moved only to fire earlier: the deadline is computed again when it fires.
            if self.timer.is_elapsed() || self.timer.deadline() > deadline {
                self.timer.as_mut().reset(deadline);
            }
            // Polled each time, since a poll that comes after the task's budget is spent registers nothing.
            if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Discards what the client sends until it closes, or until [`LINGER`] has passed.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unread = [0; 4096];
        while self.timer.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut unread);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Has the kernel notice early that a client is gone that leaves bytes
    /// unacknowledged, unless it may pause.
    fn set_presence(&mut self) {
        let is_stream = self.activity.is_tunnel() || self.activity.has_follow();
        let (presence, timeout) = match (self.presence, is_stream) {
            (Presence::Stream, _) | (Presence::UserTimeout, false) => return,
            (_, true) => (Presence::Stream, None),
            // It must not come before the gate's own deadline.
            (Presence::Default, false) => (
                Presence::UserTimeout,
                Some(USER_TIMEOUT.max(2 * self.timeouts.stall)),
            ),
        };
        self.presence = presence;
        let (socket, _) = self.stream.get_ref();
        if let Err(error) = SockRef::from(socket).set_tcp_user_timeout(timeout) {
            tracing::debug!(%error, "TCP_USER_TIMEOUT cannot be set");
        }
    }

    fn wrote<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            self.set_presence();
            return written;
        }
        if self.stalled.is_none() {
            let (limit, kind) = match self.activity.has_follow() {
                true => (self.timeouts.follow_stall, "follow_stall"),
                false => (self.timeouts.stall, "write_stall"),
            };
            let since = Instant::now();
            self.stalled = Some(Stall { since, limit, kind });
        }
        match self.wait(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(outcome) => {
                if buf.filled().len() > filled && this.timeouts.head.is_some() {
                    this.activity.note_bytes();
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => match this.wait(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.wrote(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.lingering {
            let shut = Pin::new(&mut this.stream).poll_shutdown(cx);
            ready!(this.wrote(cx, shut))?;
            if this.activity.has_requests() {
                // A tunnel: its own task reads the other direction.
                return Poll::Ready(Ok(()));
            }
            this.timer.as_mut().reset(Instant::now() + LINGER);
            this.lingering = true;
        }
        this.poll_linger(cx).map(Ok)
    }
}
