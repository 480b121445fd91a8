//! What one client could hold without a bound it could take from all others: connections, streams, and the
//! disk for checkpoints.

use std::net::IpAddr;
use std::time::Duration;

use fakes::apiserver::{Api, Behaviour};
use fakes::client::{ClientError, UpgradeAnswer};
use fakes::kubelet::Fault;
use tokio::time::timeout;

use crate::patience::eventually;
use crate::world::{API_SERVER, Status as _, World, assert_answer, header, request};

const LOG: &str = "/containerLogs/default/web/nginx?follow=true";
const ATTACH: &str = "/exec/default/web/nginx?command=cat&input=1&output=1&error=1";

fn source(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// Seen red: with `Quota::take` not looking at what one key holds.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_connections_of_one_address_is_bounded() {
    let world = World::builder()
        .set("limits.connectionsPerAddress", 2)
        .start()
        .await;
    let bob = world.client("bob");
    // Authenticated connections are not evicted.
    let served = async || {
        let mut connection = bob.connect().await.unwrap();
        assert_eq!(connection.status("/healthz").await, 200);
        connection
    };
    let mut held = vec![served().await, served().await];
    for _ in 0..3 {
        assert!(matches!(bob.stream().await, Err(ClientError::Closed(_))));
    }
    assert_eq!(
        world.metric("rejections_total", &[("reason", "connections_per_address")]),
        3.0
    );
    let other = bob.clone().with_source(source(2)).get("/healthz").await.unwrap();
    assert_eq!(other.status(), 200, "others are not concerned");

    held.pop();
    eventually("its place is free again", || {
        world.metric("connections", &[]) == 1.0
    })
    .await;
    assert_eq!(bob.status("/healthz").await, 200);
    drop(held);
    world.stop().await;
}

/// Seen red: with authenticated connections not counted: the fourth was served.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_connections_is_bounded() {
    let world = World::builder().set("limits.connections", 3).start().await;
    let mut held = Vec::new();
    for last in 1..=3 {
        let bob = world.client("bob").with_source(source(last));
        let mut connection = bob.connect().await.unwrap();
        assert_eq!(connection.status("/healthz").await, 200);
        held.push(connection);
    }
    let late = world.client("bob").with_source(source(4));
    assert!(matches!(late.stream().await, Err(ClientError::Closed(_))));
    assert_eq!(
        world.metric("rejections_total", &[("reason", "connections")]),
        1.0
    );
    held.clear();
    eventually("they are free again", || world.metric("connections", &[]) == 0.0).await;
    assert_eq!(late.status("/healthz").await, 200);
    world.stop().await;
}

/// Seen red: with each stream's slot taken from a new quota.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_streams_of_one_user_is_bounded() {
    let world = World::builder().set("limits.streamsPerIdentity", 2).start().await;
    let open = async |name: &str| {
        world
            .client(name)
            .websocket(ATTACH, &["v5.channel.k8s.io"], &[])
            .await
            .unwrap()
    };
    let mut held = vec![open("bob").await, open("bob").await];
    for stream in &held {
        assert_eq!(stream.status(), 101);
    }
    let UpgradeAnswer::Refused(refused) = open("bob").await else {
        panic!("one too many");
    };
    assert_answer(&refused, 429, "too many streams are open for this user\n");
    assert_eq!(
        header(&refused, "retry-after"),
        "",
        "no client of an upgrade reads it"
    );
    assert_eq!(world.kubelet.open_streams(), 2);
    assert_eq!(open(API_SERVER).await.status(), 101, "others are not concerned");
    let plain = world.client("bob").get("/pods").await.unwrap();
    assert_eq!(plain.status(), 200, "only streams count");

    held.pop();
    eventually("its place is free again", || world.metric("streams", &[]) == 1.0).await;
    assert_eq!(open("bob").await.status(), 101);
    drop(held);
    world.stop().await;
}

