//! The clients of a kubelet's port, each behaving as the real one: what it sends, what it keeps open, which
//! servers it trusts.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use fakes::apiserver::{Review, User, token_hash};
use fakes::client::{
    Alpn, Client, ClientError, ClientTls, Connection, SpdyStream, Streaming, UpgradeAnswer, WsSession,
};
use fakes::pki::{Ca, CertificateSpec, Pair};
use http::Response;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::world::{World, request};

/// Which client it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An API server that translates to SPDY: up to 1.35, or for an older node.
    ExecSpdy,
    /// An API server that passes the user's WebSocket on, as since 1.36.
    ExecWebSocket,
    /// The same for a user's client that knows v4 only.
    ExecWebSocketV4,
    /// `kubectl port-forward` through the same API server.
    PortForwardTunnel,
    /// `kubectl logs -f`, where the kubelet's port offers HTTP/1.1 only.
    LogsHttp1,
    /// The same where it offers HTTP/2.
    LogsHttp2,
    /// Verifies the serving certificate, and keeps its connection: HTTP/2, which Go's client takes where it
    /// is offered.
    MetricsServer,
    /// Reads its token before each scrape, and its CA for each connection; with `enable_http2: false`.
    Prometheus,
    /// `kubectl get --raw /api/v1/nodes/N/proxy/logs/?query=…`, on the connection that the API server keeps.
    NodeProxy,
}

/// A client with an identity of its own, by which its reviews are recognised.
pub(super) struct Caller {
    pub(super) kind: Kind,
    user: String,
    credential: Credential,
    believes: Trust,
    gate: SocketAddr,
    source: IpAddr,
}

enum Credential {
    Certificate(Pair),
    TokenFile(PathBuf),
}

/// The serving certificates that a client accepts.
enum Trust {
    /// An API server without `--kubelet-certificate-authority`, which is how kubeadm starts it.
    AnyServer,
    /// Read when the client started.
    Cas(Vec<CertificateDer<'static>>),
    /// Read again for each connection.
    CaFile(PathBuf),
}

/// What a client keeps open.
pub(super) enum Open {
    Spdy(SpdyStream),
    WebSocket(WsSession, Kind),
    Log(Streaming),
    /// With the connection, on which further requests are sent.
    LogHttp2(Streaming, Connection),
    /// Between two requests.
    Kept(Connection),
}

/// A client with an open stream or connection.
pub(super) struct Running {
    pub(super) caller: Caller,
    open: Open,
}

pub(super) const EXEC: &str = "/exec/default/web/nginx?command=cat&input=1&output=1";
pub(super) const PORT_FORWARD: &str = "/portForward/default/web";
pub(super) const LOG: &str = "/containerLogs/default/web/nginx?follow=true";
pub(super) const NODE_LOG: &str = "/logs/?query=kubelet&tailLines=10";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// A client that still runs after this time has not ended at once.
const MOMENT: Duration = Duration::from_millis(1);

// === impl Kind ===

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::ExecSpdy,
        Self::ExecWebSocket,
        Self::ExecWebSocketV4,
        Self::PortForwardTunnel,
        Self::LogsHttp1,
        Self::LogsHttp2,
        Self::MetricsServer,
        Self::Prometheus,
        Self::NodeProxy,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ExecSpdy => "exec SPDY",
            Self::ExecWebSocket => "exec WebSocket v5",
            Self::ExecWebSocketV4 => "exec WebSocket v4",
            Self::PortForwardTunnel => "port-forward tunnel",
            Self::LogsHttp1 => "logs -f HTTP/1.1",
            Self::LogsHttp2 => "logs -f HTTP/2",
            Self::MetricsServer => "metrics-server HTTP/2",
            Self::Prometheus => "Prometheus HTTP/1.1",
            Self::NodeProxy => "node proxy /logs/",
        }
    }

    /// What the kubelet must see, byte for byte.
    pub(super) fn targets(self) -> &'static [&'static str] {
        match self {
            Self::ExecSpdy | Self::ExecWebSocket | Self::ExecWebSocketV4 => &[EXEC],
            Self::PortForwardTunnel => &[PORT_FORWARD],
            Self::LogsHttp1 | Self::LogsHttp2 => &[LOG],
            Self::MetricsServer => &["/metrics/resource"],
            Self::Prometheus => &["/metrics", "/metrics/cadvisor"],
            Self::NodeProxy => &[NODE_LOG],
        }
    }

    pub(super) fn has_token(self) -> bool {
        matches!(self, Self::MetricsServer | Self::Prometheus)
    }

    /// The headers by which the client describes itself.
    fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::MetricsServer => &[
                (
                    "user-agent",
                    "metrics-server/v0.8.0 (linux/amd64) kubernetes/98b3519",
                ),
                ("accept-encoding", "gzip"),
            ],
            Self::Prometheus => &[
                ("user-agent", "Prometheus/3.7.1"),
                (
                    "accept",
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;\
                     q=0.3,*/*;q=0.1",
                ),
                ("accept-encoding", "gzip"),
                ("x-prometheus-scrape-timeout-seconds", "10"),
            ],
            Self::NodeProxy => &[
                ("user-agent", "kubectl/v1.36.2 (linux/amd64) kubernetes/98b3519"),
                ("accept", "application/json, */*"),
                ("accept-encoding", "gzip"),
                ("x-forwarded-for", "127.0.0.1"),
                ("x-forwarded-uri", "/api/v1/nodes/worker-1/proxy/logs/"),
            ],
            Self::LogsHttp1 => &[("user-agent", "Go-http-client/1.1"), ("accept-encoding", "gzip")],
            Self::LogsHttp2 => &[("user-agent", "Go-http-client/2.0"), ("accept-encoding", "gzip")],
            _ => &[
                ("user-agent", "kubectl/v1.36.2 (linux/amd64) kubernetes/98b3519"),
                ("x-forwarded-for", "127.0.0.1"),
            ],
        }
    }
}

