//! Who knocks, at which door, and what they are told.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::chain;
use crate::lab::Lab;
use fakes::client::{Client, ClientError, ClientTls, Connection, UpgradeAnswer};
use fakes::pki::Pair;

/// Somebody with or without credentials.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) name: &'static str,
    pub(super) pair: Option<&'a Pair>,
    pub(super) token: Option<&'static str>,
}

/// Somebody at a door.
pub(super) struct Caller {
    client: Client,
    token: Option<&'static str>,
}

/// What they were told.
pub(super) struct Said {
    /// `None`: there was no answer, and the text says why.
    pub(super) status: Option<u16>,
    /// The body, or what came out of a stream.
    pub(super) text: String,
}

// === impl Who ===

impl<'a> Who<'a> {
    pub(super) fn nobody(name: &'static str) -> Self {
        Self {
            name,
            pair: None,
            token: None,
        }
    }

    pub(super) fn certificate(name: &'static str, pair: &'a Pair) -> Self {
        Self {
            pair: Some(pair),
            ..Self::nobody(name)
        }
    }

    pub(super) fn token(name: &'static str, token: &'static str) -> Self {
        Self {
            token: Some(token),
            ..Self::nobody(name)
        }
    }

    /// At the open kubelet, whose certificate nobody can check and everybody takes as it is.
    pub(super) fn at_open(&self, lab: &Lab) -> Result<Caller, ClientError> {
        self.at(lab.kubelet.address(), ClientTls::default())
    }

    /// At the gate, whose certificate is the cluster's.
    pub(super) fn at_gate(&self, lab: &Lab) -> Result<Caller, ClientError> {
        let tls = ClientTls {
            roots: Some(vec![lab.pki.ca.certificate().clone()]),
            ..ClientTls::default()
        };
        self.at(lab.address(), tls)
    }

    /// At any door that speaks TLS.
    pub(super) fn at(&self, address: SocketAddr, tls: ClientTls) -> Result<Caller, ClientError> {
        let certificate = self.pair.map(|pair| (pair.chain.clone(), pair.key.clone_key()));
        let client = Client::new(address, ClientTls { certificate, ..tls })?;
        Ok(Caller {
            client,
            token: self.token,
        })
    }
}

// === impl Caller ===

impl Caller {
    /// At a port without TLS.
    pub(super) fn plain(address: SocketAddr) -> Self {
        Self {
            client: Client::plain(address),
            token: None,
        }
    }

    pub(super) async fn get(&self, target: &str) -> Said {
        self.call("GET", target, &[]).await
    }

    pub(super) async fn post(&self, target: &str) -> Said {
        self.call("POST", target, &[]).await
    }

    pub(super) async fn call(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Said {
        self.answer(method, target, headers).await.into()
    }

    /// POST that follows one redirect, as POST again: what a path trick is worth.
    pub(super) async fn post_following(&self, target: &str) -> Said {
        let answer = match self.answer("POST", target, &[]).await {
            Ok(answer) => answer,
            Err(error) => return Said::failed(&error),
        };
        let to = answer.headers().get("location").and_then(|to| to.to_str().ok());
        match to {
            Some(to) if answer.status().is_redirection() => {
                let said = self.post(to).await;
                let text = format!("{} to {to}: {}", answer.status().as_u16(), said.text);
                Said { text, ..said }
            }
            _ => Ok(answer).into(),
        }
    }

    /// Opens a connection to ask on more than once.
    pub(super) async fn connect(&self) -> Result<Connection, ClientError> {
        self.client.connect().await
    }

    /// Follows a log until so many lines have come.
    pub(super) async fn follow(&self, target: &str, lines: usize) -> Said {
        self.follow_lines(target, lines).await.unwrap_or_else(Said::from)
    }

    /// Runs a command over a WebSocket, as current clients do; the text is its output.
    pub(super) async fn exec_websocket(&self, target: &str) -> Said {
        self.run_websocket(target).await.unwrap_or_else(Said::from)
    }

    /// Opens an exec over SPDY, as older clients do, and writes; the text is what comes back.
    pub(super) async fn exec_spdy(&self, target: &str, write: &str) -> Said {
        self.echo_spdy(target, write).await.unwrap_or_else(Said::from)
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

    async fn follow_lines(&self, target: &str, lines: usize) -> Result<Said, ClientError> {
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
        Ok(Said {
            status: Some(answer.status().as_u16()),
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    async fn run_websocket(&self, target: &str) -> Result<Said, ClientError> {
        let authorization = self.authorization();
        let headers: Vec<_> = authorization
            .iter()
            .map(|value| ("authorization", value.as_str()))
            .collect();
        let protocols = ["v5.channel.k8s.io"];
        match self.client.websocket(target, &protocols, &headers).await? {
            UpgradeAnswer::Refused(answer) => Ok(Ok(answer).into()),
            UpgradeAnswer::Switched(head, mut session) => Ok(Said {
                status: Some(head.status.as_u16()),
                text: session.exec_read().await?.stdout_text(),
            }),
        }
    }

    async fn echo_spdy(&self, target: &str, write: &str) -> Result<Said, ClientError> {
        match self.client.spdy("POST", target, &[]).await? {
            UpgradeAnswer::Refused(answer) => Ok(Ok(answer).into()),
            UpgradeAnswer::Switched(head, mut stream) => {
                let mut back = vec![0; write.len()];
                let echo = async {
                    stream.write_all(write.as_bytes()).await?;
                    stream.flush().await?;
                    stream.read_exact(&mut back).await
                };
                tokio::time::timeout(ECHO, echo)
                    .await
                    .map_err(|_| ClientError::Timeout(ECHO))??;
                Ok(Said {
                    status: Some(head.status.as_u16()),
                    text: String::from_utf8_lossy(&back).into_owned(),
                })
            }
        }
    }

    fn authorization(&self) -> Option<String> {
        self.token.map(|token| format!("Bearer {token}"))
    }
}

// === impl Said ===

impl Said {
    pub(super) fn failed(error: &ClientError) -> Self {
        Self {
            status: None,
            text: chain(error),
        }
    }
}

impl From<ClientError> for Said {
    fn from(error: ClientError) -> Self {
        Self::failed(&error)
    }
}

impl From<Result<Response<Bytes>, ClientError>> for Said {
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

/// For bytes to come back from a stream.
const ECHO: std::time::Duration = std::time::Duration::from_secs(5);
