//! The body of an answer, which may be slow or incomplete.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// A fault of a body.
#[derive(Clone, Copy)]
pub(super) enum BodyFault {
    /// Delay between two bytes.
    Drip(Duration),
    /// An error after about half of the body.
    Break,
}

/// A body of known length.
pub(super) struct Body {
    left: Bytes,
    fault: Option<BodyFault>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body {
    /// Gives an answer the fault that is in its extensions.
    pub(super) fn of(answer: Response<Bytes>) -> Response<Self> {
        let fault = answer.extensions().get().copied();
        answer.map(|left| Self {
            left,
            fault,
            pause: None,
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let length = match self.fault {
            None => self.left.len(),
            Some(BodyFault::Drip(pause)) => {
                if let Some(waiting) = &mut self.pause {
                    ready!(waiting.as_mut().poll(context));
                }
                self.pause = Some(Box::pin(sleep(pause)));
                1
            }
            // Half of the rest each time, until one byte is left, which is not sent.
            Some(BodyFault::Break) if self.left.len() == 1 => {
                return Poll::Ready(Some(Err(io::Error::other("told to break off"))));
            }
            Some(BodyFault::Break) => self.left.len() / 2,
        };
        let next = self.left.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(next))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
