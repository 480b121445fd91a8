//! A gate whose sockets another process has taken over still has connections. A client whose next request meets a
//! reset, whose stream is cut, or whose right is no longer judged would pay for each upgrade.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use fakes::client::{Alpn, Client};
use kubelet_gate::serve::Stopped;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::live_streams::{KINDS, Live, Shows, no_stream_is_left, watchful};
use crate::patience::{eventually, eventually_answers, patience, stays};
use crate::world::{PKI, Status as _, World, WorldBuilder, header, request};

const LOG: &str = "/containerLogs/default/web/nginx?follow=true";

const LEFT: Stopped = Stopped { cut: 0, left: true };

/// Starts a world whose logs have many lines.
async fn start(builder: WorldBuilder) -> World {
    let world = builder.start().await;
    world
        .kubelet
        .adjust(|knobs| knobs.log_interval = Duration::from_millis(20));
    world
}

/// Tells the gate to leave, and waits until its listeners are closed.
async fn leave(world: &World) {
    world.begin_to_leave();
    for address in [world.address, world.read_only, world.admin] {
        eventually(&format!("{address} refuses connections"), || {
            std::net::TcpStream::connect(address).is_err()
        })
        .await;
    }
}

/// Waits until so many connections were accepted by a worker.
async fn connected(world: &World, count: f64) {
    eventually(&format!("{count} connections are accepted"), || {
        world.metric("connections", &[]) == count
    })
    .await;
}

/// Seen red: with the drain of a gate that stops (the idle connections were closed), and without the header (they
/// stayed open after the answer).
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_told_to_end_by_its_next_answer() {
    let world = World::start().await;
    let mut idle = world.client("bob").connect().await.unwrap();
    let mut refused = world.client("alice").connect().await.unwrap();
    let answer = idle.get("/pods").await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "connection")),
        (200, "")
    );
    assert_eq!((&mut refused).status("/pods").await, 403);
    leave(&world).await;
    stays(Duration::from_millis(300), "the connections are open", || {
        !idle.is_closed() && !refused.is_closed()
    })
    .await;
    for (connection, status) in [(&mut idle, 200), (&mut refused, 403)] {
        let answer = connection.get("/pods").await.unwrap();
        let close = header(&answer, "connection");
        assert_eq!((answer.status().as_u16(), close), (status, "close"));
        eventually("the connection ends", || connection.is_closed()).await;
    }
    assert_eq!(world.end().await, LEFT);
}

/// Seen red: with the drain of a gate that stops, which cuts requests at `limits.shutdownTimeout`.
#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_answered() {
    let world = World::builder().set("limits.shutdownTimeout", "1s").start().await;
    world
        .kubelet
        .adjust(|knobs| knobs.latency = Duration::from_secs(2));
    let mut asking = JoinSet::new();
    for client in [world.client("bob"), world.h2_client("bob")] {
        for _ in 0..5 {
            let client = client.clone();
            asking.spawn(async move { client.get("/pods").await.unwrap().status().as_u16() });
        }
    }
    eventually("they are in flight", || {
        world.metric("requests_in_flight", &[]) == 10.0
    })
    .await;
    leave(&world).await;
    assert_eq!(asking.join_all().await, [200; 10]);
    assert_eq!(world.end().await, LEFT);
}

/// Seen red: without the graceful shutdown, the connection took requests for as long as it lived.
#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_is_sent_elsewhere_and_its_streams_are_answered() {
    let world = start(World::builder()).await;
    let mut connection = world.h2_client("bob").connect().await.unwrap();
    let mut logs = Vec::new();
    for _ in 0..5 {
        logs.push(connection.open(request("GET", LOG, &[])).await.unwrap());
    }
    let mut idle = world.h2_client("bob").connect().await.unwrap();
    assert_eq!((&mut idle).status("/pods").await, 200);
    leave(&world).await;
    for connection in [&mut connection, &mut idle] {
        eventually_answers("it takes no more requests", async || {
            connection.get("/pods").await.is_err()
        })
        .await;
    }
    for _ in 0..20 {
        for log in &mut logs {
            assert!(log.body_mut().next().await.unwrap().is_some(), "the log ended");
        }
    }
    drop((logs, connection, idle));
    assert_eq!(world.end().await, LEFT);
}

/// A relay to the gate, whose own connection exists already.
async fn relay(to: SocketAddr) -> SocketAddr {
    let mut gate = TcpStream::connect(to).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let _ = copy_bidirectional(&mut client, &mut gate).await;
    });
    address
}

