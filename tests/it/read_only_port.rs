//! A kubelet's read-only port serves pods and their environment to every client. If one path of it still
//! answered, what the gate guards could be read there.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use fakes::client::Client;
use kubelet_gate::settings::{KubeletFlags, Settings};
use tokio::net::{TcpSocket, TcpStream};

use crate::patience::eventually_answers;
use crate::skipped::skip;
use crate::world::{Status as _, World, assert_answer, header};

/// Every method and target that was recorded on a kubelet's read-only port.
const RECORDED: &str = include_str!("data/read_only.tsv");

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_path_is_410_and_counted() {
    let world = World::builder().always_allow().anonymous().start().await;
    let client = Client::plain(world.read_only);
    let (mut gone, mut malformed) = (0, 0);
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        let (method, target) = line.split_once('\t').unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nHost: node:10255\r\nConnection: close\r\n\r\n");
        let answer = String::from_utf8(client.raw(request.as_bytes()).await.unwrap()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if target == "\\pods" {
            // What is not HTTP gets no explanation.
            malformed += 1;
            assert!(
                head.starts_with("HTTP/1.1 400 ") && body.is_empty(),
                "{line}: {answer}"
            );
        } else {
            gone += 1;
            assert!(head.starts_with("HTTP/1.1 410 Gone\r\n"), "{line}: {answer}");
            assert_eq!(body.is_empty(), method == "HEAD", "{line}: {body}");
        }
    }
    println!("replay of the read-only port: {gone} are 410 now, {malformed} are no HTTP and 400, 0 others");
    assert_eq!((gone, malformed), (936, 8));
    let answer = client.get("/pods").await.unwrap();
    let sentence = String::from_utf8(answer.body().to_vec()).unwrap();
    let port = world.address.port();
    assert_eq!(
        sentence,
        format!(
            "The kubelet's read-only port is closed on this node: ask GET https://NODE:{port}/pods instead, \
             with a client certificate or a bearer token that may get nodes/pods or get nodes/proxy.\n"
        )
    );
    assert_eq!(header(&answer, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(
        world.metric("read_only_port_requests_total", &[]),
        f64::from(gone + 1)
    );
    world.assert_nothing_forwarded();
    assert_eq!(world.audit(), [] as [serde_json::Value; 0]);
    world.stop().await;
}

/// The explanation names the permission that the gate will check, as its 403 does. Seen red: with the first
/// subresource alone, nodes/proxy was missing.
#[tokio::test(flavor = "multi_thread")]
async fn the_explanation_names_what_the_gate_checks() {
    let world = World::builder().set("limits.cacheEntries", 64).start().await;
    let (tombstone, alice) = (Client::plain(world.read_only), world.client("alice"));
    let (mut named, mut general) = (0, 0);
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        let (method, target) = line.split_once('\t').unwrap();
        if !matches!(method, "GET" | "POST") || !target.is_ascii() || !target.starts_with('/') {
            continue;
        }
        let request = format!("{method} {target} HTTP/1.1\r\nHost: node:10255\r\nConnection: close\r\n\r\n");
        let answer = String::from_utf8(tombstone.raw(request.as_bytes()).await.unwrap()).unwrap();
        let Some((_, told)) = answer
            .split_once("ask ")
            .filter(|(_, told)| !told.starts_with("https"))
        else {
            assert!(
                answer.contains("closed on this node: ask https://NODE:"),
                "{line}: {answer}"
            );
            general += 1;
            continue;
        };
        named += 1;
        let (method, told) = told.split_once(" https://NODE:").unwrap();
        let (url, told) = told.split_once(" instead, ").unwrap();
        let path = &url[url.find('/').unwrap()..];
        let (_, told) = told.split_once(" that may ").unwrap();
        let told: Vec<&str> = told.trim_end_matches(".\n").split(" or ").collect();

        let refused = alice.call(method, path, &[], "").await.unwrap();
        let refused = String::from_utf8(refused.body().to_vec()).unwrap();
        let part = |after: &str, until: char| {
            let (_, rest) = refused.split_once(after).expect(&refused);
            rest.split(until).next().unwrap().to_owned()
        };
        let verb = part("verb=", ',');
        let asked = part("subresource(s)=[", ']');
        let asked: Vec<String> = asked
            .split(' ')
            .map(|one| format!("{verb} nodes/{one}"))
            .collect();
        assert_eq!(told, asked, "{line}");
    }
    println!("of the paths recorded, {named} have a replacement, {general} are nothing a kubelet knows");
    assert!(named >= 80 && general >= 40, "{named} {general}");
    world.assert_nothing_forwarded();
    world.stop().await;
}

/// Where the seal redirects the kubelet's port to the gate, the explanation names that port, which callers
/// know.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_reached_by_redirect_names_the_kubelets_port() {
    let world = World::builder().set("listen", vec!["0.0.0.0:0"]).start().await;
    let answer = Client::plain(world.read_only).get("/pods").await.unwrap();
    let sentence = String::from_utf8(answer.body().to_vec()).unwrap();
    let url = format!(" https://NODE:{}/pods ", world.kubelet.address().port());
    assert!(sentence.contains(&url), "{sentence}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_the_operators_choice() {
    for status in [404_u16, 403] {
        let world = World::builder().set("readOnlyPort.answer", status).start().await;
        let answer = Client::plain(world.read_only).get("/metrics").await.unwrap();
        assert_eq!(answer.status(), status);
        assert!(
            answer
                .body()
                .starts_with(b"The kubelet's read-only port is closed")
        );
        world.stop().await;
    }
}

/// Old agents, scanners and broken clients get the same answer or none, and never a reset that hides it. Seen
/// red: with the body read of a client that waits for 100 Continue, two answers.
#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_are_answered_alike() {
    let world = World::start().await;
    let client = Client::plain(world.read_only);
    let body = "x".repeat(200_000);
    let with_body = format!("POST /pods HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n{body}");
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(20_000));
    for request in [
        "GET /pods HTTP/1.0\r\n\r\n",
        "HEAD /pods HTTP/1.0\r\n\r\n",
        "GET /pods HTTP/1.1\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT node:10250 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://elsewhere/pods HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /exec/a/b/c HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "PUT /pods HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        "GET /pods HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        &with_body,
        &long,
    ] {
        let answer = String::from_utf8(client.raw(request.as_bytes()).await.unwrap()).unwrap();
        let line = &request[..request.len().min(60)];
        assert_eq!(
            answer.matches("HTTP/1.").count(),
            1,
            "{line}: one request, one answer: {answer}"
        );
        assert!(answer.contains(" 410 Gone\r\n"), "{line}: {answer}");
        assert!(answer.len() < 1024, "{line}: {answer}");
    }
    for broken in [
        "no HTTP\r\n\r\n",
        "GET /pods\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = client.raw(broken.as_bytes()).await.unwrap();
        assert!(
            !answer.starts_with(b"HTTP/1.1 2"),
            "{broken}: {}",
            answer.escape_ascii()
        );
    }
    world.assert_nothing_forwarded();
    world.stop().await;
}

