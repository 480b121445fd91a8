//! `kubectl logs -f pod | less` stops reading for as long as its user reads. A gate that cuts it like
//! any other client that takes no byte loses lines; one that never cuts it lets a client hold the
//! kubelet's connections for ever.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fakes::client::{Alpn, Streaming};
use fakes::kubelet::Fault;
use http::Response;

use crate::http2_frames::{Frames, HEADERS, INITIAL_WINDOW, RST_STREAM, get};
use crate::live_streams::no_stream_is_left;
use crate::patience::{eventually, patience};
use crate::world::{PKI, World, assert_answer, request};

const LOG: &str = "/containerLogs/default/web/nginx?follow=true";
const WHOLE: &str = "/containerLogs/default/web/nginx";
/// More than all buffers on the way hold.
const MUCH: usize = 24 << 20;

/// Has the kubelet send a long log at once.
fn flood(world: &World) {
    let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let line = [b"4000\r\n", &[b'.'; 0x4000][..], b"\r\n"].concat();
    for _ in 0..MUCH / 0x4000 {
        bytes.extend_from_slice(&line);
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    let bytes = bytes.into();
    world
        .kubelet
        .fail("/containerLogs", Fault::Raw { bytes, close: true });
}

async fn open(world: &World, alpn: Alpn, target: &str) -> Response<Streaming> {
    let client = world.tls_client(Some(&PKI.bob), alpn);
    let answer = client.open(request("GET", target, &[])).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

fn rejections(world: &World, reason: &str) -> f64 {
    world.metric("rejections_total", &[("reason", reason)])
}

fn ends(world: &World, by: &str) -> f64 {
    world.metric("stream_ends_total", &[("ended_by", by)])
}

/// Seen red: with the deadline of other answers in force, the reader loses the end of the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_may_pause_and_then_reads_on() {
    let world = World::builder()
        .set("limits.writeStallTimeout", "200ms")
        .start()
        .await;
    flood(&world);
    for alpn in [Alpn::H1, Alpn::H2] {
        let mut log = open(&world, alpn, LOG).await;
        let mut read = log.body_mut().next().await.unwrap().unwrap().len();
        // The pause of the reader is what is tested: five times the deadline.
        tokio::time::sleep(Duration::from_secs(1)).await;
        while let Some(piece) = log.body_mut().next().await.unwrap() {
            read += piece.len();
        }
        assert_eq!(read, MUCH);
    }
    no_stream_is_left(&world).await;
    eventually("each end is counted", || ends(&world, "kubelet") == 2.0).await;
    assert_eq!(rejections(&world, "write_stall"), 0.0);
    world.stop().await;
}

/// Seen red: with no deadline for followed logs on HTTP/1, and with none on HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stays_away_is_cut_after_its_own_deadline() {
    let world = World::builder()
        .set("limits.writeStallTimeout", "200ms")
        .set("limits.followStallTimeout", "2s")
        .start()
        .await;
    flood(&world);
    for (count, alpn) in [(1.0, Alpn::H1), (2.0, Alpn::H2)] {
        let began = Instant::now();
        let log = open(&world, alpn, LOG).await;
        eventually("it is cut", || ends(&world, "stalled") == count).await;
        assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(rejections(&world, "follow_stall"), count);
        no_stream_is_left(&world).await;
        drop(log);
    }
    assert_eq!(rejections(&world, "write_stall"), 0.0);
    world.stop().await;
}

