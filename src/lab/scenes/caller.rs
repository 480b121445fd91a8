//! The callers of the scenes, their sessions with the kubelet and the gate, and the replies.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::chain;
use crate::lab::Lab;
use fakes::client::{Client, ClientError, ClientTls, Connection, UpgradeAnswer};
use fakes::pki::Pair;

/// A caller, with or without credentials.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) name: &'static str,
    pub(super) pair: Option<&'a Pair>,
    pub(super) token: Option<&'static str>,
}

/// A caller's client for one address.
pub(super) struct Session {
    client: Client,
    token: Option<&'static str>,
}

/// The reply to a request.
pub(super) struct Reply {
    /// `None` if there was no answer: the text has the reason.
    pub(super) status: Option<u16>,
    /// The body, or the output of a stream.
    pub(super) text: String,
}

// === impl Caller ===

impl<'a> Caller<'a> {
    pub(super) fn anonymous(name: &'static str) -> Self {
        Self {
            name,
            pair: None,
            token: None,
        }
    }

    pub(super) fn certificate(name: &'static str, pair: &'a Pair) -> Self {
        Self {
            pair: Some(pair),
            ..Self::anonymous(name)
        }
    }

    pub(super) fn token(name: &'static str, token: &'static str) -> Self {
        Self {
            token: Some(token),
            ..Self::anonymous(name)
        }
    }

    /// A session with the open kubelet, whose certificate clients cannot verify.
    pub(super) fn session_with_kubelet(&self, lab: &Lab) -> Result<Session, ClientError> {
        self.session(lab.kubelet.address(), ClientTls::default())
    }

    /// A session with the gate, whose certificate is of the cluster's CA.
    pub(super) fn session_with_gate(&self, lab: &Lab) -> Result<Session, ClientError> {
        let tls = ClientTls {
            roots: Some(vec![lab.pki.ca.certificate().clone()]),
            ..ClientTls::default()
        };
        self.session(lab.address(), tls)
    }

    /// A session with a TLS port.
    pub(super) fn session(&self, address: SocketAddr, tls: ClientTls) -> Result<Session, ClientError> {
        let certificate = self.pair.map(|pair| (pair.chain.clone(), pair.key.clone_key()));
        let client = Client::new(address, ClientTls { certificate, ..tls })?;
        Ok(Session {
            client,
            token: self.token,
        })
    }
}

// === impl Session ===

impl Session {
    /// A session with a port without TLS.
    pub(super) fn plain(address: SocketAddr) -> Self {
        Self {
            client: Client::plain(address),
            token: None,
        }
    }

    pub(super) async fn get(&self, target: &str) -> Reply {
        self.call("GET", target, &[]).await
    }

    pub(super) async fn post(&self, target: &str) -> Reply {
        self.call("POST", target, &[]).await
    }

    pub(super) async fn call(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.answer(method, target, headers).await.into()
    }

    /// POST that follows one redirect with POST, as the client of a path trick does.
    pub(super) async fn post_following(&self, target: &str) -> Reply {
        let answer = match self.answer("POST", target, &[]).await {
            Ok(answer) => answer,
            Err(error) => return Reply::failed(&error),
        };
        let to = answer.headers().get("location").and_then(|to| to.to_str().ok());
        match to {
            Some(to) if answer.status().is_redirection() => {
                let reply = self.post(to).await;
                let text = format!("{} to {to}: {}", answer.status().as_u16(), reply.text);
                Reply { text, ..reply }
            }
            _ => Ok(answer).into(),
        }
    }

    /// Opens a connection for several requests.
    pub(super) async fn connect(&self) -> Result<Connection, ClientError> {
        self.client.connect().await
    }

    /// Follows a log until this many lines have arrived.
    pub(super) async fn follow(&self, target: &str, lines: usize) -> Reply {
        self.follow_lines(target, lines).await.unwrap_or_else(Reply::from)
    }

    /// Runs a command over a WebSocket, as current clients do; the text is its output.
    pub(super) async fn exec_websocket(&self, target: &str) -> Reply {
        self.run_websocket(target).await.unwrap_or_else(Reply::from)
    }

    /// Opens an exec over SPDY, as older clients do, and writes. The text is what is echoed.
    pub(super) async fn exec_spdy(&self, target: &str, write: &str) -> Reply {
        self.echo_spdy(target, write).await.unwrap_or_else(Reply::from)
    }

    async fn answer(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Bytes>, ClientError> {
        let authorization = self.authorization();
        let mut all = headers.to_vec();
        all.extend(
            authorization
                .iter()
                .map(|value| ("authorization", value.as_str())),
        );
        self.client.call(method, target, &all, Bytes::new()).await
    }

    async fn follow_lines(&self, target: &str, lines: usize) -> Result<Reply, ClientError> {
        let mut request = Request::new(Full::<Bytes>::default());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = target
            .parse()
            .map_err(|error: http::uri::InvalidUri| ClientError::Setup(error.to_string()))?;
        let mut answer = self.client.open(request).await?;
        let mut text = Vec::new();
        while text.iter().filter(|byte| **byte == b'\n').count() < lines {
            let Some(piece) = answer.body_mut().next().await? else {
                break;
            };
            text.extend_from_slice(&piece);
        }
        Ok(Reply {
            status: Some(answer.status().as_u16()),
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    async fn run_websocket(&self, target: &str) -> Result<Reply, ClientError> {
        let authorization = self.authorization();
        let headers: Vec<_> = authorization
            .iter()
            .map(|value| ("authorization", value.as_str()))
            .collect();
        let protocols = ["v5.channel.k8s.io"];
        match self.client.websocket(target, &protocols, &headers).await? {
            UpgradeAnswer::Refused(answer) => Ok(Ok(answer).into()),
            UpgradeAnswer::Switched(head, mut session) => Ok(Reply {
                status: Some(head.status.as_u16()),
                text: session.exec_read().await?.stdout_text(),
            }),
        }
    }

    async fn echo_spdy(&self, target: &str, write: &str) -> Result<Reply, ClientError> {
        match self.client.spdy("POST", target, &[]).await? {
            UpgradeAnswer::Refused(answer) => Ok(Ok(answer).into()),
            UpgradeAnswer::Switched(head, mut stream) => {
                let mut echoed = vec![0; write.len()];
                let echo = async {
                    stream.write_all(write.as_bytes()).await?;
                    stream.flush().await?;
                    stream.read_exact(&mut echoed).await
                };
                tokio::time::timeout(ECHO, echo)
                    .await
                    .map_err(|_| ClientError::Timeout(ECHO))??;
                Ok(Reply {
                    status: Some(head.status.as_u16()),
                    text: String::from_utf8_lossy(&echoed).into_owned(),
                })
            }
        }
    }

    fn authorization(&self) -> Option<String> {
        self.token.map(|token| format!("Bearer {token}"))
    }
}

// === impl Reply ===

impl Reply {
    pub(super) fn failed(error: &ClientError) -> Self {
        Self {
            status: None,
            text: chain(error),
        }
    }
}

impl From<ClientError> for Reply {
    fn from(error: ClientError) -> Self {
        Self::failed(&error)
    }
}

impl From<Result<Response<Bytes>, ClientError>> for Reply {
    fn from(answer: Result<Response<Bytes>, ClientError>) -> Self {
        match answer {
            Ok(answer) => Self {
                status: Some(answer.status().as_u16()),
                text: String::from_utf8_lossy(answer.body()).into_owned(),
            },
            Err(error) => Self::failed(&error),
        }
    }
}

/// Deadline for a stream to echo.
const ECHO: std::time::Duration = std::time::Duration::from_secs(5);