/// Seen red: with the connections that have sent no byte closed, as when the gate stops.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_accepted_and_has_sent_nothing_is_served() {
    let mut world = World::start().await;
    let gate = world.address;
    let mut clients: Vec<Client> = Vec::new();
    for alpn in [Alpn::H1, Alpn::H2] {
        world.address = relay(gate).await;
        clients.push(world.tls_client(Some(&PKI.bob), alpn));
    }
    world.address = gate;
    connected(&world, 2.0).await;
    leave(&world).await;
    for client in &clients {
        assert_eq!(client.status("/pods").await, 200);
    }
    assert_eq!(world.end().await, LEFT);
}

/// Seen red: with streams cut after `limits.shutdownTimeout`.
#[tokio::test(flavor = "multi_thread")]
async fn streams_go_on_until_their_clients_end_them() {
    let world = start(World::builder().set("limits.shutdownTimeout", "1s")).await;
    let mut open = Live::open_all(&world, Shows::Certificate(&PKI.bob)).await;
    leave(&world).await;
    for _ in 0..60 {
        for live in &mut open {
            live.assert_alive().await;
        }
    }
    let socket = open.remove(0);
    let Live::Socket(session) = socket else {
        panic!("the first is a WebSocket")
    };
    session.close().await.unwrap();
    drop(open);
    no_stream_is_left(&world).await;
    let ended = world.metric("stream_ends_total", &[("ended_by", "gate")]);
    assert_eq!(ended, 0.0);
    assert_eq!(world.end().await, LEFT);
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_user_is_revoked_is_cut_while_the_gate_leaves() {
    let world = start(watchful(World::builder())).await;
    let both = [PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()];
    fs::write(world.file("ca.crt"), both.concat()).unwrap();
    world.gate.reload();
    let carol = Live::open_all(&world, Shows::Certificate(&PKI.carol)).await;
    let mut bob = Live::open_all(&world, Shows::Certificate(&PKI.bob)).await;
    leave(&world).await;
    fs::write(world.file("ca.crt"), &both[0]).unwrap();
    world.gate.reload();
    for live in carol {
        live.assert_ended(1008, "the credential is no longer accepted")
            .await;
    }
    for live in &mut bob {
        live.assert_alive().await;
    }
    // The API server takes the right away.
    world.api.set_rules(Vec::new());
    for live in bob {
        live.assert_ended(1008, "the user is no longer allowed this")
            .await;
    }
    assert_eq!(world.end().await, LEFT);
}

/// Seen red: without the deadline, the gate did not end; with a log that its connection ended first taken for one
/// that its client ended.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_at_the_deadline_is_cut_and_counted() {
    let world = start(World::builder().set("upgrade.drainTimeout", "1s")).await;
    let open = Live::open_all(&world, Shows::Certificate(&PKI.bob)).await;
    leave(&world).await;
    for live in open {
        live.assert_ended(1001, "the gate is stopping").await;
    }
    eventually("the gate has ended all of them", || {
        world.metric("stream_ends_total", &[("ended_by", "gate")]) == KINDS.len() as f64
    })
    .await;
    let cut = KINDS.len();
    assert_eq!(world.end().await, Stopped { cut, left: true });
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_leaves_can_still_be_stopped() {
    let world = start(World::builder().set("limits.shutdownTimeout", "1s")).await;
    let open = Live::open_all(&world, Shows::Certificate(&PKI.bob)).await;
    leave(&world).await;
    world.begin_to_stop();
    for live in open {
        live.assert_ended(1001, "the gate is stopping").await;
    }
    let cut = KINDS.len();
    assert_eq!(world.end().await, Stopped { cut, left: false });
}

/// Seen red: with a connection that has sent nothing waited for until `limits.handshakeTimeout`.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_hold_up_a_stop_and_requests_in_flight_are_answered() {
    let minutes = |builder: WorldBuilder, key| builder.set(key, "5m");
    let world = minutes(World::builder(), "limits.shutdownTimeout");
    let world = minutes(world, "limits.handshakeTimeout").start().await;
    let silent = TcpStream::connect(world.address).await.unwrap();
    let mut idle = Vec::new();
    for client in [world.client("bob"), world.h2_client("bob")] {
        // One has sent no request, and one has.
        idle.push(client.connect().await.unwrap());
        let mut used = client.connect().await.unwrap();
        assert_eq!((&mut used).status("/pods").await, 200);
        idle.push(used);
    }
    connected(&world, 5.0).await;
    world
        .kubelet
        .adjust(|knobs| knobs.latency = Duration::from_secs(1));
    let client = world.client("bob");
    let asking = tokio::spawn(async move { client.get("/pods").await.unwrap().status().as_u16() });
    eventually("it is in flight", || {
        world.metric("requests_in_flight", &[]) == 1.0
    })
    .await;
    world.begin_to_stop();
    assert_eq!(
        tokio::time::timeout(patience(), asking).await.unwrap().unwrap(),
        200
    );
    assert_eq!(world.end().await, Stopped { cut: 0, left: false });
    drop((silent, idle));
}
