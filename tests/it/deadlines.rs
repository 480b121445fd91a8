//! A client that does nothing needs no resources for it. Without a deadline on every wait a few such clients
//! would hold every connection of the gate, and the node could not be reached.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fakes::client::{Client, ClientBody, Connection, Duplex};
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::patience::{eventually, patience};
use crate::world::{Status as _, World};

/// The deadline under test; the others are ten times as long.
const SHORT: &str = "1s";

/// Waits until the gate has closed the connection by the deadline that began after `began`.
async fn closes(stream: &mut (impl tokio::io::AsyncRead + Unpin), began: Instant) {
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = timeout(patience(), stream.read_to_end(&mut answer))
        .await
        .expect("it is still open");
    assert_eq!(answer, b"", "{}", String::from_utf8_lossy(&answer));
    assert_short(began.elapsed());
}

#[track_caller]
fn assert_short(took: Duration) {
    let seconds = took.as_secs();
    assert!((1..9).contains(&seconds), "{took:?}");
}

fn rejections(world: &World, reason: &str) -> f64 {
    world.metric("rejections_total", &[("reason", reason)])
}

/// Seen red: without the `timeout` around the handshake.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_never_finished_is_ended() {
    let world = World::builder()
        .set("limits.handshakeTimeout", SHORT)
        .start()
        .await;
    // No byte; the first byte of a handshake; the beginning of a handshake.
    for sent in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        closes(&mut stream, began).await;
    }
    // The count may come after the client sees the end.
    eventually("they are counted", || {
        world.metric("handshakes_total", &[("result", "timeout")]) == 3.0
    })
    .await;
    world.stop().await;
}

/// Seen red: with `Watched::deadline` answering `None` while a head is read.
#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_head_has_a_deadline() {
    let world = World::builder()
        .set("limits.requestHeadTimeout", SHORT)
        .start()
        .await;
    let mut stream = world.client("bob").stream().await.unwrap();
    let began = Instant::now();
    stream.write_all(b"GET /pods HTTP/1.1\r\nHost: no").await.unwrap();
    closes(&mut stream, began).await;
    eventually("it is counted", || rejections(&world, "head_timeout") == 1.0).await;
    world.assert_nothing_forwarded();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_arrives_byte_by_byte_has_the_same_deadline() {
    let world = World::builder()
        .set("limits.requestHeadTimeout", SHORT)
        .start()
        .await;
    let stream = world.client("bob").stream().await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let began = Instant::now();
    let dripping = tokio::spawn(async move {
        let mut clock = interval(Duration::from_millis(50));
        let head = b"GET /pods HTTP/1.1\r\nHost: node\r\nX-Long: ";
        for byte in head.iter().chain(std::iter::repeat(&b'x')) {
            clock.tick().await;
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    closes(&mut read, began).await;
    eventually("it is counted", || rejections(&world, "head_timeout") == 1.0).await;
    dripping.abort();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_second_head_has_a_deadline() {
    let world = World::builder()
        .set("limits.requestHeadTimeout", SHORT)
        .start()
        .await;
    let mut stream = world.client("bob").stream().await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream.write_all(b"GET /pods HTT").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(patience(), stream.read_to_end(&mut rest))
        .await
        .expect("it is still open");
    assert!(
        rest.ends_with(b"\r\n\r\nok"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    eventually("it is counted", || rejections(&world, "head_timeout") == 1.0).await;
    world.stop().await;
}

async fn is_closed_when_idle(world: &World, client: Client) {
    let mut connection: Connection = client.connect().await.unwrap();
    let began = Instant::now();
    assert_eq!(connection.status("/healthz").await, 200);
    eventually("the idle connection is closed", || connection.is_closed()).await;
    assert_short(began.elapsed());
    eventually("nothing is left", || world.metric("connections", &[]) == 0.0).await;
    assert_eq!(rejections(world, "idle"), 0.0, "an idle client is not at fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed() {
    let world = World::builder().set("limits.idleTimeout", SHORT).start().await;
    is_closed_when_idle(&world, world.client("bob")).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_http2_connection_is_closed() {
    let world = World::builder().set("limits.idleTimeout", SHORT).start().await;
    is_closed_when_idle(&world, world.h2_client("bob")).await;
    world.stop().await;
}

/// A connection on which no request came is idle as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_closed() {
    let world = World::builder().set("limits.idleTimeout", SHORT).start().await;
    let began = Instant::now();
    let mut stream = world.client("bob").stream().await.unwrap();
    closes(&mut stream, began).await;
    world.stop().await;
}

/// Seen red: with `Watched::wrote` never noting a stall, the request held its connections for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_of_its_answer_is_cut() {
    let world = World::builder()
        .set("limits.writeStallTimeout", SHORT)
        .start()
        .await;
    let mut stream: Box<dyn Duplex> = world.client("bob").stream().await.unwrap();
    stream
        .write_all(b"GET /lab/bytes?n=100000000 HTTP/1.1\r\nHost: node\r\n\r\n")
        .await
        .unwrap();
    eventually("it is cut and counted", || {
        rejections(&world, "write_stall") == 1.0
    })
    .await;
    eventually("the kubelet's end as well", || {
        world.metric("requests_in_flight", &[]) == 0.0 && world.kubelet.open_connections() == 0
    })
    .await;
    drop(stream);
    world.stop().await;
}

/// It takes longer than each of the deadlines, and never pauses for as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_and_steady_upload_is_not_cut() {
    let world = World::builder()
        .set("limits.requestHeadTimeout", "2s")
        .set("limits.idleTimeout", "2s")
        .set("limits.writeStallTimeout", "2s")
        .start()
        .await;
    for client in [world.client("bob"), world.h2_client("bob")] {
        let (sender, body) = ClientBody::channel();
        let uploading = tokio::spawn(async move {
            let mut clock = interval(Duration::from_millis(100));
            for _ in 0..25 {
                clock.tick().await;
                assert!(sender.send(Bytes::from_static(b"0123456789")).await, "it was cut");
            }
        });
        let request = Request::post("/lab/echo").body(body).unwrap();
        let mut connection = client.connect().await.unwrap();
        let answer = connection.send(request).await.unwrap();
        uploading.await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().len()), (200, 250));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_and_steady_answer_is_not_cut() {
    let world = World::builder()
        .set("limits.requestHeadTimeout", "300ms")
        .set("limits.idleTimeout", "300ms")
        .set("limits.writeStallTimeout", "300ms")
        .start()
        .await;
    // Silent for longer than the deadline: a followed log may be.
    world
        .kubelet
        .adjust(|knobs| knobs.log_interval = Duration::from_millis(700));
    for client in [world.client("bob"), world.h2_client("bob")] {
        let log = crate::world::request(
            "GET",
            "/containerLogs/default/web/nginx?follow=true&tailLines=1",
            &[],
        );
        let mut answer = client.open(log).await.unwrap();
        for _ in 0..3 {
            assert!(answer.body_mut().next().await.unwrap().is_some());
        }
    }
    world.stop().await;
}
