//! What a real API server sends for logs, exec, attach, port-forward and node proxy must reach a kubelet
//! behind the gate as it reaches one without a gate. Otherwise `kubectl` would break, and no test with the
//! tests' own client would notice.

mod frames;
mod recording;

use std::time::Duration;

use bytes::Bytes;
use fakes::apiserver::Api;
use fakes::client::{Alpn, Client, Connection, Duplex};
use fakes::kubelet::{Fault, RecordedRequest};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use self::recording::{Answer, Exchange, recordings};
use crate::patience::{eventually, patience};
use crate::world::{API_SERVER, PKI, World};

/// The first SubjectAccessReview of each path; the API server's user passes it, so there is no second.
const REVIEWS: [(&str, &str); 9] = [
    ("/containerLogs/", "get/proxy"),
    ("/logs/", "get/log"),
    ("/metrics", "get/metrics"),
    ("/pods", "get/pods"),
    ("/stats/", "get/stats"),
    // With every method: a GET runs commands too.
    ("/attach/", "create/proxy"),
    ("/exec", "create/proxy"),
    ("/portForward/", "create/proxy"),
    ("/run/", "create/proxy"),
];

/// The connections that an API server keeps to a kubelet, one per protocol.
#[derive(Default)]
struct Pooled {
    h1: Option<Box<dyn Duplex>>,
    h2: Option<Connection>,
}

/// A replay, and its differences from the recording.
struct Replay<'a> {
    world: &'a World,
    what: String,
    exchange: &'a Exchange,
    /// Streams whose end the audit has.
    ends: usize,
    differences: Vec<String>,
}

/// Seen red: with one `X-Stream-Protocol-Version` of five kept, the kubelet's 403; with `X-Forwarded-*`
/// forwarded, and with another `Host`, every exchange that has them; with the method's verb for exec, every
/// GET of a stream; with a tunnel that drops the kubelet's early bytes, some bytes did not come back.
#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_exchange_passes_unchanged() {
    let world = World::builder().without_caches().start().await;
    let (mut exchanges, mut upgrades, mut also_http2, mut differences) = (0, 0, 0, Vec::new());
    for (file, recorded) in recordings() {
        let mut pooled = Pooled::default();
        for (index, exchange) in recorded.iter().enumerate() {
            exchanges += 1;
            let what = format!("{file}[{index}] {} {}", exchange.method, exchange.uri);
            let mut replay = Replay::new(&world, what.clone(), exchange);
            if exchange.upgrade().is_some() {
                upgrades += 1;
                replay.upgrade().await;
            } else {
                replay.plain(&mut pooled).await;
            }
            differences.extend(replay.differences);

            // That kubelet offered HTTP/1.1 only. To the gate, which offers both, an API server sends this in
            // HTTP/2.
            if exchange.alpn != "h2" && exchange.upgrade().is_none() {
                also_http2 += 1;
                let exchange = exchange.clone().in_http2();
                let mut replay = Replay::new(&world, format!("{what} in HTTP/2"), &exchange);
                replay.plain(&mut pooled).await;
                differences.extend(replay.differences);
            }
        }
    }
    println!(
        "exchanges replayed: {exchanges}; of these upgraded, and ended from both sides: {upgrades}; in \
         HTTP/2, too: {also_http2}; differing: {}",
        differences.len()
    );
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(
        (exchanges, upgrades, also_http2),
        (18, 7, 9),
        "a recording is missing"
    );
    world.stop().await;
}

/// An API server forwards all that the user's client sent, be it a dashboard in a browser. That must work,
/// and the user's credentials must not reach the kubelet.
///
/// Seen red: with `cookie` removed from the forbidden headers, it reaches the kubelet.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_users_client_adds_is_forwarded_unless_it_is_a_credential() {
    let world = World::start().await;
    let added = [
        ("Origin", "https://dashboard.example"),
        (
            "Sec-Websocket-Extensions",
            "permessage-deflate; client_max_window_bits",
        ),
        ("Accept-Language", "de, en;q=0.5"),
        ("Kubectl-Command", "kubectl exec"),
        ("X-Amzn-Trace-Id", "Root=1-67891233-abcdef012345678912345678"),
        (
            "Traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("Audit-Id", "0b2d1a6e-2a77-4f42-b1a1-8ac6a1c5b1c4"),
    ];
    let removed = [
        ("Authorization", "Bearer of-the-user"),
        ("Cookie", "session=of-the-user"),
        ("Impersonate-User", "system:admin"),
        ("X-Remote-User", "front-proxy"),
        ("X-Forwarded-For", "192.0.2.1, 127.0.0.1"),
        ("X-Forwarded-Host", "cluster.example"),
    ];
    for (_, exchanges) in recordings() {
        for mut exchange in exchanges {
            // The certificate counts, whatever else is sent.
            for (name, value) in added.iter().chain(&removed) {
                exchange.header.insert(name.to_string(), vec![value.to_string()]);
            }
            let Some(_) = exchange.upgrade() else { continue };
            world.kubelet.clear();
            let mut stream = world.client(API_SERVER).stream().await.unwrap();
            let answer = exchange.upgrade_on(&mut stream).await;
            assert_eq!(answer.status, 101, "{} {}", exchange.method, exchange.uri);
            // The extension was not agreed on: the frames stay unchanged.
            assert_eq!(answer.header("sec-websocket-extensions"), None);
            let seen = &world.kubelet.requests()[0];
            for (name, value) in added {
                assert_eq!(values(seen, name), [value], "{name}");
            }
            for (name, _) in removed {
                assert_eq!(values(seen, name), [""; 0], "{name}");
            }
        }
    }
    assert_eq!(world.api.count(Api::Token), 0);
    world.stop().await;
}

