//! A request that the gate answers itself: what the client is told, and what the operator is told.
//!
//! The two texts are separate fields on purpose. Any client may read `outside`. `inside` goes to the log and
//! the audit line, and may name files, addresses and causes. This module is the only place where an error
//! becomes a response.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

/// The side that caused a request to end at the gate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorOrigin {
    /// The API server did not answer a review.
    ApiServer,
    /// The client is not allowed what it asked for, or its request is malformed.
    Client,
    /// The gate itself: a limit was reached, or there is a bug.
    Gate,
    /// The kubelet could not be reached, or gave an answer that must not be passed on.
    Kubelet,
}

/// The station at which a request ended, named as its folder is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Station {
    /// 4: the checks that a request needs.
    Attributes,
    /// 3: the user who makes it.
    Authn,
    /// 5: whether the user is allowed it.
    Authz,
    /// 6: the exchange with the kubelet.
    Forward,
}

/// Why a request ends at the gate.
#[derive(Clone, Debug)]
pub struct RequestError {
    /// The side that caused it.
    pub origin: ErrorOrigin,
    /// The station at which it ended.
    pub station: Station,
    /// The status the client gets.
    pub status: StatusCode,
    /// One word for metrics and audit, from a fixed set.
    pub reason: &'static str,
    /// The body the client gets.
    outside: Cow<'static, str>,
    /// What the operator is told.
    inside: Cow<'static, str>,
    /// Seconds for a `Retry-After` header.
    retry_after: Option<u32>,
}

