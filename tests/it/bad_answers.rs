//! An answer of the kubelet may arrive broken. A client must not take it for a whole one (half a pod list
//! deletes pods), and no client may receive the rest of another client's answer.

use std::time::Duration;

use bytes::Bytes;
use fakes::client::{Alpn, ClientError};
use fakes::kubelet::Fault;
use http::Request;

use crate::corpus::{bytes, rows};
use crate::patience::eventually;
use crate::world::{PKI, Status as _, World, assert_answer, header, request};

const BOTH: [Alpn; 2] = [Alpn::H1, Alpn::H2];
const PATH: &str = "/lab/odd";
const NO_ANSWER: &str = "the kubelet gave no usable answer\n";

fn raw(bytes: impl Into<Bytes>, close: bool) -> Fault {
    Fault::Raw {
        bytes: bytes.into(),
        close,
    }
}

/// What a client gets, in the words of the table.
async fn gets(world: &World, alpn: Alpn, method: &str) -> String {
    let client = world.tls_client(PKI.pair("bob"), alpn);
    let answer = match client.open(request(method, PATH, &[])).await {
        Ok(answer) => answer,
        // On HTTP/2 the stream's reset may overtake the head.
        Err(ClientError::Timeout(after)) => panic!("nothing within {after:?}"),
        Err(_) => return "broken".to_owned(),
    };
    let status = answer.status().as_u16();
    let framings = ["content-length", "transfer-encoding"].map(|name| !header(&answer, name).is_empty());
    assert_ne!(framings, [true, true], "two framings");
    match answer.into_body().collect().await {
        Ok(body) if status == 502 => {
            assert!(body.ends_with(b"\n"), "the gate's own words");
            "502".to_owned()
        }
        Ok(body) => format!("{status} {}", String::from_utf8_lossy(&body)),
        Err(ClientError::Timeout(after)) => panic!("no end within {after:?}"),
        Err(_) => "broken".to_owned(),
    }
}

/// Seen red with `Upstream::reusable` always true (a client waits for the end of an answer that broke off),
/// with a body that ends where the kubelet's breaks off ("no last chunk": `200 hello`), and without
/// `remove_second_framing` ("both framings": `200 hel` over HTTP/1, as if it were whole).
#[tokio::test(flavor = "multi_thread")]
async fn an_odd_answer_is_whole_or_broken_and_harms_no_other_client() {
    let world = World::start().await;
    let mut wrong = Vec::new();
    for row in rows(include_str!("data/kubelet_answers.tsv")) {
        let (name, fate, close) = (row[0], row[1], row.len() > 3);
        world.kubelet.heal();
        world.kubelet.fail(PATH, raw(bytes(row[2]), close));
        for alpn in BOTH {
            let got = gets(&world, alpn, "GET").await;
            if got != fate {
                wrong.push(format!("{name}: {fate:?}, but {alpn:?} {got:?}"));
            }
            let next = world.client("bob").get("/healthz").await.unwrap();
            assert_answer(&next, 200, "ok");
            eventually("no broken connection is kept", || {
                world.kubelet.open_connections() as f64 == world.metric("upstream_idle_connections", &[])
            })
            .await;
        }
    }
    assert_eq!(wrong, [""; 0]);
    world.stop().await;
}

