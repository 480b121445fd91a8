//! A stolen credential is of use from wherever the port can be reached. `sources` says from where that is: a
//! connection from elsewhere must cost nothing, no remembered answer may stand above the lists, and neither
//! the node itself nor the API server may be left out in silence.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use fakes::apiserver::ADMIN_TOKEN;
use fakes::client::{Client, ClientTls};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::patience::{eventually, patience};
use crate::program::{Installation, Serving, assert_says, code, stderr};
use crate::world::{API_SERVER, PKI, Status as _, World, assert_answer};

const LOG: &str = "/containerLogs/default/web/nginx";
const EXEC: &str = "/exec/default/web/nginx?command=id&output=1";
const FORBIDDEN: &str = "Forbidden (user=bob, verb=create, resource=nodes, subresource(s)=[proxy])\n";

fn source(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// The lists, as a configuration has them.
fn sources(port: &[&str], interactive: &[&str]) -> Value {
    json!({"port": port, "interactive": interactive})
}

/// Connects from this address, sends the beginning of a handshake, and asserts that the gate resets the
/// connection and sends nothing.
async fn is_reset(gate: SocketAddr, source: IpAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    let dialling = async {
        let mut stream = socket.connect(gate).await?;
        stream.write_all(b"\x16\x03\x01").await?;
        stream.read(&mut [0]).await
    };
    let dialled = timeout(patience(), dialling).await.expect("it stays open");
    let error = dialled.expect_err("it was closed in peace, or answered").kind();
    let reset = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(reset.contains(&error), "{error}");
}

fn refused(world: &World) -> f64 {
    world.metric("rejections_total", &[("reason", "source")])
}

/// A client with this certificate that dials IPv4 and IPv6 alike.
fn dialling(name: &str, address: SocketAddr, source: IpAddr) -> Client {
    let pair = PKI.pair(name).unwrap();
    let tls = ClientTls {
        certificate: Some((pair.chain.clone(), pair.key.clone_key())),
        ..ClientTls::default()
    };
    Client::new(address, tls)
        .unwrap()
        .with_deadline(patience())
        .with_source(source)
}

async fn readyz(world: &World) -> String {
    let answer = world.admin_client().get("/readyz?verbose").await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    String::from_utf8(answer.body().to_vec()).unwrap()
}

/// Seen red: without the look at the list.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_from_elsewhere_is_reset_before_tls_and_takes_no_place() {
    let world = World::builder()
        .set("sources", sources(&["127.0.0.2", "127.0.0.16/28"], &[]))
        .set("limits.connections", 8)
        .set("limits.unauthenticatedConnections", 4)
        .start()
        .await;
    let handshakes = || world.metric("handshakes_total", &[]);
    for _ in 0..50 {
        for last in [1, 3, 15, 32] {
            is_reset(world.address, source(last)).await;
        }
    }
    assert_eq!(refused(&world), 200.0);
    assert_eq!(handshakes(), 0.0);
    for gauge in ["connections", "unauthenticated_connections"] {
        assert_eq!(world.metric(gauge, &[]), 0.0, "{gauge}");
    }
    for reason in ["connections", "evicted", "connections_per_address"] {
        assert_eq!(
            world.metric("rejections_total", &[("reason", reason)]),
            0.0,
            "{reason}"
        );
    }
    assert!(
        world
            .client("bob")
            .with_source(source(3))
            .get("/pods")
            .await
            .is_err()
    );
    for last in [2, 16, 31] {
        let bob = world.client("bob").with_source(source(last));
        assert_eq!(bob.status("/pods").await, 200, "{last}");
    }
    // The tombstone and the admin port are for everyone.
    let tombstone = Client::plain(world.read_only).with_source(source(3));
    assert_eq!(tombstone.status("/pods").await, 410);
    assert_eq!(
        world.admin_client().with_source(source(3)).status("/livez").await,
        200
    );
    assert_eq!(
        world.audit_events(3).await.len(),
        3,
        "no connection without a request is an event"
    );
    world.stop().await;
}

