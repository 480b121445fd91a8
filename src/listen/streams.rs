//! The streams of an HTTP/2 connection. A stream ends when its client does not read the answer.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::forward::{Body, EndedBy, Follow};
use crate::metrics::Metrics;

/// Runs each stream as a task, as hyper asks for it.
///
/// On HTTP/1 the write-stall deadline belongs to the connection ([`super::io`]). On HTTP/2 a client can keep
/// the connection busy and never open the window of one stream, which then holds a connection to the kubelet.
/// The other streams must go on: an API server has the logs of many users on one connection. So the gate
/// resets that stream alone. A client that follows a log may pause for longer. A followed log that the gate
/// must end is reset as well, also while its client reads nothing.
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
            if let Some(reason) = taken(stream, stall).await {
                metrics.rejected(reason);
            }
        });
    }
}

/// Polls a stream to its end, or until it must be reset. Yields by which deadline that was, if by any: the
/// client did not read a frame of its body in time.
async fn taken(stream: impl Future<Output = ()>, stall: Duration) -> Option<&'static str> {
    let mut stream = pin!(stream);
    let mut deadline = pin!(None::<Sleep>);
    let mut follow = None::<Arc<Follow>>;
    let mut cut = pin!(None);
    std::future::poll_fn(|cx| {
        let (ended, polled) = Body::observe_frames(|| stream.as_mut().poll(cx));
        if ended.is_ready() {
            return Poll::Ready(None);
        }
        if let Some(polled) = polled {
            if follow.is_none()
                && let Some(new) = polled.follow
            {
                cut.set(Some(new.until_cut()));
                follow = Some(new);
            }
            let stall = follow.as_ref().map_or(stall, |follow| follow.stall());
            deadline.set(polled.is_ready.then(|| sleep(stall)));
        }
        if let Some(cut) = cut.as_mut().as_pin_mut()
            && cut.poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        let Some(deadline) = deadline.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        deadline.poll(cx).map(|()| match &follow {
            Some(follow) => {
                follow.note_end(EndedBy::Stalled);
                Some("follow_stall")
            }
            None => Some("write_stall"),
        })
    })
    .await
}
