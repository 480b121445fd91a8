//! A tunnel: after a 101, bytes both ways until one side ends.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::io::KubeletIo;

/// What one direction may still deliver after the other has ended.
const FLUSH: Duration = Duration::from_secs(1);
/// The client has been told 101 and must take over within this.
const HANDOVER: Duration = Duration::from_secs(10);
/// A TLS record's worth: what is decrypted at once is passed on at once.
const BUFFER: usize = 16 * 1024;

/// The two ends of an upgraded request. Nothing is spliced before the kubelet's 101 has been seen.
pub struct Tunnel {
    client: OnUpgrade,
    kubelet: KubeletIo,
    /// What the kubelet sent right behind its 101.
    early: Bytes,
}

/// How a stream went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TunnelEnd {
    /// Bytes from the client to the kubelet.
    pub received: u64,
    /// Bytes from the kubelet to the client.
    pub sent: u64,
    /// Who or what ended it.
    pub by: EndedBy,
}

/// What ended a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndedBy {
    /// The client closed or went away.
    Client,
    /// The gate is stopping.
    Gate,
    /// No byte passed for `streamingConnectionIdleTimeout`.
    Idle,
    /// The kubelet closed or went away.
    Kubelet,
}

impl EndedBy {
    /// The word in audit lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gate => "gate",
            Self::Idle => "idle",
            Self::Kubelet => "kubelet",
        }
    }
}

impl Tunnel {
    pub(super) fn new(client: OnUpgrade, kubelet: KubeletIo, early: Bytes) -> Self {
        Self {
            client,
            kubelet,
            early,
        }
    }

    /// Copies until one side ends, `idle` (zero = never) passes without a byte, or `stop` is cancelled. When one
    /// direction ends, the other may flush for a second; then both are closed.
    pub async fn run(self, idle: Duration, stop: CancellationToken) -> TunnelEnd {
        let Self {
            client,
            mut kubelet,
            early,
        } = self;
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        let end = |by| TunnelEnd {
            received: received.load(Ordering::Relaxed),
            sent: sent.load(Ordering::Relaxed),
            by,
        };
        let Ok(Ok(client)) = timeout(HANDOVER, client).await else {
            let _ = timeout(FLUSH, kubelet.shutdown()).await;
            return end(EndedBy::Client);
        };
        let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
        let (mut from_kubelet, mut to_kubelet) = tokio::io::split(kubelet);

        let by = {
            let mut up = std::pin::pin!(copy(&mut from_client, &mut to_kubelet, Bytes::new(), &received));
            let mut down = std::pin::pin!(copy(&mut from_kubelet, &mut to_client, early, &sent));
            let quiet = quiet(idle, &sent, &received);
            tokio::select! {
                ended = &mut up => {
                    let _ = timeout(FLUSH, &mut down).await;
                    if matches!(ended, Err(FailedSide::Writer)) { EndedBy::Kubelet } else { EndedBy::Client }
                }
                ended = &mut down => {
                    let _ = timeout(FLUSH, &mut up).await;
                    if matches!(ended, Err(FailedSide::Writer)) { EndedBy::Client } else { EndedBy::Kubelet }
                }
                () = quiet => EndedBy::Idle,
                () = stop.cancelled() => EndedBy::Gate,
            }
        };
        // Both sides are told, within a bound; dropping the sockets does the rest.
        let _ = timeout(FLUSH, async {
            tokio::join!(to_client.shutdown(), to_kubelet.shutdown())
        })
        .await;
        end(by)
    }
}

/// Which side of a copy failed.
enum FailedSide {
    Reader,
    Writer,
}

/// Copies until the reader's end, then passes the end on.
async fn copy<R, W>(reader: &mut R, writer: &mut W, early: Bytes, count: &AtomicU64) -> Result<(), FailedSide>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    async fn pass<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> io::Result<()> {
        writer.write_all(bytes).await?;
        writer.flush().await
    }
    if !early.is_empty() {
        pass(writer, &early).await.map_err(|_| FailedSide::Writer)?;
        count.fetch_add(early.len() as u64, Ordering::Relaxed);
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = reader.read(&mut buffer).await.map_err(|_| FailedSide::Reader)?;
        if read == 0 {
            return writer.shutdown().await.map_err(|_| FailedSide::Writer);
        }
        pass(writer, &buffer[..read])
            .await
            .map_err(|_| FailedSide::Writer)?;
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// Resolves once `idle` has passed without a byte either way. Looks at the counts instead of being told of every byte.
async fn quiet(idle: Duration, sent: &AtomicU64, received: &AtomicU64) {
    if idle.is_zero() {
        return std::future::pending().await;
    }
    let total = || {
        sent.load(Ordering::Relaxed)
            .wrapping_add(received.load(Ordering::Relaxed))
    };
    // Four looks per period: a stream ends at most a quarter late.
    let step = (idle / 4).max(Duration::from_millis(1));
    let (mut seen, mut since) = (total(), Instant::now());
    while since.elapsed() < idle {
        sleep_until(Instant::now() + step).await;
        let now = total();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}
