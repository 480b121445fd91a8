//! One client connection: handshake, protocol, requests, and its end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::io::{Activity, Timeouts, Watched};
use super::streams::Streams;
use super::worker::Worker;
use crate::authn::Presented;
use crate::error::chain;
use crate::gate::Gate;
use crate::tls;

/// A connection that is through the handshake: what its requests share.
pub struct Connection {
    /// The TCP peer.
    pub peer: SocketAddr,
    /// What the client showed.
    pub presented: Presented,
    /// What its requests are doing.
    pub activity: Arc<Activity>,
    /// Some request on it was somebody's.
    known: AtomicBool,
    /// Told when a request was nobody's and none before was anybody's.
    stranger: Notify,
}

impl Connection {
    fn new(peer: SocketAddr, presented: Presented, activity: Arc<Activity>) -> Self {
        Self {
            peer,
            presented,
            activity,
            known: AtomicBool::new(false),
            stranger: Notify::new(),
        }
    }

    /// A request was somebody's.
    pub(crate) fn somebody(&self) {
        self.known.store(true, Relaxed);
    }

    /// A request was nobody's. An HTTP/2 connection on which nobody was ever known is closed then: opening and
    /// resetting streams is cheap for a stranger and dear for the gate (CVE-2023-44487).
    pub(crate) fn nobody(&self) {
        if !self.known.load(Relaxed) {
            self.stranger.notify_one();
        }
    }
}

/// What a kubelet answers to a client that speaks plain HTTP on its TLS port.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// How long an HTTP/2 client on whose connection nobody is known may take to leave after GOAWAY.
const GOODBYE: Duration = Duration::from_secs(5);
/// A body that nobody reads yet costs so much memory, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Serves one accepted connection to its end.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, gate: Arc<Gate>, worker: Arc<Worker>) {
    gate.metrics().connections.inc();
    let outcome = match timeout(gate.limits().handshake_timeout, handshake(stream, &gate)).await {
        Err(_) => {
            gate.metrics().handshake("timeout", "none", "none");
            Ok(())
        }
        Ok(Err(error)) => {
            tracing::debug!(%peer, error = chain(&error), "handshake failed");
            Ok(())
        }
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(stream))) => requests(stream, peer, &gate, &worker).await,
    };
    if let Err(error) = outcome {
        note_end(&gate, peer, &error);
    }
    gate.metrics().connections.dec();
}

/// The TLS handshake; `None` if the client spoke something else and was told so.
async fn handshake(stream: TcpStream, gate: &Gate) -> io::Result<Option<TlsStream<TcpStream>>> {
    stream.set_nodelay(true)?;
    let mut first = [0u8; 1];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first[0] != TLS_HANDSHAKE {
        gate.metrics().handshake("not_tls", "none", "none");
        if first[0].is_ascii_uppercase() {
            refuse_plain_http(stream).await?;
        }
        return Ok(None);
    }
    let config = gate.serving().load().config.clone();
    match TlsAcceptor::from(config).accept(stream).await {
        Ok(stream) => {
            let session = stream.get_ref().1;
            let version = session.protocol_version().map_or("none", tls::version_name);
            let group = session
                .negotiated_key_exchange_group()
                .map_or("none", |group| tls::group_name(group.name()));
            gate.metrics().handshake("ok", version, group);
            Ok(Some(stream))
        }
        Err(error) => {
            gate.metrics().handshake("failed", "none", "none");
            Err(error)
        }
    }
}

/// The kubelet's short answer. What the client has still to say is read for a moment, since closing over unread bytes
/// would take the answer away again.
async fn refuse_plain_http(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(PLAIN_HTTP).await?;
    stream.shutdown().await?;
    let mut rest = [0u8; 4096];
    let drain = async { while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {} };
    let _ = timeout(Duration::from_millis(500), drain).await;
    Ok(())
}

/// Serves the requests of a connection until it ends, is drained, or is cut.
async fn requests(
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    gate: &Arc<Gate>,
    worker: &Arc<Worker>,
) -> hyper::Result<()> {
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let chain = session.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
    let activity = Arc::new(Activity::new());
    let limits = gate.limits();
    let watched = Watched::new(
        stream,
        activity.clone(),
        if http2 {
            Timeouts::http2(limits)
        } else {
            Timeouts::http1(limits)
        },
        gate.metrics_handle(),
    );
    let connection = Arc::new(Connection::new(peer, Presented::new(chain, peer.ip()), activity));
    let service = {
        let (gate, worker, connection) = (gate.clone(), worker.clone(), connection.clone());
        service_fn(move |request: Request<Incoming>| {
            let (gate, worker, connection) = (gate.clone(), worker.clone(), connection.clone());
            async move { Ok::<_, Infallible>(gate.handle(&connection, &worker, request).await) }
        })
    };
    let io = TokioIo::new(watched);
    let (drain, cut) = (worker.drain.cancelled(), worker.cut.cancelled());
    if http2 {
        let streams = Streams::new(limits.write_stall_timeout, gate.metrics_handle());
        let mut builder = http2::Builder::new(streams);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.http2_streams)
            .max_header_list_size(u32::try_from(limits.request_head_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(64 * 1024)
            // What a client may send before anybody reads it; requests to a kubelet are small.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15));
        let mut serving = pin!(builder.serve_connection(io, service));
        let is_stranger = tokio::select! {
            biased;
            ended = serving.as_mut() => return ended,
            () = drain => false,
            () = connection.activity.idle_for(limits.idle_timeout) => false,
            () = connection.stranger.notified() => true,
        };
        serving.as_mut().graceful_shutdown();
        // A stranger that does not go when told to is not waited for.
        let overdue = async {
            sleep(GOODBYE).await;
            if !is_stranger || connection.known.load(Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = serving => ended,
            () = cut => Ok(()),
            () = overdue => Ok(()),
        }
    } else {
        let mut builder = http1::Builder::new();
        builder
            .header_read_timeout(None)
            .max_header_size(limits.request_head_bytes)
            .max_headers(100)
            .max_buf_size(limits.request_head_bytes.max(64 * 1024));
        let mut serving = pin!(builder.serve_connection(io, service).with_upgrades());
        tokio::select! {
            biased;
            ended = serving.as_mut() => return ended,
            () = drain => serving.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            ended = serving => ended,
            () = cut => Ok(()),
        }
    }
}

/// What the HTTP library refused got its bare answer already; it is counted by kind.
fn note_end(gate: &Gate, peer: SocketAddr, error: &hyper::Error) {
    if error.is_parse_too_large() {
        gate.metrics().rejected("head_too_large");
    } else if error.is_parse() {
        gate.metrics().rejected("malformed_http");
    }
    tracing::debug!(%peer, error = chain(error), "connection ended");
}
