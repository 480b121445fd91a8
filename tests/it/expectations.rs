//! "100 Continue" asks a client for its body. Sent to a client without permission, it would let strangers
//! fill the node's disk through `/checkpoint`; not sent to a client with permission, its upload would wait
//! for ever.

use fakes::apiserver::{Api, Behaviour};
use fakes::client::Client;
use fakes::kubelet::Fault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{API_SERVER, World, assert_answer};

/// A request that waits for 100 Continue.
fn waiting(method: &str, path: &str, headers: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{headers}Content-Length: 4\r\n\r\n"
    )
}

/// What the gate sends until it closes.
async fn told(client: &Client, request: &str) -> String {
    String::from_utf8(client.raw(request.as_bytes()).await.unwrap()).unwrap()
}

/// And the connection is closed: the next bytes may be a body or a new request.
///
/// Seen red: with `Gate::stations` draining the body of a waiting client as well, and with `Gate::handle`
/// leaving the connection open, the request behind was answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_gets_no_100_continue() {
    let mut world = World::start().await;
    let behind = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let (bob, alice) = (world.client("bob"), world.client("alice"));
    for (client, status, request) in [
        (
            &world.stranger(),
            401,
            waiting("POST", "/run/default/web/nginx", ""),
        ),
        (&alice, 403, waiting("POST", "/run/default/web/nginx", "")),
        (&alice, 403, waiting("GET", "/exec/default/web/nginx", "")),
        (&bob, 400, waiting("POST", "//run", "")),
        (&bob, 405, waiting("PROPFIND", "/run", "")),
        (
            &bob,
            400,
            waiting("POST", "/exec", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"),
        ),
        (&bob, 400, waiting("POST", "/exec", "Connection: Upgrade\r\n")),
    ] {
        let answer = told(client, &format!("{request}{behind}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    let answer = told(
        &bob,
        &waiting("POST", "/lab/echo", "").replace("100-continue", "more"),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 417 "), "{answer}");

    world.api.behave(Api::Access, Behaviour::Fail(403));
    let answer = told(&world.client(API_SERVER), &waiting("POST", "/run", "")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    world.api.heal();
    world.assert_nothing_forwarded();

    assert_eq!(
        bob.call("POST", "/lab/echo", &[], "x").await.unwrap().status(),
        200
    );
    let address = world.stop_kubelet().await;
    let answer = told(&bob, &waiting("POST", "/lab/echo", "")).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    world.start_kubelet(address).await;
    world.stop().await;
}

/// Only after the review has allowed it; and the kubelet receives no expectation.
#[tokio::test(flavor = "multi_thread")]
async fn a_permitted_client_gets_100_continue_after_the_review() {
    let world = World::start().await;
    for spelling in ["100-continue", "100-Continue"] {
        world.kubelet.clear();
        let mut stream = world.client("bob").stream().await.unwrap();
        let request = waiting("PUT", "/lab/echo", "").replace("100-continue", spelling);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut go_on = [0; 25];
        stream.read_exact(&mut go_on).await.unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(world.api.checks(), ["update/proxy"]);
        stream.write_all(b"body").await.unwrap();
        let mut rest = Vec::new();
        while !rest.ends_with(b"body") {
            assert_ne!(stream.read_buf(&mut rest).await.unwrap(), 0);
        }
        assert!(rest.starts_with(b"HTTP/1.1 200 OK\r\n"));
        let seen = world.kubelet.requests();
        assert_eq!((seen.len(), seen[0].header("expect")), (1, None));
        assert_eq!(seen[0].body, b"body");
    }
    world.stop().await;
}

/// A kubelet may answer at once that it wants no body; that answer is not held back until a body has come.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_body_reaches_the_waiting_client() {
    let world = World::start().await;
    let early = Fault::Early {
        status: 413,
        hold: 2 * crate::patience::patience(),
    };
    world.kubelet.fail("/lab/early", early);
    let answer = told(&world.client("bob"), &waiting("POST", "/lab/early", "")).await;
    let answer = answer
        .strip_prefix("HTTP/1.1 100 Continue\r\n\r\n")
        .unwrap_or(&answer);
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("answered early\n"),
        "{answer}"
    );
    world.stop().await;
}

/// HTTP/1.0 has no expectations, and HTTP/2 clients send their body after a while without 100 Continue.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_wait_is_served_as_well() {
    let world = World::start().await;
    let old = "POST /lab/echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody";
    let answer = told(&world.client("bob"), old).await;
    assert!(
        answer.contains(" 200 OK\r\n") && !answer.contains(" 100 "),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nbody"), "{answer}");
    let headers = [("expect", "100-continue")];
    for client in [world.client("bob"), world.h2_client("bob")] {
        let answer = client.call("POST", "/lab/echo", &headers, "body").await.unwrap();
        assert_answer(&answer, 200, "body");
    }
    assert!(
        world
            .kubelet
            .requests()
            .iter()
            .all(|seen| seen.header("expect").is_none())
    );
    world.stop().await;
}
