//! If a byte of a request or an answer is changed, held back or lost, `kubectl logs -f` hangs and uploads
//! break.

use std::time::Duration;

use bytes::Bytes;
use fakes::apiserver::ADMIN_TOKEN;
use fakes::client::{Alpn, ClientBody};
use fakes::kubelet::{ClientCa, Fault, RecordedRequest};
use http::{HeaderMap, HeaderValue, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::patience::{eventually, patience, stretched};
use crate::world::{PKI, Status as _, World, assert_answer, header, request};

/// Bytes that show a lost, doubled or moved piece.
fn pattern(length: usize) -> Bytes {
    (0..length)
        .map(|index| (index * 31 + index / 251) as u8)
        .collect()
}

fn names(seen: &RecordedRequest) -> Vec<&str> {
    seen.headers.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_whole_both_ways() {
    let world = World::start().await;
    let sent = pattern(5 * 1024 * 1024);
    for alpn in [Alpn::H1, Alpn::H2] {
        let bob = world.tls_client(PKI.pair("bob"), alpn);
        let answer = bob.call("POST", "/lab/echo", &[], sent.clone()).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(
            answer.body() == &sent,
            "{alpn:?}: {} bytes came back",
            answer.body().len()
        );
        for query in ["n=3000000", "n=3000000&chunked", "n=0", "n=0&chunked", "n=1"] {
            let answer = bob.get(&format!("/lab/bytes?{query}")).await.unwrap();
            let length: usize = query[2..].trim_end_matches("&chunked").parse().unwrap();
            assert!(answer.body().iter().all(|byte| *byte == b'.'));
            assert_eq!(answer.body().len(), length, "{alpn:?} {query}");
        }
    }
    world.stop().await;
}

/// The next piece is sent when the last has come back: the gate must not hold a body until it is complete.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_streamed_both_ways_at_once() {
    let world = World::start().await;
    for alpn in [Alpn::H1, Alpn::H2] {
        let bob = world.tls_client(PKI.pair("bob"), alpn);
        let (sender, body) = ClientBody::channel();
        let upload = Request::post("/lab/echo").body(body).unwrap();
        let mut answer = bob.open(upload).await.unwrap();
        for size in [1, 100, 16_384, 70_000] {
            let piece = pattern(size);
            assert!(sender.send(piece.clone()).await);
            let mut back = Vec::new();
            while back.len() < size {
                back.extend_from_slice(&answer.body_mut().next().await.unwrap().unwrap());
            }
            assert!(back == piece, "{alpn:?} {size}");
        }
        drop(sender);
        while let Some(more) = answer.body_mut().next().await.unwrap() {
            assert_eq!(more, "", "{alpn:?}");
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_followed_log_does_not_wait_for_its_first_line() {
    let world = World::start().await;
    let logs = "/containerLogs/default/web/nginx?follow=true";
    for alpn in [Alpn::H1, Alpn::H2] {
        // Longer than a client of the tests waits.
        world.kubelet.adjust(|knobs| knobs.log_interval = 2 * patience());
        let bob = world.tls_client(PKI.pair("bob"), alpn);
        let answer = bob.open(request("GET", logs, &[])).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "content-type"), "", "the kubelet sends none");
        drop(answer);

        world
            .kubelet
            .adjust(|knobs| knobs.log_interval = Duration::from_millis(10));
        let mut answer = bob.open(request("GET", logs, &[])).await.unwrap();
        for _ in 0..8 {
            let line = answer.body_mut().next().await.unwrap().unwrap();
            assert!(line.ends_with(b"\n"));
        }
        drop(answer);
    }
    // The log is followed until the client leaves, and the kubelet sees that.
    eventually("the kubelet has seen all four clients leave", || {
        world.kubelet.cut_seen() == 4
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_request_at_the_kubelet() {
    let world = World::start().await;
    world.kubelet.fail("/debug/pprof/profile", Fault::Hang);
    let mut kept = world.h2_client("bob").connect().await.unwrap();
    for (number, alpn) in [(1, Alpn::H1), (2, Alpn::H2)] {
        let bob = world.tls_client(PKI.pair("bob"), alpn);
        let waiting = tokio::spawn(async move { bob.get("/debug/pprof/profile?seconds=300").await });
        eventually("the request is at the kubelet", || {
            world.kubelet.request_count() == number
        })
        .await;
        waiting.abort();
        eventually("the kubelet has seen it end", || {
            world.kubelet.cut_seen() == number
        })
        .await;
    }
    // One stream of an HTTP/2 connection ends; the connection goes on.
    let given_up = tokio::time::timeout(Duration::from_millis(200), kept.get("/debug/pprof/profile")).await;
    given_up.unwrap_err();
    eventually("the kubelet has seen the stream end", || {
        world.kubelet.cut_seen() == 3
    })
    .await;
    assert_eq!(kept.status("/healthz").await, 200);
    drop(kept);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_requests_share_one_connection_to_the_kubelet() {
    let world = World::start().await;
    let mut connection = world.client("bob").connect().await.unwrap();
    for _ in 0..10 {
        assert_eq!(connection.status("/pods").await, 200);
        assert_eq!(
            world
                .client("bob")
                .call("POST", "/lab/echo", &[], "x")
                .await
                .unwrap()
                .body(),
            "x"
        );
        assert_eq!(world.h2_client("bob").get("/healthz").await.unwrap().body(), "ok");
    }
    assert_eq!(world.kubelet.connections_accepted(), 1);
    assert_eq!(world.metric("upstream_idle_connections", &[]), 1.0);
    drop(connection);
    world.stop().await;
}

/// hyper#4176: an answer that comes before the request's body has ended leaves a connection on which the rest
/// of the body would be read as the next request.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_request_was_answered_early_is_not_used_again() {
    let world = World::start().await;
    let early = Fault::Early {
        status: 413,
        hold: Duration::from_millis(100),
    };
    world.kubelet.fail("/lab/early", early);
    for alpn in [Alpn::H1, Alpn::H2] {
        let bob = world.tls_client(PKI.pair("bob"), alpn);
        let (sender, body) = ClientBody::channel();
        let mut connection = bob.connect().await.unwrap();
        let upload = Request::post("/lab/early").body(body).unwrap();
        let mut answer = connection.open(upload).await.unwrap();
        assert_eq!(answer.status(), 413);
        assert_eq!(
            answer.body_mut().next().await.unwrap().unwrap(),
            "answered early\n"
        );
        for _ in 0..3 {
            assert_eq!(world.client("bob").get("/healthz").await.unwrap().body(), "ok");
        }
        // The rest of the body must not be read as a request.
        sender.send("GET /configz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(world.client("bob").get("/healthz").await.unwrap().body(), "ok");
        drop((answer, sender, connection));
    }
    let seen = world.kubelet.requests();
    assert!(seen.iter().all(|seen| seen.target != "/configz"));
    eventually("the early connections are closed", || {
        world.kubelet.open_connections() <= 1
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_kubelet_fails_only_requests_during_its_absence() {
    let mut world = World::start().await;
    let mut connection = world.client("bob").connect().await.unwrap();
    for _ in 0..3 {
        assert_eq!(connection.status("/pods").await, 200);
        assert_eq!(world.metric("upstream_idle_connections", &[]), 1.0);
        let address = world.stop_kubelet().await;
        assert_answer(
            &connection.get("/pods").await.unwrap(),
            502,
            "the kubelet cannot be reached\n",
        );
        world.start_kubelet(address).await;
        assert_eq!(connection.status("/pods").await, 200);

        // Also on a pooled connection that is dead, and with a body.
        let address = world.stop_kubelet().await;
        world.start_kubelet(address).await;
        let upload = Request::post("/lab/echo")
            .body(Bytes::from_static(b"body"))
            .unwrap();
        let answer = connection.send(upload).await.unwrap();
        assert_answer(&answer, 200, "body");
        assert_eq!(world.kubelet.request_count(), 1, "sent exactly once");
    }
    drop(connection);
    world.stop().await;
}

// === what passes of a head ===

/// T11, T12, T36. Seen red: with `forbidden` answering false.
#[tokio::test(flavor = "multi_thread")]
async fn no_credential_and_no_claim_of_an_identity_reaches_the_kubelet() {
    let world = World::start().await;
    let claims = [
        ("authorization", "Bearer stolen"),
        ("cookie", "session=stolen"),
        ("proxy-authorization", "Basic c3RvbGVu"),
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-client-cert", "Subject=x"),
        ("x-real-ip", "192.0.2.1"),
        ("x-remote-user", "system:admin"),
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-scopes", "all"),
        ("x-remote-uid", "0"),
        ("impersonate-user", "system:admin"),
        ("impersonate-group", "system:masters"),
        ("impersonate-uid", "0"),
        ("impersonate-extra-a", "b"),
        ("x-ssl-client-dn", "CN=admin"),
        ("x-client-cert", "MIIB"),
        ("x-client-cert-dn", "CN=admin"),
        ("x-http-method-override", "DELETE"),
        ("X_Remote_User", "system:admin"),
        ("x_forwarded_for", "192.0.2.1"),
        ("Impersonate_User", "system:admin"),
        ("X-REMOTE-User", "system:admin"),
        ("te", "trailers"),
    ];
    let harmless = [
        ("user-agent", "kubectl/1.36"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip"),
        ("x-request-id", "7"),
        ("audit-id", "a-b-c"),
        ("range", "bytes=0-1"),
        ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("x-custom", "one"),
        ("x-custom", "two"),
    ];
    let lower = claims.map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut headers: Vec<(&str, &str)> = lower
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    headers.extend(harmless);
    for alpn in [Alpn::H1, Alpn::H2] {
        world.kubelet.clear();
        let bob = world.tls_client(PKI.pair("bob"), alpn);
        let answer = bob.call("GET", "/healthz", &headers, "").await.unwrap();
        assert_eq!(answer.status(), 200);
        let seen = &world.kubelet.requests()[0];
        let mut passed: Vec<(&str, &str)> = seen
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        passed.retain(|(name, _)| *name != "host");
        // Only values of the same name have an order.
        passed.sort_by_key(|(name, _)| *name);
        let mut expected = harmless;
        expected.sort_by_key(|(name, _)| *name);
        assert_eq!(passed, expected, "{alpn:?}");
    }
    // A token that authenticated the request ends at the gate as well.
    world.kubelet.clear();
    assert_eq!(world.token_client(ADMIN_TOKEN).status("/healthz").await, 200);
    let seen = format!("{:?}", world.kubelet.requests());
    assert!(!seen.contains(ADMIN_TOKEN), "{seen}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_headers_end_at_the_gate_both_ways() {
    let world = World::builder()
        .configure(|configuration, folder| {
            std::fs::write(folder.join("kubelet-token"), "gates-own\n").unwrap();
            configuration["upstream"]["tokenFile"] = "kubelet-token".into();
        })
        .start()
        .await;
    // `Connection` removes the headers that it names, but neither what the gate adds nor what frames the
    // message (T12).
    let answer = world
        .client("bob")
        .call(
            "POST",
            "/lab/echo",
            &[
                ("connection", "keep-alive, X-Hop, Authorization, Host"),
                ("connection", "content-length, accept"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("x-hop", "1"),
                ("accept", "a/b"),
                ("x-end", "2"),
            ],
            "body",
        )
        .await
        .unwrap();
    assert_answer(&answer, 200, "body");
    let seen = &world.kubelet.requests()[0];
    let mut passed = names(seen);
    passed.sort_unstable();
    assert_eq!(passed, ["authorization", "content-length", "host", "x-end"]);
    assert_eq!(seen.header("authorization"), Some("Bearer gates-own"));

    let headers = [
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=90"),
        ("Proxy-Authenticate", "Basic"),
        ("Upgrade", "h2c"),
        ("X-End", "2"),
        ("Content-Type", "text/x-lab"),
        ("Set-Cookie", "a=b"),
        ("Location", "/elsewhere"),
        ("X-End", "3"),
    ];
    let fault = Fault::Answer {
        status: 307,
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        body: Bytes::from_static(b"over there"),
    };
    world.kubelet.fail("/moved", fault);
    for alpn in [Alpn::H1, Alpn::H2] {
        let answer = world
            .tls_client(PKI.pair("bob"), alpn)
            .get("/moved")
            .await
            .unwrap();
        assert_answer(&answer, 307, "over there");
        let mut passed: Vec<_> = answer.headers().keys().map(|name| name.as_str()).collect();
        passed.sort_unstable();
        let expected = [
            "content-length",
            "content-type",
            "date",
            "location",
            "set-cookie",
            "x-end",
        ];
        assert_eq!(passed, expected, "{alpn:?}");
        assert_eq!(
            answer.headers().get_all("x-end").iter().collect::<Vec<_>>(),
            ["2", "3"]
        );
        assert_eq!(answer.headers().get_all("date").iter().count(), 1);
    }
    world.stop().await;
}

/// The gate forwards exactly what was authorized; it normalises nothing.
#[tokio::test(flavor = "multi_thread")]
async fn target_and_host_pass_unchanged() {
    let world = World::start().await;
    let bob = world.client("bob");
    for target in [
        "/logs/a%20b~@:%25;x=1,(y)!$&'*+",
        "/logs/%C3%A9/%c3%a9?q=%2f..%2F//..&x=%00&y=\\",
        "/%70ods",
        "/pods/",
        "/pods?",
        "/?a",
        "/logs/\u{e9}?\u{e9}",
        "/metrics?match[]={a=b}|^`",
    ] {
        world.kubelet.clear();
        let head = format!("GET {target} HTTP/1.1\r\nHost: node.example:1\r\nConnection: close\r\n\r\n");
        let answer = bob.raw(head.as_bytes()).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 "), "{target}");
        let seen = world.kubelet.requests();
        assert_eq!(seen.len(), 1, "{target}: {}", String::from_utf8_lossy(&answer));
        // The fake kubelet shows bytes beyond ASCII as ISO 8859-1.
        let bytes: Vec<u8> = seen[0].target.chars().map(|char| char as u8).collect();
        assert!(
            bytes == target.as_bytes() || seen[0].target == target,
            "{target}: {}",
            seen[0].target
        );
        assert_eq!(seen[0].header("host"), Some("node.example:1"));
    }
    // In HTTP/2 the authority is the host.
    world.kubelet.clear();
    world.h2_client("bob").get("/pods?x=%2e%2e").await.unwrap();
    let seen = &world.kubelet.requests()[0];
    assert_eq!(seen.target, "/pods?x=%2e%2e");
    assert_eq!(
        seen.header("host").unwrap(),
        format!("localhost:{}", world.address.port())
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_method_passes_unchanged() {
    let world = World::start().await;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
        world.kubelet.clear();
        world
            .client("bob")
            .call(method, "/lab/method", &[], "")
            .await
            .unwrap();
        assert_eq!(world.kubelet.requests()[0].method, method);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass() {
    let world = World::start().await;
    let bob = world.h2_client("bob");
    let mut answer = bob.open(request("GET", "/lab/trailers", &[])).await.unwrap();
    assert_eq!(header(&answer, "trailer"), "X-Lab-Lines");
    let mut body = Vec::new();
    while let Some(piece) = answer.body_mut().next().await.unwrap() {
        body.extend_from_slice(&piece);
    }
    assert_eq!(body, b"one\ntwo\n");
    let expected = HeaderMap::from_iter([("x-lab-lines".parse().unwrap(), HeaderValue::from_static("2"))]);
    assert_eq!(answer.body().trailers(), Some(&expected));
    drop(answer);
    // In HTTP/1 a client that asks for trailers gets them; to others the body ends without.
    for (te, end) in [
        ("TE: trailers\r\n", "0\r\nx-lab-lines: 2\r\n\r\n"),
        ("TE: deflate, trailers;q=0.5\r\n", "0\r\n\r\n"),
        ("", "0\r\n\r\n"),
    ] {
        let head = format!("GET /lab/trailers HTTP/1.1\r\nHost: x\r\n{te}Connection: close\r\n\r\n");
        let answer = world.client("bob").raw(head.as_bytes()).await.unwrap();
        let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert!(
            answer.contains("one\ntwo\n") && answer.ends_with(end),
            "{te}{answer}"
        );
    }
    world.stop().await;
}

/// A body that breaks off must not look complete.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_kubelet_breaks_off_is_broken_off() {
    let world = World::start().await;
    for path in ["/pods", "/lab/short"] {
        world.kubelet.fail(path, Fault::CutBody { after: 5 });
        for alpn in [Alpn::H1, Alpn::H2] {
            let bob = world.tls_client(PKI.pair("bob"), alpn);
            let answer = match bob.open(request("GET", path, &[])).await {
                Ok(answer) => answer.into_body().collect().await,
                // In HTTP/2 the stream's reset may overtake the head.
                Err(error) => Err(error),
            };
            assert!(
                answer.is_err(),
                "{alpn:?} {path}: the answer seemed complete: {answer:?}"
            );
        }
    }
    world.kubelet.heal();
    assert_eq!(world.client("bob").status("/pods").await, 200);
    world.stop().await;
}

/// A request that the client breaks off must not look complete to the kubelet.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_client_breaks_off_is_broken_off() {
    let world = World::start().await;
    for (number, alpn) in [(1, Alpn::H1), (2, Alpn::H2)] {
        let bob = world.tls_client(PKI.pair("bob"), alpn);
        let (sender, body) = ClientBody::channel();
        let upload = Request::post("/lab/sink").body(body).unwrap();
        let uploading = tokio::spawn(async move { bob.open(upload).await.map(drop) });
        assert!(sender.send("half").await);
        eventually("half of the body is at the kubelet", || {
            world
                .kubelet
                .requests()
                .last()
                .is_some_and(|seen| seen.body_len == 4)
        })
        .await;
        sender.abort().await;
        eventually("the kubelet has seen it break", || {
            world.kubelet.cut_seen() == number
        })
        .await;
        uploading.abort();
        world.kubelet.clear();
    }
    world.stop().await;
}

/// The gate sends "100 Continue" itself, and only after the request is permitted.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_permitted_client_is_told_to_continue() {
    let world = World::start().await;
    let head = "POST /lab/echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\
                Connection: close\r\n\r\n";
    let mut stream = world.client("bob").stream().await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(
        rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("\r\n\r\nbody"),
        "{rest}"
    );
    assert_eq!(world.kubelet.requests()[0].header("expect"), None);

    let answer = world.client("alice").raw(head.as_bytes()).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 403 Forbidden\r\n"));
    assert_eq!(world.kubelet.request_count(), 1);
    world.stop().await;
}

/// T10: the kubelet reads the request that was authorized, one for each decision, even where framing is
/// contradictory.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_contradictory_framing_passes_once_or_not_at_all() {
    let world = World::start().await;
    let bob = world.client("bob");
    let second = "GET /configz HTTP/1.1\r\nHost: x\r\n\r\n";
    for first in [
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nContent-Length: 41\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "GET /lab/a HTTP/1.1\r\nHost: x\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0;ext=\"\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        world.kubelet.clear();
        let before = world.metric("requests_total", &[("decision", "allow")]);
        let client = bob.clone().with_deadline(stretched(Duration::from_secs(1)));
        let _ = client.raw(format!("{first}{second}").as_bytes()).await;
        eventually("nothing is in flight", || {
            world.metric("requests_in_flight", &[]) == 0.0
        })
        .await;
        let judged = world.metric("requests_total", &[("decision", "allow")]) - before;
        let seen = world.kubelet.requests();
        assert!(
            seen.len() as f64 <= judged,
            "{first:?}: {judged} judged, but {seen:#?}"
        );
        for seen in &seen {
            let framed = ["content-length", "transfer-encoding"].map(|name| seen.header(name).is_some());
            assert_ne!(framed, [true, true], "{first:?}: {seen:#?}");
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_1_0_client_gets_no_chunks() {
    let world = World::start().await;
    let answer = world
        .client("bob")
        .raw(b"GET /pods HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.0 200 OK\r\n") || head.starts_with("HTTP/1.1 200 OK\r\n"),
        "{head}"
    );
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    serde_json::from_str::<serde_json::Value>(body).unwrap();
    world.stop().await;
}

// === how the kubelet is reached ===

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_authenticates_receives_the_gates_own_certificate() {
    let world = World::builder()
        .kubelet(|kubelet| {
            kubelet.client_ca = Some(ClientCa {
                roots: vec![PKI.ca.certificate().clone()],
                mandatory: true,
            });
        })
        .set("upstream.clientCertificateFile", "gate.crt")
        .set("upstream.clientKeyFile", "gate.key")
        .start()
        .await;
    let answer = world
        .client("bob")
        .call("GET", "/healthz", &[("authorization", "Bearer clients-own")], "")
        .await
        .unwrap();
    assert_answer(&answer, 200, "ok");
    let seen = &world.kubelet.requests()[0];
    assert_eq!(seen.peer_certificate.as_deref(), Some(&*PKI.gate.chain[0]));
    assert_eq!(seen.header("authorization"), None);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_wants_a_token_receives_the_gates_own() {
    let world = World::builder()
        .configure(|configuration, folder| {
            std::fs::write(folder.join("kubelet-token"), "gates-own\n").unwrap();
            configuration["upstream"]["tokenFile"] = "kubelet-token".into();
        })
        .start()
        .await;
    world
        .kubelet
        .adjust(|knobs| knobs.required_token = Some("gates-own".to_owned()));
    assert_answer(
        &world.token_client(ADMIN_TOKEN).get("/healthz").await.unwrap(),
        200,
        "ok",
    );

    // A new token is sent once its file has been read.
    world
        .kubelet
        .adjust(|knobs| knobs.required_token = Some("next".to_owned()));
    assert_eq!(
        world.client("bob").status("/healthz").await,
        401,
        "the kubelet's own answer"
    );
    std::fs::write(world.file("kubelet-token"), "next").unwrap();
    world.gate.reload();
    assert_answer(&world.client("bob").get("/healthz").await.unwrap(), 200, "ok");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_can_be_reached_in_plain_http_or_over_a_unix_socket() {
    for builder in [World::builder().http_upstream(), World::builder().unix_upstream()] {
        let world = builder.start().await;
        let bob = world.client("bob");
        assert_answer(&bob.get("/healthz").await.unwrap(), 200, "ok");
        let sent = pattern(300_000);
        assert!(
            bob.call("POST", "/lab/echo", &[], sent.clone())
                .await
                .unwrap()
                .body()
                == &sent
        );
        let exec = "/exec/default/web/nginx?command=id&output=1";
        let answer = bob.websocket(exec, &["v5.channel.k8s.io"], &[]).await.unwrap();
        let outcome = answer.switched().unwrap().exec_read().await.unwrap();
        assert_eq!(outcome.exit_code(), Some(0));
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_can_be_verified_by_ca_and_name() {
    for (name, status) in [("worker-1", 200), ("worker-2", 502)] {
        let world = World::builder()
            .configure(move |configuration, folder| {
                let ca = fakes::pki::Pair {
                    name: "kubelet-ca".to_owned(),
                    chain: PKI.kubelet_serving.chain[1..].to_vec(),
                    key: PKI.kubelet_serving.key.clone_key(),
                };
                ca.write(folder).unwrap();
                let upstream = &mut configuration["upstream"];
                upstream["certificateFile"] = "".into();
                upstream["caFile"] = "kubelet-ca.crt".into();
                upstream["serverName"] = name.into();
            })
            .start()
            .await;
        assert_eq!(world.client("bob").status("/healthz").await, status);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_a_get_is_not_lost() {
    let world = World::start().await;
    let head = "GET /pods HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    let answer = world
        .client("bob")
        .raw(format!("{head}5\r\nhello\r\n0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    let seen = world.kubelet.requests();
    assert_eq!(seen.last().unwrap().body, b"hello");
    world.stop().await;
}
