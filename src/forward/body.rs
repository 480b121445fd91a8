//! The body of an answer: the kubelet's own bytes, or the gate's few.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::PooledConnection;

/// An answer's body. What is attached by [`Body::until_end`] lives until the body has ended or is dropped.
pub struct Body {
    kind: Kind,
    guard: Option<Guard>,
}

/// Something that lives as long as an answer.
pub type Guard = Box<dyn Send + Sync>;

enum Kind {
    Full(Bytes),
    Kubelet {
        incoming: Incoming,
        /// The connection the body comes from, polled along with it; gone once the body has ended.
        upstream: Option<PooledConnection>,
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
            kind: Kind::Full(bytes),
            guard: None,
        }
    }

    pub(super) fn kubelet(incoming: Incoming, upstream: PooledConnection) -> Self {
        let mut upstream = Some(upstream);
        if incoming.is_end_stream() {
            give_back(&mut upstream);
        }
        Self {
            kind: Kind::Kubelet { incoming, upstream },
            guard: None,
        }
    }

    /// Keeps `guard` until the body has ended or is dropped.
    #[must_use]
    pub fn until_end(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }
}

/// The answer has ended: its connection goes back to the pool, if it can take another request.
fn give_back(upstream: &mut Option<PooledConnection>) {
    if let Some(upstream) = upstream.take() {
        upstream.give_back();
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.kind {
            Kind::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Kubelet { incoming, upstream } => {
                let mut frame = Pin::new(&mut *incoming).poll_frame(cx);
                // A small answer has come whole with its head. What has not, comes only while the connection is polled,
                // and nothing else wakes it.
                if frame.is_pending()
                    && let Some(upstream) = upstream
                {
                    upstream.poll(cx);
                    frame = Pin::new(&mut *incoming).poll_frame(cx);
                }
                if matches!(frame, Poll::Ready(None)) || frame.is_ready() && incoming.is_end_stream() {
                    if let Some(upstream) = upstream {
                        upstream.poll(cx);
                    }
                    give_back(upstream);
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Kubelet { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Kubelet { incoming, .. } => incoming.size_hint(),
        }
    }
}
