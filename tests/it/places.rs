//! A client that does not read its answers holds connections to the kubelet, descriptors and memory. If one
//! user could hold them all, every other user's logs, metrics and exec would end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use fakes::apiserver::{ADMIN_TOKEN, METRICS_TOKEN};
use fakes::client::{Alpn, UpgradeAnswer, WsSession};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use crate::http2_frames::*;
use crate::patience::{eventually, patience};
use crate::world::{API_SERVER, Status as _, World, assert_answer, header};

const EXEC: &str = "/exec/default/web/nginx?command=cat&input=1&output=1&error=1";
const TOO_MANY: &str = "too many requests are being answered for this user\n";

/// A GET with the token that may read metrics, and nothing else.
fn get_metrics(stream: u32) -> Vec<u8> {
    let mut fields = head("GET", "/metrics");
    fields.push((
        "authorization".into(),
        format!("Bearer {METRICS_TOKEN}").into_bytes(),
    ));
    frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        &crate::http2_frames::fields(&fields),
    )
}

fn refused(world: &World) -> f64 {
    world.metric("rejections_total", &[("reason", "requests_per_identity")])
}

/// Seen red: with every request given a place, 60 connections to the kubelet; with a body in the answer on
/// HTTP/2, 60 requests stay in flight.
#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_of_one_token_leave_room_for_others() {
    let world = World::builder()
        .set("limits.upstreamConnections", 8)
        .start()
        .await;
    let mut attackers = Vec::new();
    for _ in 0..3 {
        let mut frames = Frames::open(&world.tls_client(None, Alpn::H2), &[(INITIAL_WINDOW, 0)]).await;
        let streams = (0..20).flat_map(|number| get_metrics(2 * number + 1));
        assert!(frames.send(&streams.collect::<Vec<u8>>()).await);
        attackers.push(frames);
    }
    eventually("all but three are refused", || refused(&world) == 57.0).await;
    // Six places are for others than the API server, and half of them for one of these.
    assert_eq!(world.kubelet.request_count(), 3);
    assert_eq!(world.metric("requests_in_flight", &[]), 3.0);
    assert!(world.kubelet.open_connections() <= 3);

    let same_user = world.token_client(METRICS_TOKEN).get("/metrics").await.unwrap();
    assert_answer(&same_user, 429, TOO_MANY);
    assert_eq!(header(&same_user, "retry-after"), "1");
    for name in ["bob", API_SERVER] {
        for client in [world.client(name), world.h2_client(name)] {
            assert_eq!(client.status("/metrics").await, 200, "{name}");
        }
    }
    drop(attackers);
    eventually("their places are free", || {
        world.metric("requests_in_flight", &[]) == 0.0
    })
    .await;
    let same_user = world.token_client(METRICS_TOKEN).get("/metrics").await.unwrap();
    assert_eq!(same_user.status(), 200);
    world.stop().await;
}

/// hyper hands a frame over whole as soon as the window has room for one byte, and with the last frame it
/// forgets the stream.
///
/// Seen red: with the last byte in the frame of the others, no reset comes and the place is never free.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_one_byte_ends_no_answer() {
    let world = World::builder()
        .set("limits.requestsPerIdentity", 1)
        .set("limits.writeStallTimeout", "2s")
        .start()
        .await;
    for path in ["/lab/bytes?n=1025", "/lab/bytes?n=60000"] {
        let mut frames = Frames::open(&world.h2_client("bob"), &[(INITIAL_WINDOW, 1)]).await;
        frames.send(&get(1, path)).await;
        let data = frames.find(DATA, 1, patience()).await.expect("the first byte");
        assert_eq!((data.payload.len(), data.flags & END_STREAM), (1, 0), "{path}");
        assert_eq!(
            world.client("bob").status("/healthz").await,
            429,
            "{path}: the place is held"
        );
        let reset = frames.find(RST_STREAM, 1, patience()).await;
        assert_eq!(reset.expect("it is ended").code(), 8, "CANCEL");
        eventually("the place is free", || {
            world.metric("requests_in_flight", &[]) == 0.0
        })
        .await;
        assert_eq!(world.client("bob").status("/healthz").await, 200, "{path}");
    }
    // A window that has room for the answer, and for no byte more, ends it.
    let mut frames = Frames::open(&world.h2_client("bob"), &[(INITIAL_WINDOW, 60_000)]).await;
    frames.send(&get(1, "/lab/bytes?n=60000")).await;
    let (mut taken, mut ended) = (0, false);
    while !ended {
        let data = frames.find(DATA, 1, patience()).await.expect("more");
        taken += data.payload.len();
        ended = data.flags & END_STREAM != 0;
    }
    assert_eq!(taken, 60_000);
    drop(frames);
    world.stop().await;
}

