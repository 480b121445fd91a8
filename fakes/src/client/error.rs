//! The reasons why a request has no answer.

use std::error::Error;
use std::io;
use std::time::Duration;

/// The reason why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The peer closed or reset the connection before the answer was complete.
    #[error("the connection was closed before the answer was complete ({0})")]
    Closed(String),
    /// The server did not send valid HTTP.
    #[error("the answer breaks the protocol ({0})")]
    Protocol(String),
    /// No process listens at the address.
    #[error("connection refused")]
    Refused,
    /// The arguments are not a valid request or TLS configuration.
    #[error("cannot set up the request ({0})")]
    Setup(String),
    /// The answer was not complete within the deadline.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// The handshake failed, or the server sent an alert. In TLS 1.3 the alert may follow the client's part
    /// of the handshake.
    #[error("TLS failed")]
    Tls(#[source] rustls::Error),
}

// === impl ClientError ===

impl ClientError {
    pub(super) fn from_io(error: io::Error) -> Self {
        Self::classify(&error).unwrap_or_else(|| Self::Closed(error.to_string()))
    }

    pub(super) fn from_hyper(error: &hyper::Error) -> Self {
        if let Some(known) = Self::classify(error) {
            return known;
        }
        let ended = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
        let text = error
            .source()
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        if ended {
            Self::Closed(text)
        } else {
            Self::Protocol(text)
        }
    }

    pub(super) fn from_websocket(error: &tokio_tungstenite::tungstenite::Error) -> Self {
        use tokio_tungstenite::tungstenite::Error as Socket;
        use tokio_tungstenite::tungstenite::error::ProtocolError;
        match error {
            Socket::ConnectionClosed
            | Socket::AlreadyClosed
            | Socket::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Self::Closed(error.to_string())
            }
            _ => Self::classify(error).unwrap_or_else(|| Self::Protocol(error.to_string())),
        }
    }

    /// Finds the error of TLS, or else of the socket, in a chain of errors.
    fn classify(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::Tls(tls.clone()));
            }
            if let Some(io) = error.downcast_ref::<io::Error>() {
                // `source` of such an error skips the error it wraps.
                if let Some(known) = io.get_ref().and_then(|inner| Self::classify(inner)) {
                    return Some(known);
                }
                match io.kind() {
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => return Some(Self::Refused),
                    io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::NotConnected
                    | io::ErrorKind::UnexpectedEof => return Some(Self::Closed(io.to_string())),
                    _ => {}
                }
            }
            cause = error.source();
        }
        None
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::from_io(error)
    }
}
