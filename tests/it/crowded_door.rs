//! Strangers with many connections must not keep clients out that the node needs. The gate cannot tell a
//! client before its handshake has ended, so what strangers hold is bounded and shared by address, places are
//! kept, and handshakes take turns.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use fakes::apiserver::METRICS_TOKEN;
use fakes::client::{Alpn, Client, ClientTls, Connection};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::patience::{eventually, eventually_answers, patience};
use crate::program::{Installation, Serving};
use crate::world::{API_SERVER, PKI, Status as _, World, header, request};

fn source(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// A connection from this address that has sent nothing.
async fn silent(gate: SocketAddr, source: IpAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    socket.connect(gate).await.unwrap()
}

/// Waits until the gate closes the connection.
async fn is_closed(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(patience(), stream.read(&mut byte)).await;
    assert!(matches!(read.expect("it stays open"), Ok(0) | Err(_)));
}

/// Whether the connection is open now.
fn is_open(stream: &TcpStream) -> bool {
    let would_block = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    stream.try_read(&mut [0]).is_err_and(would_block)
}

fn evicted(world: &World) -> f64 {
    world.metric("rejections_total", &[("reason", "evicted")])
}

async fn nothing_is_left(world: World) {
    for gauge in ["connections", "unauthenticated_connections"] {
        eventually(&format!("{gauge} is back to 0"), || {
            world.metric(gauge, &[]) == 0.0
        })
        .await;
    }
    world.stop().await;
}

/// Seen red: with every newcomer refused once the strangers' places are taken.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_no_client_out() {
    let world = World::builder()
        .set("limits.unauthenticatedConnections", 32)
        .set("limits.connectionsPerAddress", 24)
        .start()
        .await;
    let mut held = Vec::new();
    for _ in 0..40 {
        for last in 2..6 {
            held.push(silent(world.address, source(last)).await);
        }
    }
    let bob = world.client("bob").with_source(source(9));
    for _ in 0..10 {
        assert_eq!(bob.status("/healthz").await, 200);
    }
    assert!(evicted(&world) >= 100.0, "{}", evicted(&world));
    assert!(world.metric("unauthenticated_connections", &[]) <= 32.0);
    // What was evicted is closed.
    for stream in &mut held[..80] {
        is_closed(stream).await;
    }
    drop(held);
    nothing_is_left(world).await;
}

/// Seen red: with `YOUNG` of 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_young_handshake_of_a_source_within_its_share_is_not_evicted() {
    let world = World::builder()
        .set("limits.unauthenticatedConnections", 4)
        .start()
        .await;
    let began = Instant::now();
    let mut first = silent(world.address, source(2)).await;
    let mut held = Vec::new();
    for last in 3..6 {
        held.push(silent(world.address, source(last)).await);
    }
    let bob = world.client("bob").with_source(source(9));
    eventually_answers("a newcomer is served", async || bob.get("/healthz").await.is_ok()).await;
    is_closed(&mut first).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    drop(held);
    nothing_is_left(world).await;
}

/// Seen red: without the places that are kept, the known client was refused, or evicted a stranger.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_served_lately_has_a_place() {
    let world = World::builder()
        .set("limits.unauthenticatedConnections", 8)
        .start()
        .await;
    let bob = world.client("bob").with_source(source(9));
    assert_eq!(bob.status("/pods").await, 200);
    eventually("bob has left", || world.metric("connections", &[]) == 0.0).await;
    let mut held = Vec::new();
    for last in 11..18 {
        held.push(silent(world.address, source(last)).await);
    }
    eventually("the strangers' places are taken", || {
        world.metric("unauthenticated_connections", &[]) == 7.0
    })
    .await;
    for _ in 0..5 {
        assert_eq!(bob.status("/pods").await, 200);
    }
    assert_eq!(evicted(&world), 0.0);
    assert!(held.iter().all(is_open));
    drop(held);
    nothing_is_left(world).await;
}

