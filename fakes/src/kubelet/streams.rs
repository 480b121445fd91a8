//! Upgrades: exec, attach and portForward over WebSocket (the Kubernetes channel protocols), and SPDY as
//! plain bytes.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};

use super::answer::{Answer, Framing, head as encode_head};
use super::pages::Pod;
use super::shell::{Output, Program};
use super::wire::{Head, Wire};
use crate::client::Duplex;

/// A request for a stream whose pod exists and whose query is complete.
#[derive(Debug)]
pub(super) struct StreamRequest {
    pub(super) endpoint: Endpoint,
    pub(super) pod: &'static Pod,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// The endpoint of a stream.
#[derive(Debug)]
pub(super) enum Endpoint {
    Attach,
    Exec(Vec<String>),
    PortForward(Vec<u16>),
}

/// The outcome of negotiating the protocol.
pub(super) enum Upgrade {
    Refused(Answer),
    Spdy { answer: Vec<u8> },
    WebSocket { answer: Vec<u8>, protocol: String },
}

/// A WebSocket that speaks the channel protocol: the first byte of a message names its channel.
struct Channels {
    socket: WebSocketStream<Box<dyn Duplex>>,
    protocol: String,
}

// === impl StreamRequest ===

impl StreamRequest {
    /// Chooses the protocol, or refuses as a kubelet does. `extended` adds the WebSocket protocols of
    /// Kubernetes 1.36.
    pub(super) fn negotiate(&self, head: &Head, extended: bool) -> Upgrade {
        match head.value("upgrade") {
            Some(upgrade) if upgrade.eq_ignore_ascii_case("websocket") => {
                self.negotiate_websocket(head, extended)
            }
            Some(upgrade) if upgrade.eq_ignore_ascii_case("spdy/3.1") => self.negotiate_spdy(head),
            _ => Upgrade::Refused(Answer::error(
                400,
                "unable to upgrade: missing upgrade headers in request",
            )),
        }
    }

    fn negotiate_websocket(&self, head: &Head, extended: bool) -> Upgrade {
        if head.method != "GET" {
            return Upgrade::Refused(Answer {
                status: 405,
                headers: Vec::new(),
                body: "bad method".into(),
            });
        }
        let version = head.value("sec-websocket-version") == Some("13");
        let Some(key) = head.value("sec-websocket-key").filter(|_| version) else {
            return Upgrade::Refused(Answer::error(400, "missing or bad WebSocket-Version"));
        };
        let offered = head.elements("sec-websocket-protocol").collect::<Vec<_>>();
        let known = self.endpoint.websocket_protocols(extended);
        // A request that offers no protocol is answered with an empty header, as measured on a kubelet.
        let Some(protocol) = (match offered.as_slice() {
            [] => Some(""),
            offered => offered.iter().copied().find(|offer| known.contains(offer)),
        }) else {
            return Upgrade::Refused(Answer {
                status: 403,
                headers: Vec::new(),
                body: Bytes::new(),
            });
        };
        if matches!(&self.endpoint, Endpoint::PortForward(ports) if ports.is_empty() && protocol != TUNNEL) {
            return Upgrade::Refused(Answer::text(400, "query parameter \"port\" is required"));
        }
        let headers = [
            ("Upgrade".into(), "websocket".into()),
            ("Connection".into(), "Upgrade".into()),
            ("Sec-WebSocket-Accept".into(), derive_accept_key(key.as_bytes())),
            ("Sec-WebSocket-Protocol".into(), protocol.into()),
        ];
        Upgrade::WebSocket {
            answer: encode_head(101, &headers, Framing::None, false),
            protocol: protocol.into(),
        }
    }

