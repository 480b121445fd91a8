//! What is left of the read-only port: 410 for everything, and one sentence on where to go instead.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::side_port::accept_each;
use crate::gate::Gate;

const SENTENCE: &[u8] = b"The kubelet's read-only port is closed on this node: ask the authenticated port (10250) instead, with a \
client certificate or a token.\n";
/// Nobody has business here for longer.
const LIFE: Duration = Duration::from_secs(10);

/// Answers until `stop` is cancelled.
pub(super) async fn serve(listener: TcpListener, gate: Arc<Gate>, stop: CancellationToken) {
    let serve = |stream| {
        let gate = gate.clone();
        async move {
            let _ = timeout(LIFE, answer(stream, &gate)).await;
        }
    };
    accept_each(listener, "read-only", &stop, serve).await;
}

async fn answer(stream: TcpStream, gate: &Gate) -> hyper::Result<()> {
    let service = service_fn(|_: Request<Incoming>| {
        gate.metrics().read_only_port.inc();
        let mut response = Response::new(Full::new(Bytes::from_static(SENTENCE)));
        *response.status_mut() = StatusCode::GONE;
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        std::future::ready(Ok::<_, Infallible>(response))
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_headers(100)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
