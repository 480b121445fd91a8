//! A kubelet may answer before it has read a request's body. If the gate took the rest of that body for the
//! next request, or one answer for the next one's, a client would read what is not its own.

use std::time::Duration;

use bytes::Bytes;
use fakes::client::{Alpn, ClientBody, Connection};
use fakes::kubelet::Fault;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::patience::{eventually, patience};
use crate::world::{PKI, World, assert_answer};

const BOTH: [Alpn; 2] = [Alpn::H1, Alpn::H2];

/// Answers 413 before the body is read.
fn early(hold: Duration) -> Fault {
    Fault::Early { status: 413, hold }
}

/// hyper#4176: the kubelet has answered, the client does not send the rest of its body, and the connection
/// between gate and kubelet is neither idle nor closed. In hyper's own client it stays for ever.
///
/// Seen red with `Upstream::reusable` always true (all six are pooled, and stay at the kubelet), and with
/// `PooledConnection::settle` forgetting what is not reusable (`mem::forget`: they leak).
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_half_a_body_in_it_is_neither_kept_nor_leaked() {
    let world = World::start().await;
    world.kubelet.fail("/lab/early", early(2 * patience()));
    let mut held: Vec<(Connection, _)> = Vec::new();
    for alpn in BOTH {
        for _ in 0..3 {
            let (sender, body) = ClientBody::channel();
            let mut connection = world.tls_client(PKI.pair("bob"), alpn).connect().await.unwrap();
            let upload = Request::post("/lab/early").body(body).unwrap();
            let mut answer = connection.open(upload).await.unwrap();
            assert_eq!(answer.status(), 413);
            let text = answer.body_mut().next().await.unwrap().unwrap();
            assert_eq!(text, "answered early\n");
            assert_eq!(answer.body_mut().next().await.unwrap(), None, "{alpn:?}");
            held.push((connection, sender));
        }
    }
    // The clients are still connected, and have sent nothing more.
    eventually("the kubelet is rid of all six", || {
        world.kubelet.open_connections() == 0
    })
    .await;
    assert_eq!(world.metric("upstream_idle_connections", &[]), 0.0);
    assert_eq!(world.metric("requests_in_flight", &[]), 0.0);
    assert_answer(&world.client("bob").get("/healthz").await.unwrap(), 200, "ok");
    drop(held);
    world.stop().await;
}

/// A client in the middle of a large upload must be able to read why it is refused. If the gate closed while
/// the client still sends, the connection would be reset, and with it the answer lost.
///
/// Seen red without `Watched::poll_linger`: on HTTP/1 "the connection was closed before the answer was
/// complete".
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_still_sending_reads_the_early_answer() {
    let world = World::start().await;
    world.kubelet.fail("/lab/early", early(Duration::from_secs(1)));
    for alpn in BOTH {
        for _ in 0..10 {
            let (sender, body) = ClientBody::channel();
            let uploading = tokio::spawn(async move {
                let piece = Bytes::from(vec![b'x'; 64 * 1024]);
                while sender.send(piece.clone()).await {}
            });
            let mut connection = world.tls_client(PKI.pair("bob"), alpn).connect().await.unwrap();
            let upload = Request::post("/lab/early").body(body).unwrap();
            let answer = connection.send(upload).await;
            let answer = answer.unwrap_or_else(|error| panic!("{alpn:?}: {error}"));
            assert_answer(&answer, 413, "answered early\n");
            drop(connection);
            uploading.await.unwrap();
        }
    }
    world.stop().await;
}

/// The same with a client that reads once it can send no more, as simple clients do.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_reads_the_early_answer() {
    let world = World::start().await;
    world.kubelet.fail("/lab/early", early(Duration::from_secs(1)));
    for _ in 0..10 {
        let mut stream = world.client("bob").stream().await.unwrap();
        let head = "POST /lab/early HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..20 {
            if stream.write_all(&[b'x'; 10_000]).await.is_err() || stream.flush().await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let mut answer = Vec::new();
        let end = tokio::time::timeout(patience(), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("answered early\n"),
            "{end:?} {answer}"
        );
    }
    world.stop().await;
}