/// On HTTP/2 a client may read the connection and open no window for this stream: an API server does so for a
/// user that pauses. (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_window_counts_for_the_log_alone() {
    let world = World::builder()
        .set("limits.writeStallTimeout", "300ms")
        .set("limits.followStallTimeout", "3s")
        .start()
        .await;
    flood(&world);
    let began = Instant::now();
    let mut frames = Frames::open(&world.h2_client("bob"), &[(INITIAL_WINDOW, 0)]).await;
    frames.send(&[get(1, LOG), get(3, WHOLE)].concat()).await;
    let first = frames.find(RST_STREAM, 0, patience()).await.expect("a reset");
    assert_eq!((first.stream, rejections(&world, "follow_stall")), (3, 0.0));
    let second = frames.find(RST_STREAM, 0, patience()).await.expect("a reset");
    assert_eq!(second.stream, 1);
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    eventually("each is counted", || {
        rejections(&world, "follow_stall") == 1.0 && rejections(&world, "write_stall") == 1.0
    })
    .await;
    // The connection goes on.
    world.kubelet.heal();
    frames.send(&get(5, "/healthz")).await;
    assert!(frames.find(HEADERS, 5, patience()).await.is_some());
    drop(frames);
    world.stop().await;
}

/// Without `follow` an answer has an end, and the usual deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_followed_is_an_ordinary_answer() {
    let world = World::builder()
        .set("limits.writeStallTimeout", "300ms")
        .start()
        .await;
    flood(&world);
    for (count, target) in [
        (1.0, WHOLE),
        (2.0, "/containerLogs/default/web/nginx?follow=False"),
    ] {
        let log = open(&world, Alpn::H1, target).await;
        eventually("it is cut", || rejections(&world, "write_stall") == count).await;
        assert_eq!(world.metric("followed_logs", &[]), 0.0);
        drop(log);
    }
    world.stop().await;
}

/// Seen red: with follows given the places of requests.
#[tokio::test(flavor = "multi_thread")]
async fn followed_logs_have_the_places_of_streams() {
    let world = World::builder()
        .set("limits.streamsPerIdentity", 2)
        .set("limits.requestsPerIdentity", 1)
        .start()
        .await;
    let open = [
        open(&world, Alpn::H1, LOG).await,
        open(&world, Alpn::H2, LOG).await,
    ];
    let third = world.client("bob").get(LOG).await.unwrap();
    assert_answer(&third, 429, "too many streams are open for this user\n");
    let other = world.client("bob").get(WHOLE).await.unwrap();
    assert_eq!(other.status(), 200, "requests have places of their own");
    assert_eq!(world.metric("followed_logs", &[]), 2.0);
    drop(open);
    world.stop().await;
}

/// An auditor sees that a log was followed while it is, and afterwards how much of it was read.
#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_has_two_audit_events() {
    let world = World::start().await;
    world
        .kubelet
        .adjust(|knobs| knobs.log_interval = Duration::from_millis(5));
    let mut log = open(&world, Alpn::H1, LOG).await;
    let started = world.audit_events(1).await.remove(0);
    let mut read = 0;
    while read < 1000 {
        read += log
            .body_mut()
            .next()
            .await
            .unwrap()
            .map_or(0, |piece: Bytes| piece.len());
    }
    drop(log);
    let ended = world.audit_events(2).await.remove(1);
    assert_eq!(
        (&started["stage"], &ended["stage"]),
        (&"ResponseStarted".into(), &"ResponseComplete".into())
    );
    for field in [
        "auditID",
        "user",
        "requestURI",
        "verb",
        "objectRef",
        "responseStatus",
    ] {
        assert_eq!(started[field], ended[field], "{field}");
    }
    assert_eq!(started["responseStatus"]["code"], 200);
    let annotation = |name: &str| ended["annotations"][format!("kubelet-gate.dev/{name}")].as_str();
    assert_eq!(annotation("ended-by"), Some("client"));
    assert_eq!(annotation("bytes-received"), Some("0"));
    assert!(annotation("bytes-sent").unwrap().parse::<usize>().unwrap() >= read);

    // One that is refused has nothing to follow.
    let missing = world
        .client("bob")
        .get("/containerLogs/default/missing/nginx?follow=true")
        .await;
    assert_eq!(missing.unwrap().status(), 404);
    assert_eq!(world.audit_events(3).await[2]["stage"], "ResponseComplete");
    no_stream_is_left(&world).await;
    world.stop().await;
}
