//! A tunnel: after a 101, bytes are copied both ways until one side ends.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::frames::{Frames, close_frame};
use super::io::KubeletIo;
use crate::attributes::Protocol;

/// How long one direction may go on after the other has ended.
const FLUSH: Duration = Duration::from_secs(1);
/// How long the client may take to receive the 101.
const HANDOVER: Duration = Duration::from_secs(10);
/// The size of a TLS record: what is decrypted at once is passed on at once.
const BUFFER: usize = 16 * 1024;

/// The two ends of an upgraded request. No byte is copied before the kubelet's 101 has arrived.
pub(crate) struct Tunnel {
    protocol: Protocol,
    client: OnUpgrade,
    kubelet: KubeletIo,
    /// The bytes that followed the kubelet's 101.
    early: Bytes,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct StreamEnd {
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
    /// Its certificate or token has expired.
    Expired,
    /// The gate is stopping.
    Gate,
    /// No byte passed for `streamingConnectionIdleTimeout`.
    Idle,
    /// The kubelet closed or went away.
    Kubelet,
    /// It has lasted for `streams.maxLifetime`.
    Lifetime,
    /// Its user is no longer allowed it.
    NotAllowed,
    /// Its certificate or token is no longer accepted.
    Revoked,
    /// The client took no byte of a followed log for `limits.followStallTimeout`.
    Stalled,
    /// It could not be judged again for `streams.maxUnverified`.
    Unverified,
}

impl EndedBy {
    /// The word in audit lines.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Expired => "expired",
            Self::Gate => "gate",
            Self::Idle => "idle",
            Self::Kubelet => "kubelet",
            Self::Lifetime => "lifetime",
            Self::NotAllowed => "not_allowed",
            Self::Revoked => "revoked",
            Self::Stalled => "stalled",
            Self::Unverified => "unverified",
        }
    }

    /// What a WebSocket client is told: a code of RFC 6455 §7.4.1, and why. `None` if
    /// the gate has no part in it.
    fn farewell(self) -> Option<(u16, &'static str)> {
        const GOING_AWAY: u16 = 1001;
        const POLICY_VIOLATION: u16 = 1008;
        let why = match self {
            Self::Client | Self::Kubelet | Self::Stalled => return None,
            Self::Gate => return Some((GOING_AWAY, "the gate is stopping")),
            Self::Expired => "the credential has expired",
            Self::Idle => "no byte has passed for too long",
            Self::Lifetime => "the stream has lasted as long as it may",
            Self::NotAllowed => "the user is no longer allowed this",
            Self::Revoked => "the credential is no longer accepted",
            Self::Unverified => "the API server cannot be asked whether this is still allowed",
        };
        Some((POLICY_VIOLATION, why))
    }
}

impl Tunnel {
    pub(super) fn new(protocol: Protocol, client: OnUpgrade, kubelet: KubeletIo, early: Bytes) -> Self {
        Self {
            protocol,
            client,
            kubelet,
            early,
        }
    }