impl RequestError {
    /// 400: the request line or a header has no single meaning; `rule` is the rule that it breaks.
    pub(crate) fn bad_request(reason: &'static str, rule: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            ErrorOrigin::Client,
            Station::Attributes,
            StatusCode::BAD_REQUEST,
            reason,
            rule,
        )
    }

    /// 405: a method outside GET, HEAD, POST, PUT, PATCH, DELETE.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            ErrorOrigin::Client,
            Station::Attributes,
            StatusCode::METHOD_NOT_ALLOWED,
            "method",
            "405: Method Not Allowed",
        )
        .inside("the method is none of GET, HEAD, POST, PUT, PATCH and DELETE")
    }

    /// 417: an `Expect` other than `100-continue`, as the kubelet answers it.
    pub(crate) fn expectation_failed() -> Self {
        Self::new(
            ErrorOrigin::Client,
            Station::Attributes,
            StatusCode::EXPECTATION_FAILED,
            "expectation",
            "",
        )
    }

    /// 501: a transfer coding other than `chunked`, as the kubelet answers it. The end of such a body is
    /// unknown, so the connection ends too.
    pub(crate) fn unsupported_transfer_coding() -> Self {
        Self::new(
            ErrorOrigin::Client,
            Station::Attributes,
            StatusCode::NOT_IMPLEMENTED,
            "transfer_coding",
            "Unsupported transfer encoding",
        )
    }

    /// 401, in the kubelet's bytes: no credential of the request is valid. `inside` says why each one failed.
    pub(crate) fn unauthorized(reason: &'static str, inside: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            ErrorOrigin::Client,
            Station::Authn,
            StatusCode::UNAUTHORIZED,
            reason,
            "Unauthorized",
        )
        .inside(inside)
    }

    /// 403, in the kubelet's words: the user is known and not allowed this.
    pub(crate) fn forbidden(
        reason: &'static str,
        outside: impl Into<Cow<'static, str>>,
        inside: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(
            ErrorOrigin::Client,
            Station::Authz,
            StatusCode::FORBIDDEN,
            reason,
            outside,
        )
        .inside(inside)
    }

    /// 503: the review that the decision needs failed. The kubelet answers 401 or 500 here. The gate refuses
    /// as well, and tells the client that a retry may succeed.
    pub(crate) fn review_failed(
        station: Station,
        review: &'static str,
        inside: impl Into<Cow<'static, str>>,
    ) -> Self {
        let outside =
            format!("{review} failed: the API server cannot be asked whether this request is allowed\n");
        Self::new(
            ErrorOrigin::ApiServer,
            station,
            StatusCode::SERVICE_UNAVAILABLE,
            "review_failed",
            outside,
        )
        .inside(inside)
        .retry_after(retry_jitter())
    }

    /// 503: the trust has changed, or the verdict on the client's certificate has ended, and the new verdict
    /// has taken too long. The old one must not be used, and a 401 would say that the certificate is bad.
    pub(crate) fn judged_late() -> Self {
        Self::new(
            ErrorOrigin::Gate,
            Station::Authn,
            StatusCode::SERVICE_UNAVAILABLE,
            "judged_late",
            "the client certificate could not be judged again in time\n",
        )
        .retry_after(1)
    }

    /// 400: the client's body ended early or was malformed.
    pub(crate) fn broken_body(inside: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            ErrorOrigin::Client,
            Station::Forward,
            StatusCode::BAD_REQUEST,
            "broken_body",
            "the body of the request is malformed or incomplete\n",
        )
        .inside(inside)
    }

    /// 502: the kubelet cannot be reached, shows another key than the pinned one, or gave an answer that must
    /// not be passed on.
    pub(crate) fn bad_gateway(
        reason: &'static str,
        outside: &'static str,
        inside: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(
            ErrorOrigin::Kubelet,
            Station::Forward,
            StatusCode::BAD_GATEWAY,
            reason,
            outside,
        )
        .inside(inside)
    }

    /// 429: a limit of the gate is reached.
    pub(crate) fn too_many(station: Station, reason: &'static str, outside: &'static str) -> Self {
        Self::new(
            ErrorOrigin::Gate,
            station,
            StatusCode::TOO_MANY_REQUESTS,
            reason,
            outside,
        )
        .retry_after(1)
    }

    /// 500: the gate itself failed. The client is told nothing more.
    pub(crate) fn internal(inside: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            ErrorOrigin::Gate,
            Station::Forward,
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal Server Error",
        )
        .inside(inside)
    }

    /// Whether an operator wants to see each such refusal of a client without a user. The client has shown a
    /// credential that was, or may have been, good: it is lost, stolen, or about to fail on every node.
    pub(crate) fn is_notable(&self) -> bool {
        NOTABLE.contains(&self.reason)
    }

    /// Leaves `Retry-After` out: a client that asks for an upgrade does not understand it.
    #[must_use]
    pub(crate) fn without_retry_after(mut self) -> Self {
        self.retry_after = None;
        self
    }

    /// What the operator is told; never sent to the client.
    pub(crate) fn inside_text(&self) -> &str {
        if self.inside.is_empty() {
            self.outside.trim_end()
        } else {
            &self.inside
        }
    }

    /// Makes the response, in plain text as the kubelet's are.
    pub(crate) fn into_response(self) -> Response<Bytes> {
        let body = match self.outside {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => Bytes::from(text),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(
                ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE"),
            );
        }
        if self.status == StatusCode::NOT_IMPLEMENTED {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn new(
        origin: ErrorOrigin,
        station: Station,
        status: StatusCode,
        reason: &'static str,
        outside: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            origin,
            station,
            status,
            reason,
            outside: outside.into(),
            inside: Cow::Borrowed(""),
            retry_after: None,
        }
    }

    fn inside(mut self, inside: impl Into<Cow<'static, str>>) -> Self {
        self.inside = inside.into();
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.inside_text())
    }
}

impl std::error::Error for RequestError {}

impl Station {
    /// The station's word in logs and audit lines.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Attributes => "attributes",
            Self::Authn => "authn",
            Self::Authz => "authz",
            Self::Forward => "forward",
        }
    }
}

/// The reasons for refusing a certificate of a configured CA, and a token that was good once. A certificate
/// that no configured CA issued is `unknown_issuer`, and one that cannot be read is `malformed` or
/// `too_long`.
const NOTABLE: [&str; 15] = [
    "bad_issuer",
    "bad_signature",
    "bad_usage",
    "ca_as_client",
    "ca_expired",
    "ca_not_yet_valid",
    "denied_certificate",
    "expired",
    "name_constraints",
    "not_yet_valid",
    "old_version",
    "revocation_unknown",
    "revoked",
    "revoked_token",
    "unsupported_algorithm",
];

/// 5 to 15 seconds, at random: after an outage the clients do not all retry at once.
fn retry_jitter() -> u32 {
    let mut byte = [0u8; 1];
    // Without randomness every client gets 10 seconds: only the spread is lost.
    match aws_lc_rs::rand::fill(&mut byte) {
        Ok(()) => 5 + u32::from(byte[0]) % 11,
        Err(_) => 10,
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
