//! Old and new API servers with old and new kubelets (threat T40): a cluster is upgraded node by node, with
//! the gate in between.

use std::time::Duration;

use bytes::Bytes;
use fakes::client::{Alpn, Client, WsSession};
use fakes::kubelet::Fault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::assert_table;
use super::caller::{EXEC, LOG, PORT_FORWARD};
use crate::world::{API_SERVER, PKI, World, header, request};

const ATTACH: &str = "/attach/default/web/nginx?input=1&output=1";
const RUN: &str = "/run/default/web/nginx?cmd=id";
const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Whether the kubelet knows the WebSockets of 1.36, or redirects and refuses as older ones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kubelet {
    Old,
    New,
}

/// How an API server asks for a stream.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Up to 1.35, and 1.36 for a node that does not declare `ExtendWebSocketsToKubelet`.
    Spdy,
    /// The user's own WebSocket: every API server forwards v4, 1.36 also v5 and the tunnel.
    WebSocket(&'static str),
}

/// Columns: the API server; the kubelet; the command; how it is requested; the status; the agreed protocol;
/// the result.
///
/// Seen red: with `Sec-WebSocket-Protocol` taken out of the kubelet's answer, every WebSocket row; with
/// redirects refused as for an upgrade, 4 rows; with `Content-Length: 0` taken for a body, no SPDY stream.
#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_api_servers_reach_old_and_new_kubelets() {
    let world = World::start().await;
    let mut lines = Vec::new();
    for kubelet in [Kubelet::Old, Kubelet::New] {
        world.kubelet.adjust(|knobs| {
            knobs.extended_websockets = kubelet == Kubelet::New;
            knobs.log_interval = Duration::from_millis(20);
        });
        let h1 = world.client(API_SERVER);
        let h2 = world.tls_client(Some(&PKI.apiserver_client), Alpn::H2);
        let v4 = Way::WebSocket(V4);
        let v5 = Way::WebSocket(V5);
        let tunnel = Way::WebSocket(TUNNEL);
        let rows = [
            ("exec", EXEC, Way::Spdy),
            ("exec", EXEC, v4),
            ("attach", ATTACH, Way::Spdy),
            ("attach", ATTACH, v4),
            ("port-forward", PORT_FORWARD, Way::Spdy),
            ("port-forward", "/portForward/default/web?port=80", v4),
            // An old kubelet refuses this, and its own answer must pass.
            ("exec", EXEC, v5),
            ("attach", ATTACH, v5),
            ("port-forward", PORT_FORWARD, tunnel),
        ];
        for (command, target, way) in rows {
            let (status, agreed, outcome) = stream(&h1, target, way).await;
            let api_server = match (way, kubelet) {
                (Way::Spdy, Kubelet::Old) | (Way::WebSocket(V4), _) => "old, new",
                (Way::Spdy, Kubelet::New) => "old",
                (Way::WebSocket(_), _) => "new",
            };
            let way = match way {
                Way::Spdy => "POST SPDY",
                Way::WebSocket(protocol) => &format!("GET {protocol}"),
            };
            lines.push(
                [
                    api_server,
                    kubelet.name(),
                    command,
                    way,
                    &status.to_string(),
                    &agreed,
                    &outcome,
                ]
                .join("\t"),
            );
        }
        for (client, version) in [(&h1, "HTTP/1.1"), (&h2, "HTTP/2")] {
            for (command, status, outcome) in [
                logs(client).await,
                run(client).await,
                redirect(&world, client, kubelet).await,
            ] {
                let status = status.to_string();
                let cells = [
                    "old, new",
                    kubelet.name(),
                    command,
                    version,
                    &status,
                    "-",
                    &outcome,
                ];
                lines.push(cells.join("\t"));
            }
        }
    }
    assert_table(
        "api_server_kubelet.tsv",
        include_str!("../data/api_server_kubelet.tsv"),
        &lines,
    );
    world.stop().await;
}

// === impl Kubelet ===