/// A HEAD is answered without a body, whatever the kubelet writes behind the head.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_behind_the_answer_to_head_is_dropped() {
    let world = World::start().await;
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
    for close in [false, true] {
        world.kubelet.heal();
        world.kubelet.fail(PATH, raw(smuggled, close));
        for alpn in BOTH {
            assert_eq!(gets(&world, alpn, "HEAD").await, "200 ");
            let next = world.client("bob").get("/healthz").await.unwrap();
            assert_answer(&next, 200, "ok");
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_bounds_is_502() {
    let world = World::start().await;
    let line = format!("X-Filler: {}\r\n", "x".repeat(8000));
    for (name, head) in [
        ("many bytes", line.repeat(20)),
        ("many lines", "X-Filler: x\r\n".repeat(300)),
        ("one long line", format!("X-Filler: {}\r\n", "x".repeat(200_000))),
    ] {
        world.kubelet.heal();
        let answer = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 5\r\n\r\nhello");
        world.kubelet.fail(PATH, raw(answer, false));
        for alpn in BOTH {
            let answer = world.tls_client(PKI.pair("bob"), alpn).get(PATH).await.unwrap();
            assert_eq!((name, answer.status().as_u16()), (name, 502));
            assert_eq!(answer.body(), NO_ANSWER);
        }
    }
    // A head that a kubelet may send passes. HTTP/2 clients have limits of their own.
    for (alpn, lines) in [(Alpn::H1, 5), (Alpn::H2, 1)] {
        world.kubelet.heal();
        let head = line.repeat(lines);
        let answer = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 5\r\n\r\nhello");
        world.kubelet.fail(PATH, raw(answer, false));
        assert_eq!(gets(&world, alpn, "GET").await, "200 hello");
    }
    // Many informational heads, and then the final one.
    world.kubelet.heal();
    let flood = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(20_000);
    let answer = format!("{flood}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    world.kubelet.fail(PATH, raw(answer, false));
    for alpn in BOTH {
        assert_eq!(gets(&world, alpn, "GET").await, "200 hello");
    }
    world.stop().await;
}

// === sent once ===

/// A command must not run twice because an answer was lost: once a byte of a request was written it is not
/// sent again, whatever the method, on a new connection or a kept one. (Not seen red: hyper does not give
/// back a request of which it has written a byte.)
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_written_is_not_sent_again() {
    let world = World::start().await;
    let run = "/run/default/web/nginx?cmd=id";
    for fault in [
        Fault::Close,
        raw("", true),
        raw("HTTP/1.1 ", true),
        raw("nonsense\r\n\r\n", true),
    ] {
        for kept in [true, false] {
            for alpn in BOTH {
                for (method, body) in [
                    ("POST", "body"),
                    ("POST", ""),
                    ("PUT", "x"),
                    ("GET", ""),
                    ("DELETE", ""),
                ] {
                    world.kubelet.heal();
                    let bob = world.tls_client(PKI.pair("bob"), alpn);
                    if kept {
                        assert_eq!(bob.status("/healthz").await, 200);
                        assert_eq!(world.metric("upstream_idle_connections", &[]), 1.0);
                    }
                    world.kubelet.fail("/run", fault.clone());
                    world.kubelet.clear();
                    let answer = bob.call(method, run, &[], body).await.unwrap();
                    assert_answer(&answer, 502, NO_ANSWER);
                    assert_eq!(world.kubelet.request_count(), 1, "{method} {fault:?}");
                    assert_eq!(world.metric("upstream_idle_connections", &[]), 0.0);
                }
            }
        }
    }
    world.stop().await;
}

/// When the kubelet restarts, several kept connections may be dead at once; none of them has read a byte.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_outlives_every_dead_connection_before_it() {
    let mut world = World::start().await;
    world
        .kubelet
        .adjust(|knobs| knobs.latency = Duration::from_millis(300));
    let mut requests = Vec::new();
    for _ in 0..5 {
        let bob = world.client("bob");
        requests.push(tokio::spawn(async move { bob.status("/healthz").await }));
    }
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
    assert_eq!(world.metric("upstream_idle_connections", &[]), 5.0);
    let address = world.stop_kubelet().await;
    world.start_kubelet(address).await;
    let upload = Request::post("/lab/echo")
        .body(Bytes::from_static(b"body"))
        .unwrap();
    let answer = world
        .client("bob")
        .connect()
        .await
        .unwrap()
        .send(upload)
        .await
        .unwrap();
    assert_answer(&answer, 200, "body");
    assert_eq!(world.kubelet.request_count(), 1);
    world.stop().await;
}