// === impl Replay ===

impl<'a> Replay<'a> {
    fn new(world: &'a World, what: String, exchange: &'a Exchange) -> Self {
        Self {
            world,
            what,
            exchange,
            ends: ends(world).len(),
            differences: Vec::new(),
        }
    }

    /// A request with an ordinary answer, on a connection that the API server keeps for the next.
    async fn plain(&mut self, pooled: &mut Pooled) {
        let client = self.client().await;
        let body = self.answer_as_recorded();
        let answer = match self.exchange.proto.as_str() {
            "HTTP/2.0" => {
                if pooled.h2.is_none() {
                    pooled.h2 = Some(client.connect().await.unwrap());
                }
                self.exchange.send_h2(pooled.h2.as_mut().unwrap()).await
            }
            _ => {
                if pooled.h1.is_none() {
                    pooled.h1 = Some(client.stream().await.unwrap());
                }
                self.exchange.send_h1(pooled.h1.as_mut().unwrap()).await
            }
        };
        self.same("body of the answer", &body, &answer.body);
        self.check_answer(&answer);
        self.check_kubelet();
        self.check_reviews();
        self.world.kubelet.heal();
    }

    /// An upgrade on connections of its own: bytes both ways and the client's end; the kubelet's end; and a
    /// session with a client that speaks the protocol.
    async fn upgrade(&mut self) {
        let (from_client, from_kubelet) = match self.exchange.upgrade() {
            Some("websocket") => (frames::websocket_client(), frames::websocket_server()),
            _ => (frames::spdy(), frames::spdy()),
        };
        let client = self.client().await;

        self.clear();
        let early = Bytes::from(from_kubelet.clone());
        self.world.kubelet.adjust(move |knobs| {
            (knobs.raw_websockets, knobs.early_stream_bytes) = (true, early);
        });
        let mut stream = client.stream().await.unwrap();
        let answer = self.exchange.upgrade_on(&mut stream).await;
        self.check_answer(&answer);
        self.check_kubelet();
        self.check_reviews();
        if answer.status != 101 {
            return;
        }
        let back = exchange_bytes(&mut stream, answer.body, &from_client, from_kubelet.len()).await;
        self.same(
            "bytes from the kubelet",
            &from_kubelet[..],
            &back[..from_kubelet.len()],
        );
        self.same(
            "bytes to the kubelet and back",
            &from_client[..],
            &back[from_kubelet.len()..],
        );
        stream.shutdown().await.unwrap();
        self.both_ends(&mut stream, "client").await;

        self.world.kubelet.fail(
            &self.exchange.uri,
            Fault::Raw {
                bytes: [self.recorded_head().into_bytes(), from_kubelet.clone()]
                    .concat()
                    .into(),
                close: true,
            },
        );
        let mut stream = client.stream().await.unwrap();
        let mut bytes = self.exchange.upgrade_on(&mut stream).await.body;
        stream.read_to_end(&mut bytes).await.unwrap();
        self.same("last bytes of the kubelet", &from_kubelet, &bytes);
        // The gate would close it itself a second later.
        let _ = stream.shutdown().await;
        self.both_ends(&mut stream, "kubelet").await;

        self.world.kubelet.heal();
        self.world.kubelet.adjust(|knobs| {
            (knobs.raw_websockets, knobs.early_stream_bytes) = (false, Bytes::new());
        });
        if self.exchange.upgrade() == Some("websocket") {
            let mut stream = client.stream().await.unwrap();
            let answer = self.exchange.upgrade_on(&mut stream).await;
            let said = talk(stream, answer.body, &self.exchange.uri).await;
            let expected = match self.exchange.uri.as_str() {
                uri if uri.starts_with("/portForward") => "\u{80}\u{3}through the tunnel",
                uri if uri.starts_with("/attach") => {
                    "\u{1}\u{1}meow\u{3}{\"metadata\":{},\"status\":\"Success\"}"
                }
                _ => {
                    "\u{1}\u{1}uid=0(root) gid=0(root) \
                     groups=0(root)\n\u{3}{\"metadata\":{},\"status\":\"Success\"}"
                }
            };
            self.same("the session", expected, &said);
            let seen = self.ends;
            eventually("the session is in the audit", || ends(self.world).len() > seen).await;
        }
        self.no_stream_is_left().await;
    }