/// Seen red: with the decoded path in the answer, CSI came back to the caller's terminal.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_request_comes_back_that_a_browser_or_terminal_obeys() {
    let world = World::start().await;
    let client = Client::plain(world.read_only);
    for target in [
        "/logs/<script>alert(1)</script>",
        "/logs/%3Cscript%3E",
        "/logs/%1b%5b2J",
        "/logs/\u{9b}2J",
        "/logs/x?<script>",
        "/pods?\"><script>",
        "/logs/\"x\"",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: <script>\r\nUser-Agent: <script>\r\n\r\n");
        let answer = client.raw(request.as_bytes()).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            !answer.contains(['<', '"', '\u{1b}', '\u{9b}']),
            "{target}: {answer}"
        );
        let clean = answer
            .bytes()
            .all(|byte| matches!(byte, b'\r' | b'\n' | b' '..=b'~'));
        assert!(clean, "{target}: {answer:?}");
        if answer.starts_with("HTTP/1.1 410 ") {
            for line in [
                "content-type: text/plain; charset=utf-8",
                "x-content-type-options: nosniff",
            ] {
                assert!(answer.contains(line), "{answer}");
            }
        }
    }
    world.stop().await;
}

/// A node's own health checks may go on while other requests are refused; the gate answers them by its own
/// probe of the kubelet.
#[tokio::test(flavor = "multi_thread")]
async fn local_health_checks_may_go_on() {
    let mut world = World::builder().set("readOnlyPort.healthz", true).start().await;
    let client = Client::plain(world.read_only);
    assert_answer(&client.get("/healthz").await.unwrap(), 200, "ok");
    let elsewhere = client.clone().with_source(IpAddr::from([127, 0, 0, 2]));
    assert_answer(&elsewhere.get("/healthz?verbose").await.unwrap(), 200, "ok");
    assert_answer(&client.call("HEAD", "/healthz", &[], "").await.unwrap(), 200, "");
    for (method, target) in [
        ("POST", "/healthz"),
        ("GET", "/healthz/ping"),
        ("GET", "/healthz/"),
        ("GET", "/pods"),
    ] {
        assert_eq!(
            client.call(method, target, &[], "").await.unwrap().status(),
            410,
            "{method} {target}"
        );
    }
    world.assert_nothing_forwarded();

    let address = world.stop_kubelet().await;
    eventually_answers("the kubelet is missed", async || {
        client.status("/healthz").await == 503
    })
    .await;
    assert_answer(
        &client.get("/healthz").await.unwrap(),
        503,
        "the kubelet cannot be reached\n",
    );
    world.start_kubelet(address).await;
    eventually_answers("it is back", async || client.status("/healthz").await == 200).await;
    world.stop().await;
}

