//! If a byte of a request or an answer is changed, held back or lost, `kubectl logs -f` hangs and uploads
//! break.

use std::time::Duration;

use bytes::Bytes;
use fakes::client::{Alpn, ClientBody};
use fakes::kubelet::Fault;
use http::{HeaderMap, HeaderValue, Request};

use crate::patience::{eventually, patience};
use crate::world::{PKI, Status as _, World, assert_answer, header, request};

/// Bytes that show a lost, doubled or moved piece.
pub(crate) fn pattern(length: usize) -> Bytes {
    (0..length)
        .map(|index| (index * 31 + index / 251) as u8)
        .collect()
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