    /// A client like the API server: its certificate, and the protocol that it negotiated.
    async fn client(&mut self) -> Client {
        self.same(
            "subject of the certificate",
            "CN=kube-apiserver-kubelet-client,O=kubeadm:cluster-admins",
            &self.exchange.peer,
        );
        let alpn = match self.exchange.alpn.as_str() {
            "h2" => Alpn::H2,
            _ => Alpn::H1,
        };
        let client = self.world.tls_client(Some(&PKI.apiserver_client), alpn);
        let handshake = client.handshake().await.unwrap();
        self.same("ALPN", self.exchange.alpn.as_bytes(), &handshake.alpn.unwrap());
        client
    }

    /// Makes the kubelet answer as recorded. A body without a length was chunked; its content was not
    /// recorded.
    fn answer_as_recorded(&self) -> Vec<u8> {
        self.clear();
        let length = self.exchange.resp_header.get("Content-Length");
        let length = length.map_or(5000, |values| values[0].parse().unwrap());
        let body: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        // The fake kubelet adds these itself.
        let given = |(name, _): &(String, String)| !matches!(name.as_str(), "date" | "content-length");
        self.world.kubelet.fail(
            &self.exchange.uri,
            Fault::Answer {
                status: self.exchange.status,
                headers: self.exchange.answered().into_iter().filter(given).collect(),
                body: body.clone().into(),
            },
        );
        body
    }