/// Seen red: with `State::admit` deaf to `is_needed`, and with no place kept.
#[tokio::test(flavor = "multi_thread")]
async fn users_that_the_node_needs_come_in_when_everything_is_taken() {
    let world = World::builder()
        .set("limits.connections", 32)
        .set("firewall.apiServerUsers", vec![API_SERVER])
        .set("authorization.interactive.allowedUsers", vec!["bob"])
        .start()
        .await;
    // Alice may do nothing, but is authenticated.
    let mut held: Vec<Connection> = Vec::new();
    let alice = async |last: u8| {
        let alice = world.client("alice").with_source(source(last));
        let mut connection = alice.connect().await.unwrap();
        assert_eq!(connection.status("/pods").await, 403);
        connection
    };
    for number in 0..28 {
        held.push(alice(2 + number / 7).await);
    }
    assert_eq!(world.metric("unauthenticated_connections", &[]), 0.0);
    let overflow = [alice(6).await, alice(6).await];
    assert_eq!(
        world.metric("unauthenticated_connections", &[]),
        2.0,
        "the rest is kept for others"
    );
    let mut strangers = Vec::new();
    for last in [7, 7] {
        strangers.push(silent(world.address, source(last)).await);
    }
    let mut needed = Vec::new();
    for (name, last) in [(API_SERVER, 8), ("bob", 9)] {
        let client = world.client(name).with_source(source(last));
        let mut connection = client.connect().await.unwrap();
        assert_eq!(connection.status("/pods").await, 200, "{name}");
        needed.push(connection);
    }
    eventually("they are admitted", || {
        world.metric("unauthenticated_connections", &[]) == 2.0
    })
    .await;
    eventually("the overflow made room", || overflow[0].is_closed()).await;
    for last in 10..30 {
        strangers.push(silent(world.address, source(last)).await);
    }
    for connection in needed.iter_mut().chain(&mut held) {
        assert!(matches!(connection.status("/pods").await, 200 | 403));
    }
    drop((held, needed, overflow, strangers));
    nothing_is_left(world).await;
}

/// Seen red: with no judgement before the first request.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_believed_admits_its_client_before_a_request() {
    let world = World::start().await;
    let expired = world.client("expired").stream().await.unwrap();
    let stranger = world.stranger().stream().await.unwrap();
    let bob = world.client("bob").stream().await.unwrap();
    eventually("bob is admitted", || {
        world.metric("handshakes_total", &[("result", "ok")]) == 3.0
            && world.metric("unauthenticated_connections", &[]) == 2.0
    })
    .await;
    drop((expired, stranger, bob));
    nothing_is_left(world).await;
}

/// What a TLS client sends first.
async fn client_hello() -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = ClientTls {
        roots: Some(vec![PKI.ca.certificate().clone()]),
        alpn: Alpn::H1,
        ..ClientTls::default()
    };
    let client = Client::new(listener.local_addr().unwrap(), tls).unwrap();
    let dialling = tokio::spawn(async move { client.stream().await.is_ok() });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut hello = vec![0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
    hello.resize(5 + length, 0);
    stream.read_exact(&mut hello[5..]).await.unwrap();
    dialling.abort();
    hello
}

/// A recorded ClientHello costs its sender nothing, and the gate a signature.
///
/// Seen red: with no task that gives turns.
#[tokio::test(flavor = "multi_thread")]
async fn replayed_handshakes_keep_no_client_waiting() {
    const SOURCES: u8 = 40;
    const EACH: usize = 10;
    let world = World::start().await;
    let bob = world.client("bob").with_source(source(9));
    let mut kept_alive = bob.connect().await.unwrap();
    assert_eq!(kept_alive.status("/pods").await, 200);
    let hello = client_hello().await;
    let mut flood = JoinSet::new();
    for last in 0..SOURCES {
        let (gate, hello) = (world.address, hello.clone());
        flood.spawn(async move {
            for _ in 0..EACH {
                let mut stream = silent(gate, IpAddr::from([127, 0, 1, last + 1])).await;
                stream.write_all(&hello).await.unwrap();
                // The answer has the signature.
                assert!(matches!(stream.read(&mut [0; 4096]).await, Ok(1..)));
            }
        });
    }
    let unseen = world.client("alice").with_source(source(77));
    for number in 0..100 {
        assert_eq!(kept_alive.status("/pods").await, 200);
        if number % 10 == 0 {
            assert_eq!(bob.status("/pods").await, 200);
            assert_eq!(unseen.status("/pods").await, 403);
        }
    }
    while let Some(ended) = flood.join_next().await {
        ended.unwrap();
    }
    drop(kept_alive);
    nothing_is_left(world).await;
}