/// The windows are wide open, so hyper takes every answer from the gate; but the client does not read its
/// socket. What hyper holds then counts.
///
/// Seen red: with pieces that keep no place, all 1,000 answers were fetched: 60 MB.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_yet_written_holds_its_place() {
    let world = World::builder()
        .set("limits.requestsPerIdentity", 4)
        .set("limits.http2Streams", 2000)
        .start()
        .await;
    let mut frames = Frames::open(&world.h2_client("bob"), &[(INITIAL_WINDOW, 1 << 30)]).await;
    frames.send(&window(0, 1 << 30)).await;
    let mut sent = 0;
    while refused(&world) == 0.0 && sent < 1000 {
        frames.send(&get(2 * sent + 1, "/lab/bytes?n=60000")).await;
        sent += 1;
        eventually(&format!("request {sent} is answered or refused"), || {
            world.metric("requests_total", &[]) == f64::from(sent)
        })
        .await;
    }
    assert_eq!(
        refused(&world),
        1.0,
        "{sent} answers are kept for a client that reads none"
    );
    // Once it reads, the places are free again.
    let mut left = 60_000 * (sent as usize - 1);
    while left > 0 {
        left -= frames
            .find(DATA, 0, patience())
            .await
            .expect("the rest")
            .payload
            .len();
    }
    assert_eq!(world.client("bob").status("/healthz").await, 200);
    drop(frames);
    world.stop().await;
}

/// The kubelet's answer has no end, and the client takes a part of it. What the kubelet can write beyond that
/// is what the gate holds, and the socket's own buffers.
#[tokio::test(flavor = "multi_thread")]
async fn an_unread_answer_holds_a_bounded_number_of_bytes() {
    const HELD: usize = 512 << 10;
    let world = World::builder()
        .configure(|configuration, folder| {
            let socket = folder.join("endless.sock");
            configuration["upstream"] = serde_json::json!({"url": format!("unix://{}", socket.display())});
        })
        .start()
        .await;
    let listener = UnixListener::bind(world.file("endless.sock")).unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let kubelet = tokio::spawn({
        let written = written.clone();
        async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let written = written.clone();
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let _ = stream.read(&mut head).await;
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                        .await;
                    let chunk = [b"1000\r\n".to_vec(), vec![b'x'; 4096], b"\r\n".to_vec()].concat();
                    while stream.write_all(&chunk).await.is_ok() {
                        written.fetch_add(chunk.len(), Relaxed);
                    }
                });
            }
        }
    });
    for opened in [0, 1, 20_000, 65_536, 500_000] {
        written.store(0, Relaxed);
        let mut frames = Frames::open(&world.h2_client("bob"), &[(INITIAL_WINDOW, opened)]).await;
        frames.send(&window(0, 1 << 20)).await;
        frames.send(&get(1, "/metrics")).await;
        let opened = opened as usize;
        let mut taken = 0;
        while taken < opened {
            taken += frames
                .find(DATA, 1, patience())
                .await
                .expect("more")
                .payload
                .len();
        }
        // A kubelet that can still write does so many times in this time.
        let mut before = usize::MAX;
        while before != written.load(Relaxed) {
            before = written.load(Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        // A unix socket holds at most twice `net.core.wmem_default`.
        let sockets = 2 * 212_992;
        let held = before.saturating_sub(opened);
        println!("window {opened}: {held} bytes held, the socket's included");
        assert!(held <= HELD + sockets, "window {opened}: {held} bytes");
        drop(frames);
        eventually("the answer is dropped", || {
            world.metric("requests_in_flight", &[]) == 0.0
        })
        .await;
    }
    kubelet.abort();
    world.stop().await;
}

/// Seen red: with no wait, the answer is 429.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_place_that_is_about_to_be_free() {
    let world = World::builder()
        .set("limits.requestsPerIdentity", 1)
        .start()
        .await;
    // Its client never opens the window.
    let mut held = Frames::open(&world.h2_client("bob"), &[(INITIAL_WINDOW, 0)]).await;
    held.send(&get(1, "/metrics")).await;
    assert!(held.find(HEADERS, 1, patience()).await.is_some());
    let bob = world.client("bob");
    let waiting = tokio::spawn(async move { bob.status("/healthz").await });
    eventually("it waits", || world.metric("requests_in_flight", &[]) == 2.0).await;
    drop(held);
    assert_eq!(waiting.await.unwrap(), 200);
    assert_eq!(refused(&world), 0.0);
    world.stop().await;
}

