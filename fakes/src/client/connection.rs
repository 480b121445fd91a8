//! A connection for several requests, and bodies that are sent and read piece by piece.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{ClientError, Duplex, within};

/// An open connection. Dropping it closes it.
pub struct Connection {
    sender: Sender,
    /// Drives the connection. Its result says why a request was not answered.
    driver: Option<AbortOnDropHandle<Result<(), hyper::Error>>>,
    authority: String,
    deadline: Duration,
}

enum Sender {
    H1(http1::SendRequest<ClientBody>),
    H2(http2::SendRequest<ClientBody>),
}

/// A request's body: whole, or fed by a [`BodySender`].
pub struct ClientBody(Feed);

enum Feed {
    Channel(mpsc::Receiver<io::Result<Frame<Bytes>>>),
    Whole(Full<Bytes>),
}

/// Sends a request's body piece by piece. Dropping it ends the body in order.
#[derive(Debug)]
pub struct BodySender(mpsc::Sender<io::Result<Frame<Bytes>>>);

/// An answer's body, frame by frame.
pub struct Streaming {
    body: Incoming,
    on_upgrade: Option<OnUpgrade>,
    trailers: Option<HeaderMap>,
    deadline: Duration,
    /// The connection, if only this answer uses it.
    connection: Option<Box<Connection>>,
}

// === impl Connection ===

impl Connection {
    pub(super) async fn new(
        io: Box<dyn Duplex>,
        h2: bool,
        authority: String,
        deadline: Duration,
    ) -> Result<Self, ClientError> {
        let io = TokioIo::new(io);
        let hyper = |error: hyper::Error| ClientError::from_hyper(&error);
        let (sender, driver) = if h2 {
            let (sender, driver) = within(deadline, async {
                http2::handshake(TokioExecutor::new(), io).await.map_err(hyper)
            })
            .await?;
            (Sender::H2(sender), tokio::spawn(driver))
        } else {
            let (sender, driver) =
                within(deadline, async { http1::handshake(io).await.map_err(hyper) }).await?;
            (Sender::H1(sender), tokio::spawn(driver.with_upgrades()))
        };
        Ok(Self {
            sender,
            driver: Some(AbortOnDropHandle::new(driver)),
            authority,
            deadline,
        })
    }

