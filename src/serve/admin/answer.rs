//! What the admin port and socket answer.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::readiness::Readiness;
use super::report::Report;
use crate::gate::{SeenReport, drain};
use crate::metrics::CONTENT_TYPE as METRICS;
use crate::seal::Seal;
use crate::serve::instance::Instance;
use crate::serve::status::Serving;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers requests, on the admin thread.
pub(super) struct Answers {
    instance: Arc<Instance>,
    readiness: Readiness,
    status: Serving,
    metrics: Report,
    census: Report,
}

/// The answer to `/seal`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SealReport {
    /// The user that was taken for the API server; `None` if there was none since the gate started.
    api_server: Option<SeenReport>,
    /// The state that the watch found last.
    seal: Seal,
}

// === impl Answers ===

impl Answers {
    pub(super) fn new(instance: Arc<Instance>, status: Serving, stopping: CancellationToken) -> Self {
        Self {
            readiness: Readiness::new(instance.clone(), stopping),
            instance,
            status,
            metrics: Report::default(),
            census: Report::default(),
        }
    }

    pub(super) async fn answer(&self, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        if !self.is_addressed(request.uri(), request.headers()) {
            return text(
                StatusCode::MISDIRECTED_REQUEST,
                "421: the Host of this request is neither an address, localhost, nor a name in admin.hosts: \
                 ask by an address, or add the name\n",
            );
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            // Closing a socket with unread bytes would reset the connection before the answer is read.
            drain(request.body_mut()).await;
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => {
                let mut keys = request.uri().query().unwrap_or_default().split('&');
                let verbose = keys.any(|key| key.starts_with("verbose"));
                let (ready, report) = self.readiness.report(verbose).await;
                let status = match ready {
                    true => StatusCode::OK,
                    false => StatusCode::SERVICE_UNAVAILABLE,
                };
                text(status, report)
            }
            "/metrics" => self.built(&self.metrics, "metrics", METRICS, metrics).await,
            "/readonly-census" => self.built(&self.census, "census", JSON, census).await,
            "/seal" => answer(
                StatusCode::OK,
                JSON,
                json(&SealReport {
                    api_server: self.instance.gate.witness.report(),
                    seal: Seal::clone(&self.instance.seal.load()),
                }),
            ),
            "/status" => {
                let (ready, parts) = self.readiness.every_part().await;
                let parts = parts.iter().map(ToString::to_string).collect();
                let report = self.status.report(&self.instance, ready, parts);
                answer(StatusCode::OK, JSON, json(&report))
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "404: there are /livez, /readyz?verbose, /metrics, /readonly-census, /seal and /status\n",
            ),
        }
    }

    async fn built(
        &self,
        report: &Report,
        name: &'static str,
        media: &'static str,
        build: fn(&Instance) -> Vec<u8>,
    ) -> Response<Full<Bytes>> {
        let instance = self.instance.clone();
        let build = move || {
            instance.metrics().admin_report_built(name);
            build(&instance)
        };
        match report.get(build).await {
            Some(bytes) => answer(StatusCode::OK, media, bytes),
            None => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "500: the answer cannot be built\n",
            ),
        }
    }

    /// Whether the request is meant for this port. A web page whose name was changed to this address after it
    /// was loaded sends that name.
    fn is_addressed(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let hosts = &self.instance.settings.admin.hosts;
        let mut named = headers.get_all(HOST).iter();
        named.all(|host| host.to_str().is_ok_and(|host| is_ours(host, hosts)))
            && uri.authority().is_none_or(|at| is_ours(at.as_str(), hosts))
    }
}

/// Whether `host`, as in a `Host` header, is an address, `localhost` or one of `names`; or empty.
fn is_ours(host: &str, names: &[String]) -> bool {
    if host.is_empty() {
        return true;
    }
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(name) => name.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    let known = |known: &str| name.eq_ignore_ascii_case(known);
    !host.contains('@') && (address || known("localhost") || names.iter().any(|name| known(name)))
}

fn metrics(instance: &Instance) -> Vec<u8> {
    let audit = &instance.gate.audit;
    for (what, total) in [
        ("written", audit.written()),
        ("summarised", audit.summarised()),
        ("dropped", audit.dropped()),
        ("error", audit.errors()),
    ] {
        instance.metrics().audit_events(what, total);
    }
    instance.metrics().encode().into_bytes()
}

fn census(instance: &Instance) -> Vec<u8> {
    json(&instance.census.report())
}

/// Writing these types to memory does not fail.
fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(status, TEXT, body)
}

fn answer(status: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let media = HeaderValue::from_static(media);
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_localhost_or_a_known_name() {
        let names = ["node-1.example".to_owned()];
        for host in [
            "",
            "127.0.0.1",
            "127.0.0.1:19250",
            "192.0.2.10:80",
            "[::1]",
            "[::1]:19250",
            "localhost",
            "LOCALHOST:19250",
            "Node-1.Example:19250",
        ] {
            assert!(is_ours(host, &names), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:19250",
            "evil.example@127.0.0.1",
            "2130706433",
            "0x7f.1",
            "127.1",
            "::1",
            "[::1",
            "[evil.example]",
            "node-1.example.",
            "127.0.0.1, evil.example",
            "local host",
        ] {
            assert!(!is_ours(host, &names), "{host}");
        }
    }
}