/// Seen red: with the address compared as the socket gives it, no IPv4 client was served on [::].
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_for_both_families_knows_ipv4_clients() {
    let world = World::builder()
        .set("listen", json!(["[::]:0"]))
        .set("sources", sources(&["127.0.0.2"], &[]))
        .start()
        .await;
    let port = world.address.port();
    let (v4, v6) = (
        SocketAddr::from(([127, 0, 0, 1], port)),
        SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)),
    );
    assert_eq!(dialling("bob", v4, source(2)).status("/pods").await, 200);
    assert!(dialling("bob", v4, source(3)).get("/pods").await.is_err());
    assert!(dialling("bob", v6, v6.ip()).get("/pods").await.is_err());
    world.stop().await;

    let world = World::builder()
        .set("listen", json!(["[::]:0"]))
        .set("sources", sources(&["::/0"], &[]))
        .start()
        .await;
    let port = world.address.port();
    let (v4, v6) = (
        SocketAddr::from(([127, 0, 0, 1], port)),
        SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)),
    );
    assert_eq!(dialling("bob", v6, v6.ip()).status("/pods").await, 200);
    assert!(
        dialling("bob", v4, source(2)).get("/pods").await.is_err(),
        "::/0 has no IPv4 address"
    );
    world.stop().await;
}

/// Seen red: without the list in the policy.
#[tokio::test(flavor = "multi_thread")]
async fn an_interactive_request_from_elsewhere_is_refused_whatever_is_remembered() {
    let world = World::builder()
        .set("sources", sources(&[], &["127.0.0.2"]))
        .start()
        .await;
    let (here, elsewhere) = (
        world.client("bob").with_source(source(2)),
        world.client("bob").with_source(source(3)),
    );
    let exec = async |client: &Client, target: &str| {
        let answer = client
            .websocket(target, &["v5.channel.k8s.io"], &[])
            .await
            .unwrap();
        if answer.status() == 101 {
            answer.switched().unwrap().close().await.unwrap();
            return None;
        }
        answer.refused()
    };
    assert!(exec(&here, EXEC).await.is_none(), "allowed, and remembered");
    eventually("the stream has ended", || world.metric("streams", &[]) == 0.0).await;
    world.kubelet.clear();
    world.api.clear_reviews();
    for target in [
        EXEC,
        "/attach/default/web/nginx?output=1",
        "/portForward/default/web?port=80",
        "/run/default/web/nginx?cmd=id",
        "/cri/exec/token",
        "/%65xec/default/web/nginx?command=id&output=1",
    ] {
        assert_answer(&exec(&elsewhere, target).await.expect(target), 403, FORBIDDEN);
    }
    let post = elsewhere.call("POST", EXEC, &[], "").await.unwrap();
    assert_answer(&post, 403, FORBIDDEN);
    let token = world.token_client(ADMIN_TOKEN);
    assert_eq!(
        token.call("POST", EXEC, &[], "").await.unwrap().status(),
        403,
        "from 127.0.0.1"
    );
    assert_eq!(world.api.checks(), [] as [&str; 0], "no review was asked for");
    world.assert_nothing_forwarded();
    // What is not interactive goes on.
    assert_eq!(elsewhere.status(LOG).await, 200);
    assert_eq!(elsewhere.status("/pods").await, 200);

    let mut of_source = Vec::new();
    eventually("each refusal is in the audit", || {
        of_source = world.audit();
        of_source.retain(|event| event.to_string().contains("sources.interactive does not have"));
        of_source.len() == 8
    })
    .await;
    let text = of_source[0].to_string();
    assert_says(
        &text,
        &["sources.interactive does not have 127.0.0.3", "\"bob\"", "403"],
    );
    world.stop().await;
}