    /// Sends a request and collects the answer.
    ///
    /// # Errors
    ///
    /// No complete answer came.
    pub async fn send(
        &mut self,
        request: Request<impl Into<ClientBody>>,
    ) -> Result<Response<Bytes>, ClientError> {
        let (head, body) = self.open(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?))
    }

    /// GET without further headers.
    ///
    /// # Errors
    ///
    /// As [`Connection::send`].
    pub async fn get(&mut self, target: &str) -> Result<Response<Bytes>, ClientError> {
        self.send(super::build("GET", target, &[])?.map(|()| Full::<Bytes>::default()))
            .await
    }

    /// Sends a request and returns once the answer's head has arrived. On HTTP/1.1 the body must be read to
    /// its end before the next request.
    ///
    /// # Errors
    ///
    /// No head of an answer came.
    pub async fn open(
        &mut self,
        request: Request<impl Into<ClientBody>>,
    ) -> Result<Response<Streaming>, ClientError> {
        let request = self.with_authority(request.map(Into::into))?;
        let deadline = self.deadline;
        let answer = within(deadline, async {
            let answer = match &mut self.sender {
                Sender::H1(sender) => match sender.ready().await {
                    Ok(()) => sender.send_request(request).await,
                    Err(error) => Err(error),
                },
                Sender::H2(sender) => match sender.ready().await {
                    Ok(()) => sender.send_request(request).await,
                    Err(error) => Err(error),
                },
            };
            match answer {
                Ok(answer) => Ok(answer),
                Err(error) => Err(self.cause(error).await),
            }
        });
        let mut answer = answer.await?;
        let on_upgrade = Some(hyper::upgrade::on(&mut answer));
        Ok(answer.map(|body| Streaming {
            body,
            on_upgrade,
            trailers: None,
            deadline,
            connection: None,
        }))
    }

    /// Whether no further request can be sent.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::H1(sender) => sender.is_closed(),
            Sender::H2(sender) => sender.is_closed(),
        }
    }

    /// The reason why a request was not sent: the connection has it.
    async fn cause(&mut self, error: hyper::Error) -> ClientError {
        let known = ClientError::from_hyper(&error);
        match (&known, self.driver.take()) {
            (ClientError::Closed(_), Some(driver)) => match driver.await {
                Ok(Err(cause)) => ClientError::from_hyper(&cause),
                _ => known,
            },
            _ => known,
        }
    }

    /// Adds the server's authority, unless the request has one.
    fn with_authority(&self, mut request: Request<ClientBody>) -> Result<Request<ClientBody>, ClientError> {
        let setup = |error: http::Error| ClientError::Setup(error.to_string());
        match &self.sender {
            Sender::H1(_) if !request.headers().contains_key(header::HOST) => {
                let host = HeaderValue::from_str(&self.authority).map_err(|error| setup(error.into()))?;
                request.headers_mut().insert(header::HOST, host);
            }
            Sender::H2(_) if request.uri().authority().is_none() => {
                let authority =
                    Authority::try_from(self.authority.as_str()).map_err(|error| setup(error.into()))?;
                let path = request
                    .uri()
                    .path_and_query()
                    .cloned()
                    .unwrap_or(PathAndQuery::from_static("/"));
                let uri = Uri::builder()
                    .scheme(Scheme::HTTPS)
                    .authority(authority)
                    .path_and_query(path);
                *request.uri_mut() = uri.build().map_err(setup)?;
            }
            _ => {}
        }
        Ok(request)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

// === impl ClientBody ===

impl ClientBody {
    /// A body that is sent piece by piece.
    #[must_use]
    pub fn channel() -> (BodySender, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (BodySender(sender), Self(Feed::Channel(receiver)))
    }
}

impl From<Full<Bytes>> for ClientBody {
    fn from(body: Full<Bytes>) -> Self {
        Self(Feed::Whole(body))
    }
}

impl From<Bytes> for ClientBody {
    fn from(body: Bytes) -> Self {
        Full::new(body).into()
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.get_mut().0 {
            Feed::Channel(receiver) => receiver.poll_recv(context),
            Feed::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Feed::Channel(_) => false,
            Feed::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Feed::Channel(_) => SizeHint::default(),
            Feed::Whole(body) => body.size_hint(),
        }
    }
}

// === impl BodySender ===

impl BodySender {
    /// Sends a piece, once the connection can take it. False if the body is no longer read.
    pub async fn send(&self, data: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(data.into()))).await.is_ok()
    }

    /// Breaks the body off: the connection (HTTP/1.1) or stream (HTTP/2) is reset.
    pub async fn abort(self) {
        // An error means that the body is no longer read, and has ended already.
        let _ = self
            .0
            .send(Err(io::Error::other("body broken off on purpose")))
            .await;
    }
}

// === impl Streaming ===

impl Streaming {
    /// The next piece; `None` at the end. Trailers are kept aside.
    ///
    /// # Errors
    ///
    /// The body was cut, or nothing came before the deadline.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let Some(frame) = within(self.deadline, async { Ok(self.body.frame().await) }).await? else {
                return Ok(None);
            };
            match frame
                .map_err(|error| ClientError::from_hyper(&error))?
                .into_data()
            {
                Ok(data) => return Ok(Some(data)),
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
    }

    /// Reads the rest.
    ///
    /// # Errors
    ///
    /// The body was cut, or its end did not come before the deadline.
    pub async fn collect(mut self) -> Result<Bytes, ClientError> {
        let deadline = self.deadline;
        within(deadline, async {
            let mut all = Vec::new();
            while let Some(piece) = self.next().await? {
                all.extend_from_slice(&piece);
            }
            Ok(all.into())
        })
        .await
    }

    /// The trailers, once the body was read to its end.
    #[must_use]
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    pub(super) async fn upgraded(mut self) -> Result<Upgraded, ClientError> {
        match self.on_upgrade.take() {
            Some(upgrade) => upgrade.await.map_err(|error| ClientError::from_hyper(&error)),
            None => Err(ClientError::Protocol("no upgrade".into())),
        }
    }

    pub(super) fn owning(self, connection: Connection) -> Self {
        Self {
            connection: Some(Box::new(connection)),
            ..self
        }
    }
}

impl std::fmt::Debug for Streaming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streaming")
            .field("owned", &self.connection.is_some())
            .finish_non_exhaustive()
    }
}