/// Each refusal is an audit event. A client that keeps asking without a credential has to make connections.
///
/// Seen red: with `MOST_REFUSED` never reached, and with refusals counted after a request had passed.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_a_stranger_ends_after_some_refusals() {
    let world = World::start().await;
    let mut stranger = world.stranger().connect().await.unwrap();
    for number in 1..=8 {
        let answer = stranger.get("/pods").await.unwrap();
        let expected = if number == 8 { "close" } else { "" };
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "connection")),
            (401, expected)
        );
    }
    eventually("it is closed", || stranger.is_closed()).await;

    // A client whose token has expired meanwhile is no stranger.
    let mut monitor = world.stranger().connect().await.unwrap();
    let ask = |token: &str| {
        let authorization = format!("Bearer {token}");
        request("GET", "/metrics", &[("authorization", authorization.as_str())])
    };
    assert_eq!(monitor.send(ask(METRICS_TOKEN)).await.unwrap().status(), 200);
    for _ in 0..10 {
        assert_eq!(monitor.send(ask("made-up")).await.unwrap().status(), 401);
    }
    assert!(!monitor.is_closed());
    drop((stranger, monitor));
    nothing_is_left(world).await;
}

/// Seen red: without the spare descriptor, the clients waited.
#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_a_client_is_told_at_once() {
    let installation = Installation::new();
    installation.configure(|configuration| {
        configuration["limits"] = serde_json::json!({"handshakeTimeout": "5m"});
    });
    let serving = Serving::start(&installation).await;
    let pid = Pid::from_raw(i32::try_from(serving.pid()).unwrap());
    let taken =
        |number: &u64| std::fs::symlink_metadata(format!("/proc/{}/fd/{number}", serving.pid())).is_ok();
    let free = (0..).find(|number| !taken(number)).unwrap();
    let limit = |current| Rlimit {
        current: Some(current),
        maximum: Some(4096),
    };
    prlimit(pid, Resource::Nofile, limit(free)).unwrap();
    // What was open a moment ago leaves a few numbers free: those connections stay.
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(silent(serving.address, source(2)).await);
    }
    eventually("clients for which no number is left are told", || {
        held.iter().filter(|stream| !is_open(stream)).count() >= 30
    })
    .await;
    prlimit(pid, Resource::Nofile, limit(4096)).unwrap();
    let stranger = Client::new(
        serving.address,
        ClientTls {
            roots: None,
            ..ClientTls::default()
        },
    );
    let stranger = stranger.unwrap().with_deadline(patience());
    assert_eq!(stranger.status("/pods").await, 401);
}

/// Seen red: with `lower` left out, and with the soft limit not raised.
#[tokio::test(flavor = "multi_thread")]
async fn limits_that_the_descriptors_cannot_hold_are_lowered_and_said() {
    let installation = Installation::new();
    let with_files = async |limits: &str| Serving::with_files(&installation, limits).await;
    let said = |serving: &Serving| {
        let said = serving.said.iter().map(|line| line["message"].as_str().unwrap());
        let said = said.filter(|line| line.contains("this process may open"));
        said.map(str::to_owned).collect::<Vec<_>>()
    };
    let narrow = with_files("-n 600").await;
    let lines = said(&narrow);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in [
        "limits.connections is ",
        " instead of 4096, limits.",
        "limits.streams is ",
        "this process may open 600 files",
        "LimitNOFILE=",
    ] {
        assert!(lines[0].contains(part), "{part:?} is not in {}", lines[0]);
    }
    // It does not run out of them.
    let mut held = Vec::new();
    for number in 0..600 {
        held.push(silent(narrow.address, source(2 + number as u8 % 200)).await);
    }
    let admin = Client::plain(narrow.admin);
    let metrics = admin.get("/metrics").await.unwrap();
    let text = String::from_utf8(metrics.body().to_vec()).unwrap();
    let failed = crate::world::sum(&text, "rejections_total", &[("reason", "accept_failed")]);
    assert_eq!(failed, 0.0);
    assert!(crate::world::sum(&text, "rejections_total", &[]) > 0.0);
    drop(held);

    let raised = with_files("-Sn 600").await;
    assert_eq!(
        said(&raised),
        Vec::<String>::new(),
        "the hard limit is high enough"
    );
}