// === impl Caller ===

impl Caller {
    /// A new client: an API server's certificate is issued by `ca`, a serving certificate must be by one of
    /// `believed`. `number` makes its name unique.
    pub(super) fn new(world: &World, kind: Kind, number: usize, ca: &Ca, believed: &[&Ca]) -> Self {
        let name = format!("{}-{number}", kind.name().replace([' ', '/'], "-").to_lowercase());
        let (user, credential) = if kind.has_token() {
            let file = world.file(&format!("{name}.token"));
            let user = rotate_token(world, &file, &name);
            (user, Credential::TokenFile(file))
        } else {
            let spec = CertificateSpec::client(&name).group("kubeadm:cluster-admins");
            (
                name.clone(),
                Credential::Certificate(ca.issue(&name, &spec).unwrap()),
            )
        };
        let believes = match kind {
            Kind::MetricsServer => Trust::Cas(believed.iter().map(|ca| ca.certificate().clone()).collect()),
            Kind::Prometheus => Trust::CaFile(world.file("prometheus-ca.crt")),
            _ => Trust::AnyServer,
        };
        let index = Kind::ALL.iter().position(|other| *other == kind).unwrap();
        Self {
            kind,
            user,
            credential,
            believes,
            gate: world.address,
            // Each client has a machine of its own.
            source: IpAddr::from([127, 0, 10, u8::try_from(index + 1).unwrap()]),
        }
    }

    /// Sends the client's requests and keeps open what it keeps open. Yields the status, or what came
    /// instead.
    pub(super) async fn start(self) -> (String, Result<Running, Self>) {
        match self.open().await {
            Ok((status, Some(open))) => (status, Ok(Running { caller: self, open })),
            Ok((status, None)) => (status, Err(self)),
            Err(error) => (word(&error), Err(self)),
        }
    }

