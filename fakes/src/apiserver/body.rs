//! The body of an answer, which may come slowly or break off.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// What is to go wrong with a body.
#[derive(Clone, Copy)]
pub(super) enum Trouble {
    /// This long between one byte and the next.
    Drip(Duration),
    /// An error half-way.
    Break,
}

/// A body of known length.
pub(super) struct Body {
    left: Bytes,
    trouble: Option<Trouble>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body {
    /// The same answer with the trouble that its extensions name.
    pub(super) fn of(answer: Response<Bytes>) -> Response<Self> {
        let trouble = answer.extensions().get().copied();
        answer.map(|left| Self {
            left,
            trouble,
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
        let length = match self.trouble {
            None => self.left.len(),
            Some(Trouble::Drip(pause)) => {
                if let Some(waiting) = &mut self.pause {
                    ready!(waiting.as_mut().poll(context));
                }
                self.pause = Some(Box::pin(sleep(pause)));
                1
            }
            // Half of it, then half of the rest, until one byte is left, which is not sent.
            Some(Trouble::Break) if self.left.len() == 1 => {
                return Poll::Ready(Some(Err(io::Error::other("told to break off"))));
            }
            Some(Trouble::Break) => self.left.len() / 2,
        };
        let next = self.left.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(next))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
