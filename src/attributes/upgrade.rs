//! The upgrade a request asks for: both headers, one of two protocols, HTTP/1.1, and no body.

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Version};

use crate::error::RequestError;

/// A protocol a request may upgrade to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// SPDY/3.1, the API server's and kubectl's older way to exec, attach and port-forward.
    Spdy,
    /// WebSocket.
    WebSocket,
}

impl Protocol {
    /// The protocol that `parts` asks to upgrade to, if any.
    ///
    /// Only one of the two headers, another protocol, a body, or a version other than HTTP/1.1 is 400.
    /// Servers read each of these differently, and the state that a refused upgrade left on the connection
    /// was CVE-2018-1002105.
    pub(super) fn wanted_by(parts: &Parts) -> Result<Option<Self>, RequestError> {
        let named = connection_names_upgrade(&parts.headers);
        let mut values = parts.headers.get_all(UPGRADE).iter();
        let value = match (named, values.next()) {
            (false, None) => return Ok(None),
            (true, Some(value)) if parts.version == Version::HTTP_11 => value,
            (true, Some(_)) => return Err(refuse("an upgrade needs HTTP/1.1\n")),
            (true, None) => return Err(refuse("Connection: upgrade without an Upgrade header\n")),
            (false, Some(_)) => return Err(refuse("an Upgrade header without Connection: upgrade\n")),
        };
        if values.next().is_some() {
            return Err(refuse("more than one Upgrade header\n"));
        }
        let protocol = Self::of(value.as_bytes())
            .ok_or_else(|| refuse("only websocket and SPDY/3.1 can be upgraded to\n"))?;
        if has_body(&parts.headers) {
            return Err(refuse("an upgrade request must not have a body\n"));
        }
        Ok(Some(protocol))
    }

    /// The protocol of an `Upgrade` header's value.
    pub(crate) fn of(value: &[u8]) -> Option<Self> {
        if value.eq_ignore_ascii_case(b"websocket") {
            Some(Self::WebSocket)
        } else if value.eq_ignore_ascii_case(b"SPDY/3.1") {
            Some(Self::Spdy)
        } else {
            None
        }
    }

    /// The value of an `Upgrade` header.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Spdy => "SPDY/3.1",
            Self::WebSocket => "websocket",
        }
    }
}

/// Whether a `Connection` header has the token `upgrade`.
fn connection_names_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// Whether the message has a body. `Content-Length: 0` is no body: API servers send it with SPDY.
fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

fn refuse(rule: &'static str) -> RequestError {
    RequestError::bad_request("upgrade", rule)
}