/// Seen red: with a `checkpoints` semaphore of two slots.
#[tokio::test(flavor = "multi_thread")]
async fn one_checkpoint_runs_at_a_time() {
    let world = World::start().await;
    let checkpoint = "/checkpoint/default/web/nginx";
    world.kubelet.fail(checkpoint, Fault::Hang);
    let bob = world.client("bob");
    let first = tokio::spawn({
        let bob = bob.clone();
        async move { bob.call("POST", checkpoint, &[], "").await }
    });
    eventually("the first is running", || world.kubelet.request_count() == 1).await;
    for name in ["bob", API_SERVER] {
        let second = world
            .client(name)
            .call("POST", checkpoint, &[], "")
            .await
            .unwrap();
        assert_answer(&second, 429, "another checkpoint is being written on this node\n");
        assert_eq!(header(&second, "retry-after"), "1");
    }
    assert_eq!(world.kubelet.request_count(), 1);
    first.abort();
    eventually("it has gone", || world.metric("requests_in_flight", &[]) == 0.0).await;
    world.kubelet.heal();
    assert_eq!(bob.call("POST", checkpoint, &[], "").await.unwrap().status(), 200);
    world.stop().await;
}

/// Seen red with `Connection::note_unauthenticated` notifying no task.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_http2_connection_is_closed_after_its_first_answer() {
    let world = World::start().await;
    let mut stranger = world
        .tls_client(None, fakes::client::Alpn::H2)
        .connect()
        .await
        .unwrap();
    assert_answer(&stranger.get("/pods").await.unwrap(), 401, "Unauthorized");
    eventually("it is closed", || stranger.is_closed()).await;

    // A user without permissions, or whose token has expired meanwhile, is no stranger.
    let mut alice = world.h2_client("alice").connect().await.unwrap();
    for _ in 0..3 {
        assert_eq!(alice.status("/pods").await, 403);
    }
    assert!(!alice.is_closed());
    drop(alice);
    world.stop().await;
}

/// Seen red: without `max_concurrent_streams`.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_concurrent_requests_of_an_http2_connection_is_bounded() {
    let world = World::builder().set("limits.http2Streams", 2).start().await;
    let mut connection = world.h2_client("bob").connect().await.unwrap();
    // With the first answer the gate's settings have arrived.
    assert_eq!(connection.status("/healthz").await, 200);
    let first = connection.open(request("GET", LOG, &[])).await.unwrap();
    let second = connection.open(request("GET", LOG, &[])).await.unwrap();
    world.kubelet.clear();
    let third = timeout(Duration::from_millis(500), connection.get("/pods")).await;
    assert!(third.is_err(), "{third:?}");
    world.assert_nothing_forwarded();
    drop((first, second));
    assert_eq!(connection.status("/pods").await, 200);
    drop(connection);
    world.stop().await;
}

/// Seen red: with no limit for reviews of tokens by address, the second stranger waits like the first, and
/// bob behind both.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_from_one_address_leave_room_for_other_reviews() {
    let world = World::builder()
        .set("limits.concurrentReviews", 2)
        .set("limits.reviewTimeout", "3s")
        .start()
        .await;
    world.api.behave(Api::Token, Behaviour::Hang);
    let first = world.token_client("made-up-1");
    let waiting = tokio::spawn(async move { first.get("/pods").await.map(|answer| answer.status()) });
    eventually("the first token is asked about", || {
        world.api.count(Api::Token) == 1
    })
    .await;

    let second = world.token_client("made-up-2").get("/pods").await.unwrap();
    assert_eq!(
        second.status(),
        429,
        "its address has all the reviews it may have"
    );
    assert_eq!(world.client("bob").status("/pods").await, 200);
    assert!(!waiting.is_finished(), "bob did not wait");
    assert_eq!(waiting.await.unwrap().unwrap(), 503);
    assert_eq!(world.api.count(Api::Token), 1);
    world.api.heal();
    world.stop().await;
}

/// Seen red: with the connection left open, the request behind the refused upgrade was answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upgrade_ends_the_connection() {
    let world = World::start().await;
    world.kubelet.fail("/exec", Fault::status(400));
    let upgrade = "GET /exec/default/web/nginx?command=id HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                   Upgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n";
    let behind = "GET /runningpods/ HTTP/1.1\r\nHost: x\r\n\r\n";
    let answers = world
        .client(API_SERVER)
        .raw(format!("{upgrade}{behind}").as_bytes())
        .await
        .unwrap();
    let answers = String::from_utf8_lossy(&answers).into_owned();
    assert!(
        answers.starts_with("HTTP/1.1 400 ") && answers.contains("connection: close"),
        "{answers}"
    );
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    assert_eq!(world.kubelet.requests().len(), 1);
    world.stop().await;
}
