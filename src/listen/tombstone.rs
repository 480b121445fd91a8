//! What is left of the read-only port: one refusal for everything, with one sentence on where to go instead, and a
//! census of who still comes.

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
use tokio_util::sync::CancellationToken;

use super::replacement;
use super::side_port::accept_each;
use crate::gate::{Gate, drain};
use crate::settings::{Settings, UpstreamUrl};

/// Nobody has business here for longer.
const LIFE: Duration = Duration::from_secs(10);

/// Answers until `stop` is cancelled.
pub(super) async fn serve(listener: TcpListener, gate: Arc<Gate>, stop: CancellationToken) {
    let serve = |stream| {
        let gate = gate.clone();
        async move {
            let _ = timeout(LIFE, converse(stream, &gate)).await;
        }
    };
    accept_each(listener, "read-only", &stop, serve).await;
}

async fn converse(stream: TcpStream, gate: &Gate) -> hyper::Result<()> {
    // Without a peer there is nobody to answer.
    let Ok(peer) = stream.peer_addr() else {
        return Ok(());
    };
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(gate, peer, request).await));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_headers(100)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(gate: &Gate, peer: SocketAddr, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    gate.metrics().read_only_port.inc();
    let agent = request
        .headers()
        .get(USER_AGENT)
        .map_or(&b""[..], HeaderValue::as_bytes);
    gate.census().saw(peer.ip(), request.uri().path(), agent);
    // A body left unread would be answered by a reset, and the sentence lost. Whoever waits for "100 Continue" is not
    // invited to send one.
    if !request.headers().contains_key(EXPECT) {
        drain(request.body_mut()).await;
    }
    let settings = gate.settings();
    let port = &settings.read_only_port;
    if port.healthz && is_local_health_check(peer, &request) {
        return match gate.kubelet_is_well().await {
            Ok(()) => text(StatusCode::OK, "ok".into()),
            // The reason is in /readyz and is nobody else's business.
            Err(_) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the kubelet cannot be reached\n".into(),
            ),
        };
    }
    let sentence = replacement::sentence(
        request.method(),
        &request.uri().to_string(),
        secure_port(settings),
        settings.authorization.interactive.require_create,
    );
    text(
        StatusCode::from_u16(port.answer).unwrap_or(StatusCode::GONE),
        sentence,
    )
}

/// What a node's own health checkers ask. Nobody else learns anything here, not even whether the kubelet lives.
fn is_local_health_check<B>(peer: SocketAddr, request: &Request<B>) -> bool {
    peer.ip().to_canonical().is_loopback()
        && matches!(*request.method(), Method::GET | Method::HEAD)
        && request.uri().authority().is_none()
        && request.uri().path() == "/healthz"
}

/// Where the kubelet's clients reach the gate. On a wildcard address the seal brings them to it from the kubelet's own
/// port, or it holds that port itself on the node's addresses; elsewhere only its own port leads to it.
fn secure_port(settings: &Settings) -> u16 {
    let own = settings
        .listen
        .first()
        .map(SocketAddr::port)
        .filter(|port| *port != 0);
    let kubelets = match &settings.upstream.url {
        UpstreamUrl::Http(address) | UpstreamUrl::Https(address) => address.port(),
        UpstreamUrl::Unix(_) => return own.unwrap_or(10250),
    };
    let sealed = |listen: &SocketAddr| listen.ip().is_unspecified() || listen.port() == kubelets;
    if settings.listen.iter().any(sealed) {
        kubelets
    } else {
        own.unwrap_or(kubelets)
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
    use crate::settings::KubeletFlags;

    #[test]
    fn callers_are_sent_to_the_port_that_leads_to_the_gate() {
        for (listen, upstream, port) in [
            ("192.0.2.10:10250", "https://127.0.0.1:10250", 10250),
            ("0.0.0.0:19443", "https://127.0.0.1:10250", 10250),
            ("'[::]:19443'", "https://[::1]:10250", 10250),
            ("192.0.2.10:19443", "https://127.0.0.1:10250", 19443),
            ("0.0.0.0:19443", "unix:///run/kubelet.sock", 19443),
            ("127.0.0.1:0", "https://127.0.0.1:10250", 10250),
        ] {
            let trust = if upstream.starts_with("https") {
                ", certificateFile: /k"
            } else {
                ""
            };
            let text = format!(
                "apiVersion: kubelet-gate.dev/v1alpha1\nkind: KubeletGateConfiguration\nlisten: [{listen}]\n\
                 upstream: {{url: '{upstream}'{trust}}}\nauthentication: {{x509: {{clientCAFile: /a}}}}\n\
                 kubeconfig: /k\ntlsCertFile: /c\ntlsPrivateKeyFile: /k\n"
            );
            let file = std::path::Path::new("/etc/gate.yaml");
            let settings = Settings::parse(&text, file, &KubeletFlags::default()).unwrap();
            assert_eq!(secure_port(&settings), port, "{listen} {upstream}");
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