/// Each worker has a pool of its own. Seen red: with `close_idle` closing nothing, six connections.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_the_kubelet_are_bounded_over_all_workers() {
    let world = World::builder()
        .set("workers", 2)
        .set("limits.upstreamConnections", 4)
        // It may have three of the four places.
        .set("firewall.apiServerUsers", vec![API_SERVER])
        .start()
        .await;
    world
        .kubelet
        .adjust(|knobs| knobs.latency = Duration::from_millis(300));
    // A new connection goes to the worker that has the fewest.
    let mut connections = Vec::new();
    for _ in 0..2 {
        let mut frames = Frames::open(&world.h2_client(API_SERVER), &[]).await;
        frames.send(&frame(PING, 0, 0, b"are you?")).await;
        assert!(frames.find(PING, 0, patience()).await.is_some());
        connections.push(frames);
    }
    for frames in &mut connections {
        let streams = [1, 3, 5].into_iter().flat_map(|stream| get(stream, "/healthz"));
        frames.send(&streams.collect::<Vec<u8>>()).await;
        for _ in 0..3 {
            let answer = frames.find(HEADERS, 0, patience()).await.expect("an answer");
            assert_eq!(answer.status(), Some(200));
        }
    }
    eventually("idle connections were closed", || {
        world.kubelet.open_connections() <= 4
    })
    .await;
    assert!(world.metric("upstream_idle_connections", &[]) <= 4.0);
    assert!(
        world.kubelet.connections_accepted() >= 6,
        "each worker made its own"
    );
    drop(connections);
    world.stop().await;
}

async fn exec(world: &World, name: &str) -> UpgradeAnswer<WsSession> {
    world
        .client(name)
        .websocket(EXEC, &["v5.channel.k8s.io"], &[])
        .await
        .unwrap()
}

/// Opens streams until one is refused.
async fn fill(world: &World, name: &str) -> Vec<UpgradeAnswer<WsSession>> {
    let mut open = Vec::new();
    loop {
        match exec(world, name).await {
            UpgradeAnswer::Refused(refused) => {
                assert_answer(&refused, 429, "too many streams are open for this user\n");
                assert_eq!(header(&refused, "retry-after"), "");
                return open;
            }
            stream => open.push(stream),
        }
        assert!(open.len() < 50, "{name} has no bound");
    }
}

/// All users of kubectl come under the API server's one name.
///
/// Seen red: with the API server under the bound of one user (2), and with no quarter kept for others (8).
#[tokio::test(flavor = "multi_thread")]
async fn the_api_servers_streams_leave_room_for_others_and_theirs_for_it() {
    let world = World::builder()
        .set("limits.streams", 8)
        .set("limits.streamsPerIdentity", 2)
        .start()
        .await;
    let api_server = fill(&world, API_SERVER).await;
    assert_eq!(api_server.len(), 6);
    assert_eq!(exec(&world, "bob").await.status(), 101);
    drop(api_server);
    eventually("its streams have ended", || world.metric("streams", &[]) == 0.0).await;
    let bob = fill(&world, "bob").await;
    assert_eq!(bob.len(), 2);
    let api_server = fill(&world, API_SERVER).await;
    assert_eq!(api_server.len(), 6);
    assert_eq!(
        world.client("bob").status("/pods").await,
        200,
        "streams have places of their own"
    );
    drop((bob, api_server));
    world.stop().await;
}

/// Seen red: with `firewall.apiServerUsers` not looked at.
#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_names_the_api_server() {
    let world = World::builder()
        .set("limits.streams", 8)
        .set("limits.streamsPerIdentity", 2)
        .set("firewall.apiServerUsers", vec!["bob"])
        .start()
        .await;
    let bob = fill(&world, "bob").await;
    assert_eq!(bob.len(), 6);
    let other = fill(&world, API_SERVER).await;
    assert_eq!(other.len(), 1, "an ordinary user leaves room for another");
    drop((bob, other));
    world.stop().await;
}

/// Seen red: with `Rank::Kept` for no user.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_kept_for_the_users_who_may_run_commands() {
    let world = World::builder()
        .set("limits.upstreamConnections", 4)
        .set("authorization.interactive.allowedUsers", vec!["bob"])
        .start()
        .await;
    let mut holding = Vec::new();
    for (client, request, streams) in [
        (
            world.tls_client(None, Alpn::H2),
            get_metrics as fn(u32) -> Vec<u8>,
            2,
        ),
        (world.h2_client(API_SERVER), |stream| get(stream, "/metrics"), 1),
    ] {
        let mut frames = Frames::open(&client, &[(INITIAL_WINDOW, 0)]).await;
        for number in 0..streams {
            frames.send(&request(2 * number + 1)).await;
            let answer = frames.find(HEADERS, 2 * number + 1, patience()).await;
            assert_eq!(answer.unwrap().status(), Some(200));
        }
        holding.push(frames);
    }
    // Three of four places are for all users.
    let other = world.token_client(ADMIN_TOKEN).get("/metrics").await.unwrap();
    assert_eq!(other.status(), 429);
    assert_eq!(world.client("bob").status("/metrics").await, 200);
    drop(holding);
    world.stop().await;
}
