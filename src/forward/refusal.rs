//! Answers by which the kubelet refuses the gate itself.
//!
//! The kubelet's client is the gate: what it authenticates and authorizes is the gate's own credential. If it
//! refuses that, the caller has done nothing wrong, the operator has to act, and the kubelet's sentence would
//! tell the caller the gate's user name. Such an answer is known by the words with which the filter of every
//! kubelet begins it. All others with the same status are about the caller's request, such as the 403 for a
//! file below `/logs` that the kubelet itself may not read, and are passed on as they are.

use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Method, Response, StatusCode};

use super::body::Body;
use super::kubelet::Kubelet;
use super::no_answer;
use crate::error::RequestError;

/// How the kubelet's sentences begin that name the gate's user.
const FORBIDDEN: &str = "Forbidden (user=";
const UNDECIDED: &str = "Authorization error (user=";
/// Its whole answer to a credential that it does not accept.
const UNAUTHORIZED: &str = "Unauthorized";
/// How much of a sentence the log gets.
const SENTENCE: usize = 512;

/// Whether an answer with this status may be one.
pub(super) fn may_be(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::INTERNAL_SERVER_ERROR
    )
}

/// The answer as it is, unless the kubelet refuses the gate with it.
///
/// # Errors
/// 502 in place of the kubelet's refusal of the gate; 502 if the answer breaks off.
pub(super) async fn judge(
    kubelet: &Kubelet,
    method: &Method,
    mut answer: Response<Body>,
) -> Result<Response<Body>, RequestError> {
    let status = answer.status();
    let is_refusal = if method == Method::HEAD {
        is_refusal_of_head(status, answer.headers())
    } else {
        let words = match status {
            StatusCode::UNAUTHORIZED => UNAUTHORIZED,
            StatusCode::FORBIDDEN => FORBIDDEN,
            _ => UNDECIDED,
        };
        // With a line end, and one byte more: that tells a longer text from the whole answer.
        let begins = answer.body_mut().beginning(words.len() + 2).await;
        let begins = begins.map_err(|error| no_answer(&error))?;
        match status {
            StatusCode::UNAUTHORIZED => begins.strip_suffix(b"\n").unwrap_or(&begins) == words.as_bytes(),
            _ => begins.starts_with(words.as_bytes()),
        }
    };
    if !is_refusal {
        return Ok(answer);
    }
    let sentence = answer.body_mut().beginning(SENTENCE).await;
    let sentence = sentence.map_err(|error| no_answer(&error))?;
    let sentence = String::from_utf8_lossy(&sentence[..sentence.len().min(SENTENCE)]);
    let said = match sentence.trim() {
        "" => String::new(),
        sentence => format!(" and says {sentence:?}"),
    };
    let (reason, outside, way_out) = match status {
        StatusCode::UNAUTHORIZED => (
            "kubelet_unauthorized",
            "the kubelet does not accept the gate's own credential\n",
            match kubelet.shows_credentials() {
                true => {
                    "it does not accept what upstream.clientCertificateFile or upstream.tokenFile holds: it \
                     may have expired, or be from another CA than the kubelet's clientCAFile"
                }
                false => "upstream has no credential for it: NEXT.md of init says how to get one",
            },
        ),
        StatusCode::FORBIDDEN => (
            "kubelet_forbidden",
            "the kubelet forbids this to the gate's own credential\n",
            "give the gate's user the right, as the ClusterRole in NEXT.md of init does",
        ),
        _ => (
            "kubelet_undecided",
            "the kubelet could not authorize the gate's own credential\n",
            "the kubelet could not ask the API server; its own log says why",
        ),
    };
    kubelet.metrics().upstream_refused(reason);
    let status = status.as_u16();
    let inside = format!("the kubelet answers {status} to the gate's own credential{said}: {way_out}");
    Err(RequestError::bad_gateway(reason, outside, inside))
}

/// An answer to HEAD has no words. The kubelet's filter sends plain text without the header that Go's file
/// server and `http.Error` add.
fn is_refusal_of_head(status: StatusCode, headers: &HeaderMap) -> bool {
    let is_plain = headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/plain"));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            is_plain && !headers.contains_key(X_CONTENT_TYPE_OPTIONS)
        }
        _ => false,
    }
}
