//! A WebSocket with the Kubernetes channel protocols on it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use http::response;
use tokio_tungstenite::WebSocketStream;
pub(super) use tokio_tungstenite::tungstenite::handshake::client::generate_key as key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::{ClientError, SpdyStream, within};

/// An open WebSocket. Dropping it closes the connection without a close frame.
pub struct WsSession {
    socket: WebSocketStream<SpdyStream>,
    protocol: Option<String>,
    deadline: Duration,
}

/// The output of an exec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Everything from channel 1.
    pub stdout: Vec<u8>,
    /// Everything from channel 2.
    pub stderr: Vec<u8>,
    /// The message of channel 3: a `Status` object in v4 and v5. `None` if the stream ended without it.
    pub status: Option<String>,
}

// === impl WsSession ===

impl WsSession {
    pub(super) async fn new(
        head: &response::Parts,
        key: &str,
        io: SpdyStream,
        deadline: Duration,
    ) -> Result<Self, ClientError> {
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        if header("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
            return Err(ClientError::Protocol(
                "Sec-WebSocket-Accept does not belong to the key sent".into(),
            ));
        }
        let protocol = header("sec-websocket-protocol")
            .filter(|name| !name.is_empty())
            .map(str::to_owned);
        let socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        Ok(Self {
            socket,
            protocol,
            deadline,
        })
    }

    /// The subprotocol the server chose.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Sends a binary message.
    ///
    /// # Errors
    ///
    /// The connection is closed, or takes no data before the deadline.
    pub async fn send(&mut self, message: impl Into<Bytes>) -> Result<(), ClientError> {
        self.push(Message::Binary(message.into())).await
    }

    /// Sends a ping. [`WsSession::next`] skips the pong.
    ///
    /// # Errors
    ///
    /// As [`WsSession::send`].
    pub async fn ping(&mut self) -> Result<(), ClientError> {
        self.push(Message::Ping(Bytes::new())).await
    }

    /// Sends to a channel: 0 is standard input.
    ///
    /// # Errors
    ///
    /// As [`WsSession::send`].
    pub async fn send_channel(&mut self, channel: u8, data: &[u8]) -> Result<(), ClientError> {
        let mut message = BytesMut::with_capacity(data.len() + 1);
        message.extend_from_slice(&[channel]);
        message.extend_from_slice(data);
        self.send(message.freeze()).await
    }

    /// Sends standard input.
    ///
    /// # Errors
    ///
    /// As [`WsSession::send`].
    pub async fn send_stdin(&mut self, data: &[u8]) -> Result<(), ClientError> {
        self.send_channel(0, data).await
    }

    /// Ends standard input, which only v5 can.
    ///
    /// # Errors
    ///
    /// As [`WsSession::send`].
    pub async fn close_stdin(&mut self) -> Result<(), ClientError> {
        self.send_channel(255, &[0]).await
    }

    /// The next message with data; `None` if the server sent a close frame.
    ///
    /// # Errors
    ///
    /// The connection was cut, or no message arrived before the deadline.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let Some(message) = within(self.deadline, async { Ok(self.socket.next().await) }).await? else {
                return Ok(None);
            };
            match message.map_err(|error| ClientError::from_websocket(&error))? {
                Message::Binary(data) => return Ok(Some(data)),
                Message::Text(text) => return Ok(Some(Bytes::from(text))),
                Message::Close(_) => return Ok(None),
                _ => {}
            }
        }
    }

    /// Reads on until the server's close frame, and yields its code and reason; `None` if it carries none.
    ///
    /// # Errors
    ///
    /// The connection was cut without a close frame, a frame was malformed, or none came before the deadline.
    pub async fn next_close(&mut self) -> Result<Option<(u16, String)>, ClientError> {
        loop {
            match within(self.deadline, async { Ok(self.socket.next().await) }).await? {
                None => return Err(ClientError::Closed("there was no close frame".into())),
                Some(Ok(Message::Close(frame))) => {
                    return Ok(frame.map(|frame| (frame.code.into(), frame.reason.to_string())));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(ClientError::from_websocket(&error)),
            }
        }
    }

    /// The next channel message with data; `None` if the server sent a close frame.
    ///
    /// # Errors
    ///
    /// As [`WsSession::next`].
    pub async fn next_channel(&mut self) -> Result<Option<(u8, Bytes)>, ClientError> {
        while let Some(message) = self.next().await? {
            // An empty message announces the first channel.
            if let [channel, _, ..] = message.as_ref() {
                return Ok(Some((*channel, message.slice(1..))));
            }
        }
        Ok(None)
    }

    /// Reads this many bytes or more from channel 1.
    ///
    /// # Errors
    ///
    /// As [`WsSession::next`], or the stream ended before.
    pub async fn read_stdout(&mut self, length: usize) -> Result<Vec<u8>, ClientError> {
        let mut stdout = Vec::new();
        while stdout.len() < length {
            match self.next_channel().await? {
                Some((1, data)) => stdout.extend_from_slice(&data),
                Some(_) => {}
                None => return Err(ClientError::Closed("the stream ended".into())),
            }
        }
        Ok(stdout)
    }

    /// Reads until the status or the end, and yields everything that arrived.
    ///
    /// # Errors
    ///
    /// As [`WsSession::next`].
    pub async fn exec_read(&mut self) -> Result<ExecOutcome, ClientError> {
        let mut outcome = ExecOutcome::default();
        while let Some((channel, data)) = self.next_channel().await? {
            match channel {
                1 => outcome.stdout.extend_from_slice(&data),
                2 => outcome.stderr.extend_from_slice(&data),
                3 => {
                    outcome.status = Some(String::from_utf8_lossy(&data).into_owned());
                    break;
                }
                _ => {}
            }
        }
        Ok(outcome)
    }

    /// Sends a close frame and waits for that of the server.
    ///
    /// # Errors
    ///
    /// The connection was cut, or the server sent no close frame before the deadline.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.push(Message::Close(None)).await?;
        while self.next().await?.is_some() {}
        Ok(())
    }

    async fn push(&mut self, message: Message) -> Result<(), ClientError> {
        within(self.deadline, async {
            self.socket
                .send(message)
                .await
                .map_err(|error| ClientError::from_websocket(&error))
        })
        .await
    }
}

impl std::fmt::Debug for WsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WsSession")
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

// === impl ExecOutcome ===

impl ExecOutcome {
    /// Standard output as text.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The command's exit code, if the status has one: 0 for success.
    #[must_use]
    pub fn exit_code(&self) -> Option<u8> {
        let status: serde_json::Value = serde_json::from_str(self.status.as_deref()?).ok()?;
        if status["status"] == "Success" {
            return Some(0);
        }
        let causes = status["details"]["causes"].as_array()?;
        let code = causes.iter().find(|cause| cause["reason"] == "ExitCode")?;
        code["message"].as_str()?.parse().ok()
    }
}
