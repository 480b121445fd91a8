//! Requests to switch protocols: WebSocket, SPDY/3.1, or any headers.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, response};
use http_body_util::Full;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::{Client, ClientError, Connection, WsSession, build, value, websocket};

/// The answer to a request to switch protocols.
pub enum UpgradeAnswer<T> {
    /// The protocol was switched: the head of the 101, and the stream.
    Switched(Box<response::Parts>, T),
    /// Any other answer.
    Refused(Response<Bytes>),
}

/// An upgraded connection. Bytes that the server sent with the 101 are read first.
pub type SpdyStream = TokioIo<Upgraded>;

// === impl Client ===

impl Client {
    /// Asks for a WebSocket with these subprotocols.
    ///
    /// # Errors
    ///
    /// No answer, or an invalid one. A refusal is not an error.
    pub async fn websocket(
        &self,
        target: &str,
        protocols: &[&str],
        headers: &[(&str, &str)],
    ) -> Result<UpgradeAnswer<WsSession>, ClientError> {
        let key = websocket::key();
        let mut request = build("GET", target, headers)?;
        let sent = request.headers_mut();
        sent.insert("connection", HeaderValue::from_static("Upgrade"));
        sent.insert("upgrade", HeaderValue::from_static("websocket"));
        sent.insert("sec-websocket-version", HeaderValue::from_static("13"));
        sent.insert("sec-websocket-key", value(&key)?);
        if !protocols.is_empty() {
            sent.append("sec-websocket-protocol", value(&protocols.join(", "))?);
        }
        match self.upgrade(request).await? {
            UpgradeAnswer::Refused(answer) => Ok(UpgradeAnswer::Refused(answer)),
            UpgradeAnswer::Switched(head, io) => {
                let session = WsSession::new(&head, &key, io, self.deadline).await?;
                Ok(UpgradeAnswer::Switched(head, session))
            }
        }
    }

    /// Asks for SPDY/3.1, with the stream protocol of the endpoint unless the headers name one. Yields the
    /// bytes as they are.
    ///
    /// # Errors
    ///
    /// No answer. A refusal is not an error.
    pub async fn spdy(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<UpgradeAnswer<SpdyStream>, ClientError> {
        let mut request = build(method, target, headers)?;
        let protocol = if target.starts_with("/portForward") {
            "portforward.k8s.io"
        } else {
            "v4.channel.k8s.io"
        };
        let sent = request.headers_mut();
        sent.insert("connection", HeaderValue::from_static("Upgrade"));
        sent.insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
        sent.entry("x-stream-protocol-version")
            .or_insert(HeaderValue::from_static(protocol));
        self.upgrade(request).await
    }

    /// Sends a request whose headers ask for an upgrade.
    ///
    /// # Errors
    ///
    /// No answer. A refusal is not an error.
    pub async fn upgrade(&self, request: Request<()>) -> Result<UpgradeAnswer<SpdyStream>, ClientError> {
        // Upgrades exist in HTTP/1.1 only, even if this client uses HTTP/2.
        let io = self
            .within(self.dial(self.tls.as_ref().map(|tls| &tls.h1_config)))
            .await?;
        let mut connection = Connection::new(io, false, self.authority(), self.deadline).await?;
        let answer = connection
            .open(request.map(|()| Full::<Bytes>::default()))
            .await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (head, body) = answer.into_parts();
            return Ok(UpgradeAnswer::Refused(Response::from_parts(
                head,
                body.collect().await?,
            )));
        }
        let (head, body) = answer.into_parts();
        let upgraded = self.within(body.upgraded()).await?;
        Ok(UpgradeAnswer::Switched(Box::new(head), TokioIo::new(upgraded)))
    }
}

// === impl UpgradeAnswer ===

impl<T> UpgradeAnswer<T> {
    /// The answer's status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.head().0
    }

    /// The answer's headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.head().1
    }

    /// The stream, if the protocol was switched.
    #[must_use]
    pub fn switched(self) -> Option<T> {
        match self {
            Self::Switched(_, stream) => Some(stream),
            Self::Refused(_) => None,
        }
    }

    /// The answer, if the protocol was not switched.
    #[must_use]
    pub fn refused(self) -> Option<Response<Bytes>> {
        match self {
            Self::Switched(..) => None,
            Self::Refused(answer) => Some(answer),
        }
    }

    fn head(&self) -> (StatusCode, &HeaderMap) {
        match self {
            Self::Switched(head, _) => (head.status, &head.headers),
            Self::Refused(answer) => (answer.status(), answer.headers()),
        }
    }
}

impl<T> fmt::Debug for UpgradeAnswer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeAnswer")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
