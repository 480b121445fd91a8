//! The gate's own port, on loopback: `/livez`, `/readyz`, `/metrics`, `/readonly-census`, `/seal`. It never proxies.

pub mod client;
mod readiness;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::readiness::Readiness;
use crate::firewall::Seal;
use crate::gate::Gate;
use crate::listen::accept_each;
use crate::metrics::CONTENT_TYPE as METRICS_CONTENT_TYPE;
use crate::witness::SeenReport;

/// The answer to `/seal`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SealReport {
    /// Who has been taken for the API server; `None`: nobody since the gate started.
    api_server: Option<SeenReport>,
    /// As the watch found it last.
    seal: Seal,
}

/// Answers until `stop` is cancelled; from the moment `stopping` is, `/readyz` fails.
pub(crate) async fn serve(
    listener: TcpListener,
    gate: Arc<Gate>,
    stopping: CancellationToken,
    stop: CancellationToken,
) {
    let readiness = Arc::new(Readiness::new(gate.clone(), stopping));
    let serve = |stream| {
        let (gate, readiness, stop) = (gate.clone(), readiness.clone(), stop.clone());
        async move {
            let service = service_fn(|request| {
                let (gate, readiness) = (gate.clone(), readiness.clone());
                async move { Ok::<_, Infallible>(answer(&gate, &readiness, &request).await) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            let _ = stop.run_until_cancelled(serving).await;
        }
    };
    accept_each(listener, "admin", &stop, serve).await;
}

async fn answer(gate: &Gate, readiness: &Readiness, request: &Request<Incoming>) -> Response<Full<Bytes>> {
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
            let audit = gate.audit();
            for (what, total) in [
                ("written", audit.written()),
                ("dropped", audit.dropped()),
                ("error", audit.errors()),
            ] {
                gate.metrics().audit_events(what, total);
            }
            let mut response = text(StatusCode::OK, gate.metrics().encode());
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_CONTENT_TYPE));
            response
        }
        "/readonly-census" => json(&gate.census().report()),
        "/seal" => json(&SealReport {
            api_server: gate.witness().report(),
            seal: Seal::clone(&gate.seal()),
        }),
        _ => text(
            StatusCode::NOT_FOUND,
            "404: there are /livez, /readyz?verbose, /metrics, /readonly-census and /seal\n".into(),
        ),
    }
}

/// `2026-01-02T03:04:05Z`.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    // The year has four digits, so that it can be written.
    time.replace_nanosecond(0)
        .unwrap_or(time)
        .format(&Rfc3339)
        .unwrap_or_default()
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
