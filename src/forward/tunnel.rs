//! A tunnel: after a 101, bytes are copied both ways until one side ends.

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

/// How long one direction may go on after the other has ended.
const FLUSH: Duration = Duration::from_secs(1);
/// How long the client may take to receive the 101.
const HANDOVER: Duration = Duration::from_secs(10);
/// The size of a TLS record: what is decrypted at once is passed on at once.
const BUFFER: usize = 16 * 1024;

/// The two ends of an upgraded request. No byte is copied before the kubelet's 101 has arrived.
pub(crate) struct Tunnel {
    client: OnUpgrade,
    kubelet: KubeletIo,
    /// The bytes that followed the kubelet's 101.
    early: Bytes,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TunnelEnd {
    /// Bytes from the client to the kubelet.
    pub received: u64,
    /// Bytes from the kubelet to the client.
    pub sent: u64,
    /// The cause of the end.
    pub by: EndedBy,
}

/// The cause of a stream's end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EndedBy {
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
    pub(crate) fn as_str(self) -> &'static str {
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

    /// Copies until one side ends, no byte has passed for `idle` (zero means no limit), or `stop` is
    /// cancelled. After one direction has ended, the other has a second to finish; then both are closed.
    pub(crate) async fn run(self, idle: Duration, stop: CancellationToken) -> TunnelEnd {
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
        // Both sides are shut down within a limit; dropping the sockets does the rest.
        let _ = timeout(FLUSH, async {
            tokio::join!(to_client.shutdown(), to_kubelet.shutdown())
        })
        .await;
        end(by)
    }
}

/// The side of a copy that failed.
enum FailedSide {
    Reader,
    Writer,
}

/// Copies until the reader ends, then shuts down the writer.
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

/// Resolves once no byte has passed either way for `idle`. It polls the counts: a timer that every byte
/// resets would cost more.
async fn quiet(idle: Duration, sent: &AtomicU64, received: &AtomicU64) {
    if idle.is_zero() {
        return std::future::pending().await;
    }
    let total = || {
        sent.load(Ordering::Relaxed)
            .wrapping_add(received.load(Ordering::Relaxed))
    };
    // Four looks per period: a stream ends late by at most a quarter of it.
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
