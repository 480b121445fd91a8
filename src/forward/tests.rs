//! Which headers reach the kubelet, and which the client.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::headers::{for_client, for_kubelet};
use crate::attributes::Protocol;

fn head(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    headers
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn no_credential_and_no_claim_passes() {
    let mut headers = head(&[
        ("accept", "*/*"),
        ("authorization", "Bearer tok"),
        ("cookie", "a=b"),
        ("expect", "100-continue"),
        ("forwarded", "for=1.2.3.4"),
        ("host", "node:10250"),
        ("impersonate-group", "system:masters"),
        ("impersonate-user", "root"),
        ("impersonate_user", "root"),
        ("kubectl-command", "kubectl exec"),
        ("proxy-authorization", "Basic x"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("user-agent", "kubectl"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-http-method-override", "POST"),
        ("x-real-ip", "1.2.3.4"),
        ("x-remote-extra-scopes", "all"),
        ("x-remote-user", "root"),
        ("x_remote_user", "root"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ("x-stream-protocol-version", "v3.channel.k8s.io"),
    ]);
    for_kubelet(&mut headers, None);
    assert_eq!(
        names(&headers),
        [
            "accept",
            "host",
            "kubectl-command",
            "user-agent",
            "x-stream-protocol-version"
        ]
    );
    assert_eq!(headers.get_all("x-stream-protocol-version").iter().count(), 2);
}

#[test]
fn connection_removes_what_it_names_except_what_the_message_depends_on() {
    let mut headers = head(&[
        ("connection", "keep-alive, X-Hop, Host, content-length"),
        ("x-hop", "1"),
        ("host", "node"),
        ("content-length", "3"),
        ("upgrade", "websocket"),
    ]);
    for_kubelet(&mut headers, None);
    assert_eq!(names(&headers), ["content-length", "host"]);
}

#[test]
fn only_a_tunnel_keeps_its_upgrade() {
    let mut headers = head(&[
        ("connection", "X-A, Upgrade"),
        ("upgrade", "WEBSOCKET"),
        ("x-a", "1"),
    ]);
    for_kubelet(&mut headers, Some(Protocol::WebSocket));
    assert_eq!(
        headers,
        head(&[("connection", "Upgrade"), ("upgrade", "websocket")])
    );
}

#[test]
fn a_token_is_removed_from_the_subprotocols() {
    let mut headers = head(&[
        (
            "sec-websocket-protocol",
            "base64url.bearer.authorization.k8s.io.dG9r",
        ),
        ("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io"),
    ]);
    for_kubelet(&mut headers, Some(Protocol::WebSocket));
    let left: Vec<_> = headers.get_all("sec-websocket-protocol").iter().collect();
    assert_eq!(left, ["v5.channel.k8s.io,v4.channel.k8s.io"]);
}

#[test]
fn an_answer_keeps_its_trailer_and_loses_hop_by_hop_headers() {
    let mut headers = head(&[
        ("connection", "close, x-b"),
        ("x-b", "1"),
        ("trailer", "x-t"),
        ("keep-alive", "timeout=5"),
    ]);
    for_client(&mut headers, None);
    assert_eq!(names(&headers), ["trailer"]);
}

#[test]
fn an_answer_has_one_length_or_none() {
    for (lines, left) in [
        (&[("content-length", "3")][..], 1),
        (&[("content-length", "3"), ("content-length", "3")], 0),
        (&[("content-length", "3, 3")], 0),
        (&[("content-length", "3"), ("transfer-encoding", "chunked")], 0),
    ] {
        let mut headers = head(lines);
        for_client(&mut headers, None);
        assert_eq!(headers.len(), left, "{lines:?}");
    }
}

proptest! {
    /// A forbidden name does not pass in any spelling.
    #[test]
    fn no_spelling_passes(
        name in "(x[-_]remote[-_](user|group|extra[-_][a-z]{1,5})\
                 |impersonate[-_](user|group|uid|extra[-_][a-z]{1,5})\
                 |x[-_]forwarded[-_][a-z]{1,6}|authorization|cookie|proxy[-_]authorization\
                 |forwarded|x[-_]real[-_]ip)",
        upper in any::<u32>(),
        hop in any::<bool>(),
    ) {
        let spelled: String = name.chars().enumerate().map(|(index, letter)| {
            if upper >> (index % 32) & 1 == 1 { letter.to_ascii_uppercase() } else { letter }
        }).collect();
        let connection = if hop { "x-remote-user, upgrade" } else { "keep-alive" };
        let mut headers = head(&[(&spelled, "root"), ("connection", connection), ("accept", "*/*")]);
        for_kubelet(&mut headers, None);
        prop_assert_eq!(names(&headers), vec!["accept"]);
    }
}
