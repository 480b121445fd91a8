//! Why a review has no answer. Every text here is fit for a log: none holds a token, and text from outside is
//! escaped.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::exec::PluginError;
use super::reviews::AnswerError;

/// The kind of call that was made.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Api {
    /// `authentication.k8s.io/v1` TokenReview.
    TokenReview,
    /// `authorization.k8s.io/v1` SubjectAccessReview.
    SubjectAccessReview,
    /// A read of a `v1` Node.
    Node,
    /// The gate's own question whether the API server answers at all.
    Probe,
}

/// A call without an answer. Nothing may be allowed because of it.
#[derive(Debug, thiserror::Error)]
#[error("{api} failed: {cause}")]
pub(crate) struct ReviewError {
    /// The kind of call.
    pub api: Api,
    /// Why there is no answer.
    pub cause: Cause,
}

/// Why a review has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// There is no TCP connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no TLS connection: the API server's certificate is not valid for it, or it rejects the client
    /// certificate.
    #[error(
        "TLS handshake with {address}: {source}; see the kubeconfig's certificate-authority, tls-server-name"
    )]
    Handshake {
        /// Host and port.
        address: String,
        /// What rustls said.
        source: io::Error,
    },
    /// The connection broke, or the answer is not HTTP.
    #[error("{}", with_sources(.0))]
    Exchange(hyper::Error),
    /// The API server refused the call or failed. Redirects count as failures; they are never followed.
    #[error("the API server answered {code}{}{}", colon(message), way_out(*code))]
    Status {
        /// HTTP status.
        code: StatusCode,
        /// `message` of its `Status` object, escaped and shortened; may be empty.
        message: String,
        /// `Retry-After`, if it sent one.
        retry_after: Option<Duration>,
    },
    /// The answer is larger than any review.
    #[error("the API server's answer is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The answer cannot be used.
    #[error("the API server's answer cannot be used: {0}")]
    Answer(#[from] AnswerError),
    /// The request could not be built.
    #[error("the request cannot be built: {0}")]
    Request(String),
    /// The exec plugin gave no credential.
    #[error("no credential: {0}")]
    Plugin(Arc<PluginError>),
    /// All calls that the gate may make at once were under way until the time ran out.
    #[error(
        "not asked within {after:?}: limits.concurrentReviews other calls to the API server are under way"
    )]
    NoSlot {
        /// The time that was allowed.
        after: Duration,
    },
    /// The time ran out, including retries.
    #[error("no answer within {after:?}{}", before_that(last.as_deref()))]
    Deadline {
        /// The time that was allowed.
        after: Duration,
        /// Whether the API server had been asked when the time ran out.
        asked: bool,
        /// Why the last finished attempt failed.
        last: Option<Box<Self>>,
    },
}

// === impl Api ===

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Api {
    /// The name of the call in logs.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::TokenReview => "TokenReview",
            Self::SubjectAccessReview => "SubjectAccessReview",
            Self::Node => "reading the Node",
            Self::Probe => "the probe",
        }
    }

    /// The path of a POST, or what stands before the name of a GET.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::TokenReview => "/apis/authentication.k8s.io/v1/tokenreviews",
            Self::SubjectAccessReview => "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            Self::Node => "/api/v1/nodes/",
            Self::Probe => "/readyz",
        }
    }
}

// === impl ReviewError ===

impl ReviewError {
    /// Whether it shows that the API server is unreachable.
    pub(crate) fn is_outage(&self) -> bool {
        self.cause.is_outage()
    }

    /// The HTTP status with which the API server refused or failed, if there is one.
    #[must_use]
    pub(crate) const fn status(&self) -> Option<StatusCode> {
        match &self.cause {
            Cause::Status { code, .. } => Some(*code),
            _ => None,
        }
    }
}

// === impl Cause ===