    /// Copies until one side ends, no byte has passed for `idle` (zero means no limit), or `until` says that
    /// the gate ends it. After one direction has ended, the other has a second to finish; then both are
    /// closed. If the gate ends it, no further byte of the client is passed on; over a WebSocket the client
    /// has a second to take the rest of the frame that has begun, and is told why.
    pub(crate) async fn run(self, idle: Duration, until: impl Future<Output = EndedBy>) -> StreamEnd {
        let Self {
            protocol,
            client,
            mut kubelet,
            early,
        } = self;
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        let end = |by| StreamEnd {
            received: received.load(Ordering::Relaxed),
            sent: sent.load(Ordering::Relaxed),
            by,
        };
        let mut until = pin!(until);
        let client = tokio::select! {
            client = timeout(HANDOVER, client) => match client {
                Ok(Ok(client)) => Ok(client),
                Ok(Err(_)) | Err(_) => Err(EndedBy::Client),
            },
            by = &mut until => Err(by),
        };
        let client = match client {
            Ok(client) => client,
            Err(by) => {
                let _ = timeout(FLUSH, kubelet.shutdown()).await;
                return end(by);
            }
        };
        let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
        let (mut from_kubelet, mut to_kubelet) = tokio::io::split(kubelet);

        let (stop, mut frames) = (CancellationToken::new(), Frames::default());
        let (by, at_end_of_frame) = {
            let mut up = pin!(copy(
                &mut from_client,
                &mut to_kubelet,
                Bytes::new(),
                &received,
                None
            ));
            let walk = (protocol == Protocol::WebSocket).then_some(Walk {
                frames: &mut frames,
                stop: &stop,
            });
            let mut down = pin!(copy(&mut from_kubelet, &mut to_client, early, &sent, walk));
            let quiet = quiet(idle, &sent, &received);
            let by = tokio::select! {
                ended = &mut up => {
                    let _ = timeout(FLUSH, &mut down).await;
                    if matches!(ended, Err(FailedSide::Writer)) { EndedBy::Kubelet } else { EndedBy::Client }
                }
                ended = &mut down => {
                    let _ = timeout(FLUSH, &mut up).await;
                    if matches!(ended, Err(FailedSide::Writer)) { EndedBy::Client } else { EndedBy::Kubelet }
                }
                () = quiet => EndedBy::Idle,
                by = until => by,
            };
            let mut at_end_of_frame = false;
            if protocol == Protocol::WebSocket && by.farewell().is_some() {
                stop.cancel();
                // Otherwise the client has not taken all that the walk has passed.
                at_end_of_frame = matches!(timeout(FLUSH, &mut down).await, Ok(Ok(())));
            }
            (by, at_end_of_frame)
        };
        let close = by.farewell().map(|(code, reason)| close_frame(code, reason));
        let close = close.filter(|_| at_end_of_frame && frames.is_at_end_of_frame() && !frames.has_closed());
        // Both sides are shut down within a limit; dropping the sockets does the rest.
        let leave = async {
            let Some(close) = close else {
                return to_client.shutdown().await;
            };
            pass(&mut to_client, &close).await?;
            to_client.shutdown().await?;
            // A socket that is closed with unread bytes resets the connection, and the
            // client may lose the frame.
            let mut unread = [0; 4096];
            while from_client.read(&mut unread).await? > 0 {}
            Ok(())
        };
        let _ = tokio::join!(timeout(FLUSH, leave), timeout(FLUSH, to_kubelet.shutdown()));
        end(by)
    }
}

/// The side of a copy that failed.
enum FailedSide {
    Reader,
    Writer,
}

/// A copy that can be stopped where a frame ends.
struct Walk<'a> {
    frames: &'a mut Frames,
    stop: &'a CancellationToken,
}

/// Copies until the reader ends, then shuts down the writer. With a `walk` that is stopped it copies
/// to the end of the frame.
async fn copy<R, W>(
    reader: &mut R,
    writer: &mut W,
    early: Bytes,
    count: &AtomicU64,
    mut walk: Option<Walk<'_>>,
) -> Result<(), FailedSide>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if !early.is_empty() {
        if let Some(walk) = &mut walk {
            walk.frames.pass(&early);
        }
        pass(writer, &early).await.map_err(|_| FailedSide::Writer)?;
        count.fetch_add(early.len() as u64, Ordering::Relaxed);
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match &mut walk {
            Some(walk) if walk.stop.is_cancelled() => {
                if walk.frames.is_at_end_of_frame() {
                    return Ok(());
                }
                let read = reader.read(&mut buffer).await;
                read.map(|read| {
                    if read == 0 {
                        0
                    } else {
                        walk.frames.pass_frame(&buffer[..read])
                    }
                })
            }
            Some(walk) => {
                let read = tokio::select! {
                    biased;
                    read = reader.read(&mut buffer) => read,
                    () = walk.stop.cancelled() => continue,
                };
                read.inspect(|read| walk.frames.pass(&buffer[..*read]))
            }
            None => reader.read(&mut buffer).await,
        };
        let read = read.map_err(|_| FailedSide::Reader)?;
        if read == 0 {
            return writer.shutdown().await.map_err(|_| FailedSide::Writer);
        }
        pass(writer, &buffer[..read])
            .await
            .map_err(|_| FailedSide::Writer)?;
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}

async fn pass<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
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
