//! What is left of the read-only port: one refusal for everything, with one sentence on where to go instead,
//! and a census of who still comes.

mod census;
mod replacement;

pub(super) use self::census::Census;
pub(crate) use self::census::CensusReport;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, EXPECT, USER_AGENT, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::instance::Instance;
use super::side_port::accept_each;
use crate::gate::drain;
use crate::listen::Acceptor;
use crate::settings::UpstreamUrl;

/// How long a connection may last: one request and its answer.
const LIFE: Duration = Duration::from_secs(10);

/// Answers until it is dropped, and names `secure`, the port of [`secure_port`]. Connections that it has
/// accepted are served by `tasks`.
pub(super) async fn serve(listener: TcpListener, instance: Arc<Instance>, secure: u16, tasks: TaskTracker) {
    let acceptor = Acceptor::new(listener, "read-only", instance.gate.metrics.clone());
    let serve = |stream| {
        let instance = instance.clone();
        async move {
            let _ = timeout(LIFE, converse(stream, &instance, secure)).await;
        }
    };
    accept_each(acceptor, &instance.gate.metrics, &tasks, serve).await;
}

async fn converse(stream: TcpStream, instance: &Instance, secure: u16) -> hyper::Result<()> {
    // The client has left.
    let Ok(peer) = stream.peer_addr() else {
        return Ok(());
    };
    let service =
        service_fn(async |request| Ok::<_, Infallible>(answer(instance, peer, secure, request).await));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_headers(100)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(
    instance: &Instance,
    peer: SocketAddr,
    secure: u16,
    mut request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    instance.metrics().read_only_port.inc();
    let agent = request
        .headers()
        .get(USER_AGENT)
        .map_or(&b""[..], HeaderValue::as_bytes);
    instance.census.saw(peer.ip(), request.uri().path(), agent);
    // Closing a socket with unread bytes resets the connection, and the client loses the answer: read the
    // body. A client that waits for "100 Continue" has sent none.
    if !request.headers().contains_key(EXPECT) {
        drain(request.body_mut()).await;
    }
    let settings = &instance.settings;
    let port = &settings.read_only_port;
    if port.healthz && is_local_health_check(peer, &request) {
        return match instance.kubelet_is_reachable().await {
            Ok(()) => text(StatusCode::OK, "ok".into()),
            // The reason is for the operator, in /readyz.
            Err(_) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the kubelet cannot be reached\n".into(),
            ),
        };
    }
    let sentence = replacement::sentence(
        request.method(),
        &request.uri().to_string(),
        secure,
        settings.authorization.interactive.require_create,
    );
    text(
        StatusCode::from_u16(port.answer).unwrap_or(StatusCode::GONE),
        sentence,
    )
}

/// Whether this is a health check by a process on this node. Other callers do not learn
/// whether the kubelet lives.
fn is_local_health_check<B>(peer: SocketAddr, request: &Request<B>) -> bool {
    peer.ip().to_canonical().is_loopback()
        && matches!(*request.method(), Method::GET | Method::HEAD)
        && request.uri().authority().is_none()
        && request.uri().path() == "/healthz"
}

/// Where the kubelet's clients reach the gate. On a wildcard address the seal brings them to it from the
/// kubelet's own port, or it holds that port itself on the node's addresses; elsewhere only its own port
/// leads to it. `listening` is where the gate's TLS port is bound.
pub(super) fn secure_port(upstream: &UpstreamUrl, listening: &[SocketAddr]) -> u16 {
    let own = listening.first().map_or(10250, SocketAddr::port);
    let kubelets = match upstream {
        UpstreamUrl::Http(address) | UpstreamUrl::Https(address) => address.port(),
        UpstreamUrl::Unix(_) => return own,
    };
    let sealed = |address: &SocketAddr| address.ip().is_unspecified() || address.port() == kubelets;
    if listening.iter().any(sealed) {
        kubelets
    } else {
        own
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_sent_to_the_port_that_leads_to_the_gate() {
        let kubelet = UpstreamUrl::Https("127.0.0.1:10250".parse().unwrap());
        let socket = UpstreamUrl::Unix("/run/kubelet.sock".into());
        for (listening, upstream, port) in [
            ("192.0.2.10:10250", &kubelet, 10250),
            ("0.0.0.0:19443", &kubelet, 10250),
            ("[::]:19443", &kubelet, 10250),
            ("192.0.2.10:19443", &kubelet, 19443),
            ("0.0.0.0:19443", &socket, 19443),
        ] {
            let told = secure_port(upstream, &[listening.parse().unwrap()]);
            assert_eq!(told, port, "{listening} {upstream:?}");
        }
    }

    /// Seen red: with the test of the peer left out, the neighbour's check counted as local.
    #[test]
    fn only_the_node_itself_may_ask_for_its_health() {
        for (peer, method, target, local) in [
            ("127.0.0.1:1", "GET", "/healthz", true),
            ("127.8.8.8:1", "HEAD", "/healthz?verbose", true),
            ("[::1]:1", "GET", "/healthz", true),
            ("[::ffff:127.0.0.1]:1", "GET", "/healthz", true),
            ("192.0.2.7:1", "GET", "/healthz", false),
            ("[2001:db8::7]:1", "GET", "/healthz", false),
            ("[::ffff:192.0.2.7]:1", "GET", "/healthz", false),
            ("127.0.0.1:1", "POST", "/healthz", false),
            ("127.0.0.1:1", "GET", "/healthz/", false),
            ("127.0.0.1:1", "GET", "/healthz/ping", false),
            ("127.0.0.1:1", "GET", "/%68ealthz", false),
            ("127.0.0.1:1", "GET", "http://other/healthz", false),
        ] {
            let request = Request::builder().method(method).uri(target).body(()).unwrap();
            let judged = is_local_health_check(peer.parse().unwrap(), &request);
            assert_eq!(judged, local, "{peer} {method} {target}");
        }
    }
}