    /// The reviews about this client: `T` and `A`, with a + if there was more than one.
    pub(super) fn reviews(&self, reviews: &[Review]) -> String {
        let token = match &self.credential {
            Credential::TokenFile(file) => token_hash(&fs::read_to_string(file).unwrap()),
            Credential::Certificate(_) => String::new(),
        };
        let mine = |review: &&Review| match review {
            Review::Token { sha256, .. } => *sha256 == token,
            Review::Access { spec } => spec["user"] == self.user.as_str(),
        };
        let mut text = String::new();
        for letter in ['T', 'A'] {
            let asked = reviews.iter().filter(mine);
            let count = asked
                .filter(|review| matches!(review, Review::Token { .. }) == (letter == 'T'))
                .count();
            match count {
                0 => {}
                1 => text.push(letter),
                _ => text.extend([letter, '+']),
            }
        }
        if text.is_empty() { "-".to_owned() } else { text }
    }

    async fn open(&self) -> Result<(String, Option<Open>), ClientError> {
        let (client, kind) = (self.client(), self.kind);
        let switched = |status: http::StatusCode, open| (status.as_u16().to_string(), open);
        Ok(match kind {
            Kind::ExecSpdy => {
                let headers = [("content-length", "0"), kind.headers()[0], kind.headers()[1]];
                let answer = client.spdy("POST", EXEC, &headers).await?;
                switched(answer.status(), answer.switched().map(Open::Spdy))
            }
            Kind::ExecWebSocket | Kind::ExecWebSocketV4 | Kind::PortForwardTunnel => {
                let (target, protocol) = match kind {
                    Kind::PortForwardTunnel => (PORT_FORWARD, TUNNEL),
                    Kind::ExecWebSocket => (EXEC, "v5.channel.k8s.io"),
                    _ => (EXEC, "v4.channel.k8s.io"),
                };
                let answer = client.websocket(target, &[protocol], kind.headers()).await?;
                if let UpgradeAnswer::Switched(_, session) = &answer {
                    assert_eq!(session.protocol(), Some(protocol));
                }
                let open = |session| Open::WebSocket(session, kind);
                switched(answer.status(), answer.switched().map(open))
            }
            Kind::LogsHttp1 => {
                let answer = client.open(request("GET", LOG, kind.headers())).await?;
                let (status, log) = (answer.status(), answer.into_body());
                switched(status, (status == 200).then(|| Open::Log(log)))
            }
            Kind::LogsHttp2 => {
                let mut connection = client.connect().await?;
                let answer = connection.open(request("GET", LOG, kind.headers())).await?;
                let (status, log) = (answer.status(), answer.into_body());
                switched(status, (status == 200).then(|| Open::LogHttp2(log, connection)))
            }
            Kind::MetricsServer | Kind::Prometheus | Kind::NodeProxy => {
                let mut connection = client.connect().await?;
                let status = self.ask(&mut connection).await?;
                let open = (status == "200").then(|| Open::Kept(connection));
                (status, open)
            }
        })
    }

    /// One round of requests on a kept connection: 200, or the first other status. Later requests may have
    /// another answer, since a failure is forgotten at any moment.
    async fn ask(&self, connection: &mut Connection) -> Result<String, ClientError> {
        for target in self.kind.targets() {
            let authorization = match &self.credential {
                Credential::TokenFile(file) => format!("Bearer {}", fs::read_to_string(file).unwrap()),
                Credential::Certificate(_) => String::new(),
            };
            let mut headers = self.kind.headers().to_vec();
            if !authorization.is_empty() {
                headers.push(("authorization", &authorization));
            }
            let answer: Response<Bytes> = connection.send(request("GET", target, &headers)).await?;
            if answer.status() != 200 {
                return Ok(answer.status().as_u16().to_string());
            }
        }
        Ok("200".to_owned())
    }

