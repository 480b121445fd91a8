//! One connection: each request is recorded, delayed or broken as the knobs say, and answered.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::Inner;
use super::answer::{Answer, Framing, LAST_CHUNK, chunk, head as encode_head};
use super::knobs::{Fault, Knobs};
use super::routes::{self, Reply};
use super::streams::{StreamRequest, Upgrade, serve_spdy};
use super::wire::{Body, Head, Wire};

/// What is known of a client before its first request.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// It connected to the read-only port.
    pub(super) read_only: bool,
    /// The client certificate (DER) that it sent in the handshake.
    pub(super) certificate: Option<Vec<u8>>,
    /// The kubelet asks for a client certificate: requests with neither a certificate nor the token are
    /// answered 401.
    pub(super) certificate_required: bool,
}

/// What happens to the connection after a request.
enum Next {
    Close,
    /// The client left during the answer.
    Cut,
    Request(Wire),
}

/// One request and its answer.
struct Exchange<'a> {
    kubelet: &'a Inner,
    head: &'a Head,
    number: u64,
    knobs: Knobs,
    /// The beginning of the request's body, for the page that reads it.
    body: Vec<u8>,
}

/// Serves a connection to its end.
pub(super) async fn serve(kubelet: &Inner, mut wire: Wire, peer: &Peer) {
    loop {
        let head = match wire.head().await {
            Ok(Some(head)) => head,
            Ok(None) => return wire.close().await,
            Err(error) => return refuse(wire, &error).await,
        };
        let number = kubelet
            .record
            .begin(&head, peer.certificate.clone(), peer.read_only);
        let knobs = kubelet.knobs();
        let exchange = Exchange {
            kubelet,
            head: &head,
            number,
            knobs,
            body: Vec::new(),
        };
        match exchange.run(wire, peer).await {
            Ok(Next::Request(kept)) => wire = kept,
            Ok(Next::Close) => return,
            Ok(Next::Cut) | Err(_) => return kubelet.record.cut(),
        }
    }
}

/// Go's short answer to bytes that are not HTTP.
async fn refuse(mut wire: Wire, error: &io::Error) {
    let text = match error.kind() {
        io::ErrorKind::InvalidData => "400 Bad Request",
        io::ErrorKind::FileTooLarge => "431 Request Header Fields Too Large",
        _ => return,
    };
    let answer = format!(
        "HTTP/1.1 {text}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{text}"
    );
    if wire.send(answer.as_bytes()).await.is_ok() {
        wire.close().await;
    }
}

// === impl Exchange ===

