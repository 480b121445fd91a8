//! The gate's own port, on loopback: `/livez`, `/readyz`, `/metrics`, `/readonly-census`,
//! `/seal`. It never proxies.

pub mod client;
mod readiness;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::readiness::Readiness;
use super::instance::Instance;
use super::side_port::accept_each;
use crate::gate::SeenReport;
use crate::listen::Acceptor;
use crate::metrics::CONTENT_TYPE as METRICS_CONTENT_TYPE;
use crate::seal::Seal;

/// The answer to `/seal`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SealReport {
    /// The user that was taken for the API server; `None` if there was none since the gate started.
    api_server: Option<SeenReport>,
    /// The state that the watch found last.
    seal: Seal,
}

/// Answers until `stop` is cancelled. `/readyz` fails as soon as `stopping` is cancelled.
pub(crate) async fn serve(
    listener: TcpListener,
    instance: Arc<Instance>,
    stopping: CancellationToken,
    stop: CancellationToken,
) {
    let acceptor = Acceptor::new(listener, "admin", instance.gate.metrics.clone());
    let readiness = Arc::new(Readiness::new(instance.clone(), stopping));
    let serve = |stream| {
        let (instance, readiness, stop) = (instance.clone(), readiness.clone(), stop.clone());
        async move {
            let service = service_fn(|request| {
                let (instance, readiness) = (instance.clone(), readiness.clone());
                async move { Ok::<_, Infallible>(answer(&instance, &readiness, &request).await) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            let _ = stop.run_until_cancelled(serving).await;
        }
    };
    accept_each(acceptor, &instance.gate.metrics, &stop, serve).await;
}

async fn answer(
    instance: &Instance,
    readiness: &Readiness,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed\n".into());
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => {
            let verbose = request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|key| key.starts_with("verbose")));
            let (ready, report) = readiness.report(verbose).await;
            text(
                if ready {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                },
                report,
            )
        }
        "/metrics" => {
            let audit = &instance.gate.audit;
            for (what, total) in [
                ("written", audit.written()),
                ("dropped", audit.dropped()),
                ("error", audit.errors()),
            ] {
                instance.metrics().audit_events(what, total);
            }
            let mut response = text(StatusCode::OK, instance.metrics().encode());
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_CONTENT_TYPE));
            response
        }
        "/readonly-census" => json(&instance.census.report()),
        "/seal" => json(&SealReport {
            api_server: instance.gate.witness.report(),
            seal: Seal::clone(&instance.seal.load()),
        }),
        _ => text(
            StatusCode::NOT_FOUND,
            "404: there are /livez, /readyz?verbose, /metrics, /readonly-census and /seal\n".into(),
        ),
    }
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(body) => {
            let mut response = text(StatusCode::OK, body + "\n");
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("500: {error}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
