//! A tunnel that lost a byte would garble `kubectl exec`; one that opened before the kubelet's 101 would be
//! CVE-2018-1002105; one that did not close on both sides would leave shells behind on the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use fakes::apiserver::{ADMIN_TOKEN, Rule, Subject};
use fakes::client::{Client, ClientError, SpdyStream, WsSession};
use fakes::kubelet::Fault;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::patience::{eventually, patience};
use crate::world::{API_SERVER, World, assert_answer, header};

const SHELL: &str = "/exec/default/web/nginx?command=sh&input=1&output=1&error=1";
const CAT: &str = "/exec/default/web/nginx?command=cat&input=1&output=1";
const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const NOT_PASSED_ON: &str = "the kubelet gave an upgrade an answer that is not passed on\n";

async fn websocket(client: &Client, target: &str, protocol: &str) -> WsSession {
    let answer = client.websocket(target, &[protocol], &[]).await.unwrap();
    assert_eq!(answer.status(), 101);
    answer.switched().unwrap()
}

async fn spdy(client: &Client, target: &str) -> SpdyStream {
    let answer = client
        .spdy("POST", target, &[("content-length", "0")])
        .await
        .unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["upgrade"], "SPDY/3.1");
    answer.switched().unwrap()
}

async fn streams_are(world: &World, count: u64) {
    eventually(&format!("{count} streams are open on both sides"), || {
        world.kubelet.open_streams() == count && world.metric("streams", &[]) == count as f64
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_over_websocket() {
    let world = World::start().await;
    let api_server = world.client(API_SERVER);
    for protocol in [V4, V5] {
        let mut session = websocket(&api_server, SHELL, protocol).await;
        assert_eq!(session.protocol(), Some(protocol));
        streams_are(&world, 1).await;
        session.send_stdin(b"hostname\n").await.unwrap();
        assert_eq!(session.read_stdout(4).await.unwrap(), b"web\n");
        session.ping().await.unwrap();
        session.send_stdin(b"nmap\nexit 3\n").await.unwrap();
        let outcome = session.exec_read().await.unwrap();
        assert_eq!(outcome.stderr, b"sh: nmap: not found\n");
        assert_eq!(outcome.exit_code(), Some(3));
        drop(session);
        streams_are(&world, 0).await;
    }
    // v5 can end standard input.
    let mut session = websocket(&api_server, CAT, V5).await;
    session.send_stdin(b"meow").await.unwrap();
    assert_eq!(session.read_stdout(4).await.unwrap(), b"meow");
    session.close_stdin().await.unwrap();
    assert_eq!(session.exec_read().await.unwrap().exit_code(), Some(0));
    drop(session);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_and_port_forward_pass_over_websocket() {
    let world = World::start().await;
    world
        .kubelet
        .adjust(|knobs| knobs.log_interval = Duration::from_millis(5));
    let bob = world.client("bob");
    let mut attached = websocket(&bob, "/attach/default/web/nginx?output=1", V5).await;
    assert_ne!(attached.read_stdout(40).await.unwrap(), b"");
    let mut ports = websocket(&bob, "/portForward/default/web?port=80", V4).await;
    assert_eq!(ports.next().await.unwrap().unwrap(), &[0, 80, 0][..]);
    assert_eq!(ports.next().await.unwrap().unwrap(), &[1, 80, 0][..]);
    ports.send_channel(0, b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(
        ports.next().await.unwrap().unwrap(),
        &b"\0GET / HTTP/1.0\r\n\r\n"[..]
    );
    ports.close().await.unwrap();
    drop(attached);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_over_spdy_in_full_and_in_order() {
    let world = World::start().await;
    let stream = spdy(&world.client(API_SERVER), SHELL).await;
    let seen = &world.kubelet.requests()[0];
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
    ] {
        assert_eq!(seen.header(name), Some(value));
    }
    let sent: Vec<u8> = (0..2_000_000u32)
        .map(|index| (index * 31 + index / 251) as u8)
        .collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = {
        let sent = sent.clone();
        tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.flush().await.unwrap();
            write
        })
    };
    let mut back = vec![0; sent.len()];
    read.read_exact(&mut back).await.unwrap();
    assert!(back == sent);
    drop((writing.await.unwrap(), read));
    world.stop().await;
}

/// A SPDY server may send first; bytes in the segment of its 101 must not be lost.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_right_behind_the_101_arrive() {
    let world = World::start().await;
    let early = Bytes::from_static(b"early bytes of the kubelet");
    let knob = early.clone();
    world.kubelet.adjust(move |knobs| knobs.early_stream_bytes = knob);
    let mut stream = spdy(&world.client("bob"), SHELL).await;
    let mut first = vec![0; early.len()];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first, early);
    stream.write_all(b"x").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    drop(stream);

    // The same with the client's bytes, sent right behind the request.
    world
        .kubelet
        .adjust(|knobs| knobs.early_stream_bytes = Bytes::new());
    let mut stream = world.client("bob").stream().await.unwrap();
    let head = format!(
        "POST {SHELL} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nhasty bytes of the client"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hasty bytes of the client") {
        assert_ne!(
            stream.read_buf(&mut answer).await.unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
    drop(stream);
    world.stop().await;
}

/// T8, T9: after any other answer than 101 the connection is closed or an ordinary one, and redirects are not
/// followed.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_101_opens_a_tunnel() {
    let world = World::start().await;
    // Alice may run commands and nothing else: a request behind the upgrade is judged or not read.
    world.api.set_rules(vec![Rule::allow(
        Subject::group("developers"),
        &["create"],
        &["proxy"],
    )]);
    let alice = world.client("alice");
    let answer = |status: u16, headers: &[(&str, &str)]| Fault::Answer {
        status,
        headers: headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        body: Bytes::from_static(b"the kubelet's words\n"),
    };
    let switching = |protocol: &str| Fault::Raw {
        bytes: format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        )
        .into(),
        close: false,
    };
    for (fault, status, body) in [
        (answer(403, &[]), 403, "the kubelet's words\n"),
        (answer(400, &[]), 400, "the kubelet's words\n"),
        (answer(404, &[]), 404, "the kubelet's words\n"),
        (answer(500, &[]), 500, "the kubelet's words\n"),
        (answer(200, &[]), 502, NOT_PASSED_ON),
        (
            answer(200, &[("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]),
            502,
            NOT_PASSED_ON,
        ),
        (answer(204, &[]), 502, NOT_PASSED_ON),
        (
            answer(301, &[("Location", "http://192.0.2.1/")]),
            502,
            NOT_PASSED_ON,
        ),
        (answer(302, &[("Location", "/configz")]), 502, NOT_PASSED_ON),
        (
            answer(307, &[("Location", "http://192.0.2.1/")]),
            502,
            NOT_PASSED_ON,
        ),
        (switching("h2c"), 502, NOT_PASSED_ON),
        (switching("websocket"), 502, NOT_PASSED_ON),
    ] {
        world.kubelet.heal();
        world.kubelet.clear();
        world.kubelet.fail("/exec", fault.clone());
        let refused = alice
            .spdy("POST", SHELL, &[])
            .await
            .unwrap()
            .refused()
            .expect("no tunnel");
        assert_answer(&refused, status, body);
        assert_eq!(header(&refused, "location"), "");
        assert_eq!(header(&refused, "upgrade"), "");

        let head = format!(
            "POST {SHELL} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n\
             GET /configz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        let both = alice
            .clone()
            .with_deadline(patience())
            .raw(head.as_bytes())
            .await
            .unwrap();
        let both = String::from_utf8_lossy(&both);
        assert!(both.starts_with(&format!("HTTP/1.1 {status} ")), "{both}");
        assert!(!both.contains("kubeletconfig"), "{both}");
        let targets: Vec<_> = world
            .kubelet
            .requests()
            .iter()
            .map(|seen| seen.target.clone())
            .collect();
        assert_eq!(targets, [SHELL, SHELL], "{fault:?}");
    }
    assert_eq!(world.metric("streams", &[]), 0.0);
    // A connection that was refused an upgrade is not used again.
    eventually("no connection to the kubelet is kept", || {
        world.kubelet.open_connections() == 0
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelets_refusal_to_switch_is_passed_on() {
    let world = World::start().await;
    let bob = world.client("bob");
    let refused = bob
        .websocket(SHELL, &["v9.channel.k8s.io"], &[])
        .await
        .unwrap()
        .refused()
        .unwrap();
    assert_eq!(refused.status(), 403, "no common subprotocol");
    let refused = bob
        .spdy(
            "POST",
            SHELL,
            &[("x-stream-protocol-version", "v9.channel.k8s.io")],
        )
        .await
        .unwrap()
        .refused()
        .unwrap();
    assert_eq!(refused.status(), 403);
    assert!(
        refused
            .headers()
            .get_all("x-accepted-stream-protocol-versions")
            .iter()
            .count()
            > 1
    );
    let missing = "/exec/default/missing/nginx?command=id&output=1";
    assert_eq!(bob.websocket(missing, &[V5], &[]).await.unwrap().status(), 404);
    world.stop().await;
}

/// A token must not reach the container runtime behind the kubelet either.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_among_the_subprotocols_ends_at_the_gate() {
    let world = World::start().await;
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(ADMIN_TOKEN);
    let token = format!("base64url.bearer.authorization.k8s.io.{encoded}");
    // The token authenticates the first client; the second has a certificate as well.
    for client in [world.stranger(), world.client("bob")] {
        world.kubelet.clear();
        let answer = client.websocket(CAT, &[&token, V5, V4], &[]).await.unwrap();
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()["sec-websocket-protocol"], V5);
        let seen = world.kubelet.requests();
        assert_eq!(
            seen[0].header("sec-websocket-protocol"),
            Some("v5.channel.k8s.io,v4.channel.k8s.io")
        );
        assert!(!format!("{seen:?}").contains(&encoded));
    }
    world.stop().await;
}

/// T36: credentials and claims of an identity end at the gate, with an upgrade as with any other request.
/// Seen red: with `headers::for_kubelet` removing nothing.
#[tokio::test(flavor = "multi_thread")]
async fn no_credential_reaches_the_kubelet_with_an_upgrade() {
    let world = World::start().await;
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("cookie", "session=stolen"),
        ("proxy-authorization", "Basic c3RvbGVu"),
        ("x-remote-user", "system:admin"),
        ("impersonate-user", "system:admin"),
        ("x-forwarded-for", "192.0.2.1"),
        ("X_Remote_Group", "system:masters"),
    ];
    for client in [world.stranger(), world.client("bob")] {
        world.kubelet.clear();
        let socket = client.websocket(CAT, &[V5], &headers).await.unwrap();
        let stream = client.spdy("POST", CAT, &headers).await.unwrap();
        assert_eq!((socket.status().as_u16(), stream.status().as_u16()), (101, 101));
        let seen = world.kubelet.requests();
        assert_eq!(seen.len(), 2);
        for (name, _) in headers {
            assert!(seen.iter().all(|seen| seen.header(name).is_none()), "{name}");
        }
        assert!(!format!("{seen:?}").contains(ADMIN_TOKEN));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_end_ends_the_stream_at_the_kubelet() {
    let world = World::start().await;
    let bob = world.client("bob");
    let (shell, stream) = (websocket(&bob, SHELL, V5).await, spdy(&bob, SHELL).await);
    streams_are(&world, 2).await;
    drop(shell);
    streams_are(&world, 1).await;
    drop(stream);
    streams_are(&world, 0).await;

    // The same with a proper end.
    let mut stream = spdy(&bob, SHELL).await;
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    streams_are(&world, 0).await;
    drop(stream);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelets_end_ends_the_stream_at_the_client() {
    let mut world = World::start().await;
    let bob = world.client("bob");
    let (mut shell, mut stream) = (websocket(&bob, SHELL, V5).await, spdy(&bob, SHELL).await);
    streams_are(&world, 2).await;
    let address = world.stop_kubelet().await;
    // Without a goodbye of the kubelet the client sees the end.
    let end = shell.next_channel().await;
    assert!(matches!(end, Err(ClientError::Closed(_)) | Ok(None)), "{end:?}");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    eventually("no stream is left", || world.metric("streams", &[]) == 0.0).await;
    world.start_kubelet(address).await;
    drop((shell, stream));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_ends_and_one_with_traffic_goes_on() {
    let world = World::builder()
        .set("streamingConnectionIdleTimeout", "1500ms")
        .start()
        .await;
    let bob = world.client("bob");
    let (mut silent, mut busy) = (spdy(&bob, SHELL).await, spdy(&bob, SHELL).await);
    let (mut pings, mut ended) = (0, false);
    // One stream is kept busy until well after the other has ended.
    while !ended || pings < 150 {
        busy.write_all(b".").await.unwrap();
        busy.flush().await.unwrap();
        assert_eq!(busy.read_u8().await.unwrap(), b'.');
        pings += 1;
        let read = tokio::time::timeout(Duration::from_millis(20), silent.read_u8()).await;
        ended |= read.is_ok_and(|read| read.is_err());
        assert!(pings < 1000, "the silent stream does not end");
        if ended {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    streams_are(&world, 1).await;
    drop((silent, busy));
    let events = world.audit_events(4).await;
    let ends: Vec<_> = events
        .iter()
        .filter_map(|event| event["annotations"]["kubelet-gate.dev/ended-by"].as_str())
        .collect();
    assert_eq!(ends, ["idle", "client"]);
    world.stop().await;
}

/// `kubectl exec … | less` may stay on its first page for an hour; a kubelet waits as long.
///
/// Seen red: with the deadline for stalled writes in force on tunnels.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_pauses_is_not_cut() {
    const MUCH: usize = 32 << 20;
    let world = World::builder()
        .set("limits.writeStallTimeout", "200ms")
        .start()
        .await;
    let stream = spdy(&world.client("bob"), SHELL).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let wrote = Arc::new(AtomicUsize::new(0));
    let writing = tokio::spawn({
        let wrote = wrote.clone();
        async move {
            let piece = vec![b'.'; 64 << 10];
            for _ in 0..MUCH / piece.len() {
                writer.write_all(&piece).await.unwrap();
                wrote.fetch_add(piece.len(), Relaxed);
            }
            writer
        }
    });
    // When no more can be written every buffer on the way is full. Five times the deadline later the stream
    // must not be cut.
    let (mut before, mut quiet) = (0, 0);
    while quiet < 20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = wrote.load(Relaxed);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
    assert!(before < MUCH, "the writer did not have to wait");
    let mut piece = vec![0; 64 << 10];
    let mut read = 0;
    while read < MUCH {
        read += match reader.read(&mut piece).await.unwrap() {
            0 => panic!("cut after {read} bytes"),
            more => more,
        };
    }
    drop((writing.await.unwrap(), reader));
    assert_eq!(
        world.metric("rejections_total", &[("reason", "write_stall")]),
        0.0
    );
    world.stop().await;
}

/// An auditor must see an open shell while it is open, and afterwards how many bytes went through it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_two_audit_events_with_one_id_and_its_bytes() {
    let world = World::start().await;
    let mut stream = spdy(&world.client("bob"), SHELL).await;
    let started = world.audit_events(1).await.remove(0);
    stream.write_all(&[b'x'; 1000]).await.unwrap();
    stream.flush().await.unwrap();
    stream.read_exact(&mut [0; 1000]).await.unwrap();
    drop(stream);
    let ended = world.audit_events(2).await.remove(1);
    assert_eq!(started["stage"], "ResponseStarted");
    assert_eq!(ended["stage"], "ResponseComplete");
    for field in [
        "auditID",
        "user",
        "requestURI",
        "verb",
        "objectRef",
        "responseStatus",
    ] {
        assert_eq!(started[field], ended[field]);
        assert_ne!(started[field], Value::Null);
    }
    assert_eq!(started["responseStatus"]["code"], 101);
    let annotation = |name: &str| &ended["annotations"][format!("kubelet-gate.dev/{name}")];
    assert_eq!(annotation("bytes-received"), "1000");
    assert_eq!(annotation("bytes-sent"), "1000");
    assert_eq!(annotation("ended-by"), "client");
    world.stop().await;
}

/// HTTP/2 has no upgrade: its headers make a request malformed there, which must not count as an exec without
/// an upgrade.
#[tokio::test(flavor = "multi_thread")]
async fn http_2_cannot_upgrade() {
    let world = World::start().await;
    let mut connection = world.h2_client("bob").connect().await.unwrap();
    let exec = crate::world::request(
        "GET",
        SHELL,
        &[("upgrade", "websocket"), ("connection", "upgrade")],
    );
    let answer = connection.send(exec).await;
    assert!(!answer.is_ok_and(|answer| answer.status() == 101));
    let plain = world.h2_client("bob").get(SHELL).await.unwrap();
    assert_answer(&plain, 500, "Upgrade request required\n");
    assert_eq!(world.metric("streams", &[]), 0.0);
    drop(connection);
    world.stop().await;
}
