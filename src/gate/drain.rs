//! Reading what a refused client still sends, so that it can read the answer.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

/// At most this much of a refused request's body is read, in bytes, and for at most [`DRAIN_TIME`]. If more
/// is to come, the connection is closed.
const DRAIN_BYTES: usize = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// Reads a refused request's body for a moment.
pub(crate) async fn drain(body: &mut Incoming) {
    let mut left = DRAIN_BYTES;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(DRAIN_TIME, read).await;
}
