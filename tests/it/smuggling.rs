//! If gate and kubelet disagreed about the end of a request, a client that may read metrics could write a
//! second request into its body, and the kubelet would run it on a connection that it trusts.

use std::time::Duration;

use fakes::apiserver::{ADMIN_TOKEN, METRICS_TOKEN};
use fakes::kubelet::RecordedRequest;

use crate::patience::stretched;
use crate::world::{World, assert_answer};

/// What the attacker wants the kubelet to see.
const SMUGGLED: &str = "GET /pods?smuggled=1 HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";

/// A gate that sends nothing for so long waits for more.
const SILENCE: Duration = Duration::from_secs(3);

/// What becomes of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// It is answered 400 or 501, and nothing passes.
    Refused,
    /// It passes with one meaning, and so does the request behind it.
    Passed,
    /// It passes with one meaning, and the connection is closed behind it.
    PassedAndClosed,
    /// Its head may have passed; its body is broken off, at the kubelet as at the client.
    BrokenOff,
}

/// Name, fate, and what stands between the authorization and the smuggled request.
const CORPUS: [(&str, Fate, &str); 21] = [
    (
        "content-length and transfer-encoding",
        Fate::PassedAndClosed,
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "transfer-encoding and content-length",
        Fate::PassedAndClosed,
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    ),
    (
        "two content-lengths",
        Fate::Refused,
        "Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
    ),
    (
        "a list of content-lengths",
        Fate::Refused,
        "Content-Length: 0, 44\r\n\r\n",
    ),
    (
        "a signed content-length",
        Fate::Refused,
        "Content-Length: +0\r\n\r\n",
    ),
    (
        "a negative content-length",
        Fate::Refused,
        "Content-Length: -1\r\n\r\n",
    ),
    (
        "a hexadecimal content-length",
        Fate::Refused,
        "Content-Length: 0x0\r\n\r\n",
    ),
    (
        "chunked, identity",
        Fate::Refused,
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    (
        "an unknown coding",
        Fate::Refused,
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "identity, then chunked",
        Fate::Refused,
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked on HTTP/1.0",
        Fate::Refused,
        "HTTP/1.0\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a folded header",
        Fate::Refused,
        "X-Fold: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a space before the colon",
        Fate::Refused,
        "Content-Length : 44\r\n\r\n",
    ),
    ("a space in a name", Fate::Refused, "Content Length: 44\r\n\r\n"),
    ("a NUL in a value", Fate::Refused, "X-Nul: a\0b\r\n\r\n"),
    (
        "a bare CR in a value",
        Fate::Refused,
        "X-Cr: a\rContent-Length: 44\r\n\r\n",
    ),
    (
        "a chunk size that is no number",
        Fate::BrokenOff,
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ),
    (
        "a chunk size that is too large",
        Fate::BrokenOff,
        "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n",
    ),
    (
        "a chunk that is longer than its size",
        Fate::BrokenOff,
        "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ),
    (
        "a proper chunked body",
        Fate::Passed,
        "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ),
    ("a proper body", Fate::Passed, "Content-Length: 2\r\n\r\nab"),
];

/// A request has at most one framing, and that is the gate's own.
pub(crate) fn assert_well_formed(name: &str, seen: &RecordedRequest) {
    assert_eq!(seen.version, "HTTP/1.1", "{name}");
    let framings = seen
        .headers
        .iter()
        .filter(|(header, _)| {
            ["content-length", "transfer-encoding"]
                .iter()
                .any(|framing| header.eq_ignore_ascii_case(framing))
        })
        .count();
    assert!(framings <= 1, "{name}: {:?}", seen.headers);
    if let Some(length) = seen.header("content-length") {
        assert_eq!(length, seen.body_len.to_string(), "{name}");
    }
    if let Some(coding) = seen.header("transfer-encoding") {
        assert_eq!(coding, "chunked", "{name}");
    }
}

async fn play(world: &World, name: &str, message: &[u8]) -> Vec<String> {
    world.kubelet.clear();
    let answer = world
        .stranger()
        .with_deadline(stretched(SILENCE))
        .raw(message)
        .await
        .unwrap_or_default();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    for seen in world.kubelet.requests() {
        assert!(
            !seen.target.contains("pods") && !seen.target.contains("run"),
            "{name}: the kubelet saw {seen:?}"
        );
        assert_well_formed(name, &seen);
    }
    assert!(
        world.kubelet.requests().len() <= 1,
        "{name}: {:?}",
        world.kubelet.requests()
    );
    // The next client on this connection to the kubelet gets the answer to its own request.
    let next = world
        .token_client(METRICS_TOKEN)
        .get("/metrics/resource?next")
        .await
        .unwrap();
    assert_eq!(next.status(), 200, "{name}");
    let honest = world.client("bob").get("/healthz").await.unwrap();
    assert_answer(&honest, 200, "ok");
    // An answer's body may end without a line feed.
    answer
        .match_indices("HTTP/1.")
        .map(|(at, _)| answer[at + 9..at + 12].to_owned())
        .collect()
}

/// Seen red: with `headers::for_kubelet` removing nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_hidden_in_another_does_not_reach_the_kubelet() {
    let world = World::start().await;
    let mut wrong = Vec::new();
    for (name, fate, between) in CORPUS {
        let (version, between) = match between.split_once('\n') {
            Some(("HTTP/1.0", rest)) => ("1.0", rest),
            _ => ("1.1", between),
        };
        let head =
            format!("POST /lab/echo HTTP/{version}\r\nHost: node\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n");
        let message = format!("{head}{between}{SMUGGLED}");
        let statuses = play(&world, name, message.as_bytes()).await;
        let statuses: Vec<&str> = statuses.iter().map(String::as_str).collect();
        let right = match fate {
            Fate::Refused => matches!(statuses[..], ["400" | "501"]),
            // The second request has no credentials.
            Fate::Passed => statuses == ["200", "401"],
            Fate::PassedAndClosed => statuses == ["200"],
            Fate::BrokenOff => matches!(statuses[..], [] | ["200" | "400" | "502"]),
        };
        if !right {
            wrong.push(format!("{name}: {statuses:?}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_targets_and_lines_do_not_reach_the_kubelet() {
    let world = World::start().await;
    let token = format!("Authorization: Bearer {METRICS_TOKEN}\r\n\r\n");
    let mut wrong = Vec::new();
    for (name, request) in [
        (
            "absolute form",
            "GET http://node/metrics HTTP/1.1\r\nHost: node\r\n",
        ),
        (
            "absolute form of another host",
            "GET https://evil/pods HTTP/1.1\r\nHost: node\r\n",
        ),
        ("asterisk form", "OPTIONS * HTTP/1.1\r\nHost: node\r\n"),
        ("authority form", "CONNECT node:10250 HTTP/1.1\r\nHost: node\r\n"),
        (
            "a space in the target",
            "GET /metrics /pods HTTP/1.1\r\nHost: node\r\n",
        ),
        ("a NUL in the target", "GET /metrics\0 HTTP/1.1\r\nHost: node\r\n"),
        (
            "a control character in the target",
            "GET /metrics\x01 HTTP/1.1\r\nHost: node\r\n",
        ),
        ("no version", "GET /metrics\r\nHost: node\r\n"),
        ("an unknown version", "GET /metrics HTTP/1.7\r\nHost: node\r\n"),
        (
            "a name with a bracket",
            "GET /metrics HTTP/1.1\r\nHost: node\r\nX(: y\r\n",
        ),
        (
            "a line without a colon",
            "GET /metrics HTTP/1.1\r\nHost: node\r\nnothing\r\n",
        ),
        ("a leading space", " GET /metrics HTTP/1.1\r\nHost: node\r\n"),
    ] {
        let message = format!("{request}{token}{SMUGGLED}");
        let statuses = play(&world, name, message.as_bytes()).await;
        let refused = matches!(
            statuses.first().map(String::as_str),
            None | Some("400" | "405" | "505")
        );
        if !refused
            || !world
                .kubelet
                .requests()
                .iter()
                .all(|seen| seen.target != "/metrics")
        {
            wrong.push(format!("{name}: {statuses:?}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
    world.stop().await;
}

/// hyper and Go both accept lines that end in a bare LF; the gate writes what passes anew, with CRLF.
#[tokio::test(flavor = "multi_thread")]
async fn bare_line_feeds_pass_with_one_meaning_or_not_at_all() {
    let world = World::start().await;
    let message = format!(
        "GET /metrics/resource HTTP/1.1\nHost: node\nAuthorization: Bearer {METRICS_TOKEN}\nContent-Length: \
         {}\n\n{SMUGGLED}",
        SMUGGLED.len()
    );
    let statuses = play(&world, "bare LF", message.as_bytes()).await;
    assert!(statuses == ["200"] || statuses == ["400"], "{statuses:?}");
    world.stop().await;
}