    fn negotiate_spdy(&self, head: &Head) -> Upgrade {
        let known = self.endpoint.spdy_protocols();
        let mut offered = head.elements("x-stream-protocol-version").peekable();
        if offered.peek().is_none() {
            return Upgrade::Refused(Answer::error(
                400,
                "unable to upgrade: X-Stream-Protocol-Version is required",
            ));
        }
        let Some(chosen) = offered.find(|offer| known.contains(offer)) else {
            let refused = Answer::error(403, "unable to upgrade: unable to negotiate protocol");
            let accepted =
                |answer: Answer, name: &&str| answer.with("X-Accepted-Stream-Protocol-Versions", name);
            return Upgrade::Refused(known.iter().fold(refused, accepted));
        };
        let headers = [
            ("Connection".into(), "Upgrade".into()),
            ("Upgrade".into(), "SPDY/3.1".into()),
            ("X-Stream-Protocol-Version".into(), chosen.into()),
        ];
        Upgrade::Spdy {
            answer: encode_head(101, &headers, Framing::None, false),
        }
    }

    /// Serves an upgraded WebSocket until either side ends it.
    pub(super) async fn serve_websocket(&self, wire: Wire, protocol: String, log_interval: Duration) {
        let (io, input) = wire.into_parts();
        let socket = WebSocketStream::from_partially_read(io, input.to_vec(), Role::Server, None).await;
        let mut channels = Channels { socket, protocol };
        let ended = match &self.endpoint {
            Endpoint::PortForward(_) if channels.protocol == TUNNEL => channels.echo_messages().await,
            Endpoint::PortForward(ports) => channels.forward_ports(ports).await,
            Endpoint::Attach if !self.stdin => channels.follow(self.pod, log_interval).await,
            Endpoint::Attach => channels.run(self, Program::Cat).await,
            Endpoint::Exec(command) => channels.run(self, Program::start(self.pod, command)).await,
        };
        // Most streams end because the client cuts the connection. After a close frame the connection is shut
        // down in order.
        if ended.is_ok() {
            let _ = channels.socket.get_mut().shutdown().await;
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// The newest protocol is the last: an older kubelet lacks it.
    fn websocket_protocols(&self, extended: bool) -> &'static [&'static str] {
        let known: &'static [&'static str] = match self {
            Self::PortForward(_) => &["v4.channel.k8s.io", TUNNEL],
            _ => &["v4.channel.k8s.io", "channel.k8s.io", "v5.channel.k8s.io"],
        };
        if extended {
            known
        } else {
            &known[..known.len() - 1]
        }
    }

    fn spdy_protocols(&self) -> &'static [&'static str] {
        match self {
            Self::PortForward(_) => &["portforward.k8s.io"],
            _ => &[
                "v4.channel.k8s.io",
                "v3.channel.k8s.io",
                "v2.channel.k8s.io",
                "channel.k8s.io",
            ],
        }
    }
}

// === impl Channels ===

impl Channels {
    /// Runs a program: channel 0 is its input, channels 1 and 2 its output, channel 3 its status.
    async fn run(&mut self, request: &StreamRequest, mut program: Program) -> Result<(), Box<SocketError>> {
        // The first writable channel is announced by an empty message.
        let first = if request.stdout { STDOUT } else { STDERR };
        self.send(first, b"").await?;
        let code = match &program {
            Program::Done(output) => {
                let (output, code) = (output.clone(), output.code);
                self.write(request, output).await?;
                code
            }
            _ if !request.stdin => 0,
            _ => loop {
                let Some(message) = self.message().await? else {
                    return Ok(());
                };
                match message.as_ref() {
                    [STDIN, data @ ..] => {
                        let (outputs, code) = program.input(request.pod, data);
                        for output in outputs {
                            self.write(request, output).await?;
                        }
                        if let Some(code) = code {
                            break code;
                        }
                    }
                    // v5: the client closed a channel; closing standard input is how `cat` ends.
                    [CLOSE, STDIN] if self.protocol == "v5.channel.k8s.io" => break 0,
                    _ => {}
                }
            },
        };
        match (self.protocol.as_str(), code) {
            ("v4.channel.k8s.io" | "v5.channel.k8s.io", code) => {
                self.send(STATUS, status(code).as_bytes()).await?
            }
            (_, 0) => {}
            (_, code) => {
                self.send(
                    STATUS,
                    format!("command terminated with exit code {code}").as_bytes(),
                )
                .await?
            }
        }
        self.close().await
    }