/// Seen red: without the lines in the answer.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_lists_leave_out_is_told() {
    let world = World::builder()
        .set("sources", sources(&["127.0.0.0/28"], &["127.0.0.2"]))
        .start()
        .await;
    let said = readyz(&world).await;
    assert_says(
        &said,
        &[
            "[!] sources: sources.interactive does not have 127.0.0.1, ",
            " of this node: ",
        ],
    );
    assert!(!said.contains("the API server was served"), "{said}");
    let at = |last| world.client(API_SERVER).with_source(source(last));
    assert_eq!(at(2).status(LOG).await, 200);
    assert!(!readyz(&world).await.contains("the API server was served"));
    // The witness notes one address a second.
    eventually_served(&world, source(5)).await;
    let said = readyz(&world).await;
    let line =
        "[!] sources: sources.interactive does not have 127.0.0.5, where the API server was served last";
    assert_says(&said, &[line, "\nok\n"]);
    world.stop().await;
}

/// Asks as the API server from this address until the gate has noted it.
async fn eventually_served(world: &World, source: IpAddr) {
    crate::patience::eventually_answers("the gate has noted the address", async || {
        assert_eq!(
            world.client(API_SERVER).with_source(source).status(LOG).await,
            200
        );
        let seal = world.admin_client().get("/seal").await.unwrap();
        let seal: Value = serde_json::from_slice(seal.body()).unwrap();
        seal["apiServer"]["addresses"][0] == source.to_string()
    })
    .await;
}

/// Without lists nothing is said of them.
#[tokio::test(flavor = "multi_thread")]
async fn without_lists_every_address_may_connect() {
    let world = World::builder().set("sources", sources(&[], &[])).start().await;
    assert_eq!(
        world.client("bob").with_source(source(200)).status("/pods").await,
        200
    );
    let said = readyz(&world).await;
    assert!(!said.contains("sources"), "{said}");
    world.stop().await;
}

/// Seen red: with `check` asking no gate.
#[tokio::test(flavor = "multi_thread")]
async fn check_asks_the_running_gate_where_the_api_server_was_served() {
    let world = World::start().await;
    eventually_served(&world, source(7)).await;
    let installation = Installation::new();
    let check = |port: &[&str], interactive: &[&str]| {
        let (admin, lists) = (world.admin.to_string(), sources(port, interactive));
        installation.configure(|configuration| {
            configuration["admin"] = json!({"listen": admin, "socket": ""});
            configuration["sources"] = lists;
        });
        let output = installation.check(&["--offline"]);
        assert_eq!(code(&output), 0, "{output:?}");
        // Long lines are wrapped.
        stderr(&output).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let everyone = ["0.0.0.0/0", "::/0"];
    assert!(!check(&[], &[]).contains("sources"));
    assert!(!check(&everyone, &everyone).contains("sources"));
    let said = check(&["127.0.0.0/30", "::/0"], &[]);
    assert_says(
        &said,
        &["sources.port does not have 127.0.0.7, where the API server was served last"],
    );
    assert!(!said.contains("sources.port does not have 127.0.0.1"), "{said}");
    let said = check(&["127.0.0.4/30"], &["10.0.0.0/8"]);
    assert_says(
        &said,
        &[
            "sources.port does not have 127.0.0.1, ",
            "of this node: ",
            "sources.interactive does not have 127.0.0.7, where the API server was served last",
        ],
    );
    world.stop().await;
}

/// Seen red: without the look at the list.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_client_that_is_refused_and_is_not_flooded() {
    let installation = Installation::new();
    installation.configure(|configuration| configuration["sources"] = sources(&["127.0.0.2"], &[]));
    let gate = Serving::start(&installation).await;
    let of_sources = |said: &[Value], text: &str| {
        let named = |line: &&Value| {
            line["message"].as_str().is_some_and(|said| said.contains(text))
                || line["fields"]["message"]
                    .as_str()
                    .is_some_and(|said| said.contains(text))
        };
        said.iter().filter(named).cloned().collect::<Vec<_>>()
    };
    for _ in 0..200 {
        is_reset(gate.address, source(3)).await;
    }
    let text = "a connection was refused: sources.port does not have its address";
    eventually("the client is named", || {
        !of_sources(&gate.later(), text).is_empty()
    })
    .await;
    let later = gate.later();
    let lines = of_sources(&later, text);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_says(&lines[0].to_string(), &["127.0.0.3:"]);
    let warned = of_sources(&gate.said, "sources.port does not have 127.0.0.1");
    assert_eq!(warned.len(), 1, "{:?}", gate.said);
}
