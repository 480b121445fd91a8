//! The body of an answer: the kubelet's bytes, or the gate's own.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::PooledConnection;

/// An answer's body. A guard attached by [`Body::until_end`] is kept until the body has ended or is dropped.
pub(crate) struct Body {
    kind: BodySource,
    guard: Option<Guard>,
}

/// What a body had when it was last polled for a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NextFrame {
    /// A frame, or the end. The body is not polled again before the client has taken it.
    Ready,
    /// Nothing: the kubelet has sent no more yet.
    Pending,
}

thread_local! {
    /// What the last poll of a body on this thread found, for [`Body::observe_frames`].
    static ASKED: Cell<Option<NextFrame>> = const { Cell::new(None) };
}

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
        Self {
            kind: BodySource::Full(bytes),
            guard: None,
        }
    }

    /// The body of an answer that came over `connection`, which returns to its pool as soon as it can.
    pub(super) fn kubelet(incoming: Incoming, connection: PooledConnection) -> Self {
        Self {
            kind: BodySource::Kubelet {
                incoming,
                connection: connection.settle(),
            },
            guard: None,
        }
    }

    /// Runs `poll`, and returns what the last poll of a body within it found.
    ///
    /// hyper owns the body while it sends it over HTTP/2, and does not poll it while the client's window is
    /// closed. The result tells a client that never opens its window from a kubelet that sends nothing. It
    /// travels in a thread-local value, because only hyper stands between a stream's task and the body.
    pub(crate) fn observe_frames<T>(poll: impl FnOnce() -> T) -> (T, Option<NextFrame>) {
        ASKED.set(None);
        let polled = poll();
        (polled, ASKED.take())
    }

    /// Keeps `guard` until the body has ended or is dropped.
    #[must_use]
    pub(crate) fn until_end(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = self.kind.poll_frame(cx);
        ASKED.set(Some(match frame {
            Poll::Ready(_) => NextFrame::Ready,
            Poll::Pending => NextFrame::Pending,
        }));
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodySource::Full(bytes) => bytes.is_empty(),
            BodySource::Kubelet { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodySource::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            BodySource::Kubelet { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl BodySource {
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
