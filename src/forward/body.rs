//! The body of an answer: the kubelet's bytes, or the gate's own.
//!
//! While a client does not read, hyper keeps pieces of its answer after the body has ended. So each piece
//! keeps the request's place too.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::follow::Follow;
use super::pool::PooledConnection;
use super::tunnel::EndedBy;

/// An answer's body. A guard attached by [`Body::until_end`] is kept until the body has ended or is dropped.
pub(crate) struct Body {
    kind: BodySource,
    guard: Option<Guard>,
    /// Kept until the last piece was written.
    place: Option<Arc<dyn Send + Sync>>,
    /// Gives the last byte of a large frame a frame of its own.
    splits: bool,
    /// That byte, or what was read ahead.
    last: Option<Bytes>,
    /// The followed log that it is.
    follow: Option<Following>,
}

/// A followed log as its body holds it.
struct Following(Arc<Follow>);

/// Bytes of an answer on their way to the client. It is dropped once they were written to the connection.
pub(crate) struct Piece {
    bytes: Bytes,
    _place: Option<Arc<dyn Send + Sync>>,
}

/// What the last poll of a body for a frame found.
pub(crate) struct Polled {
    /// A frame, or the end: the body is not polled again before the client has taken it. If not, the
    /// kubelet has sent no more yet.
    pub(crate) is_ready: bool,
    /// The followed log that the body is.
    pub(crate) follow: Option<Arc<Follow>>,
}

thread_local! {
    /// What the last poll of a body on this thread found, for [`Body::observe_frames`].
    static ASKED: Cell<Option<Polled>> = const { Cell::new(None) };
}

/// The largest frame that stays whole on HTTP/2, in bytes. Most clients open a window of 64 KiB at once.
const SMALL: usize = 1024;

/// A value that is kept as long as an answer.
pub(super) type Guard = Box<dyn Send + Sync>;

enum BodySource {
    Full(Bytes),
    Kubelet {
        incoming: Incoming,
        /// The connection that the body comes from, polled with it; `None` once the whole body has arrived.
        connection: Option<PooledConnection>,
    },
}

impl Body {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// A body that is complete.
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::of(BodySource::Full(bytes))
    }

    /// The body of an answer that came over `connection`, which returns to its pool as soon as it can.
    pub(super) fn kubelet(incoming: Incoming, connection: PooledConnection) -> Self {
        Self::of(BodySource::Kubelet {
            incoming,
            connection: connection.settle(),
        })
    }

    fn of(kind: BodySource) -> Self {
        Self {
            kind,
            guard: None,
            place: None,
            splits: false,
            last: None,
            follow: None,
        }
    }

    /// Waits for the first `least` bytes, or for the end if there are fewer. They stay in the body.
    pub(super) async fn beginning(&mut self, least: usize) -> Result<Bytes, hyper::Error> {
        let mut begins = self.last.take().unwrap_or_default();
        while begins.len() < least {
            match poll_fn(|cx| self.kind.poll_frame(cx)).await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        begins = [begins, data].concat().into();
                    }
                }
                None => break,
            }
        }
        if !begins.is_empty() {
            self.last = Some(begins.clone());
        }
        Ok(begins)
    }

    /// Runs `poll`, and returns what the last poll of a body within it found.
    ///
    /// hyper owns the body while it sends it over HTTP/2, and does not poll it while the client's window is
    /// closed. The result tells a client that never opens its window from a kubelet that sends nothing. It
    /// travels in a thread-local value, because only hyper stands between a stream's task and the body.
    pub(crate) fn observe_frames<T>(poll: impl FnOnce() -> T) -> (T, Option<Polled>) {
        ASKED.set(None);
        let polled = poll();
        (polled, ASKED.take())
    }

    /// Keeps `place` until all that was read of the body has been written to the client's connection.
    ///
    /// On HTTP/2, hyper hands over a whole frame, and with the last one the stream, as soon as the client's
    /// window has room for one byte. Nothing would end a stream whose client opens its window no further. So
    /// there the last byte of a frame is a frame of its own, which waits until the window has room for all
    /// bytes before it. A frame of up to [`SMALL`] bytes stays whole: its stream ends with the connection.
    #[must_use]
    pub(crate) fn until_written(mut self, place: Arc<dyn Send + Sync>, http2: bool) -> Self {
        self.place = Some(place);
        self.splits = http2;
        self
    }

    /// Makes this the body of a followed log, which reports to `follow`.
    #[must_use]
    pub(crate) fn following(mut self, follow: Arc<Follow>) -> Self {
        self.follow = Some(Following(follow));
        self
    }

    /// Keeps `guard` until the body has ended or is dropped.
    #[must_use]
    pub(crate) fn until_end(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }
}

// === impl Body as hyper sees it ===

impl HttpBody for Body {
    type Data = Piece;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, hyper::Error>>> {
        let this = &mut *self;
        let frame = match this.last.take() {
            Some(last) => Poll::Ready(Some(Ok(Frame::data(last)))),
            None => this.kind.poll_frame(cx),
        };
        let follow = this.follow.as_ref().map(|Following(follow)| follow.clone());
        if let Some(follow) = &follow
            && (matches!(frame, Poll::Ready(None | Some(Err(_)))) || this.kind.is_end_stream())
        {
            follow.note_end(EndedBy::Kubelet);
        }
        ASKED.set(Some(Polled {
            is_ready: frame.is_ready(),
            follow: follow.clone(),
        }));
        frame.map_ok(|frame| {
            frame.map_data(|mut bytes| {
                if this.splits && bytes.len() > SMALL {
                    this.last = Some(bytes.split_off(bytes.len() - 1));
                }
                if let Some(follow) = &follow {
                    follow.note_sent(bytes.len());
                }
                Piece {
                    bytes,
                    _place: this.place.clone(),
                }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = match &self.kind {
            BodySource::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            BodySource::Kubelet { incoming, .. } => incoming.size_hint(),
        };
        if let (Some(last), Some(exact)) = (&self.last, hint.exact()) {
            hint.set_exact(exact + last.len() as u64);
        }
        hint
    }
}

// === impl Following ===

impl Drop for Following {
    fn drop(&mut self) {
        self.0.note_over();
    }
}

// === impl Piece ===

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

// === impl BodySource ===

impl BodySource {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Kubelet { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Kubelet { incoming, connection } => {
                // The bytes arrive by this task's own polls of the connection, so no waker is needed. A small
                // answer has arrived whole, with its head.
                let mut quiet = Context::from_waker(Waker::noop());
                if let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(&mut quiet) {
                    return Poll::Ready(frame);
                }
                let Some(mut polled) = connection.take() else {
                    return Pin::new(incoming).poll_frame(cx);
                };
                polled.poll(cx);
                *connection = polled.settle();
                Pin::new(incoming).poll_frame(&mut quiet)
            }
        }
    }
}
