//! The streams of an HTTP/2 connection, and the end of one whose client takes nothing of its answer.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::forward::{Body, NextFrame};
use crate::metrics::Metrics;

/// Runs each stream as a task, as hyper asks for it.
///
/// On HTTP/1 the write-stall deadline belongs to the connection ([`super::io`]). On HTTP/2 a client can keep the
/// connection going and never open the window of one stream, and with it hold a connection to the kubelet; or all of
/// them, by the connection's window. The others on the connection may be well: an API server has the logs of many users
/// on one. So the stream alone is ended, by a reset.
#[derive(Clone)]
pub(super) struct Streams {
    stall: Duration,
    metrics: Arc<Metrics>,
}

impl Streams {
    /// Streams that end when a frame of the answer has not been taken for `stall`.
    pub(super) fn new(stall: Duration, metrics: Arc<Metrics>) -> Self {
        Self { stall, metrics }
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let Self { stall, metrics } = self.clone();
        tokio::spawn(async move {
            if !taken(stream, stall).await {
                metrics.rejected("write_stall");
            }
        });
    }
}

/// Polls a stream to its end; false if what its body gave was not taken for `stall`.
async fn taken(stream: impl Future<Output = ()>, stall: Duration) -> bool {
    let mut stream = pin!(stream);
    let mut deadline = pin!(None::<Sleep>);
    std::future::poll_fn(|cx| {
        let (ended, asked) = Body::observe_frames(|| stream.as_mut().poll(cx));
        if ended.is_ready() {
            return Poll::Ready(true);
        }
        match asked {
            Some(NextFrame::Ready) => deadline.set(Some(sleep(stall))),
            Some(NextFrame::Pending) => deadline.set(None),
            None => {}
        }
        match deadline.as_mut().as_pin_mut() {
            Some(deadline) => deadline.poll(cx).map(|()| false),
            None => Poll::Pending,
        }
    })
    .await
}
