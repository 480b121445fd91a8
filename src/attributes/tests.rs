//! The table of subresources, and the paths and heads that are refused.

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Version};
use proptest::prelude::*;

use super::path::PathError;
use super::*;

fn parts(method: &str, target: &str, headers: &[(&'static str, &str)]) -> Parts {
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(target)
        .header("host", "worker-1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn checks(method: &str, target: &str) -> (String, Vec<&'static str>) {
    let checks = Checks::of(&parts(method, target, &[]), true).unwrap();
    (
        checks.verb().to_string(),
        checks
            .subresources()
            .iter()
            .map(|subresource| subresource.as_str())
            .collect(),
    )
}

fn refusal(target: &str) -> &'static str {
    Checks::of(&parts("GET", target, &[]), true).map_or_else(|error| error.reason, |_| "not refused")
}

fn upgrade(headers: &[(&'static str, &str)]) -> Result<Option<Protocol>, &'static str> {
    Checks::of(&parts("GET", "/exec/a/b/c", headers), true)
        .map(|checks| checks.tunnel())
        .map_err(|error| error.reason)
}

#[test]
fn the_table_is_the_kubelets() {
    for (target, expected) in [
        ("/pods", &["pods", "proxy"][..]),
        ("/pods/", &["pods", "proxy"]),
        ("/%70ods?a=b", &["pods", "proxy"]),
        ("/runningpods/", &["pods", "proxy"]),
        ("/healthz/ping", &["healthz", "proxy"]),
        ("/configz", &["configz", "proxy"]),
        ("/flagz", &["configz"]),
        ("/statusz", &["statusz"]),
        ("/stats/summary", &["stats"]),
        ("/metrics/cadvisor", &["metrics"]),
        ("/metricsx", &["proxy"]),
        ("/METRICS", &["proxy"]),
        ("/logs/messages", &["log"]),
        ("/checkpoint/a/b/c", &["checkpoint"]),
        ("/containerLogs/a/b/c", &["proxy"]),
        ("/debug/pprof/profile", &["proxy"]),
        ("/", &["proxy"]),
    ] {
        assert_eq!(checks("GET", target).1, expected, "{target}");
    }
}

#[test]
fn verbs_come_from_methods_except_on_interactive_paths() {
    for (method, verb) in [
        ("GET", "get"),
        ("HEAD", "get"),
        ("POST", "create"),
        ("PUT", "update"),
        ("PATCH", "patch"),
    ] {
        assert_eq!(checks(method, "/containerLogs/a/b/c").0, verb);
        for path in [
            "/exec/a/b/c",
            "/attach/a/b/c",
            "/run/a/b/c",
            "/portForward/a/b",
            "/cri/exec/x",
            "/exec",
            "/%65xec/a",
        ] {
            assert_eq!(checks(method, path).0, "create", "{method} {path}");
        }
    }
    for method in ["OPTIONS", "TRACE", "CONNECT", "FOO", "get"] {
        let error = Checks::of(&parts(method, "/pods", &[]), true).unwrap_err();
        assert_eq!(error.status, http::StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
    let loosened = Checks::of(&parts("GET", "/exec/a/b/c", &[]), false).unwrap();
    assert_eq!(
        loosened.verb(),
        Verb::Get,
        "requireCreate: false is the kubelet's own rule"
    );
}

#[test]
fn a_path_that_reads_two_ways_is_refused() {
    for (target, reason) in [
        ("//pods", "empty_segment"),
        ("/exec//b/c", "empty_segment"),
        ("/pods//", "empty_segment"),
        ("/./pods", "dot_segment"),
        ("/metrics/../exec/a/b/c", "dot_segment"),
        ("/metrics/..", "dot_segment"),
        ("/pods/%2e%2e/exec/a/b/c", "dot_segment"),
        ("/pods/%2E/x", "dot_segment"),
        ("/stats/.%2e/exec", "dot_segment"),
        ("/metrics%2Fcadvisor", "encoded_slash"),
        ("/logs/..%2f..%2fetc/passwd", "encoded_slash"),
        ("/exec/a%5cb/c", "backslash"),
        ("/pods%00", "nul"),
        ("/pods%zz", "bad_escape"),
        ("/pods%2", "bad_escape"),
        ("/pods%", "bad_escape"),
        ("/pods/%ff", "not_utf8"),
        ("http://elsewhere/pods", "absolute_form"),
        ("*", "not_a_path"),
    ] {
        assert_eq!(refusal(target), reason, "{target}");
    }
    for target in [
        "/exec/a/b.c/...",
        "/logs/a..b",
        "/exec/a/b%20c/d~e@f:g",
        "/logs/%25%32%65",
        "/pods/%C3%A4",
        "/logs/;x=y",
    ] {
        assert_eq!(refusal(target), "not refused", "{target}");
    }
}

#[test]
fn authority_and_host_must_agree_over_http2() {
    let of = |host| {
        let uri = "https://node:10250/pods".parse().unwrap();
        let headers = HeaderMap::from_iter([(http::header::HOST, http::HeaderValue::from_static(host))]);
        RequestPath::of_target(&uri, Version::HTTP_2, &headers).map(|path| path.decoded().to_owned())
    };
    assert_eq!(of("NODE:10250").as_deref(), Ok("/pods"));
    assert_eq!(of("other:10250"), Err(PathError::Authority));
}

#[test]
fn an_upgrade_needs_both_headers_a_known_protocol_and_no_body() {
    let websocket = ("upgrade", "websocket");
    assert_eq!(upgrade(&[]), Ok(None));
    assert_eq!(
        upgrade(&[("connection", "Upgrade"), websocket]),
        Ok(Some(Protocol::WebSocket))
    );
    assert_eq!(
        upgrade(&[("connection", "keep-alive, UPGRADE"), ("upgrade", "WebSocket")]),
        Ok(Some(Protocol::WebSocket))
    );
    assert_eq!(
        upgrade(&[("connection", "keep-alive"), ("connection", "upgrade"), websocket]),
        Ok(Some(Protocol::WebSocket))
    );
    assert_eq!(
        upgrade(&[
            ("connection", "Upgrade"),
            ("upgrade", "spdy/3.1"),
            ("content-length", "0")
        ]),
        Ok(Some(Protocol::Spdy))
    );
    for refused in [
        &[("connection", "Upgrade")][..],
        &[websocket],
        &[("connection", "notupgrade"), websocket],
        &[("connection", "Upgrade"), ("upgrade", "h2c")],
        &[("connection", "Upgrade"), ("upgrade", "websocket, h2c")],
        &[("connection", "Upgrade"), websocket, websocket],
        &[("connection", "Upgrade"), websocket, ("content-length", "1")],
        &[
            ("connection", "Upgrade"),
            websocket,
            ("transfer-encoding", "chunked"),
        ],
        &[("connection", "Upgrade"), websocket, ("content-length", "00")],
    ] {
        assert_eq!(upgrade(refused), Err("upgrade"), "{refused:?}");
    }
    let elsewhere = Checks::of(
        &parts("GET", "/metrics", &[("connection", "Upgrade"), websocket]),
        true,
    )
    .unwrap();
    assert!(
        elsewhere.upgrade().is_some() && elsewhere.tunnel().is_none(),
        "only interactive paths become tunnels"
    );
}

#[test]
fn only_100_continue_may_be_expected() {
    let with = |value| {
        Checks::of(&parts("POST", "/pods", &[("expect", value)]), true)
            .map(drop)
            .map_err(|e| e.status)
    };
    assert_eq!(with("100-Continue"), Ok(()));
    assert_eq!(with("200-ok"), Err(http::StatusCode::EXPECTATION_FAILED));
}

proptest! {
    /// An accepted path means the same to old and new routers: after decoding there is no empty, dot or
    /// encoded-slash segment, and decoding each segment by itself gives the same segments.
    #[test]
    fn what_passes_has_one_reading(
        target in "/([a-z.%/\\\\25efEF;~ ]|%2e|%2f|%2F|%5c|%00|%25){0,24}(\\?[a-z=%/.]{0,8})?",
    ) {
        let Ok(sent) = target.parse::<PathAndQuery>() else { return Ok(()) };
        let raw = sent.path().to_owned();
        let Ok(path) = RequestPath::of(sent) else { return Ok(()) };
        let decoded: Vec<&str> = path.decoded().split('/').collect();
        prop_assert_eq!(decoded.len(), raw.split('/').count());
        for (index, segment) in decoded.iter().enumerate() {
            prop_assert!(!matches!(*segment, "." | ".."));
            prop_assert!(!segment.contains('\\') && !segment.contains('\0'));
            prop_assert!(!segment.is_empty() || index == 0 || index == decoded.len() - 1);
        }
    }

    /// Every spelling that decodes to an interactive path is reviewed as interactive, whatever the method.
    #[test]
    fn no_spelling_loosens_exec(
        escapes in proptest::collection::vec(any::<bool>(), 4),
        method in "GET|HEAD|POST|PUT",
    ) {
        let spelled: String = "exec".chars().zip(escapes).map(|(letter, escape)| {
            if escape { format!("%{:02x}", u32::from(letter)) } else { letter.to_string() }
        }).collect();
        prop_assert_eq!(checks(&method, &format!("/{spelled}/a/b/c")).0, "create");
    }
}
