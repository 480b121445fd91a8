//! One client connection: handshake, protocol, requests, and its end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::io::{Timeouts, Watched};
use super::port::TlsPort;
use super::streams::Streams;
use super::turns::Turns;
use crate::authn::{Identity, Presented};
use crate::door::Entry;
use crate::error::chain;
use crate::gate::{Activity, Connection, Worker};
use crate::metrics::{Metrics, Raised};
use crate::tls;

/// What a kubelet answers to a client that speaks plain HTTP on its TLS port.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// How long an HTTP/2 client that was never authenticated may take to leave after GOAWAY.
const GOODBYE: Duration = Duration::from_secs(5);
/// What a body may send before the gate reads it, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// A client whose handshake has ended.
struct Client {
    stream: TlsStream<TcpStream>,
    presented: Presented,
    /// The user that its certificate names, if that is accepted.
    identity: Option<Identity>,
}

/// Serves a connection that was accepted at `accepted` to its end. It may be dropped at any time: an eviction
/// does so.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    accepted: Instant,
    entry: &Entry,
    port: &Arc<TlsPort>,
    worker: &Arc<Worker>,
    turns: &Turns,
) {
    let metrics = &port.gate.metrics;
    let _counted = Raised::new(&metrics.connections);
    let deadline = accepted + port.limits.handshake_timeout;
    let outcome = match timeout_at(deadline, handshake(stream, peer, entry, port, worker, turns)).await {
        Err(_) => {
            metrics.handshake("timeout", "none", "none");
            Ok(())
        }
        Ok(Err(error)) => {
            tracing::debug!(%peer, error = chain(&error), "handshake failed");
            Ok(())
        }
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(client))) => requests(client, peer, entry, port, worker).await,
    };
    if let Err(error) = outcome {
        note_end(metrics, peer, &error);
    }
}

/// The TLS handshake, and the judgement of the client's certificate; `None` if the client did not speak TLS.
async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    entry: &Entry,
    port: &TlsPort,
    worker: &Worker,
    turns: &Turns,
) -> io::Result<Option<Client>> {
    let metrics = &port.gate.metrics;
    stream.set_nodelay(true)?;
    let mut first = [0u8; 1];
    let first_byte = worker.drain.run_until_cancelled(stream.peek(&mut first));
    // A client that has sent nothing does not hold up the end of the process.
    let Some(1..) = first_byte.await.transpose()? else {
        return Ok(None);
    };
    if first[0] != TLS_HANDSHAKE {
        metrics.handshake("not_tls", "none", "none");
        if first[0].is_ascii_uppercase() {
            refuse_plain_http(stream).await?;
        }
        return Ok(None);
    }
    let config = port.serving.load().config.clone();
    let (source, is_known) = (entry.admission().source(), entry.is_known());
    let handshake = async {
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates();
        let presented = Presented::new(chain.map(<[_]>::to_vec).unwrap_or_default(), peer.ip());
        let identity = port.gate.rules.load().authenticator.judge(&presented);
        Ok(Client {
            stream,
            presented,
            identity,
        })
    };
    match turns.run(source, is_known, handshake).await {
        Ok(client) => {
            let session = client.stream.get_ref().1;
            let version = session.protocol_version().map_or("none", tls::version_name);
            let group = session
                .negotiated_key_exchange_group()
                .map_or("none", |group| tls::group_name(group.name()));
            metrics.handshake("ok", version, group);
            Ok(Some(client))
        }
        Err(error) => {
            metrics.handshake("failed", "none", "none");
            Err(error)
        }
    }
}

/// Sends the kubelet's short answer, then reads for a moment what the client still sends: closing a socket
/// with unread bytes resets the connection, and a reset discards an answer that the client has not read.
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
    client: Client,
    peer: SocketAddr,
    entry: &Entry,
    port: &Arc<TlsPort>,
    worker: &Arc<Worker>,
) -> hyper::Result<()> {
    let Client {
        stream,
        presented,
        identity,
    } = client;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let activity = Arc::new(Activity::new());
    let (gate, limits) = (&port.gate, &port.limits);
    let watched = Watched::new(
        stream,
        activity.clone(),
        if http2 {
            Timeouts::http2(limits)
        } else {
            Timeouts::http1(limits)
        },
        gate.metrics.clone(),
    );
    let connection = Arc::new(Connection::new(
        peer,
        presented,
        activity,
        entry.admission().clone(),
    ));
    if let Some(identity) = identity {
        gate.admit(&gate.rules.load(), &connection, &identity);
    }
    let service = {
        let (gate, worker, connection) = (gate.clone(), worker.clone(), connection.clone());
        service_fn(move |request: Request<Incoming>| {
            let (gate, worker, connection) = (gate.clone(), worker.clone(), connection.clone());
            async move { Ok::<_, Infallible>(gate.handle(&connection, &worker, request).await) }
        })
    };
    let io = TokioIo::new(watched);
    let cut = worker.cut.cancelled();
    if http2 {
        let streams = Streams::new(limits.write_stall_timeout, gate.metrics.clone());
        let mut builder = http2::Builder::new(streams);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.http2_streams)
            .max_header_list_size(u32::try_from(limits.request_head_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(64 * 1024)
            // Requests to a kubelet are small.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let mut serving = pin!(builder.serve_connection(io, service));
        let is_unauthenticated = tokio::select! {
            biased;
            ended = serving.as_mut() => return ended,
            () = worker.leave.cancelled() => false,
            () = connection.activity.idle_for(limits.idle_timeout) => false,
            () = connection.ending() => false,
            () = connection.unauthenticated() => true,
        };
        serving.as_mut().graceful_shutdown();
        // A client that was never authenticated and does not leave after GOAWAY is cut.
        let overdue = async {
            sleep(GOODBYE).await;
            if !is_unauthenticated || connection.is_authenticated() {
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
            () = connection.answer_cut() => return Ok(()),
            () = worker.drain.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            ended = serving => ended,
            () = connection.answer_cut() => Ok(()),
            () = cut => Ok(()),
        }
    }
}

/// Counts by kind what the HTTP library refused with a bare answer of its own.
fn note_end(metrics: &Metrics, peer: SocketAddr, error: &hyper::Error) {
    if error.is_parse_too_large() {
        metrics.rejected("head_too_large");
    } else if error.is_parse() {
        metrics.rejected("malformed_http");
    }
    tracing::debug!(%peer, error = chain(error), "connection ended");
}
