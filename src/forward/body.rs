//! The body of an answer: the kubelet's own bytes, or the gate's few.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::PooledConnection;

/// An answer's body. What is attached by [`Body::until_end`] lives until the body has ended or is dropped.
pub struct Body {
    kind: BodySource,
    guard: Option<Guard>,
}

/// What became of it when a body was asked for its next frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NextFrame {
    /// There was one. The body is not asked for another before the client has taken it.
    Ready,
    /// The kubelet has sent nothing more yet.
    Pending,
}

thread_local! {
    /// The last answer on this thread, for [`Body::observe_frames`].
    static ASKED: Cell<Option<NextFrame>> = const { Cell::new(None) };
}

/// Something that lives as long as an answer.
pub type Guard = Box<dyn Send + Sync>;

enum BodySource {
    Full(Bytes),
    Kubelet {
        incoming: Incoming,
        /// The connection the body comes from, polled along with it; gone once all of it has come.
        connection: Option<PooledConnection>,
    },
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// A body that is there already.
    pub fn full(bytes: Bytes) -> Self {
        Self {
            kind: BodySource::Full(bytes),
            guard: None,
        }
    }

    /// The body of an answer that came over `connection`, which goes back to its pool as soon as it can.
    pub(super) fn kubelet(incoming: Incoming, connection: PooledConnection) -> Self {
        Self {
            kind: BodySource::Kubelet {
                incoming,
                connection: connection.settle(),
            },
            guard: None,
        }
    }

    /// Polls whatever may ask a body for a frame, and tells what came of the last time it did.
    ///
    /// hyper owns the body while it is sent over HTTP/2, and does not ask it for more while the client's window is shut:
    /// this is how a client that never opens it can be told from a kubelet that has nothing to say. A value of the thread,
    /// since between a stream's task and the body inside it there is only hyper.
    pub fn observe_frames<T>(poll: impl FnOnce() -> T) -> (T, Option<NextFrame>) {
        ASKED.set(None);
        let polled = poll();
        (polled, ASKED.take())
    }

    /// Keeps `guard` until the body has ended or is dropped.
    #[must_use]
    pub fn until_end(mut self, guard: Guard) -> Self {
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
                // What is there comes from this very task's polls of the connection, so it needs no waker of its own. A
                // small answer has come whole with its head.
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