    /// Attach without input: sends what the main process writes, until the client leaves.
    async fn follow(&mut self, pod: &Pod, interval: Duration) -> Result<(), Box<SocketError>> {
        self.send(STDOUT, b"").await?;
        for line in pod.log.lines().cycle() {
            self.send(STDOUT, format!("{line}\n").as_bytes()).await?;
            let pause = tokio::time::sleep(interval);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    message = self.message() => if message?.is_none() { return Ok(()) },
                }
            }
        }
        Ok(())
    }

    /// Opens two channels per port, data and error, each with the port's number, and echoes what arrives.
    async fn forward_ports(&mut self, ports: &[u16]) -> Result<(), Box<SocketError>> {
        for (index, port) in ports.iter().enumerate() {
            for channel in [2 * index, 2 * index + 1] {
                self.send(u8::try_from(channel).unwrap_or(u8::MAX), &port.to_le_bytes())
                    .await?;
            }
        }
        self.echo_messages().await
    }

    async fn echo_messages(&mut self) -> Result<(), Box<SocketError>> {
        while let Some(message) = self.message().await? {
            self.socket.send(Message::Binary(message)).await?;
        }
        Ok(())
    }

    async fn write(&mut self, request: &StreamRequest, output: Output) -> Result<(), Box<SocketError>> {
        let errors = if request.tty { STDOUT } else { STDERR };
        for (text, channel) in [(output.stdout, STDOUT), (output.stderr, errors)] {
            let wanted = if channel == STDOUT {
                request.stdout
            } else {
                request.stderr
            };
            if wanted && !text.is_empty() {
                self.send(channel, text.as_bytes()).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, channel: u8, data: &[u8]) -> Result<(), Box<SocketError>> {
        let mut message = BytesMut::with_capacity(data.len() + 1);
        message.extend_from_slice(&[channel]);
        message.extend_from_slice(data);
        Ok(self.socket.send(Message::Binary(message.freeze())).await?)
    }

    /// The next message with data; `None` when the client closed. Pings are answered on the way.
    async fn message(&mut self) -> Result<Option<Bytes>, Box<SocketError>> {
        while let Some(message) = self.socket.next().await {
            match message? {
                Message::Binary(data) => return Ok(Some(data)),
                Message::Text(text) => return Ok(Some(Bytes::from(text))),
                // A close is answered while reading on, to the end that follows it.
                _ => {}
            }
        }
        Ok(None)
    }

    /// Sends a close frame and gives the client a moment to answer it.
    async fn close(&mut self) -> Result<(), Box<SocketError>> {
        self.socket
            .close(Some(CloseFrame {
                code: CloseCode::Normal,
                reason: "".into(),
            }))
            .await?;
        let closing = async { while let Ok(Some(_)) = self.message().await {} };
        // A client that stays silent is cut, as the kubelet does at once.
        let _ = tokio::time::timeout(CLOSING, closing).await;
        Ok(())
    }
}

/// Sends the answer and the early bytes in one write, then echoes every byte until the client ends the
/// stream.
pub(super) async fn serve_spdy(mut wire: Wire, mut answer: Vec<u8>, early: &[u8]) -> io::Result<()> {
    answer.extend_from_slice(early);
    wire.send(&answer).await?;
    let (mut io, mut input) = wire.into_parts();
    while !input.is_empty() || io.read_buf(&mut input).await? > 0 {
        io.write_all_buf(&mut input).await?;
        io.flush().await?;
    }
    io.shutdown().await
}

/// The `Status` object that ends a v4 or v5 stream.
fn status(code: u8) -> String {
    match code {
        0 => r#"{"metadata":{},"status":"Success"}"#.to_owned(),
        code => include_str!("pages/failure.json")
            .trim_end()
            .replace("CODE", &code.to_string()),
    }
}

type SocketError = tokio_tungstenite::tungstenite::Error;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;
/// SPDY bytes inside WebSocket messages. The fake kubelet echoes the messages.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const CLOSING: Duration = Duration::from_millis(500);