    fn client(&self) -> Client {
        let tls = ClientTls {
            roots: match &self.believes {
                Trust::AnyServer => None,
                Trust::Cas(cas) => Some(cas.clone()),
                Trust::CaFile(file) => Some(
                    CertificateDer::pem_file_iter(file)
                        .unwrap()
                        .map(Result::unwrap)
                        .collect(),
                ),
            },
            certificate: match &self.credential {
                Credential::Certificate(pair) => Some((pair.chain.clone(), pair.key.clone_key())),
                Credential::TokenFile(_) => None,
            },
            alpn: match self.kind {
                Kind::LogsHttp2 | Kind::MetricsServer => Alpn::H2,
                _ => Alpn::H1,
            },
            ..ClientTls::default()
        };
        Client::new(self.gate, tls)
            .unwrap()
            .with_source(self.source)
            .with_deadline(Duration::from_secs(30))
    }
}

// === impl Running ===

impl Running {
    /// Asks once more: with a new stream beside the open one, or another request on the kept connection.
    pub(super) async fn again(&mut self) -> String {
        let status = match &mut self.open {
            Open::Kept(connection) => self.caller.ask(connection).await,
            Open::LogHttp2(_, connection) => {
                let log = request("GET", LOG, self.caller.kind.headers());
                let answer = connection.open(log).await;
                answer.map(|answer| answer.status().as_u16().to_string())
            }
            _ => self.caller.open().await.map(|(status, _)| status),
        };
        status.unwrap_or_else(|error| word(&error))
    }

    /// Whether what is open still works: bytes go both ways, or new lines come.
    pub(super) async fn lives(&mut self) -> bool {
        let lives = match &mut self.open {
            Open::Spdy(stream) => {
                async {
                    stream.write_all(b"spdy").await?;
                    stream.flush().await?;
                    let mut back = [0; 4];
                    stream.read_exact(&mut back).await?;
                    Ok::<_, ClientError>(back == *b"spdy")
                }
                .await
            }
            Open::WebSocket(session, Kind::PortForwardTunnel) => {
                async {
                    session.send(&b"tunnel"[..]).await?;
                    Ok(session.next().await?.as_deref() == Some(b"tunnel"))
                }
                .await
            }
            Open::WebSocket(session, _) => {
                async {
                    session.send_stdin(b"meow").await?;
                    Ok(session.read_stdout(4).await? == b"meow")
                }
                .await
            }
            Open::Log(log) | Open::LogHttp2(log, _) => {
                async {
                    // Lines that have arrived earlier prove nothing.
                    while let Ok(piece) = timeout(MOMENT, log.next()).await {
                        if piece?.is_none() {
                            return Ok(false);
                        }
                    }
                    Ok(log.next().await?.is_some())
                }
                .await
            }
            Open::Kept(connection) => Ok(!connection.is_closed()),
        };
        lives.unwrap_or_else(|error: ClientError| {
            println!("{}: {error}", self.caller.kind.name());
            false
        })
    }
}

/// Writes a new token for the service account of this name into the file and revokes the old one. Yields the
/// user.
pub(super) fn rotate_token(world: &World, file: &Path, name: &str) -> String {
    let old = fs::read_to_string(file).ok();
    let serial = old.as_deref().map_or(1, |old| {
        old.rsplit('.').next().unwrap().parse::<u64>().unwrap() + 1
    });
    if let Some(old) = old {
        world.api.revoke_token(&old);
    }
    let token = format!("{name}.{serial}");
    let mut user = User::service_account("monitoring", name);
    user.extra.insert(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("JTI={token}")],
    );
    world.api.add_token(&token, user.clone());
    // As the kubelet does for a pod: the file is never half written.
    let fresh = file.with_extension("new");
    fs::write(&fresh, token).unwrap();
    fs::rename(fresh, file).unwrap();
    user.name
}

/// One word for what came instead of an answer.
fn word(error: &ClientError) -> String {
    match error {
        ClientError::Closed(_) => "closed",
        ClientError::Refused => "no gate",
        ClientError::Timeout(_) => "silence",
        ClientError::Tls(_) => "tls",
        ClientError::Protocol(_) | ClientError::Setup(_) => "broken",
    }
    .to_owned()
}