impl Cause {
    /// Whether it shows that the API server is unreachable: no connection to it, none that lasts, no answer
    /// in time, or a server error. A bound of this gate or of its machine shows nothing about the API
    /// server: a client could reach it. An answer that cannot be used, or one that refuses the gate's
    /// credential, shows that it is there.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Handshake { source, .. } => is_broken(source.kind()),
            Self::Exchange(error) => {
                error.is_canceled()
                    || error.is_closed()
                    || error.is_incomplete_message()
                    || io_kind(error).is_some_and(is_broken)
            }
            Self::Status { code, .. } => code.is_server_error(),
            Self::Deadline { asked, .. } => *asked,
            Self::NoSlot { .. }
            | Self::TooLarge { .. }
            | Self::Answer(_)
            | Self::Request(_)
            | Self::Plugin(_) => false,
        }
    }

    /// Whether the kubelet's webhook client would try again: after resets, internal errors, timeouts, too
    /// many requests, and other server errors with a Retry-After; not after a refused connection, TLS errors,
    /// 401, 403, or a 503 without Retry-After.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Handshake { source, .. } => {
                source.kind() == io::ErrorKind::ConnectionReset
            }
            Self::Exchange(error) => is_reset(error),
            // The plugin has its own back-off.
            Self::Plugin(_) => false,
            Self::Status {
                code, retry_after, ..
            } => match *code {
                StatusCode::INTERNAL_SERVER_ERROR
                | StatusCode::GATEWAY_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS => true,
                code => code.is_server_error() && retry_after.is_some(),
            },
            _ => false,
        }
    }

    /// Whether a reused connection turned out to be closed.
    pub(super) fn is_stale_connection(&self) -> bool {
        match self {
            Self::Exchange(error) => {
                error.is_canceled()
                    || error.is_incomplete_message()
                    || error.is_closed()
                    || io_kind(error).is_some()
            }
            _ => false,
        }
    }

    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Whether an I/O error is about the other end or the network between. Too few descriptors, ports or memory
/// on this machine are not, nor is a name that cannot be resolved.
fn is_broken(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut
            | io::ErrorKind::UnexpectedEof
    )
}

fn is_reset(error: &hyper::Error) -> bool {
    io_kind(error) == Some(io::ErrorKind::ConnectionReset)
}

/// The kind of the I/O error below, unless it is a TLS error (an alert arrives as `InvalidData`).
fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    let kind = error.source()?.downcast_ref::<io::Error>()?.kind();
    (kind != io::ErrorKind::InvalidData).then_some(kind)
}

fn with_sources(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn before_that(last: Option<&Cause>) -> String {
    last.map_or_else(String::new, |last| format!("; before that: {last}"))
}

fn colon(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

const fn way_out(code: StatusCode) -> &'static str {
    match code {
        StatusCode::UNAUTHORIZED => "; it does not accept the credential of the gate's kubeconfig",
        StatusCode::FORBIDDEN => "; bind the gate's user to ClusterRole system:auth-delegator",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn connecting(errno: Errno) -> Cause {
        Cause::Connect {
            address: "192.0.2.1:6443".to_owned(),
            source: errno.into(),
        }
    }

    /// A client that uses up the descriptors or ports of this machine must not switch stale answers on.
    ///
    /// (Not seen red.)
    #[test]
    fn what_this_machine_lacks_is_no_outage_of_the_api_server() {
        for errno in [
            Errno::CONNREFUSED,
            Errno::CONNRESET,
            Errno::TIMEDOUT,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
        ] {
            assert!(connecting(errno).is_outage(), "{errno}");
        }
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
            Errno::AGAIN,
            Errno::ACCESS,
            Errno::PERM,
        ] {
            assert!(!connecting(errno).is_outage(), "{errno}");
        }
    }

    #[test]
    fn only_a_server_error_and_a_lack_of_answers_are_an_outage() {
        let status = |code| Cause::Status {
            code: StatusCode::from_u16(code).unwrap_or_default(),
            message: String::new(),
            retry_after: None,
        };
        let after = Duration::from_secs(1);
        let deadline = |asked| Cause::Deadline {
            after,
            asked,
            last: None,
        };
        for cause in [status(500), status(503), status(504), deadline(true)] {
            assert!(cause.is_outage(), "{cause}");
        }
        for cause in [
            status(302),
            status(401),
            status(403),
            status(404),
            status(429),
            deadline(false),
            Cause::NoSlot { after },
            Cause::TooLarge { limit: 1 },
            Cause::Answer(AnswerError::NoUser),
            Cause::Request(String::new()),
        ] {
            assert!(!cause.is_outage(), "{cause}");
        }
    }
}
