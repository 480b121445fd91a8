//! The streams of an HTTP/2 connection. A stream ends when its client does not read the answer.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::forward::{Body, NextFrame};
use crate::metrics::Metrics;

/// Runs each stream as a task, as hyper asks for it.
///
/// On HTTP/1 the write-stall deadline belongs to the connection ([`super::io`]). On HTTP/2 a client can keep
/// the connection busy and never open the window of one stream, which then holds a connection to the kubelet.
/// The other streams must go on: an API server has the logs of many users on one connection. So the gate
/// resets that stream alone.
#[derive(Clone)]
pub(super) struct Streams {
    stall: Duration,
    metrics: Arc<Metrics>,
}

impl Streams {
    /// Streams that end when the client has not read a frame of the answer for `stall`.
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

/// Polls a stream to its end; false if the client did not read a frame of its body for `stall`.
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