/// Seen red: with a probe for each request, the kubelet was dialled a hundred times.
#[tokio::test(flavor = "multi_thread")]
async fn health_checks_cannot_flood_the_kubelet() {
    let world = World::builder().set("readOnlyPort.healthz", true).start().await;
    let client = Client::plain(world.read_only);
    let began = std::time::Instant::now();
    for _ in 0..50 {
        assert_answer(&client.get("/healthz").await.unwrap(), 200, "ok");
        assert_eq!(world.admin_client().status("/readyz").await, 200);
    }
    let (dialled, bound) = (
        world.kubelet.connections_accepted(),
        began.elapsed().as_secs() + 4,
    );
    assert!(dialled <= bound, "{dialled} connections, at most {bound}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_are_refused_unless_they_are_enabled() {
    let world = World::start().await;
    let answer = Client::plain(world.read_only).get("/healthz").await.unwrap();
    assert_eq!(answer.status(), 410);
    assert_eq!(world.kubelet.connections_accepted(), 0, "the kubelet was asked");
    world.stop().await;
}

/// Seen red: with the peer's address not checked, 200.
#[tokio::test(flavor = "multi_thread")]
async fn health_checks_are_answered_to_the_node_alone() {
    let Some(address) = own_address() else {
        return skip("this machine has no address but loopback");
    };
    let world = World::builder()
        .set("readOnlyPort.healthz", true)
        .set("readOnlyPort.listen", vec!["0.0.0.0:0"])
        .start()
        .await;
    // Dialled at its own address, the machine looks like a neighbour.
    let neighbour = Client::plain(SocketAddr::new(address, world.read_only.port()));
    assert_eq!(neighbour.status("/healthz").await, 410);
    let local = Client::plain(SocketAddr::new([127, 0, 0, 1].into(), world.read_only.port()));
    assert_answer(&local.get("/healthz").await.unwrap(), 200, "ok");
    world.stop().await;
}

/// Seen red: with newcomers refused when the places are taken, and with the addresses of loopback counted one
/// by one, of which each holds its share.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_no_health_check_out() {
    let Some(address) = own_address() else {
        return skip("this machine has no address but loopback");
    };
    let world = World::builder()
        .set("readOnlyPort.healthz", true)
        .set("readOnlyPort.listen", vec!["0.0.0.0:0"])
        .start()
        .await;
    let local = SocketAddr::new([127, 0, 0, 1].into(), world.read_only.port());
    let mut held = Vec::new();
    for address in [address, local.ip()] {
        for _ in 0..200 {
            let dialled = TcpStream::connect((address, local.port())).await;
            held.push(dialled.unwrap());
        }
        assert_answer(&Client::plain(local).get("/healthz").await.unwrap(), 200, "ok");
    }
    for last in 1..=200 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 1, last], 0))).unwrap();
        held.push(socket.connect(local).await.unwrap());
    }
    let late = Client::plain(local).with_source([127, 0, 0, 2].into());
    assert_answer(&late.get("/healthz").await.unwrap(), 200, "ok");
    let neighbour = Client::plain(SocketAddr::new(address, local.port()));
    assert_eq!(neighbour.status("/healthz").await, 410, "its own newest come in");
    assert!(world.metric("rejections_total", &[("reason", "evicted")]) >= 200.0);
    drop(held);
    world.stop().await;
}

/// The source address of this machine's packets to other machines. No packet is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn an_upstream_on_the_read_only_port_is_refused() {
    for url in [
        "http://127.0.0.1:10255",
        "https://127.0.0.1:10255",
        "http://[::1]:10255/",
    ] {
        let text = format!(
            "apiVersion: kubelet-gate.dev/v1alpha1\nkind: KubeletGateConfiguration\nlisten: \
             [\"127.0.0.1:0\"]\n\
             kubeconfig: kubeconfig\nupstream: {{url: \"{url}\"}}\ntlsCertFile: a.crt\ntlsPrivateKeyFile: \
             a.key\n\
             authentication: {{x509: {{clientCAFile: ca.crt}}}}\n"
        );
        let path = std::path::Path::new("/etc/kubelet-gate.yaml");
        let refused = Settings::parse(&text, path, &KubeletFlags::default())
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("upstream.url") && refused.contains("read-only port"),
            "{refused}"
        );
        let elsewhere = text.replace("10255", "10250").replace("https", "http");
        Settings::parse(&elsewhere, path, &KubeletFlags::default()).unwrap();
    }
}