impl Kubelet {
    fn name(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

/// Status, the agreed protocol, and what went through.
async fn stream(client: &Client, target: &str, way: Way) -> (u16, String, String) {
    match way {
        Way::Spdy => {
            let answer = client
                .spdy("POST", target, &[("content-length", "0")])
                .await
                .unwrap();
            let status = answer.status().as_u16();
            let agreed = answer.headers().get("x-stream-protocol-version");
            let agreed = agreed.map_or("-", |value| value.to_str().unwrap()).to_owned();
            let mut stream = answer.switched().unwrap();
            stream.write_all(b"bytes").await.unwrap();
            stream.flush().await.unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"bytes");
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut back).await.unwrap(), 0);
            (status, agreed, "bytes both ways, ended".to_owned())
        }
        Way::WebSocket(protocol) => {
            let answer = client.websocket(target, &[protocol], &[]).await.unwrap();
            let status = answer.status().as_u16();
            if status != 101 {
                let refused = answer.refused().unwrap();
                let words = String::from_utf8_lossy(refused.body()).trim_end().to_owned();
                return (status, "-".to_owned(), format!("refused: {words:?}"));
            }
            let session = answer.switched().unwrap();
            let agreed = session.protocol().unwrap_or("-").to_owned();
            let outcome = converse(session, protocol, target).await;
            (status, agreed, outcome)
        }
    }
}

async fn converse(mut session: WsSession, protocol: &str, target: &str) -> String {
    if target.starts_with("/portForward") {
        if protocol == V4 {
            // Each port's channels for data and errors begin with its number.
            assert_eq!(session.next().await.unwrap().unwrap(), &[0, 80, 0][..]);
            assert_eq!(session.next().await.unwrap().unwrap(), &[1, 80, 0][..]);
        }
        session.send(&b"\0bytes"[..]).await.unwrap();
        assert_eq!(session.next().await.unwrap().unwrap(), &b"\0bytes"[..]);
        session.close().await.unwrap();
        return "messages both ways, closed".to_owned();
    }
    session.send_stdin(b"meow").await.unwrap();
    assert_eq!(session.read_stdout(4).await.unwrap(), b"meow");
    if protocol == V4 {
        // v4 cannot end standard input: the client leaves.
        session.close().await.unwrap();
        return "messages both ways, closed".to_owned();
    }
    session.close_stdin().await.unwrap();
    let code = session.exec_read().await.unwrap().exit_code();
    format!("messages both ways, exit code {}", code.unwrap())
}

async fn logs(client: &Client) -> (&'static str, u16, String) {
    let answer = client.open(request("GET", LOG, &[])).await.unwrap();
    let (status, content_type) = (
        answer.status().as_u16(),
        header(&answer, "content-type").to_owned(),
    );
    let mut log = answer.into_body();
    let mut lines = 0;
    while lines < 8 {
        let piece = log.next().await.unwrap().unwrap();
        lines += piece.iter().filter(|byte| **byte == b'\n').count();
    }
    (
        "logs -f",
        status,
        format!("lines as they come, content type {content_type:?}"),
    )
}

async fn run(client: &Client) -> (&'static str, u16, String) {
    let answer = client.call("POST", RUN, &[], Bytes::new()).await.unwrap();
    let said = String::from_utf8_lossy(answer.body()).trim_end().to_owned();
    ("run", answer.status().as_u16(), said)
}

/// The answer of Go's mux to a path without its slash: 301 up to Go 1.25, 307 since.
async fn redirect(world: &World, client: &Client, kubelet: Kubelet) -> (&'static str, u16, String) {
    if kubelet == Kubelet::New {
        world.kubelet.fail(
            "/stats?",
            Fault::Answer {
                status: 307,
                headers: vec![("Location".to_owned(), "/stats/?a=b".to_owned())],
                body: Bytes::from_static(b"<a href=\"/stats/?a=b\">Temporary Redirect</a>.\n\n"),
            },
        );
    }
    let answer = client.get("/stats?a=b").await.unwrap();
    world.kubelet.heal();
    (
        "GET /stats",
        answer.status().as_u16(),
        format!("Location {}", header(&answer, "location")),
    )
}