impl Exchange<'_> {
    async fn run(mut self, mut wire: Wire, peer: &Peer) -> io::Result<Next> {
        let Ok(mut body) = self.head.body() else {
            refuse(wire, &io::ErrorKind::InvalidData.into()).await;
            return Ok(Next::Close);
        };
        let fault = self.knobs.fault(&self.head.target).cloned();
        match &fault {
            Some(Fault::Close) => return Ok(Next::Close),
            Some(Fault::Early { status, hold }) => {
                let (head, body) = Answer::text(*status, "answered early\n").encode(&self.head.method, false);
                wire.send(&[&head, &*body].concat()).await?;
                tokio::select! {
                    () = sleep(*hold) => {}
                    () = wire.gone() => {}
                }
                return Ok(Next::Close);
            }
            _ => {}
        }
        if self
            .head
            .value("expect")
            .is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue"))
        {
            wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let reply = match self.is_authenticated(peer) {
            true => self
                .refusal()
                .map(|sentence| Reply::Page(Answer::text(403, sentence))),
            false => {
                let refusal = || Answer::text(401, "Unauthorized");
                Some(Reply::Page(
                    routes::redirect_to_clean(self.head).unwrap_or_else(refusal),
                ))
            }
        };
        let echoed = reply.is_none() && self.head.path() == "/lab/echo" && fault.is_none();
        if !self.head.is_upgrade() && !echoed {
            while let Some(piece) = wire.piece(&mut body).await? {
                self.keep(&piece);
            }
        }
        if !self.knobs.latency.is_zero() {
            tokio::select! {
                () = sleep(self.knobs.latency) => {}
                () = wire.gone() => return Ok(Next::Cut),
            }
        }
        match fault {
            Some(Fault::Hang) => {
                wire.gone().await;
                return Ok(Next::Cut);
            }
            Some(Fault::Raw { bytes, close }) => {
                wire.send(&bytes).await?;
                return Ok(if close {
                    closed(wire).await
                } else {
                    Next::Request(wire)
                });
            }
            Some(Fault::Answer {
                status,
                headers,
                body,
            }) => {
                return self
                    .page(
                        wire,
                        &Answer {
                            status,
                            headers,
                            body,
                        },
                        None,
                    )
                    .await;
            }
            _ => {}
        }
        let reply = reply.unwrap_or_else(|| routes::reply(self.head, &self.body, peer.read_only));
        match reply {
            Reply::Page(answer) => self.page(wire, &answer, fault).await,
            Reply::Log { lines, follow } => self.log(wire, &lines, follow).await,
            Reply::Filler { length, chunked } => self.filler(wire, length, chunked).await,
            Reply::Echo => self.echo(wire, body).await,
            Reply::Trailers => self.trailers(wire).await,
            Reply::Stream(request) => self.stream(wire, &request).await,
        }
    }

    fn is_authenticated(&self, peer: &Peer) -> bool {
        let token = self.knobs.required_token.as_deref();
        if peer.read_only || (token.is_none() && !peer.certificate_required) {
            return true;
        }
        let shown = self
            .head
            .value("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        peer.certificate.is_some() || (token.is_some() && shown == token)
    }

    fn refusal(&self) -> Option<String> {
        let rights = self.knobs.rights.as_ref()?;
        rights.refusal(&self.head.method, self.head.path())
    }

    fn keep(&mut self, piece: &[u8]) {
        self.kubelet.record.body(self.number, piece);
        let room = KEPT_BODY - self.body.len();
        self.body.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    async fn page(&self, mut wire: Wire, answer: &Answer, fault: Option<Fault>) -> io::Result<Next> {
        let (head, body) = answer.encode(&self.head.method, !self.head.keep_alive());
        match fault {
            Some(Fault::CutBody { after }) => {
                wire.send(&[&head, &body[..after.min(body.len())]].concat())
                    .await?;
                // Dropped without close_notify, as when a kubelet is killed.
                return Ok(Next::Close);
            }
            _ => wire.send(&[&head, &*body].concat()).await?,
        }
        Ok(self.next(wire).await)
    }

    /// A container's log. The head is sent at once, without a content type; a followed log sends line by line
    /// until the client leaves.
    async fn log(&self, mut wire: Wire, lines: &[&str], follow: bool) -> io::Result<Next> {
        wire.send(&self.chunked_head(&[])).await?;
        let line = |text: &str| chunk(format!("{text}\n").as_bytes());
        if !follow {
            for text in lines {
                wire.send(&line(text)).await?;
            }
            wire.send(LAST_CHUNK).await?;
            return Ok(self.next(wire).await);
        }
        let mut numbered = 0_u64;
        let mut lines = lines.iter().map(|text| (*text).to_owned());
        loop {
            if !self.pause(&mut wire, self.knobs.log_interval).await {
                return Ok(Next::Cut);
            }
            let text = lines.next().unwrap_or_else(|| {
                numbered += 1;
                format!("still here, line {numbered}")
            });
            wire.send(&line(&text)).await?;
        }
    }

    async fn filler(&self, mut wire: Wire, length: u64, chunked: bool) -> io::Result<Next> {
        static FILLER: [u8; 16 * 1024] = [b'.'; 16 * 1024];
        let content_type = [("Content-Type".to_owned(), "application/octet-stream".to_owned())];
        let head = match chunked {
            true => self.chunked_head(&content_type),
            false => encode_head(
                200,
                &content_type,
                Framing::Length(length),
                !self.head.keep_alive(),
            ),
        };
        wire.send(&head).await?;
        let mut left = length;
        while left > 0 && self.head.method != "HEAD" {
            let piece = &FILLER[..usize::try_from(left).unwrap_or(usize::MAX).min(FILLER.len())];
            left -= piece.len() as u64;
            match chunked {
                true => wire.send(&chunk(piece)).await?,
                false => wire.send(piece).await?,
            }
        }
        if chunked {
            wire.send(LAST_CHUNK).await?;
        }
        Ok(self.next(wire).await)
    }

    /// Echoes the request's body while it arrives, in the framing it arrives in.
    async fn echo(mut self, mut wire: Wire, mut body: Body) -> io::Result<Next> {
        let (head, chunked) = match body {
            Body::Length(length) => (
                encode_head(200, &[], Framing::Length(length), !self.head.keep_alive()),
                false,
            ),
            _ => (self.chunked_head(&[]), true),
        };
        wire.send(&head).await?;
        while let Some(piece) = wire.piece(&mut body).await? {
            self.keep(&piece);
            match chunked {
                true => wire.send(&chunk(&piece)).await?,
                false => wire.send(&piece).await?,
            }
        }
        if chunked {
            wire.send(LAST_CHUNK).await?;
        }
        Ok(self.next(wire).await)
    }

    async fn trailers(&self, mut wire: Wire) -> io::Result<Next> {
        let mut answer = self.chunked_head(&[("Trailer".to_owned(), "X-Lab-Lines".to_owned())]);
        answer.extend(chunk(b"one\ntwo\n"));
        answer.extend_from_slice(b"0\r\nX-Lab-Lines: 2\r\n\r\n");
        wire.send(&answer).await?;
        Ok(self.next(wire).await)
    }

    async fn stream(&self, mut wire: Wire, request: &StreamRequest) -> io::Result<Next> {
        match request.negotiate(self.head, self.knobs.extended_websockets) {
            Upgrade::Refused(answer) => {
                let (head, body) = answer.encode(&self.head.method, true);
                wire.send(&[&head, &*body].concat()).await?;
                Ok(closed(wire).await)
            }
            Upgrade::Spdy { answer } => self.echo_stream(wire, answer).await,
            Upgrade::WebSocket { answer, .. } if self.knobs.raw_websockets => {
                self.echo_stream(wire, answer).await
            }
            Upgrade::WebSocket { answer, protocol } => {
                let _open = self.kubelet.record.stream();
                wire.send(&answer).await?;
                request
                    .serve_websocket(wire, protocol, self.knobs.log_interval)
                    .await;
                Ok(Next::Close)
            }
        }
    }

    async fn echo_stream(&self, wire: Wire, answer: Vec<u8>) -> io::Result<Next> {
        let _open = self.kubelet.record.stream();
        // An error is how a stream may end; it does not count as a cut answer.
        let _ = serve_spdy(wire, answer, &self.knobs.early_stream_bytes).await;
        Ok(Next::Close)
    }

    fn chunked_head(&self, headers: &[(String, String)]) -> Vec<u8> {
        encode_head(200, headers, Framing::Chunked, !self.head.keep_alive())
    }

    /// Waits during an answer; false if the client leaves meanwhile.
    async fn pause(&self, wire: &mut Wire, pause: Duration) -> bool {
        tokio::select! {
            () = sleep(pause) => true,
            () = wire.gone() => false,
        }
    }

    async fn next(&self, wire: Wire) -> Next {
        match self.head.keep_alive() {
            true => Next::Request(wire),
            false => closed(wire).await,
        }
    }
}

async fn closed(mut wire: Wire) -> Next {
    wire.close().await;
    Next::Close
}

/// Bytes of a request's body that are kept for the page that reads it.
const KEPT_BODY: usize = 4096;

/// The answer to plain HTTP on the TLS port.
pub(super) const HTTP_ON_TLS_PORT: Bytes =
    Bytes::from_static(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