    /// The recorded 101, as bytes.
    fn recorded_head(&self) -> String {
        let mut head = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
        for (name, value) in self.exchange.answered() {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    }

    fn clear(&self) {
        self.world.kubelet.clear();
        self.world.api.clear_reviews();
    }

    /// Compares status and headers of the answer but for the date. The gate's 101 has a date and a kubelet's
    /// has none: RFC 9110 §6.6.1 leaves that to the server.
    fn check_answer(&mut self, answer: &Answer) {
        let framing = |name: &str| name == "transfer-encoding" || (name == "date" && answer.status == 101);
        let sorted = |headers: &[(String, String)]| {
            let mut kept: Vec<_> = headers
                .iter()
                .filter(|(name, _)| !framing(name))
                .map(|(name, value)| (name.clone(), if name == "date" { "" } else { value }.to_owned()))
                .collect();
            kept.sort();
            kept
        };
        self.same("status", &self.exchange.status, &answer.status);
        self.same(
            "headers of the answer",
            &sorted(&self.exchange.answered()),
            &sorted(&answer.headers),
        );
    }

    /// Compares what the kubelet saw: the same request without the headers that claim its origin.
    fn check_kubelet(&mut self) {
        let seen = self.world.kubelet.requests();
        self.same("requests at the kubelet", &1, &seen.len());
        let Some(seen) = seen.first() else { return };
        self.same("method", &self.exchange.method, &seen.method);
        self.same("target", &self.exchange.uri, &seen.target);
        self.same("version", "HTTP/1.1", &seen.version);
        self.same("host", &[self.exchange.host.as_str()][..], &values(seen, "host"));
        for name in ["connection", "upgrade"] {
            let sent: Vec<&str> = self
                .exchange
                .headers()
                .into_iter()
                .filter(|(have, _)| have.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
                .collect();
            self.same(name, &sent, &values(seen, name));
        }
        // Values of one name keep their order; the order of names means nothing (RFC 9110 §5.3) and is not
        // kept.
        let ends_here = |name: &str| matches!(name, "connection" | "host" | "upgrade");
        let claims = |name: &str| matches!(name, "x-forwarded-for" | "x-forwarded-uri");
        let mut sent: Vec<(String, String)> = self
            .exchange
            .headers()
            .into_iter()
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .filter(|(name, _)| !ends_here(name) && !claims(name))
            .collect();
        let mut came: Vec<(String, String)> = seen
            .headers
            .iter()
            .map(|(name, value)| (name.to_lowercase(), value.clone()))
            .filter(|(name, _)| !ends_here(name))
            .collect();
        sent.sort_by(|(one, _), (other, _)| one.cmp(other));
        came.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.same("headers at the kubelet", &sent, &came);
        self.same("body at the kubelet", &self.exchange.body(), &seen.body);
    }

    /// Expects one review, about the certificate's user, and none of a token.
    fn check_reviews(&mut self) {
        let expected = REVIEWS
            .iter()
            .find(|(prefix, _)| self.exchange.uri.starts_with(prefix));
        let expected = expected.map_or("a review", |(_, check)| check);
        let specs = self.world.api.access_specs();
        self.same("all reviews", &1, &self.world.api.reviews().len());
        self.same("reviews", &[expected.to_owned()][..], &self.world.api.checks());
        let Some(spec) = specs.first() else { return };
        self.same("user", &serde_json::json!(API_SERVER), &spec["user"]);
        let groups = serde_json::json!(["kubeadm:cluster-admins", "system:authenticated"]);
        self.same("groups", &groups, &spec["groups"]);
    }

    /// Checks that the stream has ended at the client, at the kubelet and in the audit, and that this side
    /// ended it.
    async fn both_ends(&mut self, stream: &mut Box<dyn Duplex>, by: &str) {
        let end = timeout(patience(), stream.read(&mut [0])).await;
        self.same("bytes after the end", &Some(0), &end.ok().and_then(Result::ok));
        self.no_stream_is_left().await;
        let seen = self.ends;
        eventually("the end is in the audit", || ends(self.world).len() > seen).await;
        let ends = ends(self.world);
        self.same("ended by", &[by][..], &ends[seen..]);
        self.ends = ends.len();
    }

    async fn no_stream_is_left(&self) {
        eventually("no stream is left", || {
            self.world.kubelet.open_streams() == 0 && self.world.metric("streams", &[]) == 0.0
        })
        .await;
    }

    fn same<T: PartialEq<U> + std::fmt::Debug + ?Sized, U: std::fmt::Debug + ?Sized>(
        &mut self,
        what: &str,
        recorded: &T,
        found: &U,
    ) {
        if recorded != found {
            let text = |value: String| value.chars().take(600).collect::<String>();
            let (recorded, found) = (text(format!("{recorded:?}")), text(format!("{found:?}")));
            self.differences.push(format!(
                "{}: {what}: recorded {recorded}, found {found}",
                self.what
            ));
        }
    }
}

/// Writes while it reads, as both ends of a stream do, until all bytes are back.
async fn exchange_bytes(
    stream: &mut Box<dyn Duplex>,
    mut back: Vec<u8>,
    sent: &[u8],
    early: usize,
) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        // In pieces whose borders are not those of frames.
        for piece in sent.chunks(997) {
            write.write_all(piece).await.unwrap();
            write.flush().await.unwrap();
        }
    };
    let reading = async {
        while back.len() < early + sent.len() {
            assert_ne!(read.read_buf(&mut back).await.unwrap(), 0, "the stream ended");
        }
    };
    let both = async { tokio::join!(writing, reading) };
    timeout(Duration::from_secs(30), both)
        .await
        .expect("not everything came back");
    back
}

/// A session like `kubectl`'s, to the kubelet's goodbye. Yields all that came as text.
async fn talk(stream: Box<dyn Duplex>, early: Vec<u8>, target: &str) -> String {
    let mut socket = WebSocketStream::from_partially_read(stream, early, Role::Client, None).await;
    let messages: &[&[u8]] = match target {
        target if target.starts_with("/portForward") => &[b"\x80\x03through the tunnel"],
        // Only v5 can end standard input.
        target if target.contains("input=1") => &[b"\0meow", &[255, 0]],
        _ => &[],
    };
    for message in messages {
        let message = Message::Binary(Bytes::copy_from_slice(message));
        socket.send(message).await.unwrap();
    }
    let mut said = String::new();
    while let Some(message) = timeout(patience(), socket.next()).await.expect("silence") {
        match message.unwrap() {
            Message::Binary(data) => {
                said.extend(data.iter().map(|byte| char::from(*byte)));
                // A tunnel has no message for its end.
                if said.ends_with("through the tunnel") {
                    socket.close(None).await.unwrap();
                }
            }
            Message::Close(_) => {}
            other => panic!("{other:?}"),
        }
    }
    said
}

/// The side that ended each stream, as far as the audit has it.
fn ends(world: &World) -> Vec<String> {
    let events = world.audit();
    let ended_by = |event: &serde_json::Value| {
        let by = event["annotations"]["kubelet-gate.dev/ended-by"].as_str();
        by.map(str::to_owned)
    };
    events.iter().filter_map(ended_by).collect()
}

fn values<'a>(seen: &'a RecordedRequest, name: &str) -> Vec<&'a str> {
    let named = seen
        .headers
        .iter()
        .filter(|(have, _)| have.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str()).collect()
}
