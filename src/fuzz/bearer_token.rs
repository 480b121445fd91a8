//! Tokens in `Authorization` and in `Sec-WebSocket-Protocol`.

use crate::authn::{WEBSOCKET_TOKEN_PREFIX, bearer, websocket_protocol};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue};

/// A header in each line.
pub(super) fn run(data: &[u8]) {
    let mut headers = HeaderMap::new();
    let mut carries_token = false;
    for line in data.split(|byte| *byte == b'\n').take(100) {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            continue;
        };
        if let Some(token) = bearer(&value) {
            assert!(!token.is_empty() && !token.contains(' '), "{token:?}");
            let text = str::from_utf8(value.as_bytes()).expect("a token is text").trim();
            let (scheme, rest) = text.split_once(' ').expect("a scheme");
            assert!(scheme.eq_ignore_ascii_case("bearer") && rest.starts_with(token));
        }
        let prefix = WEBSOCKET_TOKEN_PREFIX.as_bytes();
        carries_token |= line.windows(prefix.len()).any(|bytes| bytes == prefix);
        headers.append(SEC_WEBSOCKET_PROTOCOL, value);
    }
    if let Ok(Some(token)) = websocket_protocol(&headers) {
        assert!(carries_token && !token.is_empty());
    }
    if let Err(reason) = websocket_protocol(&headers) {
        assert!(carries_token, "{reason}, and no token");
    }
}
