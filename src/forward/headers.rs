//! The headers that may pass: no credentials, no claims of an identity, no hop-by-hop headers.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::attributes::Protocol;
use crate::authn::WEBSOCKET_TOKEN_PREFIX;

/// Prepares a request's headers for the kubelet. `tunnel` is the protocol of a request that may become a
/// tunnel; only for such a request the gate sets `Connection` and `Upgrade`.
pub(super) fn for_kubelet(headers: &mut HeaderMap, tunnel: Option<Protocol>) {
    remove_named_by_connection(headers);
    remove_where(headers, |name| hop_by_hop(name) || forbidden(name));
    if let Some(protocol) = tunnel {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(protocol.as_str()));
    }
    if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        remove_websocket_token(headers);
    }
}

/// Prepares the headers of the kubelet's answer for the client.
pub(super) fn for_client(headers: &mut HeaderMap, tunnel: Option<Protocol>) {
    remove_named_by_connection(headers);
    remove_second_framing(headers);
    remove_where(headers, hop_by_hop);
    if let Some(protocol) = tunnel {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(protocol.as_str()));
    }
}

/// Headers that concern one connection (RFC 9110 §7.6.1). `Trailer` stays in answers: it announces fields
/// that pass.
fn hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Request headers that never reach the kubelet: the client's credentials, every claim of a user or an
/// origin, and headers that end at the gate. Underscores count as dashes, as some servers read them.
fn forbidden(name: &HeaderName) -> bool {
    const NAMES: [&str; 9] = [
        "authorization",
        "cookie",
        "expect",
        "forwarded",
        "proxy-authorization",
        "trailer",
        "x-client-cert",
        "x-http-method-override",
        "x-real-ip",
    ];
    const PREFIXES: [&str; 5] = [
        "impersonate-",
        "x-forwarded-",
        "x-remote-",
        "x-ssl-client-",
        "x-client-cert-",
    ];
    let name = name.as_str();
    // Nearly every header is ruled out by its first letter.
    if !matches!(
        name.as_bytes().first(),
        Some(b'a' | b'c' | b'e' | b'f' | b'i' | b'p' | b't' | b'x')
    ) {
        return false;
    }
    let dashed;
    let name = if name.contains('_') {
        dashed = name.replace('_', "-");
        &dashed
    } else {
        name
    };
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Removes the headers that a `Connection` header names. The gate's own headers are set afterwards, so a
/// client cannot remove them.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // A client must not be able to remove the headers that the message depends on.
        .filter(|name| {
            !matches!(
                *name,
                header::HOST | header::CONTENT_LENGTH | header::CONTENT_TYPE
            )
        })
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Removes `Content-Length` from an answer that is framed by something else, or that gives it more than once.
/// Otherwise a chunked answer with a length would look complete where that length ends.
fn remove_second_framing(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return };
    if lengths.next().is_some()
        || headers.contains_key(header::TRANSFER_ENCODING)
        || !length.as_bytes().iter().all(u8::is_ascii_digit)
    {
        headers.remove(header::CONTENT_LENGTH);
    }
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Removes a token from the subprotocols, which the kubelet passes to the container runtime. The others are
/// joined into one header, as the kubelet does.
fn remove_websocket_token(headers: &mut HeaderMap) {
    let protocols = || {
        headers
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
    };
    if !protocols().any(|protocol| protocol.starts_with(WEBSOCKET_TOKEN_PREFIX.as_bytes())) {
        return;
    }
    let rest: Vec<&[u8]> = protocols()
        .filter(|protocol| !protocol.starts_with(WEBSOCKET_TOKEN_PREFIX.as_bytes()))
        .collect();
    match HeaderValue::from_bytes(&rest.join(&b","[..])) {
        Ok(value) if !rest.is_empty() => {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
        _ => {
            headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        }
    }
}
