//! How tokens are read from a request's head.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::super::token::{WEBSOCKET_TOKEN_PREFIX, bearer, websocket_protocol};

fn bearer_of(value: &[u8]) -> Option<String> {
    bearer(&HeaderValue::from_bytes(value).unwrap()).map(str::to_owned)
}

fn protocols(values: &[String]) -> HeaderMap {
    values
        .iter()
        .map(|value| (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(value).unwrap()))
        .collect()
}

fn carrying(token: &str) -> String {
    format!("{WEBSOCKET_TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(token))
}

#[test]
fn a_bearer_token_is_read_as_the_kubelet_reads_it() {
    for (value, token) in [
        (&b"Bearer tok"[..], Some("tok")),
        (b"bearer tok", Some("tok")),
        (b"BEARER tok", Some("tok")),
        (b"  Bearer tok  ", Some("tok")),
        (b"Bearer tok extra", Some("tok")),
        (b"Bearer  tok", None),
        (b"Bearer\ttok", None),
        (b"Bearer", None),
        (b"Bearer ", None),
        (b"Basic dXNlcg==", None),
        (b"tok", None),
        (b"", None),
        (b"Bearer t\xff", None),
    ] {
        assert_eq!(
            bearer_of(value).as_deref(),
            token,
            "{:?}",
            String::from_utf8_lossy(value)
        );
    }
}

#[test]
fn a_websocket_token_needs_another_protocol_beside_it() {
    let with = |values: &[String]| websocket_protocol(&protocols(values));
    let plain = || "v4.channel.k8s.io".to_owned();
    assert_eq!(with(&[carrying("tok"), plain()]), Ok(Some("tok".into())));
    assert_eq!(
        with(&[format!("{}, v4.channel.k8s.io", carrying("tok"))]),
        Ok(Some("tok".into()))
    );
    assert_eq!(with(&[plain()]), Ok(None));
    assert_eq!(with(&[carrying(""), plain()]), Ok(None));
    assert!(with(&[carrying("tok")]).is_err());
    assert!(with(&[carrying("a"), carrying("b"), plain()]).is_err());
    assert!(with(&[format!("{WEBSOCKET_TOKEN_PREFIX}!!"), plain()]).is_err());
    assert!(
        with(&[
            format!("{WEBSOCKET_TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(b"\xff")),
            plain()
        ])
        .is_err()
    );
}

proptest! {
    #[test]
    fn reading_a_token_never_panics(value in proptest::collection::vec(32u8..=255, 0..64)) {
        if let Ok(header) = HeaderValue::from_bytes(&value) {
            if let Some(token) = bearer(&header) {
                prop_assert!(!token.is_empty() && !token.contains(' '));
            }
            let headers = HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, header)]);
            let _ = websocket_protocol(&headers);
        }
    }

    #[test]
    fn every_token_survives_the_subprotocol(token in "[ -~]{1,40}") {
        let headers = protocols(&[carrying(&token), "v5.channel.k8s.io".into()]);
        prop_assert_eq!(websocket_protocol(&headers), Ok(Some(token)));
    }
}
